//! `script = "serve"`: the variables and arguments of PM2 become those of `rsm serve`.
//!
//! User name and password of basic authentication stay in the environment: every user of the machine can read
//! arguments.

use crate::config::diagnostics::{Diagnostics, SourceRef};
use crate::config::keys::AppSettings;
use crate::config::resolve::search_path::absolute;
use crate::config::values::{FromValue, PortValue};
use crate::spec::AppSpec;

/// Options followed by a value.
const OPTIONS_WITH_VALUE: [&str; 4] = ["--host", "--port", "--basic-auth-username", "--basic-auth-password"];

/// The arguments of the server. Given arguments override variables.
pub(super) fn serve_args(
    settings: &AppSettings,
    script: &SourceRef,
    app: &AppSpec,
    diagnostics: &mut Diagnostics<'_>,
) -> Vec<String> {
    let source = settings.args.as_ref().map_or(script, |args| &args.source);
    let given = ServeWords::read(&app.args, source, diagnostics);
    let var = |name: &str| app.env.get(name).filter(|value| !value.is_empty()).cloned();
    let is_set = |name: &str| var(name).is_some_and(|value| value == "true" || value == "1");
    let path = given.path.or_else(|| var("PM2_SERVE_PATH")).unwrap_or_else(|| ".".into());
    let directory = absolute(&path, &app.cwd);
    if !directory.is_dir() {
        let message = format!("directory {} not found", directory.display());
        diagnostics.error(source, message, "create it, or change the path (`args`, PM2_SERVE_PATH)");
    }
    let mut args = vec![directory.to_string_lossy().into_owned()];
    let port = given.port.or_else(|| var("PM2_SERVE_PORT")).or_else(|| var("PORT"));
    if port.as_ref().is_some_and(|port| PortValue::from_value(&port.as_str().into()).is_err()) {
        diagnostics.error(
            source,
            "invalid port: expected 1 to 65535",
            "check `port`, PM2_SERVE_PORT and `args`",
        );
    }
    args.extend(port);
    for (flag, is_enabled) in [("--spa", is_set("PM2_SERVE_SPA")), ("--ftp", is_set("PM2_SERVE_FTP"))] {
        if is_enabled && !given.options.iter().any(|option| option == flag) {
            args.push(flag.into());
        }
    }
    if let Some(host) =
        var("PM2_SERVE_HOST").filter(|_| !given.options.iter().any(|option| option == "--host"))
    {
        args.extend(["--host".into(), host]);
    }
    args.extend(given.options);
    args
}

/// The given arguments.
#[derive(Default)]
struct ServeWords {
    path: Option<String>,
    port: Option<String>,
    /// The options, each followed by its value if it has one.
    options: Vec<String>,
}

impl ServeWords {
    fn read(args: &[String], source: &SourceRef, diagnostics: &mut Diagnostics<'_>) -> Self {
        let (mut words, mut error) = (Self::default(), None);
        let mut rest = args.iter();
        while let Some(arg) = rest.next() {
            let (name, value) =
                arg.split_once('=').map_or((arg.as_str(), None), |(name, value)| (name, Some(value)));
            if OPTIONS_WITH_VALUE.contains(&name) {
                match value.map(str::to_owned).or_else(|| rest.next().cloned()) {
                    Some(value) if name == "--port" => words.port = Some(value),
                    Some(value) => words.options.extend([name.to_owned(), value]),
                    None => error = Some(format!("{name} requires a value")),
                }
            } else if arg == "--spa" || arg == "--ftp" {
                words.options.push(arg.clone());
            } else if arg.starts_with('-') {
                error = Some(format!("unknown option {name}"));
            } else if words.path.is_none() {
                words.path = Some(arg.clone());
            } else if words.port.is_none() {
                words.port = Some(arg.clone());
            } else {
                error = Some(format!("unexpected argument {arg:?}"));
            }
        }
        if let Some(error) = error {
            diagnostics.error(source, error, "usage: [PATH] [PORT] [--spa] [--ftp] [--host HOST]");
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args_of(env: &[(&str, &str)], args: &[&str]) -> Vec<String> {
        let mut app = AppSpec::new("s", "serve", "/srv");
        app.env = env.iter().map(|&(name, value)| (name.into(), value.into())).collect();
        app.args = args.iter().map(|&arg| arg.into()).collect();
        serve_args(
            &AppSettings::default(),
            &SourceRef::Flag("start"),
            &app,
            &mut Diagnostics::of_command_line(),
        )
    }

    #[test]
    fn variables_become_arguments() {
        assert_eq!(args_of(&[], &[]), ["/srv"]);
        assert_eq!(
            args_of(&[("PM2_SERVE_PATH", "site"), ("PM2_SERVE_FTP", "true")], &[]),
            ["/srv/site", "--ftp"]
        );
    }

    #[test]
    fn arguments_override_variables() {
        let env = [
            ("PM2_SERVE_PATH", "./site"),
            ("PM2_SERVE_PORT", "8080"),
            ("PORT", "1"),
            ("PM2_SERVE_SPA", "true"),
            ("PM2_SERVE_HOST", "127.0.0.1"),
            ("PM2_SERVE_BASIC_AUTH_PASSWORD", "hunter2"),
        ];
        assert_eq!(args_of(&env, &[]), ["/srv/site", "8080", "--spa", "--host", "127.0.0.1"]);
        let given = ["dist", "--port=9000", "--host", "::1", "--spa"];
        assert_eq!(args_of(&env, &given), ["/srv/dist", "9000", "--host", "::1", "--spa"]);
        assert_eq!(args_of(&[("PORT", "81")], &["dist"]), ["/srv/dist", "81"]);
    }
}
