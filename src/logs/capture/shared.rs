//! What all pumps of the log thread share.

use std::cell::{Cell, RefCell};
use std::io;
use std::sync::{Arc, Mutex};

use crate::logs::capture::journal::Journal;
use crate::logs::capture::peek::PipePeeker;
use crate::logs::subscribe::{LogNotify, Subscribers};

/// One buffer, not one a pipe: memory stays flat.
#[derive(Debug)]
pub(in crate::logs) struct WorkerShared {
    /// What was seen in a pipe.
    pub(in crate::logs) read_buffer: RefCell<Vec<u8>>,
    /// The same in the shape asked for.
    pub(in crate::logs) format_buffer: RefCell<Vec<u8>>,
    /// Looks into pipes.
    pub(in crate::logs) peek: PipePeeker,
    /// Makes each move count once.
    pub(in crate::logs) journal: RefCell<Journal>,
    /// Who listens to streams that no file has.
    pub(in crate::logs) subscribers: Arc<Mutex<Subscribers>>,
    /// Tells who reads the files that there is more.
    pub(in crate::logs) notify: Arc<LogNotify>,
    /// How often the thread has paused.
    pub(in crate::logs) pauses: Cell<u64>,
    /// How many pipes were widened.
    pub(in crate::logs) wide_pipes: Cell<u32>,
}

impl WorkerShared {
    /// A desk with empty buffers.
    ///
    /// # Errors
    /// The system is out of descriptors.
    pub(in crate::logs) fn new(
        journal: Journal,
        news: Arc<LogNotify>,
        hub: Arc<Mutex<Subscribers>>,
    ) -> io::Result<Self> {
        Ok(Self {
            read_buffer: RefCell::default(),
            format_buffer: RefCell::default(),
            peek: PipePeeker::new()?,
            journal: RefCell::new(journal),
            subscribers: hub,
            notify: news,
            pauses: Cell::new(0),
            wide_pipes: Cell::new(0),
        })
    }
}
