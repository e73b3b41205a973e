//! Replacement of log workers that a pipe blocks.

use std::cell::RefCell;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use crate::logs::capture::pulse::{NO_RUN, PipeCall};
use crate::process::detached::StallReport;

/// A worker that is in one call on a pipe for this long is replaced. The calls do not wait for the app.
const STALL_LIMIT: Duration = Duration::from_secs(2);

/// What is known about the calls of all workers.
#[derive(Debug, Default)]
pub(super) struct StallWatch {
    /// The current call of each worker, and when it was first seen.
    current: RefCell<Vec<Option<(PipeCall, Instant)>>>,
    abandoned: RefCell<Vec<AbandonedWorker>>,
}

#[derive(Debug)]
struct AbandonedWorker {
    call: PipeCall,
    /// Disconnected when its thread ends.
    exited: Receiver<()>,
    report: StallReport,
}

impl Drop for StallWatch {
    /// The calls are still blocked when the daemon ends.
    fn drop(&mut self) {
        self.abandoned.borrow_mut().drain(..).for_each(|worker| std::mem::forget(worker.report));
    }
}

impl StallWatch {
    /// Records the current call of a worker; true if it blocks the worker.
    pub(super) fn is_blocked(&self, worker: usize, call: Option<PipeCall>) -> bool {
        let mut current = self.current.borrow_mut();
        if current.len() <= worker {
            current.resize(worker + 1, None);
        }
        current[worker] = match (current[worker], call) {
            (Some((before, since)), Some(now)) if before == now => Some((now, since)),
            (_, call) => call.map(|call| (call, Instant::now())),
        };
        current[worker].is_some_and(|(_, since)| since.elapsed() >= STALL_LIMIT)
    }

    /// Records an abandoned worker until its call returns.
    pub(super) fn add(&self, call: PipeCall, exited: Receiver<()>, report: StallReport) {
        self.abandoned.borrow_mut().push(AbandonedWorker { call, exited, report });
    }

    /// Whether the output of a run waits for the end of a blocked call.
    pub(super) fn is_waiting(&self, run: u64) -> bool {
        self.abandoned.borrow().iter().any(|worker| worker.call.run == run)
    }

    /// Removes the workers whose call has returned. Returns the runs whose output can be captured again.
    pub(super) fn take_returned(&self) -> Vec<u64> {
        let is_ended = |worker: &AbandonedWorker| worker.exited.try_recv() == Err(TryRecvError::Disconnected);
        let mut abandoned = self.abandoned.borrow_mut();
        let (ended, waiting): (Vec<_>, Vec<_>) = abandoned.drain(..).partition(is_ended);
        *abandoned = waiting;
        ended.iter().map(|worker| worker.call.run).filter(|run| *run != NO_RUN).collect()
    }
}
