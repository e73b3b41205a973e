//! `ping`, `kill` and `info`: the daemon and the keeper.

use std::fs::File;
use std::io;
use std::time::Duration;

use crate::cli::error::Error;
use crate::cli::output;
use crate::cli::render;
use crate::cli::session::Session;
use crate::ipc::client::ClientError;
use crate::ipc::message::{ActionReport, DaemonInfo, Pong, Request};
use crate::process::process_ref::ProcessRef;
use crate::version::version;

/// Maximum wait for the exit of the keeper after it released its lock. Limited, because in another pid namespace its
/// pid may be that of another process.
const EXIT_GRACE: Duration = Duration::from_secs(1);

/// Checks whether the daemon responds.
pub(crate) async fn ping(session: &Session) -> Result<(), Error> {
    let mut client = session.connect().await?;
    let pong: Pong = client.call(&Request::Ping).await.map_err(|error| session.client_error(error))?;
    session.notice(format_args!("daemon {} is running, pid {}", pong.version, pong.pid));
    output::print_line(b"pong")
}

/// Stops all apps, the daemon and the keeper, and waits until they have exited. Succeeds if none is running.
pub(crate) async fn kill(session: &Session) -> Result<(), Error> {
    let Some(mut client) = session.connect_if_running().await? else {
        session.notice(format_args!("the daemon is not running"));
        return Ok(());
    };
    // Looked up while it runs: later, another process may have its pid.
    let keeper = keeper_process(session);
    let response = client.call::<ActionReport>(&Request::Shutdown);
    let reported = match session.wait("stopping all apps", response).await {
        Ok(report) => session.print_report(&report, "stopped"),
        // It may exit before its response is read.
        Err(ClientError::ConnectionLost { .. }) => Ok(()),
        Err(error) => return Err(session.client_error(error)),
    };
    wait_gone(session, keeper).await?;
    session.notice(format_args!("stopped daemon and keeper"));
    reported
}

/// Does the same as `kill`, without printing anything.
pub(crate) async fn kill_daemon(session: &Session) -> Result<(), Error> {
    let Some(mut client) = session.connect_if_running().await? else { return Ok(()) };
    let keeper = keeper_process(session);
    match client.call::<ActionReport>(&Request::Shutdown).await {
        // Another command may have stopped it already.
        Ok(_) | Err(ClientError::ConnectionLost { .. } | ClientError::Rejected(_)) => {
            wait_gone(session, keeper).await
        }
        Err(error) => Err(session.client_error(error)),
    }
}

/// The keeper process, or `None` if it is in another pid namespace.
fn keeper_process(session: &Session) -> Option<ProcessRef> {
    let pid = std::fs::read_to_string(session.home.keeper_lock()).ok()?;
    ProcessRef::of(pid.trim().parse().ok()?)
}

/// Waits for the exit of the keeper, which outlives the daemon: first for its lock, then for the process itself,
/// because the kernel closes the files of an exiting process before it is gone.
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

/// Prints versions, processes and paths of rsm.
pub(crate) async fn info(json: bool, session: &Session) -> Result<(), Error> {
    let mut client = session.connect().await?;
    if json {
        let bytes = client.call_raw(&Request::Info).await.map_err(|error| session.client_error(error))?;
        return output::print_line(&bytes);
    }
    let info: DaemonInfo = client.call(&Request::Info).await.map_err(|error| session.client_error(error))?;
    output::print(&render::info::info(&info, version(), session.style))
}
