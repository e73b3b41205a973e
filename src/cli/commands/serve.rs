//! `serve`: rsm's static file server as a managed app.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::environment;
use crate::cli::error::Error;
use crate::cli::operation::send_all;
use crate::cli::session::Session;
use crate::config::{ConfigError, ConfigErrors, Location};
use crate::ipc::message::{Existing, Request, StartApps};
use crate::serve::ServeArgs;
use crate::spec::{AppSpec, Launcher};

/// Where it listens unless told otherwise.
const DEFAULT_PORT: u16 = 8080;

// The text again, as that of the arguments below would stand in its place.
/// Serve a directory over HTTP
#[derive(Args, Clone, Debug)]
pub(crate) struct ServeCommand {
    #[command(flatten)]
    site: ServeArgs,
    /// Name of the app [default: static-page-server-PORT]
    #[arg(short, long)]
    name: Option<String>,
}

pub(crate) async fn serve(serve: ServeCommand, session: &Session) -> Result<(), Error> {
    let here = std::env::current_dir().map_err(Error::CurrentDirUnreadable)?;
    let directory = serve.site.path.as_ref().map_or_else(|| here.clone(), |path| here.join(path));
    if !directory.is_dir() {
        let message = "directory does not exist".to_owned();
        let help = Some("for example: rsm serve ./dist 8080".into());
        return Err(
            ConfigErrors(vec![ConfigError { location: Location::File(directory), message, help }]).into()
        );
    }
    let app = serve.app(&here);
    let what = format!("starting {}", app.name);
    let inherited = environment::collect_env(session);
    let request = Request::Start(StartApps { apps: vec![app], inherited, existing: Existing::Refuse });
    let mut client = session.connect_or_start().await?;
    send_all(session, &mut client, &what, vec![request]).await.map(drop)
}

impl ServeCommand {
    /// The app; a relative path is one below `cwd`.
    fn app(self, cwd: &Path) -> AppSpec {
        let Self { mut site, name } = self;
        // Said outright, so that the port is the one in the name whatever the environment says.
        let port = site.port().unwrap_or(DEFAULT_PORT);
        (site.listen_port, site.port) = (None, Some(port));
        site.path = Some(site.path.map_or_else(|| PathBuf::from(cwd), |path| cwd.join(path)));
        let mut app =
            AppSpec::new(name.unwrap_or_else(|| format!("static-page-server-{port}")), "serve", cwd);
        app.launcher = Launcher::Serve;
        // By environment, since everybody on the machine may read arguments.
        app.env.extend(site.take_secrets().into_iter().map(|(name, value)| (name.to_owned(), value)));
        app.args = site.to_arguments();
        app
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::cli::commands::serve::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        serve: ServeCommand,
    }

    fn app(args: &[&str]) -> AppSpec {
        Line::try_parse_from([&["serve"], args].concat()).unwrap().serve.app(Path::new("/srv"))
    }

    #[test]
    fn pm2s_name_and_defaults() {
        let plain = app(&[]);
        assert_eq!((plain.name.as_str(), plain.launcher), ("static-page-server-8080", Launcher::Serve));
        assert_eq!(plain.args, ["--port=8080", "--", "/srv"]);
        let other = app(&["dist", "90", "--spa", "--name", "site"]);
        assert_eq!(other.name, "site");
        assert_eq!(other.args, ["--port=90", "--spa", "--", "/srv/dist"]);
    }

    #[test]
    fn the_password_is_not_an_argument() {
        let app = app(&["--basic-auth-username", "ada", "--basic-auth-password", "hunter2"]);
        assert!(!app.args.concat().contains("hunter2"));
        assert_eq!(app.env["PM2_SERVE_BASIC_AUTH_PASSWORD"], "hunter2");
    }
}
