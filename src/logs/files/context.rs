//! Shared state of the log files of one worker.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::logs::files::access::LogHome;
use crate::logs::files::diversion::Diversions;
use crate::logs::files::index::FileId;
use crate::logs::retention::worker::Retention;
use crate::logs::subscribe::LogNotify;

/// Shared state of the log files of one worker. A clone shares everything but the clock.
#[derive(Clone, Debug)]
pub(crate) struct FileContext {
    pub(crate) home: Arc<LogHome>,
    pub(crate) retention: Retention,
    pub(crate) diversions: Diversions,
    /// Time of the last write, in microseconds. Each write gets a later one.
    last_time: Cell<u64>,
    /// File that any worker wrote last. While it stays the same, index entries can be omitted.
    last_file: Arc<AtomicU64>,
}

impl FileContext {
    pub(crate) fn new(home: Arc<LogHome>, retention: Retention, notify: Arc<LogNotify>) -> Self {
        let diversions = Diversions::new(notify);
        Self { home, retention, diversions, last_time: Cell::new(0), last_file: Arc::default() }
    }

    /// A time later than all previous ones, in microseconds since the epoch.
    pub(crate) fn next_timestamp(&self) -> u64 {
        let now = u64::try_from(jiff::Timestamp::now().as_microsecond()).unwrap_or(0);
        let time = now.max(self.last_time.get() + 1);
        self.last_time.set(time);
        time
    }

    /// Records that this file is written now. Returns whether it already was the last one written.
    pub(crate) fn mark_last_written(&self, (device, inode): FileId) -> bool {
        let file = inode ^ device.rotate_left(32);
        self.last_file.swap(file, Ordering::Relaxed) == file
    }
}
