//! `upgrade`: another version of rsm takes over, and no app notices.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tokio::time::Instant;

use crate::cli::error::Error;
use crate::cli::output;
use crate::cli::session::Session;
use crate::ipc::client::{Client, ClientError};
use crate::ipc::message::{Pong, Request, UpgradeOutcome, UpgradeRequest};
use crate::version::version;

/// How long the change may take: the new daemon is given ten seconds, and the former one follows it
/// where that was in vain.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(60);

// A binary to change to.
#[derive(Args, Debug)]
pub(crate) struct UpgradeArgs {
    /// New binary [default: the binary of this command]
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
}

/// Changes the running daemon and keeper to another binary.
pub(crate) async fn upgrade(args: UpgradeArgs, session: &Session) -> Result<(), Error> {
    let binary = match args.binary {
        Some(path) => std::path::absolute(path),
        None => std::env::current_exe(),
    };
    let binary = binary.map_err(|error| Error::Io { context: "cannot find the new binary", error })?;
    let Some(mut client) = session.connect_if_running().await? else {
        session.notice(format_args!(
            "the daemon is not running; rsm {} will be used at the next start",
            version()
        ));
        return Ok(());
    };
    client.on_version_mismatch(|_| {}); // that is what this is for
    let before: Pong = client.call(&Request::Ping).await.map_err(|error| session.client_error(error))?;
    let asked = client.call_raw(&Request::Upgrade(UpgradeRequest { binary: binary.clone() })).await;
    // Otherwise it makes place, and has no answer.
    if let Err(ClientError::Rejected(error)) = asked {
        return Err(session.client_error(ClientError::Rejected(error)));
    }
    let after = session.wait("waiting for the new daemon", wait_for_new_daemon(session, before.pid)).await?;
    match after.upgrade {
        Some(UpgradeOutcome::Succeeded) | None => {
            session.notice(format_args!("upgraded from rsm {} to {}", before.version, after.version));
            Ok(())
        }
        Some(outcome) => {
            let what = match outcome {
                UpgradeOutcome::TimedOut => "did not become ready",
                UpgradeOutcome::Crashed | UpgradeOutcome::Succeeded => "exited before it was ready",
            };
            let reason = format!(
                "the new daemon ({}) {what}; rolled back to rsm {}, apps were not affected",
                binary.display(),
                after.version
            );
            Err(Error::UpgradeFailed { reason, log: session.home.daemon_log() })
        }
    }
}

/// The daemon after the one of this pid, once it answers.
async fn wait_for_new_daemon(session: &Session, former: i32) -> Result<Pong, Error> {
    let begin = Instant::now();
    loop {
        let asked = async { Client::connect(&session.home).await?.call::<Pong>(&Request::Ping).await };
        match asked.await {
            Ok(pong) if pong.pid != former => return Ok(pong),
            Err(error) if begin.elapsed() > UPGRADE_TIMEOUT => return Err(session.client_error(error)),
            Ok(_) | Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// What this binary can take over, for the daemon that asks.
pub(crate) fn print_capabilities() -> Result<(), Error> {
    let abilities = crate::daemon::jobs::upgrade::own_capabilities(std::io::stdin().lock());
    let part = |error: std::io::Error| Error::ComponentFailed {
        component: "can-take-over",
        reason: error.to_string(),
    };
    output::print_json(&serde_json::to_value(abilities.map_err(part)?).unwrap_or_default())
}
