//! Reads the pipes: one small task each, one buffer for all.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::net::unix::pipe::Receiver;
use tokio::time::{Instant, sleep, timeout_at};

use super::follow::Hub;
use super::shape::Shape;
use super::stream::Stream;

/// Bytes read at once: what a pipe holds by default.
const CHUNK: usize = 64 * 1024;
/// Bytes read at once where each line grows by a stamp or more.
const SHAPED_CHUNK: usize = 16 * 1024;
/// Reads in a row before others get their turn.
const TURN: u32 = 4;
/// How long after a write failed it is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// Reads of a pipe when the thread ends: all that a pipe of the largest size (1 MiB) can hold.
const LAST_READS: u32 = 64;

/// A pause before the next read, so that small writes come together: who reads as fast as an app
/// writes gets a line at a time.
const BATCH_WAIT: Duration = Duration::from_micros(50);
/// A read of this much needs no batching.
const BATCHED: usize = 16 * 1024;

/// What all pumps of the thread share. One buffer, not one a pipe: memory stays flat.
#[derive(Debug)]
pub(super) struct Desk {
    chunk: RefCell<Vec<u8>>,
    shaped: RefCell<Vec<u8>>,
    /// Who listens.
    pub(super) hub: RefCell<Hub>,
    /// How often the thread has paused.
    pauses: Cell<u64>,
}

impl Desk {
    /// A desk with empty buffers.
    pub(super) fn new() -> Self {
        Self {
            chunk: RefCell::new(vec![0; CHUNK]),
            shaped: RefCell::default(),
            hub: RefCell::default(),
            pauses: Cell::new(0),
        }
    }
}

/// One pipe and its stream.
#[derive(Debug)]
pub(super) struct Pump {
    pipe: Receiver,
    /// What was read.
    pub(super) stream: RefCell<Stream>,
    /// After a small read: how often the thread had paused then.
    small_at: Cell<Option<u64>>,
}

/// What a read came to.
enum Read {
    /// There may be more.
    Some,
    /// There is nothing now.
    Empty,
    /// Every writer is gone, or the pipe is broken.
    Ended,
}

impl Pump {
    /// Takes charge of the read end of a pipe.
    ///
    /// # Errors
    /// It is no pipe that can be read, or the system's limit of watches is reached.
    pub(super) fn new(pipe: OwnedFd, stream: Stream) -> io::Result<Self> {
        Ok(Self {
            pipe: Receiver::from_owned_fd(pipe)?,
            stream: RefCell::new(stream),
            small_at: Cell::new(None),
        })
    }

    /// Moves all that the pipe brings until its end, and sees everything written.
    pub(super) async fn run(&self, desk: &Desk) {
        let mut reads = 0;
        while self.step(desk).await {
            self.settle().await;
            reads = (reads + 1) % TURN;
            if reads == 0 {
                tokio::task::yield_now().await;
            }
        }
        self.end(desk);
        self.settle().await;
    }

    /// Waits for one chunk, or for the patience with an unfinished line to end. False at the end.
    async fn step(&self, desk: &Desk) -> bool {
        let until = self.stream.borrow().patience_ends();
        let Some(ready) = within(until, self.pipe.readable()).await else {
            self.stream.borrow_mut().release(&mut desk.shaped.borrow_mut());
            return true;
        };
        self.batch(desk);
        ready.is_ok() && !matches!(self.read(desk, |pipe, buffer| pipe.try_read(buffer)), Read::Ended)
    }

    /// After a small read, sees that a pause lies before the next one. It is the whole thread that
    /// pauses, and any pump's pause serves all: many busy pipes together wait no more than one.
    fn batch(&self, desk: &Desk) {
        if self.small_at.take() == Some(desk.pauses.get()) {
            std::thread::sleep(BATCH_WAIT);
            desk.pauses.set(desk.pauses.get() + 1);
        }
    }

    /// While a file does not take what was read, this pipe is left to fill up.
    async fn settle(&self) {
        while self.stream.borrow().unwritten() > 0 {
            sleep(RETRY).await;
            self.stream.borrow_mut().retry();
        }
    }

    fn read(&self, desk: &Desk, read: impl FnOnce(&Receiver, &mut [u8]) -> io::Result<usize>) -> Read {
        let mut stream = self.stream.borrow_mut();
        let mut buffer = desk.chunk.borrow_mut();
        let size = match stream.origin().shape {
            Shape::Raw => CHUNK,
            Shape::Stamped(_) | Shape::Json(_) => SHAPED_CHUNK,
        };
        let buffer = &mut buffer[..size];
        match read(&self.pipe, buffer) {
            Ok(0) => Read::Ended,
            Ok(count) => {
                self.small_at.set((count < BATCHED).then_some(desk.pauses.get()));
                let mut hub = desk.hub.borrow_mut();
                stream.take(&buffer[..count], now(), &mut hub, &mut desk.shaped.borrow_mut());
                Read::Some
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Read::Empty,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Read::Some,
            Err(error) => {
                let name = &stream.origin().name;
                tracing::warn!("reading the output of {name}: {error}; what it writes from now on is lost");
                Read::Ended
            }
        }
    }

    fn end(&self, desk: &Desk) {
        self.stream.borrow_mut().end(now(), &mut desk.hub.borrow_mut(), &mut desk.shaped.borrow_mut());
    }

    /// The thread ends: writes what is in the pipe now, as far as the files take it. What they do not
    /// take is not read, where that can be helped: whoever reads the pipe next may have better luck.
    pub(super) fn drain(&self, desk: &Desk) {
        for _ in 0..LAST_READS {
            if !self.stream.borrow_mut().retry() {
                break;
            }
            // The runtime no longer says what is ready, so the pipe itself is asked.
            let read = self.read(desk, |pipe, buffer| Ok(nix::unistd::read(pipe, buffer)?));
            if matches!(read, Read::Empty | Read::Ended) {
                break;
            }
        }
        self.end(desk);
        let mut stream = self.stream.borrow_mut();
        if !stream.retry() {
            let (name, lost) = (&stream.origin().name, stream.unwritten());
            tracing::warn!("{lost} bytes of the output of {name} could not be written and are lost");
        }
    }
}

/// `None` if the time comes first.
async fn within<T>(until: Option<Instant>, what: impl Future<Output = T>) -> Option<T> {
    match until {
        Some(until) => timeout_at(until, what).await.ok(),
        None => Some(what.await),
    }
}

/// Milliseconds since the epoch.
fn now() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
