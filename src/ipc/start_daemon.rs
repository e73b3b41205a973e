//! Starting a daemon when none answers.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use tokio::sync::oneshot;

use super::client::{Client, ClientError};
use super::response::Pong;
use super::routes::Request;
use crate::paths::Home;
use crate::process::memfd;

#[cfg(test)]
mod tests;

/// A daemon is started so often at most.
const MAX_ATTEMPTS: u32 = 4;
/// Each step of a launch may take so long. A sound one takes milliseconds.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Why no daemon could be started.
#[derive(Debug)]
pub enum StartDaemonError {
    /// The request to the daemon failed.
    Client(ClientError),
    /// The home directory cannot be created or locked.
    Home {
        /// The operation that failed, such as `create`.
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system error.
        error: io::Error,
    },
    /// The keeper process cannot be created.
    Spawn(io::Error),
    /// The keeper exited with this error message.
    Failed(String),
    /// A step took too long.
    TimedOut {
        /// The step, such as `waiting for the keeper`.
        step: &'static str,
        /// The log of the daemon.
        log: PathBuf,
    },
}

impl StartDaemonError {
    /// What failed.
    pub fn message(&self) -> String {
        let reason = match self {
            Self::Client(error) => return error.message(),
            Self::Home { operation, path, error } => {
                format!("cannot {operation} {}: {error}", path.display())
            }
            Self::Spawn(error) => format!("cannot start the keeper: {error}"),
            Self::Failed(reason) => reason.clone(),
            Self::TimedOut { step, .. } => format!("timed out after {} s {step}", START_TIMEOUT.as_secs()),
        };
        format!("failed to start the daemon: {reason}")
    }

    /// What to do about it.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::Client(error) => error.help(),
            Self::Home { .. } => Some("fix it, or set RSM_HOME to another directory".into()),
            Self::TimedOut { log, .. } => Some(format!("see {}", log.display())),
            Self::Spawn(_) | Self::Failed(_) => None,
        }
    }
}

impl fmt::Display for StartDaemonError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.help() {
            Some(help) => write!(out, "{}; {help}", self.message()),
            None => out.write_str(&self.message()),
        }
    }
}

impl std::error::Error for StartDaemonError {}

impl From<ClientError> for StartDaemonError {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

/// Connects to the daemon of this home; starts it if none answers. Also tells whether it did.
///
/// # Errors
/// No daemon answers and none can be started.
pub async fn connect_or_start(home: &Home) -> Result<(Client, bool), StartDaemonError> {
    let mut tries = 1;
    loop {
        match connect_or_spawn(home, keeper_command).await {
            // It was there, and was killed before it answered.
            Err(StartDaemonError::Client(
                ClientError::NotRunning { .. } | ClientError::ConnectionLost(_),
            )) if tries < MAX_ATTEMPTS => {
                tries += 1;
            }
            connected => return connected,
        }
    }
}

/// The keeper of this home: this very program, even if its file was replaced meanwhile.
fn keeper_command(home: &Home) -> Command {
    let mut command = Command::new("/proc/self/exe");
    // The mark of an app that this command runs in would make the keeper a part of it.
    command.arg("keeper").env("RSM_HOME", home.path()).env_remove("RSM_RUN");
    command
}

async fn connect_or_spawn(
    home: &Home,
    keeper: impl FnOnce(&Home) -> Command,
) -> Result<(Client, bool), StartDaemonError> {
    if let Some(client) = connect_running(home).await? {
        return Ok((client, false));
    }
    let failed =
        |error| StartDaemonError::Home { operation: "create", path: home.path().to_path_buf(), error };
    home.create().map_err(failed)?;
    // Two first commands at once start one daemon: the second finds it when it gets the lock.
    let _lock = lock(home).await?;
    if let Some(client) = connect_running(home).await? {
        return Ok((client, false));
    }
    spawn_keeper(home, keeper(home)).await?;
    let mut client = Client::connect(home).await?;
    // Connections queue before the daemon serves: only an answer tells that it does.
    let _: Pong = with_timeout(home, "waiting for the daemon", client.call(&Request::Ping)).await??;
    Ok((client, true))
}

async fn connect_running(home: &Home) -> Result<Option<Client>, ClientError> {
    match Client::connect(home).await {
        Ok(client) => Ok(Some(client)),
        Err(ClientError::NotRunning { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn lock(home: &Home) -> Result<File, StartDaemonError> {
    let path = home.start_lock();
    let failed =
        |operation| move |error| StartDaemonError::Home { operation, path: home.start_lock(), error };
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(&path).map_err(failed("open"))?;
    if file.try_lock().is_ok() {
        return Ok(file);
    }
    let locked = on_thread(move || file.lock().map(|()| file)).map_err(failed("lock"))?;
    with_timeout(home, "waiting for another command that starts the daemon", outcome(locked))
        .await?
        .map_err(failed("lock"))
}

/// Starts the keeper and waits until its socket takes connections: its first process ends then.
async fn spawn_keeper(home: &Home, mut keeper: Command) -> Result<(), StartDaemonError> {
    // A file in memory takes what is said at any length, and has an end whoever else holds it.
    let said = memfd::create(c"rsm-launch");
    let mut said = said.map_err(|errno| StartDaemonError::Spawn(errno.into()))?;
    let stderr = said.try_clone().map_err(StartDaemonError::Spawn)?;
    keeper.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
    let mut child = keeper.spawn().map_err(StartDaemonError::Spawn)?;
    let ended = on_thread(move || child.wait()).map_err(StartDaemonError::Spawn)?;
    let status = with_timeout(home, "waiting for the keeper", outcome(ended))
        .await?
        .map_err(StartDaemonError::Spawn)?;
    if status.success() { Ok(()) } else { Err(StartDaemonError::Failed(exit_message(&mut said, status))) }
}

/// Why the keeper gave up, in its own words if it had any.
fn exit_message(said: &mut File, status: ExitStatus) -> String {
    let mut bytes = Vec::new();
    let _ = said.rewind().and_then(|()| said.read_to_end(&mut bytes)); // else the status must do
    let text = String::from_utf8_lossy(&bytes);
    match text.trim().trim_start_matches("error: ") {
        "" => format!("the keeper exited with {status} without output"),
        words => words.to_owned(),
    }
}

/// Runs what blocks on a thread of its own. The runtime's own pool would not do: the runtime waits
/// for it at its end, however long that takes.
fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<oneshot::Receiver<io::Result<T>>> {
    let (done, outcome) = oneshot::channel();
    // Whoever asked may have given up.
    std::thread::Builder::new().spawn(move || drop(done.send(work())))?;
    Ok(outcome)
}

async fn outcome<T>(of: oneshot::Receiver<io::Result<T>>) -> io::Result<T> {
    of.await.unwrap_or_else(|_| Err(io::Error::other("the thread exited early")))
}

async fn with_timeout<T>(
    home: &Home,
    step: &'static str,
    work: impl Future<Output = T>,
) -> Result<T, StartDaemonError> {
    let slow = |_| StartDaemonError::TimedOut { step, log: home.daemon_log() };
    tokio::time::timeout(START_TIMEOUT, work).await.map_err(slow)
}
