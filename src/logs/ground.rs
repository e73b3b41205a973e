//! What all log files have in common.

use std::cell::Cell;
use std::path::PathBuf;

use super::index::FileId;
use super::tidy::Tidy;

/// What all log files have in common.
#[derive(Debug)]
pub(super) struct Ground {
    /// Where indexes lie.
    pub(super) indexes: PathBuf,
    /// Who takes care of rotated files.
    pub(super) tidy: Tidy,
    /// The latest time given to a write, so that no two have the same. Microseconds.
    pub(super) last_time: Cell<u64>,
    /// The file written last: entries of an index are spared while nothing else is written.
    pub(super) last_file: Cell<Option<FileId>>,
}

impl Ground {
    /// A time after all that were given before; microseconds since the epoch.
    pub(super) fn time(&self) -> u64 {
        let now = u64::try_from(jiff::Timestamp::now().as_microsecond()).unwrap_or(0);
        let time = now.max(self.last_time.get() + 1);
        self.last_time.set(time);
        time
    }

    /// Whether this file was the last one written; it is from now on.
    pub(super) fn is_alone(&self, file: FileId) -> bool {
        self.last_file.replace(Some(file)) == Some(file)
    }
}
