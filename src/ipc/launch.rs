//! Starting a daemon when none answers.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::client::{Client, ClientError};
use super::message::{Pong, Request};
use crate::paths::Home;

/// Why no daemon could be started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// It could not be spoken to.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Its home cannot be made.
    #[error("{what} {}: {error}", path.display())]
    Home {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// It ended at once; what it said.
    #[error("the daemon did not start: {0}")]
    Failed(String),
}

/// Connects to the daemon of this home; starts it if none answers. Also tells whether it did.
///
/// # Errors
/// No daemon answers and none can be started.
pub async fn connect_or_launch(home: &Home) -> Result<(Client, bool), LaunchError> {
    match Client::connect(home).await {
        Err(ClientError::NotRunning { .. }) => {}
        connected => return Ok((connected?, false)),
    }
    let failed = |what, path| move |error| LaunchError::Home { what, path, error };
    home.create().map_err(failed("making", home.dir().to_path_buf()))?;
    let lock = home.launch_lock();
    let open = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&lock);
    let file = open.map_err(failed("opening", lock.clone()))?;
    // Two first commands at once start one daemon: the second finds it when it gets the lock.
    file.lock().map_err(failed("locking", lock))?;
    let launched = match Client::connect(home).await {
        Err(ClientError::NotRunning { .. }) => {
            launch(home)?;
            true
        }
        connected => return Ok((connected?, false)),
    };
    let mut client = Client::connect(home).await?;
    let _: Pong = client.call(&Request::Ping).await?;
    Ok((client, launched))
}

/// Starts the keeper and waits until its socket takes connections: its first process ends then.
fn launch(home: &Home) -> Result<(), LaunchError> {
    let failed = |error: io::Error| LaunchError::Failed(error.to_string());
    let mut child = Command::new("/proc/self/exe")
        .arg("keeper")
        .env("RSM_HOME", home.dir())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let mut said = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        // The keeper replaces its standard error when it goes to the background: this ends then.
        stderr.read_to_string(&mut said).map_err(failed)?;
    }
    match child.wait().map_err(failed)? {
        status if status.success() => Ok(()),
        status if said.trim().is_empty() => Err(LaunchError::Failed(status.to_string())),
        _ => Err(LaunchError::Failed(said.trim().trim_start_matches("error: ").to_owned())),
    }
}
