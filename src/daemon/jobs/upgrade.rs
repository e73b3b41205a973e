//! Trying another binary of rsm before it takes over.
//!
//! It is run once, harmlessly: it must say that it can read our state and speak with our keeper. What
//! that does not show the keeper finds out, which goes back to the present binary if the new daemon
//! does not come to answer clients.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::instance::snapshot;
use crate::ipc::message::{ApiError, ErrorCode, UpgradeOutcome};
use crate::keeper::handover::{FORMAT_VERSION, MIN_FORMAT_VERSION};
use crate::keeper::protocol::{MIN_VERSION, UpgradeResult, VERSION};
use crate::process::memfd;
use crate::process::process_ref::ProcessRef;
use crate::process::spawn;
use crate::version::version;

/// How long the new binary may take to say what it can.
const QUERY_TIMEOUT: Duration = Duration::from_secs(10);
/// More of what it says is not read.
const MAX_OUTPUT: u64 = 16 << 10;

/// What a binary of rsm can take over.
#[derive(Debug, Serialize, Deserialize)]
pub struct Capabilities {
    /// Its version.
    version: String,
    /// The oldest version of the keeper's protocol that it understands. A daemon of version 1 compares this.
    protocol: u64,
    /// The oldest version of the handover document that it reads. A daemon of version 1 compares this.
    handover: u64,
    /// The newest version of the protocol; not present in version 1.
    #[serde(default = "first_version")]
    latest_protocol: u64,
    /// The newest version of the handover document; not present in version 1.
    #[serde(default = "first_version")]
    latest_handover: u64,
}

fn first_version() -> u64 {
    1
}

/// A binary that can take over.
#[derive(Debug)]
pub struct CheckedBinary {
    /// The binary itself, whatever becomes of its path.
    pub file: File,
    /// Its version.
    pub version: String,
}

/// What this binary can take over, given the state of the one that runs.
///
/// # Errors
/// The state cannot be read, or is of a newer format.
pub fn own_capabilities(mut state: impl Read) -> io::Result<Capabilities> {
    let mut bytes = Vec::new();
    state.read_to_end(&mut bytes)?;
    snapshot::decode(&bytes)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
    Ok(Capabilities {
        version: version().to_owned(),
        protocol: MIN_VERSION,
        handover: MIN_FORMAT_VERSION,
        latest_protocol: VERSION,
        latest_handover: FORMAT_VERSION,
    })
}

/// What came of an upgrade, in words of the API.
pub fn outcome(upgrade: UpgradeResult) -> Option<UpgradeOutcome> {
    match upgrade {
        UpgradeResult::None => None,
        UpgradeResult::Succeeded => Some(UpgradeOutcome::Succeeded),
        UpgradeResult::Crashed => Some(UpgradeOutcome::Crashed),
        UpgradeResult::TimedOut => Some(UpgradeOutcome::TimedOut),
    }
}

/// Runs a binary to learn whether it can take over.
///
/// # Errors
/// It cannot, in words for the user. Nothing has changed.
pub async fn check_binary(binary: &Path, state: &[u8]) -> Result<CheckedBinary, ApiError> {
    let refused = |why: String| {
        ApiError::new(ErrorCode::Invalid, format!("cannot upgrade to {}: {why}", binary.display()))
            .hint("the current version keeps running")
    };
    let file = File::open(binary).map_err(|error| refused(format!("cannot open it: {error}")))?;
    let (said, complaint) = query_binary(&file, state).await.map_err(refused)?;
    let abilities: Capabilities = serde_json::from_str(&said).map_err(|_| {
        refused(format!("not an rsm binary that supports upgrades ({})", first_line(&complaint, &said)))
    })?;
    let Capabilities { version, protocol, handover, latest_protocol, latest_handover } = abilities;
    if !(protocol..=latest_protocol).contains(&VERSION)
        || !(handover..=latest_handover).contains(&FORMAT_VERSION)
    {
        return Err(refused(format!(
            "version {version} uses another keeper protocol; run `rsm save` and `rsm kill`, then `rsm \
            resurrect` with the new version"
        )));
    }
    Ok(CheckedBinary { file, version })
}

/// What it says, and what it complains of.
async fn query_binary(file: &File, state: &[u8]) -> Result<(String, String), String> {
    let failed = |error: io::Error| format!("cannot run it: {error}");
    let (mut input, mut output, mut errors) = (|| {
        let mut input = memfd::with_contents(c"rsm-state", state)?;
        input.rewind()?;
        Ok((input, memfd::create(c"rsm-answer")?, memfd::create(c"rsm-errors")?))
    })()
    .map_err(failed)?;
    let mut command = Command::new(spawn::fd_path(file));
    command.arg("can-take-over").current_dir("/");
    let stdio = |file: &mut File| file.try_clone().map(Stdio::from).map_err(failed);
    command.stdin(stdio(&mut input)?).stdout(stdio(&mut output)?).stderr(stdio(&mut errors)?);
    let mut child = command.spawn().map_err(failed)?;
    let status = wait_with_timeout(&mut child)
        .await
        .ok_or_else(|| format!("no response within {} s", QUERY_TIMEOUT.as_secs()))?;
    let text = |mut file: File| {
        let mut text = Vec::new();
        let _ = file.rewind().and_then(|()| file.take(MAX_OUTPUT).read_to_end(&mut text));
        String::from_utf8_lossy(&text).into_owned()
    };
    let (said, complaint) = (text(output), text(errors));
    match status.success() {
        true => Ok((said, complaint)),
        false => Err(format!("{status}: {}", first_line(&complaint, &said))),
    }
}

async fn wait_with_timeout(child: &mut Child) -> Option<ExitStatus> {
    let process = ProcessRef::of(child.id().cast_signed())?;
    if tokio::time::timeout(QUERY_TIMEOUT, process.wait_exit()).await.is_err() {
        let _ = child.kill();
        let _ = child.wait();
        return None;
    }
    child.wait().ok()
}

fn first_line<'a>(complaint: &'a str, said: &'a str) -> &'a str {
    let line = |text: &'a str| text.lines().map(str::trim).find(|line| !line.is_empty());
    line(complaint).or_else(|| line(said)).unwrap_or("no output")
}
