//! Waits for the pipes: one small task each, one buffer for all.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use tokio::io::unix::AsyncFd;
use tokio::time::{sleep, timeout_at};

use super::desk::WorkerShared;
use super::stream::{CaptureStep, StreamCapture};
use crate::process::fd_channel;

/// Moves in a row before others get their turn.
const TURN: u32 = 4;
/// How long after a write failed it is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// A named pipe that is full has a reader, who is but slower; each further pause is twice as long, up to the
/// one above: it may have stopped for good.
pub(super) const PIPE_RETRY: Duration = Duration::from_millis(2);
/// Moves when the thread ends: all that a pipe of the largest size (1 MiB) can hold, and more.
const LAST_MOVES: u32 = 128;

/// A pause before the next look, so that small writes come together: who reads as fast as an app
/// writes gets a line at a time.
const BATCH_WAIT: Duration = Duration::from_micros(50);
/// A move of this much needs no batching.
const BATCHED: usize = 16 * 1024;
/// The same where the pipe is wide: its app is not held up meanwhile.
const BATCHED_WIDE: usize = 128 * 1024;

/// One pipe and its stream.
#[derive(Debug)]
pub(super) struct Pump {
    pipe: AsyncFd<OwnedFd>,
    /// What goes through it.
    pub(super) stream: RefCell<StreamCapture>,
    /// After a small move: how often the thread had paused then.
    small_at: Cell<Option<u64>>,
    /// Something was moved without a word of the pipe: none may come of what else it holds.
    look_again: Cell<bool>,
}

impl Pump {
    /// Takes charge of the read end of a pipe.
    ///
    /// # Errors
    /// It cannot be waited for, or the system's limit of watches is reached.
    pub(super) fn new(pipe: OwnedFd, stream: StreamCapture) -> io::Result<Self> {
        let (pipe, stream) = (fd_channel::async_fd(pipe)?, RefCell::new(stream));
        Ok(Self { pipe, stream, small_at: Cell::default(), look_again: Cell::default() })
    }

    /// Moves all that the pipe brings until its end, and sees everything written.
    pub(super) async fn run(&self, desk: &WorkerShared) {
        let (mut moves, mut pause) = (0, PIPE_RETRY);
        while let Ok(step) = self.step(desk).await {
            match step {
                CaptureStep::Ended => break,
                CaptureStep::Refused => sleep(RETRY).await,
                CaptureStep::Full => wait_longer(&mut pause).await,
                CaptureStep::Moved { .. } | CaptureStep::Waits | CaptureStep::Nothing => pause = PIPE_RETRY,
            }
            moves = (moves + 1) % TURN;
            if moves == 0 {
                tokio::task::yield_now().await;
            }
        }
        while !self.stream.borrow_mut().settle_debt(desk) {
            sleep(RETRY).await;
        }
        while !self.stream.borrow().is_taken() {
            wait_longer(&mut pause).await;
        }
    }

    /// Waits until there is something to do, and does it.
    async fn step(&self, desk: &WorkerShared) -> io::Result<CaptureStep> {
        let until = self.wakes();
        let ready = match until {
            _ if self.look_again.take() => None,
            Some(until) => timeout_at(until.into(), self.pipe.readable()).await.ok(),
            None => Some(self.pipe.readable().await),
        };
        self.batch(desk);
        let mut stream = self.stream.borrow_mut();
        let step = stream.step(&self.pipe, desk).inspect_err(|error| {
            let name = &stream.origin().name;
            tracing::error!("cannot read the output of {name}: {error}; further output is lost");
        })?;
        drop(stream);
        match step {
            CaptureStep::Moved { count } => {
                let enough = if self.stream.borrow().is_wide() { BATCHED_WIDE } else { BATCHED };
                self.small_at.set((count < enough).then_some(desk.pauses.get()));
                self.look_again.set(ready.is_none());
            }
            // The next write to the pipe wakes this task again.
            CaptureStep::Waits | CaptureStep::Nothing => {
                if let Some(Ok(mut guard)) = ready {
                    guard.clear_ready();
                }
                self.stream.borrow_mut().settle_debt(desk);
            }
            CaptureStep::Refused | CaptureStep::Full | CaptureStep::Ended => {}
        }
        Ok(step)
    }

    /// When there is something to do though nothing comes.
    fn wakes(&self) -> Option<Instant> {
        let stream = self.stream.borrow();
        let debt = stream.owes_a_note().then(|| Instant::now() + RETRY);
        [stream.wakes(), debt].into_iter().flatten().min()
    }

    /// After a small move, sees that a pause lies before the next one. It is the whole thread that
    /// pauses, and any pump's pause serves all: many busy pipes together wait no more than one.
    fn batch(&self, desk: &WorkerShared) {
        if self.small_at.take() == Some(desk.pauses.get()) {
            std::thread::sleep(BATCH_WAIT);
            desk.pauses.set(desk.pauses.get() + 1);
        }
    }

    /// The thread ends: writes what is in the pipe now, as far as the files take it. The rest stays
    /// in the pipe: whoever reads it next may have better luck. A named pipe that is full is waited for
    /// until then.
    pub(super) fn drain(&self, desk: &WorkerShared, until: Instant) {
        let mut stream = self.stream.borrow_mut();
        let mut moves = 0;
        while moves < LAST_MOVES {
            match stream.step(&self.pipe, desk) {
                Ok(CaptureStep::Moved { .. }) => moves += 1,
                Ok(CaptureStep::Full) if Instant::now() < until => std::thread::sleep(PIPE_RETRY),
                _ => break,
            }
        }
        stream.settle_debt(desk);
    }
}

async fn wait_longer(pause: &mut Duration) {
    sleep(*pause).await;
    *pause = (*pause * 2).min(RETRY);
}
