//! What the user says about a static site: arguments first, then the environment as PM2 names it.

use std::fmt;
use std::path::PathBuf;

use super::auth::Credentials;

/// Arguments of `rsm serve`, and of the server's own process.
#[derive(Clone, Default, PartialEq, Eq, clap::Args)]
pub struct ServeArgs {
    /// Directory to serve [default: .]
    pub path: Option<PathBuf>,
    /// Port to listen on [default: 8080]
    #[arg(value_name = "PORT")]
    pub listen_port: Option<u16>,
    /// Port to listen on (same as the PORT argument)
    #[arg(long, value_name = "PORT", conflicts_with = "listen_port")]
    pub port: Option<u16>,
    /// Address to listen on [default: 0.0.0.0]
    #[arg(long, value_name = "ADDRESS")]
    pub host: Option<String>,
    /// Serve the home page for missing paths (single-page apps)
    #[arg(long)]
    pub spa: bool,
    /// List directories without an index.html
    #[arg(long)]
    pub ftp: bool,
    /// Require this user name (requires a password)
    #[arg(long, value_name = "NAME")]
    pub basic_auth_username: Option<String>,
    /// Require this password. Arguments are visible to all users: prefer PM2_SERVE_BASIC_AUTH_PASSWORD
    #[arg(long, value_name = "PASSWORD")]
    pub basic_auth_password: Option<String>,
}

impl fmt::Debug for ServeArgs {
    /// Hides the password.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("ServeArgs")
            .field("path", &self.path)
            .field("port", &self.port.or(self.listen_port))
            .field("host", &self.host)
            .field("spa", &self.spa)
            .field("ftp", &self.ftp)
            .field("basic_auth_username", &self.basic_auth_username)
            .finish_non_exhaustive()
    }
}

/// A site, decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) root: PathBuf,
    pub(super) port: u16,
    pub(super) host: String,
    /// Missing paths give the home page.
    pub(super) spa: bool,
    /// Directories without an index are listed.
    pub(super) listing: bool,
    /// Given for `/`, relative to the root.
    pub(super) homepage: PathBuf,
    pub(super) credentials: Option<Credentials>,
}

/// Settings that make no sense.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SettingsError {
    #[error("{variable} is \"{value}\", which is no port. Set it to a number from 0 to 65535.")]
    Port { variable: &'static str, value: String },
    #[error("{variable} is \"{value}\". Set it to true or false.")]
    Switch { variable: &'static str, value: String },
    #[error(
        "basic authentication needs both a user name and a password, and here one is missing. Give both \
         (PM2_SERVE_BASIC_AUTH_USERNAME, PM2_SERVE_BASIC_AUTH_PASSWORD), or neither."
    )]
    HalfCredentials,
    #[error("the user name of basic authentication contains a colon, which browsers cannot send.")]
    ColonInName,
}

impl ServeArgs {
    /// The port that the arguments name.
    pub fn port(&self) -> Option<u16> {
        self.port.or(self.listen_port)
    }

    /// Takes the user name and the password out, as variables for the server's process: its
    /// arguments can be read by all users of the machine, its environment cannot.
    pub fn take_secrets(&mut self) -> Vec<(&'static str, String)> {
        let name = self.basic_auth_username.take().map(|name| ("PM2_SERVE_BASIC_AUTH_USERNAME", name));
        let password = self.basic_auth_password.take().map(|word| ("PM2_SERVE_BASIC_AUTH_PASSWORD", word));
        name.into_iter().chain(password).collect()
    }

    /// The command line that means these arguments, without the password (see
    /// [`ServeArgs::take_secrets`]).
    pub fn to_arguments(&self) -> Vec<String> {
        let mut line = Vec::new();
        let mut option = |name: &str, value: Option<String>| {
            line.extend(value.map(|value| format!("--{name}={value}")));
        };
        option("port", self.port().map(|port| port.to_string()));
        option("host", self.host.clone());
        option("basic-auth-username", self.basic_auth_username.clone());
        line.extend(self.spa.then(|| "--spa".to_owned()));
        line.extend(self.ftp.then(|| "--ftp".to_owned()));
        // After `--`, a directory may be called anything.
        let path = self.path.as_ref().map(|path| path.display().to_string());
        line.extend(path.into_iter().flat_map(|path| ["--".to_owned(), path]));
        line
    }

    /// Fills in what is not given from the environment, then from the defaults.
    pub(super) fn settle(self, env: impl Fn(&str) -> Option<String>) -> Result<Settings, SettingsError> {
        let env = |name: &str| env(name).filter(|value| !value.is_empty());
        let port = match self.port() {
            Some(port) => port,
            None => port_of(&env, "PM2_SERVE_PORT")?.or(port_of(&env, "PORT")?).unwrap_or(8080),
        };
        let homepage = env("PM2_SERVE_HOMEPAGE").unwrap_or_else(|| "index.html".into());
        let asked = switch(&env, "PM2_SERVE_BASIC_AUTH")?;
        let name = self.basic_auth_username.or_else(|| env("PM2_SERVE_BASIC_AUTH_USERNAME"));
        let password = self.basic_auth_password.or_else(|| env("PM2_SERVE_BASIC_AUTH_PASSWORD"));
        Ok(Settings {
            root: self
                .path
                .or_else(|| env("PM2_SERVE_PATH").map(PathBuf::from))
                .unwrap_or_else(|| ".".into()),
            port,
            host: self.host.or_else(|| env("PM2_SERVE_HOST")).unwrap_or_else(|| "0.0.0.0".into()),
            spa: self.spa || switch(&env, "PM2_SERVE_SPA")?.unwrap_or(false),
            listing: self.ftp || switch(&env, "PM2_SERVE_FTP")?.unwrap_or(false),
            homepage: homepage.trim_start_matches('/').into(),
            credentials: credentials(asked, name, password)?,
        })
    }
}

