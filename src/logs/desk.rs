//! What all pumps of the log thread share.

use std::cell::{Cell, RefCell};
use std::io;
use std::sync::{Arc, Mutex};

use super::follow::{LogNotify, Subscribers};
use super::journal::Journal;
use super::peek::PipePeeker;

/// One buffer, not one a pipe: memory stays flat.
#[derive(Debug)]
pub(super) struct WorkerShared {
    /// What was seen in a pipe.
    pub(super) read_buffer: RefCell<Vec<u8>>,
    /// The same in the shape asked for.
    pub(super) format_buffer: RefCell<Vec<u8>>,
    /// Looks into pipes.
    pub(super) peek: PipePeeker,
    /// Makes each move count once.
    pub(super) journal: RefCell<Journal>,
    /// Who listens to streams that no file has.
    pub(super) subscribers: Arc<Mutex<Subscribers>>,
    /// Tells who reads the files that there is more.
    pub(super) notify: Arc<LogNotify>,
    /// How often the thread has paused.
    pub(super) pauses: Cell<u64>,
    /// How many pipes were widened.
    pub(super) wide_pipes: Cell<u32>,
}

impl WorkerShared {
    /// A desk with empty buffers.
    ///
    /// # Errors
    /// The system is out of descriptors.
    pub(super) fn new(
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
