//! `save`, `resurrect` and `cleardump`: the saved list.

use crate::cli::error::Error;
use crate::cli::operation::send_all;
use crate::cli::session::Session;
use crate::ipc::message::{DumpInfo, Request, SaveRequest};

pub(crate) async fn save(force: bool, session: &Session) -> Result<(), Error> {
    // Does not start the daemon, which would have nothing to save.
    let mut client = session.connect().await?;
    let saved: DumpInfo = client
        .call(&Request::Save(SaveRequest { force }))
        .await
        .map_err(|error| session.client_error(error))?;
    session.notice(format_args!("saved {} instances to {}", saved.instances, saved.file.display()));
    Ok(())
}

pub(crate) async fn resurrect(session: &Session) -> Result<(), Error> {
    let mut client = session.connect_or_start().await?;
    send_all(session, &mut client, "restoring the saved list", vec![Request::Resurrect]).await.map(drop)
}

pub(crate) async fn cleardump(session: &Session) -> Result<(), Error> {
    let mut client = session.connect_or_start().await?;
    let saved: DumpInfo =
        client.call(&Request::ClearDump).await.map_err(|error| session.client_error(error))?;
    session.notice(format_args!("cleared {}", saved.file.display()));
    Ok(())
}
