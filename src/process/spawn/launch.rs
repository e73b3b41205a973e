//! What a child executes: the document that the daemon writes and the forked child reads.

use std::fs::File;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::process::limits::LimitEnforcement;
use crate::process::run_tag::RunTag;
use crate::process::seccomp::SupervisedCalls;
use crate::spec::Account;

/// Everything the child must know to become the program.
///
/// During an upgrade a new daemon sends this to the keeper of the previous version, so names that are
/// serialized must not change: that keeper's children ignore fields that they do not know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchSpec {
    /// Absolute path of the executable.
    pub program: PathBuf,
    /// Arguments, including the program's name.
    pub argv: Vec<String>,
    /// The complete environment, as `NAME=value`.
    pub env: Vec<String>,
    pub cwd: PathBuf,
    /// The user to run as, if not the user of rsm.
    pub account: Option<Account>,
    /// The numbers of the passed descriptors in the child, in the order in which they are sent.
    pub fds: Vec<RawFd>,
    /// Supervised system calls. The child sends the notifier to its parent.
    #[serde(default, rename = "asks")]
    pub supervised_calls: Option<SupervisedCalls>,
    /// How hard limits are enforced, if there are any.
    #[serde(default)]
    pub limits: Option<LimitEnforcement>,
    /// Identifies the processes of the run.
    #[serde(default)]
    pub tag: Option<RunTag>,
    /// Set `LISTEN_PID` to the pid of the child, for socket activation.
    #[serde(default)]
    pub listen_pid: bool,
}

/// Where the child gets its [`LaunchSpec`] from. It is decoded in the child, so that a document that cannot
/// be decoded does no harm to the keeper.
pub enum LaunchSource {
    /// A memfd with its JSON, as the daemon sends it.
    Memfd(OwnedFd),
    /// The value itself.
    Inline(Box<LaunchSpec>),
}

impl LaunchSource {
    pub(super) fn read(self) -> nix::Result<LaunchSpec> {
        match self {
            Self::Inline(launch) => Ok(*launch),
            Self::Memfd(file) => read_launch(&File::from(file)),
        }
    }
}

fn read_launch(file: &File) -> nix::Result<LaunchSpec> {
    let metadata = file.metadata();
    let size = metadata.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?.len();
    let mut bytes = vec![0; usize::try_from(size).map_err(|_| Errno::EFBIG)?];
    // The offset of the memfd is shared with its writer, hence `pread`.
    file.read_exact_at(&mut bytes, 0).map_err(|_| Errno::EIO)?;
    serde_json::from_slice(&bytes).map_err(|_| Errno::EBADMSG)
}
