//! `foreground`: the main process of the service that `startup` installs. It restores the saved list, runs as long
//! as the daemon, and shuts it down on SIGTERM.
//!
//! It only supervises the keeper and the daemon: these may be killed and restarted while this process, which the
//! init system watches, continues. A daemon that is already running is supervised instead of starting another.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::boot::sd_notify::sd_notify;
use crate::boot::{cgroup_cleanup, login_path};
use crate::cli::commands::daemon;
use crate::cli::error::Error;
use crate::cli::session::Session;
use crate::ipc::client::{Client, ClientError};
use crate::ipc::message::{ActionReport, InstanceView, Request};

/// Set after `PATH` was replaced by that of a login shell.
const LOGIN_PATH_VAR: &str = "RSM_LOGIN_PATH";

/// Time for a killed keeper to be replaced before the daemon is checked.
const RESTART_DELAY: Duration = Duration::from_millis(100);

/// Executes this program again with the `PATH` of a login shell, which the apps inherit. Does nothing the second
/// time. Must be called before anything else is done in this process.
pub(crate) fn exec_with_login_path() -> Result<(), Error> {
    if std::env::var_os(LOGIN_PATH_VAR).is_some() {
        return Ok(());
    }
    let current = std::env::var_os("PATH").unwrap_or_default();
    let login = login_path::login_path().unwrap_or_default();
    let path = login_path::join_paths(&login.to_string_lossy(), &current.to_string_lossy());
    let mut command = Command::new("/proc/self/exe");
    command.args(std::env::args_os().skip(1)).env("PATH", path).env(LOGIN_PATH_VAR, "1");
    let error = command.arg0("rsm").exec();
    Err(Error::Io { context: "cannot restart with the login PATH", error })
}

/// Restores the saved list, then runs until the daemon exits, unless `once` is set. Apps that fail to start are
/// reported and do not fail this command, because the others run.
pub(crate) async fn run_foreground(once: bool, session: &Session) -> Result<(), Error> {
    let mut term = signal_stream(SignalKind::terminate())?;
    let mut int = signal_stream(SignalKind::interrupt())?;
    let _hangup = signal_stream(SignalKind::hangup())?; // ignored
    tokio::select! {
        started = start_or_join(session) => started?,
        // The host shuts down during the start.
        _ = term.recv() => return shut_down(session).await,
        _ = int.recv() => return shut_down(session).await,
    }
    sd_notify("READY=1");
    if once {
        return Ok(());
    }
    tokio::select! {
        result = watch_daemon(session) => result,
        _ = term.recv() => shut_down(session).await,
        _ = int.recv() => shut_down(session).await,
    }
}

fn signal_stream(kind: SignalKind) -> Result<Signal, Error> {
    signal(kind).map_err(|error| Error::Io { context: "cannot install signal handlers", error })
}

/// Connects to the daemon, or starts it and restores the saved list.
async fn start_or_join(session: &Session) -> Result<(), Error> {
    if Client::connect(&session.home).await.is_ok() {
        session.notice(format_args!(
            "rsm is already running in {}; supervising it",
            session.home.path().display()
        ));
        return Ok(());
    }
    let mut client = session.connect_or_start().await?;
    let instances: Vec<InstanceView> =
        client.call(&Request::List).await.map_err(|error| session.client_error(error))?;
    if !instances.is_empty() {
        return Ok(()); // daemon and keeper were killed: the new daemon has adopted their apps
    }
    match client.call::<ActionReport>(&Request::Resurrect).await {
        Ok(report) => {
            let online = report.instances.iter().filter(|outcome| outcome.problem.is_none()).count();
            let all = report.instances.len();
            sd_notify(&format!("STATUS=restored {online} of {all} saved instances"));
            if let Err(error) = session.print_report(&report, "restored") {
                session.notice(format_args!("{error}"));
            }
            session.notice(format_args!("restored {online} of {all} saved instances"));
            Ok(())
        }
        // No list is saved; the daemon runs without apps.
        Err(ClientError::Rejected(error)) => {
            session.notice(format_args!("{error}"));
            Ok(())
        }
        Err(error) => Err(session.client_error(error)),
    }
}

/// Waits until the daemon is shut down. If daemon and keeper are killed together, starts them again, and the daemon
/// adopts the running processes.
async fn watch_daemon(session: &Session) -> Result<(), Error> {
    loop {
        wait_unlocked(session).await?;
        tokio::time::sleep(RESTART_DELAY).await;
        match Client::connect(&session.home).await {
            Ok(_) => {} // the keeper was replaced
            Err(ClientError::NotRunning { .. }) if session.home.has_state() => {
                session.notice(format_args!(
                    "daemon and keeper exited unexpectedly: restarting them, running apps are adopted"
                ));
                session.connect_or_start().await?;
            }
            Err(ClientError::NotRunning { .. }) => return Ok(()),
            Err(error) => return Err(session.client_error(error)),
        }
    }
}

/// Waits until no keeper holds the lock. Uses a thread, because a file lock can only be awaited by blocking.
async fn wait_unlocked(session: &Session) -> Result<(), Error> {
    let path = session.home.keeper_lock();
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let wait = move || {
        let locked = match File::open(path) {
            Ok(file) => file.lock(), // released at once, for the next keeper
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        };
        let _ = sender.send(locked);
    };
    let to_error = |error| Error::Io { context: "cannot wait for the keeper", error };
    std::thread::Builder::new().name("lock".into()).spawn(wait).map_err(to_error)?;
    receiver.await.unwrap_or_else(|_| Err(io::Error::other("the waiting thread exited"))).map_err(to_error)
}

/// Stops all apps, the daemon and the keeper, then kills the remaining processes of this service.
async fn shut_down(session: &Session) -> Result<(), Error> {
    sd_notify("STOPPING=1");
    let stopped = daemon::kill(session).await;
    let killed = cgroup_cleanup::kill_leftovers();
    if killed > 0 {
        session.notice(format_args!("killed {killed} remaining processes"));
    }
    stopped
}
