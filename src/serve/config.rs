//! The configuration of the server: arguments first, then environment variables as in PM2, then defaults.

use std::path::PathBuf;

use super::args::ServeArgs;
use super::auth::Credentials;

/// The configuration of a site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServeConfig {
    pub(super) root: PathBuf,
    pub(super) port: u16,
    pub(super) host: String,
    /// Whether the home page is served for missing paths.
    pub(super) spa: bool,
    /// Whether directories without an index are listed.
    pub(super) list_directories: bool,
    /// The file served for `/`, relative to the root.
    pub(super) homepage: PathBuf,
    pub(super) credentials: Option<Credentials>,
}

/// Why a configuration is invalid.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ServeConfigError {
    #[error("invalid {variable} \"{value}\": expected a port from 0 to 65535")]
    Port { variable: &'static str, value: String },
    #[error("invalid {variable} \"{value}\": expected true or false")]
    Switch { variable: &'static str, value: String },
    #[error(
        "basic authentication requires both a user name and a password (PM2_SERVE_BASIC_AUTH_USERNAME, \
         PM2_SERVE_BASIC_AUTH_PASSWORD)"
    )]
    IncompleteCredentials,
    #[error("the user name for basic authentication must not contain a colon")]
    ColonInName,
}

impl ServeConfig {
    /// Takes each setting from the arguments, the environment or the defaults, in this order.
    pub(super) fn resolve(
        args: ServeArgs,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ServeConfigError> {
        let env = |name: &str| env(name).filter(|value| !value.is_empty());
        let port = match args.port() {
            Some(port) => port,
            None => port_var(&env, "PM2_SERVE_PORT")?.or(port_var(&env, "PORT")?).unwrap_or(8080),
        };
        let homepage = env("PM2_SERVE_HOMEPAGE").unwrap_or_else(|| "index.html".into());
        let root = args.path.or_else(|| env("PM2_SERVE_PATH").map(PathBuf::from));
        let enabled = bool_var(&env, "PM2_SERVE_BASIC_AUTH")?;
        let name = args.basic_auth_username.or_else(|| env("PM2_SERVE_BASIC_AUTH_USERNAME"));
        let password = args.basic_auth_password.or_else(|| env("PM2_SERVE_BASIC_AUTH_PASSWORD"));
        Ok(Self {
            root: root.unwrap_or_else(|| ".".into()),
            port,
            host: args.host.or_else(|| env("PM2_SERVE_HOST")).unwrap_or_else(|| "0.0.0.0".into()),
            spa: args.spa || bool_var(&env, "PM2_SERVE_SPA")?.unwrap_or(false),
            list_directories: args.ftp || bool_var(&env, "PM2_SERVE_FTP")?.unwrap_or(false),
            homepage: homepage.trim_start_matches('/').into(),
            credentials: credentials(enabled, name, password)?,
        })
    }
}

/// A user name and a password enable authentication unless it is disabled. One without the other is an error:
/// it must not leave the site open.
fn credentials(
    enabled: Option<bool>,
    name: Option<String>,
    password: Option<String>,
) -> Result<Option<Credentials>, ServeConfigError> {
    match (enabled, name, password) {
        (Some(false), _, _) | (None, None, None) => Ok(None),
        (_, Some(name), Some(_)) if name.contains(':') => Err(ServeConfigError::ColonInName),
        (_, Some(name), Some(password)) => Ok(Some(Credentials::new(&name, &password))),
        (_, _, _) => Err(ServeConfigError::IncompleteCredentials),
    }
}

fn port_var(
    env: &impl Fn(&str) -> Option<String>,
    variable: &'static str,
) -> Result<Option<u16>, ServeConfigError> {
    let Some(value) = env(variable) else { return Ok(None) };
    value.trim().parse().map(Some).map_err(|_| ServeConfigError::Port { variable, value })
}

fn bool_var(
    env: &impl Fn(&str) -> Option<String>,
    variable: &'static str,
) -> Result<Option<bool>, ServeConfigError> {
    let Some(value) = env(variable) else { return Ok(None) };
    match value.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(Some(true)),
        "false" | "0" | "no" | "off" => Ok(Some(false)),
        _ => Err(ServeConfigError::Switch { variable, value }),
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args, FromArgMatches};

    use super::*;

