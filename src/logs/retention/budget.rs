//! The budget of all logs together: bytes used and allowed.

use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes that all logs together use and may use. Log workers count what they write; the retention worker
/// corrects the sum by scanning the files.
#[derive(Debug)]
pub(super) struct Budget {
    limit: AtomicU64,
    /// Bytes found by the last scan.
    scanned: AtomicU64,
    /// Bytes written since.
    grown: AtomicU64,
    /// Below this, another attempt to free space is useless.
    retry_above: AtomicU64,
    /// Number of log files that are written to.
    files: AtomicU64,
}

impl Budget {
    pub(super) fn new(limit: u64) -> Self {
        let zero = || AtomicU64::new(0);
        Self { limit: limit.into(), scanned: zero(), grown: zero(), retry_above: zero(), files: zero() }
    }

    pub(super) fn set_limit(&self, limit: u64) {
        self.limit.store(limit, Ordering::Relaxed);
        self.retry_above.store(0, Ordering::Relaxed);
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    pub(super) fn record_growth(&self, bytes: usize) {
        self.grown.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn used(&self) -> u64 {
        self.scanned.load(Ordering::Relaxed).saturating_add(self.grown.load(Ordering::Relaxed))
    }

    /// Whether space must be freed now. False for a while after an attempt that freed too little.
    pub(super) fn is_exceeded(&self) -> bool {
        self.used() > self.limit().max(self.retry_above.load(Ordering::Relaxed))
    }

    /// Starts a scan. It may not see what is written from now on, so that counts as growth.
    pub(super) fn begin_scan(&self) {
        self.grown.store(0, Ordering::Relaxed);
    }

    /// Ends a scan: `bytes` in all files, after removal, and the number of files that are written to.
    pub(super) fn end_scan(&self, bytes: u64, files: u64) {
        self.scanned.store(bytes, Ordering::Relaxed);
        self.files.store(files, Ordering::Relaxed);
        self.defer_retry();
    }

    /// If the limit is still exceeded, defers the next attempt until the logs have grown noticeably.
    pub(super) fn defer_retry(&self) {
        let step = (self.limit() / 64).clamp(64 * 1024, 1024 * 1024);
        let retry_above = if self.is_within_limit() { 0 } else { self.used().saturating_add(step) };
        self.retry_above.store(retry_above, Ordering::Relaxed);
    }

    pub(super) fn is_within_limit(&self) -> bool {
        self.used() <= self.limit()
    }

    /// Size each file may have when files that are written to exceed the budget by themselves.
    pub(super) fn fair_share(&self) -> u64 {
        self.limit() / self.files.load(Ordering::Relaxed).max(1)
    }
}

#[cfg(test)]
mod tests {
    use crate::logs::retention::budget::*;

    #[test]
    fn growth_counts_until_next_scan() {
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
    fn useless_attempt_is_deferred() {
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
