//! `foreground`: what an init system starts. It brings the saved apps back, stays while rsm runs, and ends
//! it when told to.
//!
//! It is not the keeper but only watches: whoever of rsm's processes dies is followed by another, and this one
//! stays, so that the service manager sees no end where there is none. Where rsm runs already, started by
//! hand, it watches that one, and starts nothing twice.

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
use crate::ipc::message::{InstanceView, Report, Request};

/// Set once `PATH` is that of a login.
const LOGIN_PATH_VAR: &str = "RSM_LOGIN_PATH";

/// A keeper that died may take so long to be followed, before it is looked again.
const RESTART_DELAY: Duration = Duration::from_millis(100);

/// Starts this very program again, in this process, with the `PATH` that the user has after logging in: what
/// it starts inherits that. Does nothing the second time.
///
/// Must be called while this process has one thread and nothing to lose.
///
/// # Errors
/// The program cannot be executed.
pub(crate) fn exec_with_login_path() -> Result<(), Error> {
    if std::env::var_os(LOGIN_PATH_VAR).is_some() {
        return Ok(());
    }
    let now = std::env::var_os("PATH").unwrap_or_default();
    let login = login_path::login_path().unwrap_or_default();
    let path = login_path::join_paths(&login.to_string_lossy(), &now.to_string_lossy());
    let mut again = Command::new("/proc/self/exe");
    again.args(std::env::args_os().skip(1)).env("PATH", path).env(LOGIN_PATH_VAR, "1");
    let error = again.arg0("rsm").exec();
    Err(Error::Io { context: "cannot restart with the login PATH", error })
}

/// Brings the saved apps back and stays until rsm ends, or with `once` only the former.
///
/// # Errors
/// rsm cannot be started. Apps that do not start are told, and no reason to fail: the others run.
pub(crate) async fn run_foreground(once: bool, session: &Session) -> Result<(), Error> {
    let mut term = signal_stream(SignalKind::terminate())?;
    let mut int = signal_stream(SignalKind::interrupt())?;
    let _hang_up = signal_stream(SignalKind::hangup())?; // no reason to end
    tokio::select! {
        begun = start_or_join(session) => begun?,
        // The machine goes down while it comes up.
        _ = term.recv() => return shut_down(session).await,
        _ = int.recv() => return shut_down(session).await,
    }
    sd_notify("READY=1");
    if once {
        return Ok(());
    }
    tokio::select! {
        ended = watch_daemon(session) => ended,
        _ = term.recv() => shut_down(session).await,
        _ = int.recv() => shut_down(session).await,
    }
}

fn signal_stream(kind: SignalKind) -> Result<Signal, Error> {
    signal(kind).map_err(|error| Error::Io { context: "cannot install signal handlers", error })
}

/// Connects to rsm, or starts it and brings the saved list back.
async fn start_or_join(session: &Session) -> Result<(), Error> {
    if Client::connect(&session.home).await.is_ok() {
        session.notice(format_args!(
            "rsm is already running in {}; supervising it",
            session.home.path().display()
        ));
        return Ok(());
    }
    let mut client = session.connect_or_start().await?;
    let there: Vec<InstanceView> =
        client.call(&Request::List).await.map_err(|error| session.client_error(error))?;
    if !there.is_empty() {
        return Ok(()); // daemon and keeper were killed: what they left is taken up, and is all
    }
    match client.call::<Report>(&Request::Resurrect).await {
        Ok(report) => {
            let online = report.instances.iter().filter(|outcome| outcome.problem.is_none()).count();
            let all = report.instances.len();
            sd_notify(&format!("STATUS=restored {online} of {all} saved instances"));
            if let Err(error) = session.print_report(&report) {
                session.notice(format_args!("{error}"));
            }
            session.notice(format_args!("restored {online} of {all} saved instances"));
            Ok(())
        }
        // Nothing is saved: rsm is there for what comes.
        Err(ClientError::Rejected(error)) => {
            session.notice(format_args!("{error}"));
            Ok(())
        }
        Err(error) => Err(session.client_error(error)),
    }
}

/// Resolves once rsm has ended because somebody wanted it to. If daemon and keeper are killed together, it
/// starts others, which take up what runs.
async fn watch_daemon(session: &Session) -> Result<(), Error> {
    loop {
        wait_unlocked(session).await?;
        tokio::time::sleep(RESTART_DELAY).await;
        match Client::connect(&session.home).await {
            Ok(_) => {} // another keeper has followed
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

/// Resolves once no keeper holds its lock. A thread: the lock has no other way to wait for it.
async fn wait_unlocked(session: &Session) -> Result<(), Error> {
    let path = session.home.keeper_lock();
    let (tell, told) = tokio::sync::oneshot::channel();
    let wait = move || {
        let locked = match File::open(path) {
            Ok(file) => file.lock(), // and let go at once: it is the next keeper's
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        };
        let _ = tell.send(locked);
    };
    let failed = |error| Error::Io { context: "cannot wait for the keeper", error };
    std::thread::Builder::new().name("lock".into()).spawn(wait).map_err(failed)?;
    told.await.unwrap_or_else(|_| Err(io::Error::other("the waiting thread exited"))).map_err(failed)
}

/// Ends every app, rsm, and what else is left of this unit.
async fn shut_down(session: &Session) -> Result<(), Error> {
    sd_notify("STOPPING=1");
    let ended = daemon::kill(session).await;
    let more = cgroup_cleanup::kill_leftovers();
    if more > 0 {
        session.notice(format_args!("killed {more} remaining processes"));
    }
    ended
}
