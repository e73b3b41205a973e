//! The arguments of `rsm serve`, and the command line of the server process.

use std::fmt;
use std::path::PathBuf;

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

impl ServeArgs {
    /// The port, from either argument.
    pub fn port(&self) -> Option<u16> {
        self.port.or(self.listen_port)
    }

    /// Removes the user name and the password, and returns them as environment variables for the server
    /// process: other users can read its arguments, but not its environment.
    pub fn take_secrets(&mut self) -> Vec<(&'static str, String)> {
        let name = self.basic_auth_username.take().map(|name| ("PM2_SERVE_BASIC_AUTH_USERNAME", name));
        let password = self.basic_auth_password.take().map(|word| ("PM2_SERVE_BASIC_AUTH_PASSWORD", word));
        name.into_iter().chain(password).collect()
    }

    /// The command line for these arguments, without the password (see [`ServeArgs::take_secrets`]).
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
        // After `--`, a directory whose name starts with `-` is not an option.
        let path = self.path.as_ref().map(|path| path.display().to_string());
        line.extend(path.into_iter().flat_map(|path| ["--".to_owned(), path]));
        line
    }
}
