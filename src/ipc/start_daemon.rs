//! Connecting to the daemon, and starting it if it is not running.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::fcntl::OFlag;
use tokio::sync::oneshot;

use super::client::{Client, ClientError, is_keeper_lost};
use super::response::Pong;
use super::routes::Request;
use crate::path_error::PathError;
use crate::paths::Home;
use crate::process::memfd;
use crate::secure_fs;
use crate::settings::RsmSettings;

#[cfg(test)]
mod tests;

/// Maximum number of attempts to start a daemon.
const MAX_ATTEMPTS: u32 = 4;
/// Timeout of each step; normally a step takes milliseconds.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Why no daemon could be started.
#[derive(Debug)]
pub enum StartDaemonError {
    /// The request to the daemon failed.
    Client(ClientError),
    /// The home directory cannot be created or locked.
    Home(PathError),
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
            Self::Home(error) => error.to_string(),
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
            Self::Home(_) => Some("fix it, or set RSM_HOME to another directory".into()),
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

impl From<PathError> for StartDaemonError {
    fn from(error: PathError) -> Self {
        Self::Home(error)
    }
}

/// Connects to the daemon of this home, and starts it if it is not running; true if it was started.
///
/// # Errors
/// The daemon is not running, and cannot be started.
pub async fn connect_or_start(home: &Home) -> Result<(Client, bool), StartDaemonError> {
    let mut attempt = 1;
    loop {
        match connect_or_spawn(home, keeper_command).await {
            // It was running, but was killed before it responded.
            Err(StartDaemonError::Client(
                ClientError::NotRunning { .. } | ClientError::ConnectionLost(_),
            )) if attempt < MAX_ATTEMPTS => {
                attempt += 1;
            }
            connected => return connected,
        }
    }
}

/// The command that starts the keeper: this program, even if its file has been replaced.
fn keeper_command(home: &Home) -> Command {
    let mut command = Command::new("/proc/self/exe");
    // If rsm runs inside an app, the app's run marker would make the keeper a part of that app.
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
    home.check_access().map_err(ClientError::UnsafeHome)?;
    if home.is_new() {
        let _ = RsmSettings::default().save(home); // the next line reports why the home cannot be created
    }
    home.create().map_err(PathError::context("create", home.path()))?;
    // Two commands at the same time start one daemon: the second one finds it when it gets the lock.
    let _lock = lock(home).await?;
    if let Some(client) = connect_running(home).await? {
        return Ok((client, false));
    }
    spawn_keeper(home, keeper(home)).await?;
    let mut client = Client::connect(home).await?;
    // Connections are queued before the daemon serves: only a response shows that it does.
    let _: Pong = with_timeout(home, "waiting for the daemon", client.call(&Request::Ping)).await??;
    Ok((client, true))
}

async fn connect_running(home: &Home) -> Result<Option<Client>, ClientError> {
    match Client::connect(home).await {
        // The socket may be that of a daemon that cannot exit.
        Ok(mut client) if is_keeper_lost(&home.socket()) => match client.call::<Pong>(&Request::Ping).await {
            Ok(_) => Ok(Some(client)),
            Err(ClientError::NotRunning { .. }) => Ok(None),
            Err(error) => Err(error),
        },
        Ok(client) => Ok(Some(client)),
        Err(ClientError::NotRunning { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn lock(home: &Home) -> Result<File, StartDaemonError> {
    let path = home.start_lock();
    let file = secure_fs::open_private(&path, OFlag::O_WRONLY).map_err(PathError::context("open", &path))?;
    if file.try_lock().is_ok() {
        return Ok(file);
    }
    let locked = on_thread(move || file.lock().map(|()| file)).map_err(PathError::context("lock", &path))?;
    let locked = with_timeout(home, "waiting for another command that starts the daemon", outcome(locked));
    Ok(locked.await?.map_err(PathError::context("lock", path))?)
}

/// Starts the keeper and waits until its socket accepts connections: its first process exits then.
async fn spawn_keeper(home: &Home, mut keeper: Command) -> Result<(), StartDaemonError> {
    // Unlike a pipe, a memfd has no size limit, and can be read to its end while other processes have it
    // open.
    let output = memfd::create(c"rsm-launch");
    let mut output = output.map_err(|errno| StartDaemonError::Spawn(errno.into()))?;
    let stderr = output.try_clone().map_err(StartDaemonError::Spawn)?;
    keeper.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
    let mut child = keeper.spawn().map_err(StartDaemonError::Spawn)?;
    let ended = on_thread(move || child.wait()).map_err(StartDaemonError::Spawn)?;
    let status = with_timeout(home, "waiting for the keeper", outcome(ended))
        .await?
        .map_err(StartDaemonError::Spawn)?;
    if status.success() { Ok(()) } else { Err(StartDaemonError::Failed(exit_message(&mut output, status))) }
}

/// Why the keeper exited: its output, or its exit status if it printed nothing.
fn exit_message(output: &mut File, status: ExitStatus) -> String {
    let mut bytes = Vec::new();
    let _ = output.rewind().and_then(|()| output.read_to_end(&mut bytes)); // otherwise the status is shown
    let text = String::from_utf8_lossy(&bytes);
    match text.trim().trim_start_matches("error: ") {
        "" => format!("the keeper exited with {status} without output"),
        message => message.to_owned(),
    }
}

/// Runs a blocking operation on its own thread. Not on the thread pool of the runtime, which waits for its
/// threads when it is dropped.
fn on_thread<T: Send + 'static>(
    operation: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<oneshot::Receiver<io::Result<T>>> {
    let (done, outcome) = oneshot::channel();
    // The receiver may have timed out.
    std::thread::Builder::new().spawn(move || drop(done.send(operation())))?;
    Ok(outcome)
}

async fn outcome<T>(receiver: oneshot::Receiver<io::Result<T>>) -> io::Result<T> {
    receiver.await.unwrap_or_else(|_| Err(io::Error::other("the thread exited early")))
}

async fn with_timeout<T>(
    home: &Home,
    step: &'static str,
    operation: impl Future<Output = T>,
) -> Result<T, StartDaemonError> {
    let timed_out = |_| StartDaemonError::TimedOut { step, log: home.daemon_log() };
    tokio::time::timeout(START_TIMEOUT, operation).await.map_err(timed_out)
}
