//! Upgrade check: asks another binary of rsm whether it can take over.
//!
//! The binary runs once with a harmless command and must report that it reads the current state and the protocol
//! of the keeper. The keeper covers other failures: it returns to the current binary if the new daemon does not
//! serve clients.

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

/// How long the new binary may take to report its capabilities.
const QUERY_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum output of the new binary that is read, in bytes.
const MAX_OUTPUT: u64 = 16 << 10;

/// The formats that a binary of rsm understands.
#[derive(Debug, Serialize, Deserialize)]
pub struct Capabilities {
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
    /// The open binary, even if another file gets its path.
    pub file: File,
    pub version: String,
}

/// The capabilities of this binary, if it can read the state of the running daemon.
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

/// The result of an upgrade as an API type.
pub fn outcome(upgrade: UpgradeResult) -> Option<UpgradeOutcome> {
    match upgrade {
        UpgradeResult::None => None,
        UpgradeResult::Succeeded => Some(UpgradeOutcome::Succeeded),
        UpgradeResult::Crashed => Some(UpgradeOutcome::Crashed),
        UpgradeResult::TimedOut => Some(UpgradeOutcome::TimedOut),
    }
}

/// Runs a binary to check whether it can take over.
///
/// # Errors
/// It cannot; nothing has changed.
pub async fn check_binary(binary: &Path, state: &[u8]) -> Result<CheckedBinary, ApiError> {
    let refused = |reason: String| {
        ApiError::new(ErrorCode::Invalid, format!("cannot upgrade to {}: {reason}", binary.display()))
            .hint("the current version keeps running")
    };
    let file = File::open(binary).map_err(|error| refused(format!("cannot open it: {error}")))?;
    let (output, errors) = query_binary(&file, state).await.map_err(refused)?;
    let capabilities: Capabilities = serde_json::from_str(&output).map_err(|_| {
        refused(format!("not an rsm binary that supports upgrades ({})", first_line(&errors, &output)))
    })?;
    let Capabilities { version, protocol, handover, latest_protocol, latest_handover } = capabilities;
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

/// Runs `can-take-over` with the state as input. Returns the standard output and standard error.
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
    let (output, errors) = (text(output), text(errors));
    match status.success() {
        true => Ok((output, errors)),
        false => Err(format!("{status}: {}", first_line(&errors, &output))),
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

fn first_line<'a>(errors: &'a str, output: &'a str) -> &'a str {
    let line = |text: &'a str| text.lines().map(str::trim).find(|line| !line.is_empty());
    line(errors).or_else(|| line(output)).unwrap_or("no output")
}