/// A name and a password ask for authentication, unless it is switched off; one alone is a mistake
/// that must not leave the site open.
fn credentials(
    asked: Option<bool>,
    name: Option<String>,
    password: Option<String>,
) -> Result<Option<Credentials>, SettingsError> {
    match (asked, name, password) {
        (Some(false), _, _) | (None, None, None) => Ok(None),
        (_, Some(name), Some(_)) if name.contains(':') => Err(SettingsError::ColonInName),
        (_, Some(name), Some(password)) => Ok(Some(Credentials::new(&name, &password))),
        (_, _, _) => Err(SettingsError::HalfCredentials),
    }
}

fn port_of(
    env: &impl Fn(&str) -> Option<String>,
    variable: &'static str,
) -> Result<Option<u16>, SettingsError> {
    let Some(value) = env(variable) else { return Ok(None) };
    value.trim().parse().map(Some).map_err(|_| SettingsError::Port { variable, value })
}

fn switch(
    env: &impl Fn(&str) -> Option<String>,
    variable: &'static str,
) -> Result<Option<bool>, SettingsError> {
    let Some(value) = env(variable) else { return Ok(None) };
    match value.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(Some(true)),
        "false" | "0" | "no" | "off" => Ok(Some(false)),
        _ => Err(SettingsError::Switch { variable, value }),
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

    fn settle(line: &str, env: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        let line: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let find =
            |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        parse(&line).unwrap().settle(find)
    }

    #[test]
    fn defaults() {
        let settings = settle("", &[]).unwrap();
        let expected = Settings {
            root: ".".into(),
            port: 8080,
            host: "0.0.0.0".into(),
            spa: false,
            listing: false,
            homepage: "index.html".into(),
            credentials: None,
        };
        assert_eq!(settings, expected);
    }

    #[test]
    fn arguments_win_over_the_environment() {
        let env = [
            ("PM2_SERVE_PATH", "/env"),
            ("PM2_SERVE_PORT", "1000"),
            ("PORT", "2000"),
            ("PM2_SERVE_HOST", "::1"),
            ("PM2_SERVE_SPA", "true"),
            ("PM2_SERVE_FTP", "false"),
            ("PM2_SERVE_HOMEPAGE", "/app/home.html"),
        ];
        let settings = settle("", &env).unwrap();
        assert_eq!((settings.root.to_str(), settings.port, &*settings.host), (Some("/env"), 1000, "::1"));
        assert!(settings.spa && !settings.listing);
        assert_eq!(settings.homepage.to_str(), Some("app/home.html"));
        let settings = settle("/arg 3000 --host 127.0.0.1 --ftp", &env).unwrap();
        assert_eq!(
            (settings.root.to_str(), settings.port, &*settings.host),
            (Some("/arg"), 3000, "127.0.0.1")
        );
        assert!(settings.spa && settings.listing);
        assert_eq!(settle("--port 3001", &env).unwrap().port, 3001);
        assert_eq!(settle("", &[("PORT", "2000"), ("PM2_SERVE_PORT", "")]).unwrap().port, 2000);
    }

    #[test]
    fn wrong_values_are_named() {
        let port = settle("", &[("PORT", "http")]).unwrap_err().to_string();
        assert_eq!(port, "PORT is \"http\", which is no port. Set it to a number from 0 to 65535.");
        let spa = settle("", &[("PM2_SERVE_SPA", "maybe")]).unwrap_err().to_string();
        assert!(spa.contains("PM2_SERVE_SPA") && spa.contains("maybe"), "{spa}");
    }

    #[test]
    fn half_of_the_credentials_never_leaves_the_site_open() {
        let name = ("PM2_SERVE_BASIC_AUTH_USERNAME", "ann");
        let password = ("PM2_SERVE_BASIC_AUTH_PASSWORD", "s3cret");
        let both = settle("", &[name, password]).unwrap();
        assert_eq!(both.credentials, Some(Credentials::new("ann", "s3cret")));
        for half in [&[name][..], &[password], &[("PM2_SERVE_BASIC_AUTH", "true")]] {
            assert_eq!(settle("", half), Err(SettingsError::HalfCredentials));
        }
        let off = settle("", &[("PM2_SERVE_BASIC_AUTH", "false"), name, password]).unwrap();
        assert_eq!(off.credentials, None);
        assert_eq!(settle("--basic-auth-username a:b", &[password]), Err(SettingsError::ColonInName));
    }

    #[test]
    fn the_command_line_says_the_same_and_keeps_the_secret() {
        for line in ["-- -odd", "--spa --ftp --host :: --port 0", "dir 80"] {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            let args = parse(&words).unwrap();
            let again = parse(&args.to_arguments()).unwrap();
            assert_eq!(again.settle(|_| None), args.settle(|_| None), "{line}");
        }
        let mut args = ServeArgs {
            basic_auth_username: Some("ann".into()),
            basic_auth_password: Some("s3cret".into()),
            ..ServeArgs::default()
        };
        assert!(!format!("{args:?} {:?}", args.to_arguments()).contains("s3cret"));
        let vars = args.take_secrets();
        let find = |name: &str| vars.iter().find(|(key, _)| *key == name).map(|(_, value)| value.clone());
        assert_eq!(args.settle(find).unwrap().credentials, Some(Credentials::new("ann", "s3cret")));
    }
}
