//! What all log files have in common.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::logs::files::index::FileId;
use crate::logs::retention::worker::Retention;

/// What all log files have in common. Each thread has one.
#[derive(Clone, Debug)]
pub(in crate::logs) struct FileContext {
    /// Where indexes lie.
    pub(in crate::logs) indexes: Arc<Path>,
    /// Who takes care of rotated files.
    pub(in crate::logs) retention: Retention,
    /// The latest time given to a write, so that no two have the same. Microseconds.
    last_time: Cell<u64>,
    /// The file written last, by any thread: entries of an index are spared while nothing else is written.
    last_file: Arc<AtomicU64>,
}

impl FileContext {
    /// For files whose indexes lie there.
    pub(in crate::logs) fn new(indexes: PathBuf, tidy: Retention) -> Self {
        Self { indexes: indexes.into(), retention: tidy, last_time: Cell::new(0), last_file: Arc::default() }
    }

    /// A time after all that were given before; microseconds since the epoch.
    pub(in crate::logs) fn next_timestamp(&self) -> u64 {
        let now = u64::try_from(jiff::Timestamp::now().as_microsecond()).unwrap_or(0);
        let time = now.max(self.last_time.get() + 1);
        self.last_time.set(time);
        time
    }

    /// Whether this file was the last one written; it is from now on.
    pub(in crate::logs) fn mark_last_written(&self, (device, inode): FileId) -> bool {
        let file = inode ^ device.rotate_left(32);
        self.last_file.swap(file, Ordering::Relaxed) == file
    }
}
