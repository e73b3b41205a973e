//! State that all pumps of a log worker share.

use std::cell::{Cell, RefCell};
use std::io;
use std::sync::{Arc, Mutex};

use crate::logs::capture::journal::Journal;
use crate::logs::capture::peek::PipePeeker;
use crate::logs::capture::pulse::Pulse;
use crate::logs::subscribe::{LogNotify, Subscribers};

/// Buffers and counters of a worker. One buffer serves all pipes, so that memory does not grow with their
/// number.
#[derive(Debug)]
pub(super) struct WorkerShared {
    /// Text peeked from a pipe.
    pub(super) read_buffer: RefCell<Vec<u8>>,
    /// The same text with timestamps or as JSON.
    pub(super) format_buffer: RefCell<Vec<u8>>,
    pub(super) peek: PipePeeker,
    pub(super) journal: RefCell<Journal>,
    /// Followers of streams that have no file.
    pub(super) subscribers: Arc<Mutex<Subscribers>>,
    /// Wakes readers of log files.
    pub(super) notify: Arc<LogNotify>,
    /// Shows which pipe is in use.
    pub(super) pulse: Arc<Pulse>,
    /// Number of pauses of the thread for batching small writes.
    pub(super) pauses: Cell<u64>,
    /// Number of pipes enlarged at the moment.
    pub(super) wide_pipes: Cell<u32>,
}

impl WorkerShared {
    /// # Errors
    /// Out of file descriptors.
    pub(super) fn new(
        journal: Journal,
        notify: Arc<LogNotify>,
        subscribers: Arc<Mutex<Subscribers>>,
        pulse: Arc<Pulse>,
    ) -> io::Result<Self> {
        Ok(Self {
            read_buffer: RefCell::default(),
            format_buffer: RefCell::default(),
            peek: PipePeeker::new()?,
            journal: RefCell::new(journal),
            subscribers,
            notify,
            pulse,
            pauses: Cell::new(0),
            wide_pipes: Cell::new(0),
        })
    }
}
