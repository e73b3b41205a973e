//! What all pumps of the log thread share.

use std::cell::{Cell, RefCell};
use std::io;
use std::sync::{Arc, Mutex};

use super::follow::{Hub, News};
use super::journal::Journal;
use super::peek::Peek;

/// One buffer, not one a pipe: memory stays flat.
#[derive(Debug)]
pub(super) struct Desk {
    /// What was seen in a pipe.
    pub(super) chunk: RefCell<Vec<u8>>,
    /// The same in the shape asked for.
    pub(super) shaped: RefCell<Vec<u8>>,
    /// Looks into pipes.
    pub(super) peek: Peek,
    /// Makes each move count once.
    pub(super) journal: RefCell<Journal>,
    /// Who listens to streams that no file has.
    pub(super) hub: Arc<Mutex<Hub>>,
    /// Tells who reads the files that there is more.
    pub(super) news: Arc<News>,
    /// How often the thread has paused.
    pub(super) pauses: Cell<u64>,
    /// How many pipes were widened.
    pub(super) wide: Cell<u32>,
}

impl Desk {
    /// A desk with empty buffers.
    ///
    /// # Errors
    /// The system is out of descriptors.
    pub(super) fn new(journal: Journal, news: Arc<News>, hub: Arc<Mutex<Hub>>) -> io::Result<Self> {
        Ok(Self {
            chunk: RefCell::default(),
            shaped: RefCell::default(),
            peek: Peek::new()?,
            journal: RefCell::new(journal),
            hub,
            news,
            pauses: Cell::new(0),
            wide: Cell::new(0),
        })
    }
}
