//! How much all logs together have, and may have.

use std::sync::atomic::{AtomicU64, Ordering};

/// How much all logs together have, and may have: bytes. Counted by all threads as they write, and from
/// time to time looked up.
#[derive(Debug)]
pub(in crate::logs) struct Budget {
    limit: AtomicU64,
    /// What there was at the last look.
    scanned: AtomicU64,
    /// What was written since.
    grown: AtomicU64,
    /// Below this it is in vain to look again.
    retry_above: AtomicU64,
    /// How many log files are written to.
    files: AtomicU64,
}

impl Budget {
    /// Nothing is known to be there.
    pub(in crate::logs) fn new(most: u64) -> Self {
        let zero = || AtomicU64::new(0);
        Self { limit: most.into(), scanned: zero(), grown: zero(), retry_above: zero(), files: zero() }
    }

    /// So much may be there from now on.
    pub(in crate::logs) fn set_limit(&self, most: u64) {
        self.limit.store(most, Ordering::Relaxed);
        self.retry_above.store(0, Ordering::Relaxed);
    }

    /// What may be there.
    pub(in crate::logs) fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    /// So much was written.
    pub(in crate::logs) fn record_growth(&self, bytes: usize) {
        self.grown.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn used(&self) -> u64 {
        self.scanned.load(Ordering::Relaxed).saturating_add(self.grown.load(Ordering::Relaxed))
    }

    /// Whether it is time to remove something.
    pub(in crate::logs) fn is_exceeded(&self) -> bool {
        self.used() > self.limit().max(self.retry_above.load(Ordering::Relaxed))
    }

    /// A look begins: what is written from here on it may not see.
    pub(in crate::logs) fn begin_scan(&self) {
        self.grown.store(0, Ordering::Relaxed);
    }

    /// What the look has found, after what was too much is removed.
    pub(in crate::logs) fn end_scan(&self, found: u64, files: u64) {
        self.scanned.store(found, Ordering::Relaxed);
        self.files.store(files, Ordering::Relaxed);
        self.defer_retry();
    }

    /// Nothing could be removed: it is tried again after so much more as is no matter.
    pub(in crate::logs) fn defer_retry(&self) {
        let step = (self.limit() / 64).clamp(64 * 1024, 1024 * 1024);
        let vain = if self.used() > self.limit() { self.used().saturating_add(step) } else { 0 };
        self.retry_above.store(vain, Ordering::Relaxed);
    }

    /// Whether all is well.
    pub(in crate::logs) fn is_within_limit(&self) -> bool {
        self.used() <= self.limit()
    }

    /// What each file may have where all of them are what exceeds the budget.
    pub(in crate::logs) fn fair_share(&self) -> u64 {
        self.limit() / self.files.load(Ordering::Relaxed).max(1)
    }
}

#[cfg(test)]
mod tests {
    use crate::logs::retention::budget::*;

    #[test]
    fn what_is_written_counts_until_it_is_looked_up() {
        let budget = Budget::new(1_000_000);
        budget.record_growth(600_000);
        assert!(!budget.is_exceeded());
        budget.record_growth(600_000);
        assert!(budget.is_exceeded() && !budget.is_within_limit());
        budget.begin_scan();
        budget.record_growth(100_000);
        budget.end_scan(500_000, 4);
        assert!(budget.is_within_limit() && !budget.is_exceeded());
        assert_eq!(budget.fair_share(), 250_000);
    }

    #[test]
    fn what_was_in_vain_is_not_tried_at_once_again() {
        let budget = Budget::new(1_000_000);
        budget.begin_scan();
        budget.end_scan(2_000_000, 1);
        assert!(!budget.is_exceeded() && !budget.is_within_limit());
        budget.record_growth(100_000);
        assert!(budget.is_exceeded());
        budget.set_limit(5_000_000);
        assert!(!budget.is_exceeded());
    }
}
