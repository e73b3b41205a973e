//! Capture: moves the output of apps from their pipes into log files.
//!
//! One line takes this way: a [`pump`] waits for the pipe, [`peek`] copies its content without consuming it,
//! [`stream`] formats it and appends it to the files, and the [`journal`] consumes it from the pipe. What a
//! file does not accept, for example on a full disk, stays in the pipe: nothing is lost, and only that app is
//! blocked.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::logs::files::paths::LogFiles;
use crate::secure_fs::FileUser;
use crate::spec::{LogFormat, Rotation};

pub(super) mod assign;
pub(super) mod attached;
mod dropped;
pub(super) mod format;
pub(super) mod journal;
pub(super) mod lines;
mod partial;
mod peek;
pub(super) mod pulse;
mod pump;
mod shared;
mod stream;
pub(super) mod worker;

/// The output of one run, and where it is written.
#[derive(Clone, Debug)]
pub struct RunOutput {
    /// Instance id.
    pub id: u32,
    /// App name.
    pub name: String,
    /// Unique number of the run.
    pub run: u64,
    /// Read end of standard output.
    pub out: Arc<OwnedFd>,
    /// Read end of standard error.
    pub err: Arc<OwnedFd>,
    /// Files to write to.
    pub files: LogFiles,
    /// Files to write to instead of those that another user could have prepared.
    pub fallback: LogFiles,
    /// User the app runs as.
    pub user: FileUser,
    /// Format of a line.
    pub format: LogFormat,
    /// Format of timestamps, in the tokens of PM2.
    pub date_format: Option<String>,
    /// Rotation settings.
    pub rotation: Arc<Rotation>,
}

/// A file, and why an operation on it failed.
pub type FileError = (PathBuf, io::Error);

/// Files for which an operation failed.
pub type FileErrors = Vec<FileError>;

/// Command to a log worker. Commands are executed in the order sent.
#[derive(Debug)]
pub(super) enum WorkerCommand {
    /// Captures the output of a run; with a sender, only if its files can be written.
    Attach(Arc<RunOutput>, Option<oneshot::Sender<Result<(), FileError>>>),
    /// Reopens all files.
    Reopen(oneshot::Sender<FileErrors>),
    Truncate(Vec<(PathBuf, FileUser)>, oneshot::Sender<FileErrors>),
    /// Replies when all output of the run is in its files.
    WaitClosed(u64, oneshot::Sender<()>),
    /// Writes what the pipes contain, and ends the thread.
    Stop,
}