    fn parse(line: &[String]) -> Result<ServeArgs, clap::Error> {
        let command = ServeArgs::augment_args(clap::Command::new("serve").no_binary_name(true));
        ServeArgs::from_arg_matches(&command.try_get_matches_from(line)?)
    }

    fn resolve(line: &str, env: &[(&str, &str)]) -> Result<ServeConfig, ServeConfigError> {
        let line: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let find =
            |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        ServeConfig::resolve(parse(&line).unwrap(), find)
    }

    #[test]
    fn has_defaults() {
        let config = resolve("", &[]).unwrap();
        let expected = ServeConfig {
            root: ".".into(),
            port: 8080,
            host: "0.0.0.0".into(),
            spa: false,
            list_directories: false,
            homepage: "index.html".into(),
            credentials: None,
        };
        assert_eq!(config, expected);
    }

    #[test]
    fn arguments_override_environment() {
        let env = [
            ("PM2_SERVE_PATH", "/env"),
            ("PM2_SERVE_PORT", "1000"),
            ("PORT", "2000"),
            ("PM2_SERVE_HOST", "::1"),
            ("PM2_SERVE_SPA", "true"),
            ("PM2_SERVE_FTP", "false"),
            ("PM2_SERVE_HOMEPAGE", "/app/home.html"),
        ];
        let config = resolve("", &env).unwrap();
        assert_eq!((config.root.to_str(), config.port, &*config.host), (Some("/env"), 1000, "::1"));
        assert!(config.spa && !config.list_directories);
        assert_eq!(config.homepage.to_str(), Some("app/home.html"));
        let config = resolve("/arg 3000 --host 127.0.0.1 --ftp", &env).unwrap();
        assert_eq!((config.root.to_str(), config.port, &*config.host), (Some("/arg"), 3000, "127.0.0.1"));
        assert!(config.spa && config.list_directories);
        assert_eq!(resolve("--port 3001", &env).unwrap().port, 3001);
        assert_eq!(resolve("", &[("PORT", "2000"), ("PM2_SERVE_PORT", "")]).unwrap().port, 2000);
    }

    #[test]
    fn rejects_invalid_values() {
        let port = resolve("", &[("PORT", "http")]).unwrap_err().to_string();
        assert_eq!(port, "invalid PORT \"http\": expected a port from 0 to 65535");
        let spa = resolve("", &[("PM2_SERVE_SPA", "maybe")]).unwrap_err().to_string();
        assert!(spa.contains("PM2_SERVE_SPA") && spa.contains("maybe"), "{spa}");
    }

    #[test]
    fn rejects_incomplete_credentials() {
        let name = ("PM2_SERVE_BASIC_AUTH_USERNAME", "ann");
        let password = ("PM2_SERVE_BASIC_AUTH_PASSWORD", "s3cret");
        let both = resolve("", &[name, password]).unwrap();
        assert_eq!(both.credentials, Some(Credentials::new("ann", "s3cret")));
        for half in [&[name][..], &[password], &[("PM2_SERVE_BASIC_AUTH", "true")]] {
            assert_eq!(resolve("", half), Err(ServeConfigError::IncompleteCredentials));
        }
        let off = resolve("", &[("PM2_SERVE_BASIC_AUTH", "false"), name, password]).unwrap();
        assert_eq!(off.credentials, None);
        assert_eq!(resolve("--basic-auth-username a:b", &[password]), Err(ServeConfigError::ColonInName));
    }

    #[test]
    fn command_line_round_trips_without_secret() {
        for line in ["-- -odd", "--spa --ftp --host :: --port 0", "dir 80"] {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            let args = parse(&words).unwrap();
            let again = parse(&args.to_arguments()).unwrap();
            let resolve = |args| ServeConfig::resolve(args, |_| None);
            assert_eq!(resolve(again), resolve(args), "{line}");
        }
        let mut args = ServeArgs {
            basic_auth_username: Some("ann".into()),
            basic_auth_password: Some("s3cret".into()),
            ..ServeArgs::default()
        };
        assert!(!format!("{args:?} {:?}", args.to_arguments()).contains("s3cret"));
        let vars = args.take_secrets();
        let find = |name: &str| vars.iter().find(|(key, _)| *key == name).map(|(_, value)| value.clone());
        assert_eq!(
            ServeConfig::resolve(args, find).unwrap().credentials,
            Some(Credentials::new("ann", "s3cret"))
        );
    }
}
