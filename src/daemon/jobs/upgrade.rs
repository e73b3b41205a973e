//! Upgrade check: asks another binary of rsm whether it can take over.
//!
//! The binary runs once with a harmless command and must report that it reads the current state and the protocol
//! of the keeper. The keeper covers other failures: it returns to the current binary if the new daemon does not
//! serve clients.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::instance::snapshot;
use crate::ipc::message::{ApiError, ErrorCode, UpgradeOutcome};
use crate::keeper::handover::{FORMAT_VERSION, MIN_FORMAT_VERSION};
use crate::keeper::protocol::{MIN_VERSION, UpgradeResult, VERSION};
use crate::process::{detached, memfd, spawn};
use crate::version::version;

/// How long the new binary may take to report its capabilities.
const QUERY_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum output of the new binary that is read, in bytes.
const MAX_OUTPUT: usize = 16 << 10;

/// How often to check whether the new binary has exited.
const POLL_MILLIS: u8 = 20;

/// Time beyond [`QUERY_TIMEOUT`] after which its disk does not respond.
const STALL_MARGIN: Duration = Duration::from_secs(5);

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
    let (path, state) = (binary.to_owned(), state.to_vec());
    let query = move || {
        let file = open_binary(&path).map_err(|error| format!("cannot open it: {error}"))?;
        query_binary(&file, &state).map(|answer| (file, answer))
    };
    let subject = format!("checking the binary {}", binary.display());
    let answered = detached::run(subject, QUERY_TIMEOUT + STALL_MARGIN, query).await;
    let (file, Answer { output, errors }) =
        answered.map_err(|error| refused(error.to_string()))?.map_err(refused)?;
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

/// Opens a binary. A named pipe or a device at the path must not block.
fn open_binary(path: &Path) -> io::Result<File> {
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("not a regular file")),
    }
}

/// The output of a binary: standard output and standard error.
struct Answer {
    output: String,
    errors: String,
}

/// Runs `can-take-over` with the state as input. Blocks, at most for about [`QUERY_TIMEOUT`].
fn query_binary(file: &File, state: &[u8]) -> Result<Answer, String> {
    let failed = |error: io::Error| format!("cannot run it: {error}");
    let mut input = memfd::with_contents(c"rsm-state", state).map_err(|errno| failed(errno.into()))?;
    input.rewind().map_err(failed)?;
    let mut command = Command::new(spawn::fd_path(file));
    command.arg("can-take-over").current_dir("/").process_group(0);
    command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = RunningQuery(command.spawn().map_err(failed)?);
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    let (mut out, mut err) = (child.0.stdout.take(), child.0.stderr.take());
    for pipe in [out.as_ref().map(AsFd::as_fd), err.as_ref().map(AsFd::as_fd)].into_iter().flatten() {
        let _ = fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
    }
    let deadline = Instant::now() + QUERY_TIMEOUT;
    let status = loop {
        let mut fds: Vec<PollFd<'_>> = Vec::new();
        fds.extend(out.as_ref().map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)));
        fds.extend(err.as_ref().map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)));
        let _ = poll(&mut fds, PollTimeout::from(POLL_MILLIS));
        read_available(&mut out, &mut output);
        read_available(&mut err, &mut errors);
        if output.len() > MAX_OUTPUT || errors.len() > MAX_OUTPUT {
            return Err(format!("its answer exceeds {} KiB", MAX_OUTPUT >> 10));
        }
        if let Some(status) = child.0.try_wait().map_err(failed)? {
            read_available(&mut out, &mut output);
            read_available(&mut err, &mut errors);
            break status;
        }
        if Instant::now() >= deadline {
            return Err(format!("no response within {} s", QUERY_TIMEOUT.as_secs()));
        }
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (output, errors) = (text(&output), text(&errors));
    match status.success() {
        true => Ok(Answer { output, errors }),
        false => Err(format!("{status}: {}", first_line(&errors, &output))),
    }
}

/// A process that is killed with its process group when dropped.
struct RunningQuery(Child);

impl Drop for RunningQuery {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            let _ = killpg(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGKILL);
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

/// Appends what is in a pipe, up to the limit. Sets it to `None` at its end.
fn read_available(pipe: &mut Option<impl Read>, bytes: &mut Vec<u8>) {
    let mut chunk = [0; 4096];
    while let Some(source) = pipe.as_mut().filter(|_| bytes.len() <= MAX_OUTPUT) {
        match source.read(&mut chunk) {
            Ok(0) => *pipe = None,
            Ok(length) => bytes.extend_from_slice(&chunk[..length]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(_) => *pipe = None,
        }
    }
}

fn first_line<'a>(errors: &'a str, output: &'a str) -> &'a str {
    let line = |text: &'a str| text.lines().map(str::trim).find(|line| !line.is_empty());
    line(errors).or_else(|| line(output)).unwrap_or("no output")
}
