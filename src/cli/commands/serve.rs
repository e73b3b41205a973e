//! `serve`: runs the static file server of rsm as an app.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::environment;
use crate::cli::error::Error;
use crate::cli::operation::send_all;
use crate::cli::session::Session;
use crate::config::{ConfigErrors, Diagnostic, Location};
use crate::ipc::message::{Existing, Request, StartRequest};
use crate::paths::{absolute, current_dir};
use crate::serve::ServeArgs;
use crate::spec::{AppSpec, Launcher};

const DEFAULT_PORT: u16 = 8080;

// The description of the command again: that of the flattened arguments would replace it.
/// Serve a directory over HTTP
#[derive(Args, Clone, Debug)]
pub(crate) struct ServeCommand {
    #[command(flatten)]
    site: ServeArgs,
    /// Name of the app [default: static-page-server-PORT]
    #[arg(short, long)]
    name: Option<String>,
}

pub(crate) async fn serve(args: ServeCommand, session: &Session) -> Result<(), Error> {
    let cwd = current_dir().map_err(Error::CurrentDirUnreadable)?;
    let directory = args.site.path.as_ref().map_or_else(|| cwd.clone(), |path| absolute(path));
    if !directory.is_dir() {
        let help = "for example: rsm serve ./dist 8080";
        let error = Diagnostic::error(Location::File(directory), "directory does not exist", help);
        return Err(ConfigErrors::from(error).into());
    }
    let app = args.app(&cwd);
    let description = format!("starting {}", app.name);
    let inherited = environment::collect_env(session);
    let request = Request::Start(StartRequest {
        apps: vec![app],
        inherited,
        existing: Existing::Refuse,
        no_wait: false,
    });
    let mut client = session.connect_or_start().await?;
    send_all(session, &mut client, &description, vec![request]).await.map(drop)
}

impl ServeCommand {
    /// The app spec. A relative path is resolved against `cwd`.
    fn app(self, cwd: &Path) -> AppSpec {
        let Self { mut site, name } = self;
        // Explicit, so that the environment cannot select another port than that in the name.
        let port = site.port().unwrap_or(DEFAULT_PORT);
        (site.listen_port, site.port) = (None, Some(port));
        site.path = Some(site.path.map_or_else(|| PathBuf::from(cwd), |path| cwd.join(path)));
        let mut app =
            AppSpec::new(name.unwrap_or_else(|| format!("static-page-server-{port}")), "serve", cwd);
        app.launcher = Launcher::Serve;
        // In the environment, because all users can read the arguments of a process.
        app.env.extend(site.take_secrets().into_iter().map(|(name, value)| (name.to_owned(), value)));
        app.args = site.to_arguments();
        app
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        serve: ServeCommand,
    }

    fn app(args: &[&str]) -> AppSpec {
        Line::try_parse_from([&["serve"], args].concat()).unwrap().serve.app(Path::new("/srv"))
    }

    #[test]
    fn name_and_defaults_match_pm2() {
        let plain = app(&[]);
        assert_eq!((plain.name.as_str(), plain.launcher), ("static-page-server-8080", Launcher::Serve));
        assert_eq!(plain.args, ["--port=8080", "--", "/srv"]);
        let other = app(&["dist", "90", "--spa", "--name", "site"]);
        assert_eq!(other.name, "site");
        assert_eq!(other.args, ["--port=90", "--spa", "--", "/srv/dist"]);
    }

    #[test]
    fn password_is_not_an_argument() {
        let app = app(&["--basic-auth-username", "ada", "--basic-auth-password", "hunter2"]);
        assert!(!app.args.concat().contains("hunter2"));
        assert_eq!(app.env["PM2_SERVE_BASIC_AUTH_PASSWORD"], "hunter2");
    }
}
