//! Pumps: one task for each pipe moves its output into files, in batches and with retries.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::unix::AsyncFd;
use tokio::time::{sleep, timeout_at};

use crate::logs::capture::shared::WorkerShared;
use crate::logs::capture::stream::{CaptureStep, StreamCapture};
use crate::process::fd_channel;

/// Steps of one pump before others get their turn.
const MAX_STEPS_PER_TURN: u32 = 4;
/// Delay after a failed write.
const FILE_RETRY_DELAY: Duration = Duration::from_millis(500);
/// First delay while a named pipe is full. It is doubled up to [`FILE_RETRY_DELAY`], because the reader may
/// have stopped.
pub(super) const PIPE_RETRY_DELAY: Duration = Duration::from_millis(2);
/// Steps when the thread ends: more than a pipe of the largest size (1 MiB) needs.
const MAX_DRAIN_STEPS: u32 = 128;

/// Pause after a small step, so that small writes are moved together: a reader as fast as the app would get
/// one line at a time.
const BATCH_WAIT: Duration = Duration::from_micros(50);
/// A step of this many bytes needs no pause.
const BATCH_SIZE: usize = 16 * 1024;
/// The same for an enlarged pipe, where the pause does not block the app.
const WIDE_BATCH_SIZE: usize = 128 * 1024;

#[derive(Debug)]
pub(super) struct Pump {
    pipe: AsyncFd<Arc<OwnedFd>>,
    capture: RefCell<StreamCapture>,
}

/// What a step leaves for the next one.
#[derive(Default)]
struct StepState {
    /// After a small step: the number of pauses of the thread at that time.
    small_step_at: Option<u64>,
    /// The last step was not caused by the pipe becoming readable. Check it again: no event may come for the
    /// rest of its content.
    recheck: bool,
}

impl Pump {
    /// # Errors
    /// The pipe cannot be registered with epoll.
    pub(super) fn new(pipe: Arc<OwnedFd>, capture: StreamCapture) -> io::Result<Self> {
        Ok(Self { pipe: fd_channel::async_shared_fd(pipe)?, capture: RefCell::new(capture) })
    }

    pub(super) fn capture(&self) -> &RefCell<StreamCapture> {
        &self.capture
    }

    /// Moves all output of the pipe until its end, and waits until the files have accepted it.
    pub(super) async fn run(&self, shared: &WorkerShared) {
        let (mut state, mut steps, mut delay) = (StepState::default(), 0, PIPE_RETRY_DELAY);
        while let Ok(step) = self.step(&mut state, shared).await {
            match step {
                CaptureStep::Ended => break,
                CaptureStep::WriteBlocked => sleep(FILE_RETRY_DELAY).await,
                CaptureStep::PipeFull => sleep_and_double(&mut delay).await,
                CaptureStep::Moved { .. } | CaptureStep::Partial | CaptureStep::Idle => {
                    delay = PIPE_RETRY_DELAY
                }
            }
            steps = (steps + 1) % MAX_STEPS_PER_TURN;
            if steps == 0 {
                tokio::task::yield_now().await;
            }
        }
        if shared.pulse.is_abandoned() {
            return;
        }
        while !self.capture.borrow_mut().report_drops(shared) {
            sleep(FILE_RETRY_DELAY).await;
        }
        while !self.capture.borrow().is_flushed() {
            sleep_and_double(&mut delay).await;
        }
    }

    /// Waits for output or for a deadline, and moves what the pipe contains.
    async fn step(&self, state: &mut StepState, shared: &WorkerShared) -> io::Result<CaptureStep> {
        let deadline = self.next_wakeup();
        let ready = match deadline {
            _ if std::mem::take(&mut state.recheck) => None,
            Some(deadline) => timeout_at(deadline.into(), self.pipe.readable()).await.ok(),
            None => Some(self.pipe.readable().await),
        };
        wait_for_batch(state, shared);
        let mut capture = self.capture.borrow_mut();
        let step = capture.step(&self.pipe, shared).inspect_err(|error| {
            let name = &capture.source().name;
            if !shared.pulse.is_abandoned() {
                tracing::error!("cannot read the output of {name}: {error}; further output is lost");
            }
        })?;
        match step {
            CaptureStep::Moved { count } => {
                let batch_size = if capture.is_wide() { WIDE_BATCH_SIZE } else { BATCH_SIZE };
                state.small_step_at = (count < batch_size).then_some(shared.pauses.get());
                state.recheck = ready.is_none();
            }
            // The next write to the pipe wakes this task again.
            CaptureStep::Partial | CaptureStep::Idle => {
                if let Some(Ok(mut guard)) = ready {
                    guard.clear_ready();
                }
                capture.report_drops(shared);
            }
            CaptureStep::WriteBlocked | CaptureStep::PipeFull | CaptureStep::Ended => {}
        }
        Ok(step)
    }

    /// When a step is needed even if nothing is written to the pipe.
    fn next_wakeup(&self) -> Option<Instant> {
        let capture = self.capture.borrow();
        let retry = capture.has_unreported_drops().then(|| Instant::now() + FILE_RETRY_DELAY);
        [capture.next_wakeup(), retry].into_iter().flatten().min()
    }

    /// When the thread ends: writes the content of the pipe as far as the files accept it. The rest stays in
    /// the pipe for the next daemon. Waits until `deadline` for a named pipe that is full.
    pub(super) fn drain(&self, shared: &WorkerShared, deadline: Instant) {
        let mut capture = self.capture.borrow_mut();
        let mut steps = 0;
        while steps < MAX_DRAIN_STEPS {
            match capture.step(&self.pipe, shared) {
                Ok(CaptureStep::Moved { .. }) => steps += 1,
                Ok(CaptureStep::PipeFull) if Instant::now() < deadline => {
                    std::thread::sleep(PIPE_RETRY_DELAY)
                }
                _ => break,
            }
        }
        capture.report_drops(shared);
    }
}

/// Pauses the thread if it has not paused since the last step of this pump, and that step was small. The
/// pause of one pump serves all: many busy pipes together wait no longer than one.
fn wait_for_batch(state: &mut StepState, shared: &WorkerShared) {
    if state.small_step_at.take() == Some(shared.pauses.get()) {
        std::thread::sleep(BATCH_WAIT);
        shared.pauses.set(shared.pauses.get() + 1);
    }
}

async fn sleep_and_double(delay: &mut Duration) {
    sleep(*delay).await;
    *delay = (*delay * 2).min(FILE_RETRY_DELAY);
}
