//! How much all logs together have, and may have.

use std::sync::atomic::{AtomicU64, Ordering};

/// How much all logs together have, and may have: bytes. Counted by all threads as they write, and from
/// time to time looked up.
#[derive(Debug)]
pub(super) struct Budget {
    most: AtomicU64,
    /// What there was at the last look.
    found: AtomicU64,
    /// What was written since.
    since: AtomicU64,
    /// Below this it is in vain to look again.
    vain: AtomicU64,
    /// How many log files are written to.
    files: AtomicU64,
}

impl Budget {
    /// Nothing is known to be there.
    pub(super) fn new(most: u64) -> Self {
        let zero = || AtomicU64::new(0);
        Self { most: most.into(), found: zero(), since: zero(), vain: zero(), files: zero() }
    }

    /// So much may be there from now on.
    pub(super) fn set(&self, most: u64) {
        self.most.store(most, Ordering::Relaxed);
        self.vain.store(0, Ordering::Relaxed);
    }

    /// What may be there.
    pub(super) fn most(&self) -> u64 {
        self.most.load(Ordering::Relaxed)
    }

    /// So much was written.
    pub(super) fn grew(&self, bytes: usize) {
        self.since.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn used(&self) -> u64 {
        self.found.load(Ordering::Relaxed).saturating_add(self.since.load(Ordering::Relaxed))
    }

    /// Whether it is time to remove something.
    pub(super) fn is_over(&self) -> bool {
        self.used() > self.most().max(self.vain.load(Ordering::Relaxed))
    }

    /// A look begins: what is written from here on it may not see.
    pub(super) fn begin_look(&self) {
        self.since.store(0, Ordering::Relaxed);
    }

    /// What the look has found, after what was too much is removed.
    pub(super) fn end_look(&self, found: u64, files: u64) {
        self.found.store(found, Ordering::Relaxed);
        self.files.store(files, Ordering::Relaxed);
        self.spare();
    }

    /// Nothing could be removed: it is tried again after so much more as is no matter.
    pub(super) fn spare(&self) {
        let step = (self.most() / 64).clamp(64 * 1024, 1024 * 1024);
        let vain = if self.used() > self.most() { self.used().saturating_add(step) } else { 0 };
        self.vain.store(vain, Ordering::Relaxed);
    }

    /// Whether all is well.
    pub(super) fn is_kept(&self) -> bool {
        self.used() <= self.most()
    }

    /// What each file may have where all of them are what exceeds the budget.
    pub(super) fn fair_share(&self) -> u64 {
        self.most() / self.files.load(Ordering::Relaxed).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_counts_until_it_is_looked_up() {
        let budget = Budget::new(1_000_000);
        budget.grew(600_000);
        assert!(!budget.is_over());
        budget.grew(600_000);
        assert!(budget.is_over() && !budget.is_kept());
        budget.begin_look();
        budget.grew(100_000);
        budget.end_look(500_000, 4);
        assert!(budget.is_kept() && !budget.is_over());
        assert_eq!(budget.fair_share(), 250_000);
    }

    #[test]
    fn what_was_in_vain_is_not_tried_at_once_again() {
        let budget = Budget::new(1_000_000);
        budget.begin_look();
        budget.end_look(2_000_000, 1);
        assert!(!budget.is_over() && !budget.is_kept());
        budget.grew(100_000);
        assert!(budget.is_over());
        budget.set(5_000_000);
        assert!(!budget.is_over());
    }
}
