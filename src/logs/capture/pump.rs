//! Waits for the pipes: one small task each, one buffer for all.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use tokio::io::unix::AsyncFd;
use tokio::time::{sleep, timeout_at};

use crate::logs::capture::shared::WorkerShared;
use crate::logs::capture::stream::{CaptureStep, StreamCapture};
use crate::process::fd_channel;

/// Moves in a row before others get their turn.
const MAX_STEPS_PER_TURN: u32 = 4;
/// How long after a write failed it is tried again.
const FILE_RETRY_DELAY: Duration = Duration::from_millis(500);
/// A named pipe that is full has a reader, who is but slower; each further pause is twice as long, up to the
/// one above: it may have stopped for good.
pub(in crate::logs) const PIPE_RETRY_DELAY: Duration = Duration::from_millis(2);
/// Moves when the thread ends: all that a pipe of the largest size (1 MiB) can hold, and more.
const MAX_DRAIN_STEPS: u32 = 128;

/// A pause before the next look, so that small writes come together: who reads as fast as an app
/// writes gets a line at a time.
const BATCH_WAIT: Duration = Duration::from_micros(50);
/// A move of this much needs no batching.
const BATCH_SIZE: usize = 16 * 1024;
/// The same where the pipe is wide: its app is not held up meanwhile.
const WIDE_BATCH_SIZE: usize = 128 * 1024;

/// One pipe and its stream.
#[derive(Debug)]
pub(in crate::logs) struct Pump {
    pipe: AsyncFd<OwnedFd>,
    /// What goes through it.
    pub(in crate::logs) capture: RefCell<StreamCapture>,
    /// After a small move: how often the thread had paused then.
    small_at: Cell<Option<u64>>,
    /// Something was moved without a word of the pipe: none may come of what else it holds.
    recheck: Cell<bool>,
}

impl Pump {
    /// Takes charge of the read end of a pipe.
    ///
    /// # Errors
    /// It cannot be waited for, or the system's limit of watches is reached.
    pub(in crate::logs) fn new(pipe: OwnedFd, stream: StreamCapture) -> io::Result<Self> {
        let (pipe, stream) = (fd_channel::async_fd(pipe)?, RefCell::new(stream));
        Ok(Self { pipe, capture: stream, small_at: Cell::default(), recheck: Cell::default() })
    }

    /// Moves all that the pipe brings until its end, and sees everything written.
    pub(in crate::logs) async fn run(&self, desk: &WorkerShared) {
        let (mut moves, mut pause) = (0, PIPE_RETRY_DELAY);
        while let Ok(step) = self.step(desk).await {
            match step {
                CaptureStep::Ended => break,
                CaptureStep::WriteBlocked => sleep(FILE_RETRY_DELAY).await,
                CaptureStep::PipeFull => increase_delay(&mut pause).await,
                CaptureStep::Moved { .. } | CaptureStep::Partial | CaptureStep::Idle => {
                    pause = PIPE_RETRY_DELAY
                }
            }
            moves = (moves + 1) % MAX_STEPS_PER_TURN;
            if moves == 0 {
                tokio::task::yield_now().await;
            }
        }
        while !self.capture.borrow_mut().report_drops(desk) {
            sleep(FILE_RETRY_DELAY).await;
        }
        while !self.capture.borrow().is_flushed() {
            increase_delay(&mut pause).await;
        }
    }

    /// Waits until there is something to do, and does it.
    async fn step(&self, desk: &WorkerShared) -> io::Result<CaptureStep> {
        let until = self.next_wakeup();
        let ready = match until {
            _ if self.recheck.take() => None,
            Some(until) => timeout_at(until.into(), self.pipe.readable()).await.ok(),
            None => Some(self.pipe.readable().await),
        };
        self.wait_for_batch(desk);
        let mut stream = self.capture.borrow_mut();
        let step = stream.step(&self.pipe, desk).inspect_err(|error| {
            let name = &stream.source().name;
            tracing::error!("cannot read the output of {name}: {error}; further output is lost");
        })?;
        drop(stream);
        match step {
            CaptureStep::Moved { count } => {
                let enough = if self.capture.borrow().is_wide() { WIDE_BATCH_SIZE } else { BATCH_SIZE };
                self.small_at.set((count < enough).then_some(desk.pauses.get()));
                self.recheck.set(ready.is_none());
            }
            // The next write to the pipe wakes this task again.
            CaptureStep::Partial | CaptureStep::Idle => {
                if let Some(Ok(mut guard)) = ready {
                    guard.clear_ready();
                }
                self.capture.borrow_mut().report_drops(desk);
            }
            CaptureStep::WriteBlocked | CaptureStep::PipeFull | CaptureStep::Ended => {}
        }
        Ok(step)
    }

    /// When there is something to do though nothing comes.
    fn next_wakeup(&self) -> Option<Instant> {
        let stream = self.capture.borrow();
        let debt = stream.has_unreported_drops().then(|| Instant::now() + FILE_RETRY_DELAY);
        [stream.next_wakeup(), debt].into_iter().flatten().min()
    }

    /// After a small move, sees that a pause lies before the next one. It is the whole thread that
    /// pauses, and any pump's pause serves all: many busy pipes together wait no more than one.
    fn wait_for_batch(&self, desk: &WorkerShared) {
        if self.small_at.take() == Some(desk.pauses.get()) {
            std::thread::sleep(BATCH_WAIT);
            desk.pauses.set(desk.pauses.get() + 1);
        }
    }

    /// The thread ends: writes what is in the pipe now, as far as the files take it. The rest stays
    /// in the pipe: whoever reads it next may have better luck. A named pipe that is full is waited for
    /// until then.
    pub(in crate::logs) fn drain(&self, desk: &WorkerShared, until: Instant) {
        let mut stream = self.capture.borrow_mut();
        let mut moves = 0;
        while moves < MAX_DRAIN_STEPS {
            match stream.step(&self.pipe, desk) {
                Ok(CaptureStep::Moved { .. }) => moves += 1,
                Ok(CaptureStep::PipeFull) if Instant::now() < until => std::thread::sleep(PIPE_RETRY_DELAY),
                _ => break,
            }
        }
        stream.report_drops(desk);
    }
}

async fn increase_delay(pause: &mut Duration) {
    sleep(*pause).await;
    *pause = (*pause * 2).min(FILE_RETRY_DELAY);
}
