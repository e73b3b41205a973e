//! Which pipe a log worker is using, so that another thread can find out that it is blocked.
//!
//! An app that writes from memory whose disk does not respond holds the lock of its pipe. Every call on that pipe then
//! waits, without a time limit and also for SIGKILL. The blocked worker is abandoned: another one takes over its
//! streams, except those of this app.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// No call is running.
const NONE: u64 = u64::MAX;

/// A call on something that belongs to no run, such as the journal.
pub(crate) const NO_RUN: u64 = u64::MAX - 1;

/// The calls of one worker on pipes.
#[derive(Debug)]
pub(crate) struct Pulse {
    run: AtomicU64,
    calls: AtomicU64,
    is_abandoned: AtomicBool,
}

/// A call that is running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PipeCall {
    pub(crate) run: u64,
    number: u64,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { run: AtomicU64::new(NONE), calls: AtomicU64::new(0), is_abandoned: AtomicBool::new(false) }
    }
}

impl Pulse {
    /// Makes a call on a pipe of a run. The files must be consistent with the pipe before and after it.
    ///
    /// # Errors
    /// The worker was abandoned meanwhile. It must do nothing more, because another one continues its work.
    pub(crate) fn call<T>(&self, run: u64, call: impl FnOnce() -> T) -> io::Result<T> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.run.store(run, Ordering::Release);
        let result = call();
        self.run.store(NONE, Ordering::Release);
        if self.is_abandoned() { Err(io::Error::other("the log worker was replaced")) } else { Ok(result) }
    }

    /// The call that is running now.
    pub(crate) fn current(&self) -> Option<PipeCall> {
        let run = self.run.load(Ordering::Acquire);
        (run != NONE).then(|| PipeCall { run, number: self.calls.load(Ordering::Relaxed) })
    }

    /// Makes the worker end as soon as its current call returns.
    pub(crate) fn abandon(&self) {
        self.is_abandoned.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.is_abandoned.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn running_call_is_visible() {
        let pulse = Pulse::default();
        assert_eq!(pulse.current(), None);
        let first = pulse.call(7, || pulse.current()).unwrap().unwrap();
        let second = pulse.call(7, || pulse.current()).unwrap().unwrap();
        assert_eq!((first.run, second.run), (7, 7));
        assert_ne!(first, second);
        assert_eq!(pulse.current(), None);
    }

    #[test]
    fn abandoned_worker_does_not_continue() {
        let pulse = Pulse::default();
        assert!(pulse.call(7, || pulse.abandon()).is_err());
        assert!(pulse.call(8, || ()).is_err());
    }
}
