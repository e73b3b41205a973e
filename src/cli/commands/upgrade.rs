//! `upgrade`: replaces the running daemon and keeper by another version, without restarting apps.

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

/// Maximum duration of an upgrade: the new daemon has ten seconds to become ready, then the previous version is
/// started again.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(60);

// Arguments of `upgrade`.
#[derive(Args, Debug, Default)]
pub(crate) struct UpgradeArgs {
    /// New binary [default: the binary of this command]
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
}

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
    client.on_version_mismatch(|_| {}); // expected here
    let before: Pong = client.call(&Request::Ping).await.map_err(|error| session.client_error(error))?;
    let response = client.call_raw(&Request::Upgrade(UpgradeRequest { binary: binary.clone() })).await;
    // If it accepts, the daemon exits without a response.
    if let Err(ClientError::Rejected(error)) = response {
        return Err(session.client_error(ClientError::Rejected(error)));
    }
    let after = session.wait("waiting for the new daemon", wait_for_new_daemon(session, before.pid)).await?;
    match after.upgrade {
        Some(UpgradeOutcome::Succeeded) | None => {
            session.notice(format_args!("upgraded from rsm {} to {}", before.version, after.version));
            Ok(())
        }
        Some(outcome) => {
            let failure = match outcome {
                UpgradeOutcome::TimedOut => "did not become ready",
                UpgradeOutcome::Crashed | UpgradeOutcome::Succeeded => "exited before it was ready",
            };
            let reason = format!(
                "the new daemon ({}) {failure}; rolled back to rsm {}, apps were not affected",
                binary.display(),
                after.version
            );
            Err(Error::UpgradeFailed { reason, log: session.home.daemon_log() })
        }
    }
}

/// `update`: as PM2, upgrades the daemon to a newer version that is installed. Changes nothing otherwise.
pub(crate) async fn update(session: &Session) -> Result<(), Error> {
    if let Some(mut client) = session.connect_if_running().await? {
        client.on_version_mismatch(|_| {});
        let pong: Pong = client.call(&Request::Ping).await.map_err(|error| session.client_error(error))?;
        if !is_newer(version(), &pong.version) {
            session.notice(format_args!(
                "nothing to upgrade: the daemon runs rsm {}, this is rsm {}; install the new version first",
                pong.version,
                version()
            ));
            return Ok(());
        }
    }
    upgrade(UpgradeArgs::default(), session).await
}

/// Whether a version is later than another one.
fn is_newer(version: &str, other: &str) -> bool {
    let numbers = |text: &str| text.split('.').map(|part| part.parse().unwrap_or(0)).collect::<Vec<u32>>();
    numbers(version) > numbers(other)
}

/// Waits for a daemon with another pid than that of the previous one.
async fn wait_for_new_daemon(session: &Session, previous: i32) -> Result<Pong, Error> {
    let start = Instant::now();
    loop {
        let ping = async { Client::connect(&session.home).await?.call::<Pong>(&Request::Ping).await };
        match ping.await {
            Ok(pong) if pong.pid != previous => return Ok(pong),
            Err(error) if start.elapsed() > UPGRADE_TIMEOUT => return Err(session.client_error(error)),
            Ok(_) | Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Prints what this binary supports, for the daemon of another version.
pub(crate) fn print_capabilities() -> Result<(), Error> {
    let capabilities = crate::daemon::jobs::upgrade::own_capabilities(std::io::stdin().lock());
    let to_error = |error: std::io::Error| Error::ComponentFailed {
        component: "can-take-over",
        reason: error.to_string(),
    };
    output::print_json(&serde_json::to_value(capabilities.map_err(to_error)?).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::is_newer;

    #[test]
    fn versions_compare_by_number() {
        assert!(is_newer("0.10.0", "0.9.3") && !is_newer("0.9.3", "0.9.3") && !is_newer("0.9.3", "0.10.0"));
    }
}
