//! Why files cannot be watched.

use std::io;
use std::path::PathBuf;

/// Why files cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The user's limit on watched directories is reached at this directory.
    #[error(
        "cannot watch {path}: inotify watch limit reached; exclude large directories with ignore_watch, or \
        raise fs.inotify.max_user_watches"
    )]
    WatchLimit { path: PathBuf },
    /// The user's limit on inotify instances, or the daemon's on open files, is reached.
    #[error(
        "cannot watch files: too many inotify instances or open files; raise fs.inotify.max_user_instances \
        or `ulimit -n`"
    )]
    InstanceLimit,
    #[error("invalid ignore_watch pattern \"{pattern}\": {problem}")]
    Pattern { pattern: String, problem: String },
    #[error("cannot watch {path}: {problem}")]
    System { path: PathBuf, problem: io::Error },
}
