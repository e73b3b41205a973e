//! `ping`, `kill`, `info`: rsm's own processes.

use std::fs::File;
use std::io;

use crate::error::Error;
use crate::ipc::client::ClientError;
use crate::ipc::message::{Info, Pong, Report, Request};

use super::output;
use super::render::info;
use super::session::Session;

/// Says so if the daemon answers.
pub(super) async fn ping(session: &Session) -> Result<(), Error> {
    let mut client = session.connect().await?;
    let pong: Pong = client.call(&Request::Ping).await.map_err(|error| session.failed(error))?;
    session.note(format_args!("daemon {} answers, pid {}", pong.version, pong.pid));
    output::line(b"pong")
}

/// Stops every app, the daemon and the keeper, and returns when all are gone.
pub(super) async fn kill(session: &Session) -> Result<(), Error> {
    let Some(mut client) = session.connect_if_running().await? else {
        session.note(format_args!("the daemon is not running: there is nothing to do"));
        return Ok(());
    };
    let asked = client.call::<Report>(&Request::Shutdown);
    let told = match session.wait("all apps to stop", asked).await {
        Ok(report) => session.tell(&report),
        // It may be gone before its answer is read; that it is gone is what was asked for.
        Err(ClientError::Lost { .. }) => Ok(()),
        Err(error) => return Err(session.failed(error)),
    };
    gone(session).await?;
    session.note(format_args!("daemon and keeper have ended"));
    told
}

/// Waits for the lock that the keeper, which outlives the daemon, holds for life.
async fn gone(session: &Session) -> Result<(), Error> {
    let path = session.home.keeper_lock();
    let locked = tokio::task::spawn_blocking(move || match File::open(path) {
        Ok(file) => file.lock(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    });
    let locked = session.wait("daemon and keeper to end", locked).await;
    let locked = locked.unwrap_or_else(|error| Err(io::Error::other(error)));
    locked.map_err(|error| Error::System { what: "waiting for the keeper's end", error })
}

/// Versions, processes, paths.
pub(super) async fn info(json: bool, session: &Session) -> Result<(), Error> {
    let mut client = session.connect().await?;
    if json {
        let bytes = client.bytes(&Request::Info).await.map_err(|error| session.failed(error))?;
        return output::line(&bytes);
    }
    let told: Info = client.call(&Request::Info).await.map_err(|error| session.failed(error))?;
    output::text(&info::info(&told, env!("CARGO_PKG_VERSION"), session.style))
}
