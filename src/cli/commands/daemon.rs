//! `ping`, `kill`, `info`: rsm's own processes.

use std::fs::File;
use std::io;
use std::time::Duration;

use crate::cli::error::Error;
use crate::cli::output;
use crate::cli::render::info;
use crate::cli::session::Session;
use crate::ipc::client::ClientError;
use crate::ipc::message::{Info, Pong, Report, Request};
use crate::process::process_ref::ProcessRef;
use crate::version::version;

/// How long a keeper without its lock may take to be gone. Where its pid means some other process,
/// in another container, the wait must have an end.
const EXIT_GRACE: Duration = Duration::from_secs(1);

/// Says so if the daemon answers.
pub(crate) async fn ping(session: &Session) -> Result<(), Error> {
    let mut client = session.connect().await?;
    let pong: Pong = client.call(&Request::Ping).await.map_err(|error| session.client_error(error))?;
    session.notice(format_args!("daemon {} is running, pid {}", pong.version, pong.pid));
    output::print_line(b"pong")
}

/// Stops every app, the daemon and the keeper, and returns when all are gone.
pub(crate) async fn kill(session: &Session) -> Result<(), Error> {
    let Some(mut client) = session.connect_if_running().await? else {
        session.notice(format_args!("the daemon is not running"));
        return Ok(());
    };
    // Looked up before it goes: what has its pid later could be another.
    let keeper = keeper_process(session);
    let asked = client.call::<Report>(&Request::Shutdown);
    let told = match session.wait("stopping all apps", asked).await {
        Ok(report) => session.print_report(&report),
        // It may be gone before its answer is read; that it is gone is what was asked for.
        Err(ClientError::ConnectionLost { .. }) => Ok(()),
        Err(error) => return Err(session.client_error(error)),
    };
    wait_gone(session, keeper).await?;
    session.notice(format_args!("stopped daemon and keeper"));
    told
}

/// The same without a word about it.
pub(crate) async fn kill_daemon(session: &Session) -> Result<(), Error> {
    let Some(mut client) = session.connect_if_running().await? else { return Ok(()) };
    let keeper = keeper_process(session);
    match client.call::<Report>(&Request::Shutdown).await {
        // Somebody else has asked for it already.
        Ok(_) | Err(ClientError::ConnectionLost { .. } | ClientError::Rejected(_)) => {
            wait_gone(session, keeper).await
        }
        Err(error) => Err(session.client_error(error)),
    }
}

/// The keeper, if it can be seen from here: from another container it cannot.
fn keeper_process(session: &Session) -> Option<ProcessRef> {
    let pid = std::fs::read_to_string(session.home.keeper_lock()).ok()?;
    ProcessRef::of(pid.trim().parse().ok()?)
}

/// Waits for the lock that the keeper, which outlives the daemon, holds for life, and then for its
/// very end: of all that a process has, the kernel takes its files first.
async fn wait_gone(session: &Session, keeper: Option<ProcessRef>) -> Result<(), Error> {
    let path = session.home.keeper_lock();
    let locked = tokio::task::spawn_blocking(move || match File::open(path) {
        Ok(file) => file.lock(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    });
    let locked = session.wait("stopping daemon and keeper", locked).await;
    let locked = locked.unwrap_or_else(|error| Err(io::Error::other(error)));
    locked.map_err(|error| Error::Io { context: "cannot wait for the keeper", error })?;
    if let Some(keeper) = keeper {
        let _ = tokio::time::timeout(EXIT_GRACE, keeper.wait_exit()).await;
    }
    Ok(())
}

/// Versions, processes, paths.
pub(crate) async fn info(json: bool, session: &Session) -> Result<(), Error> {
    let mut client = session.connect().await?;
    if json {
        let bytes = client.call_raw(&Request::Info).await.map_err(|error| session.client_error(error))?;
        return output::print_line(&bytes);
    }
    let told: Info = client.call(&Request::Info).await.map_err(|error| session.client_error(error))?;
    output::print(&info::info(&told, version(), session.style))
}
