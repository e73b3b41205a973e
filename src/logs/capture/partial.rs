//! A partial line that stays in its pipe until it is complete.

use std::time::{Duration, Instant};

/// A partial line is written to the file after this time: it may be a prompt, which has no newline.
const PARTIAL_LINE_TIMEOUT: Duration = Duration::from_secs(1);
/// Delay before the first check for more; doubled after each check that finds nothing new.
const MIN_CHECK_DELAY: Duration = Duration::from_millis(1);

#[derive(Clone, Copy, Debug)]
pub(super) struct PartialLine {
    since: Instant,
    /// Time of the first byte, in milliseconds since the epoch.
    at: i64,
    /// Bytes seen so far.
    length: usize,
    /// When to check for more. A check is needed because a writer that fills a pipe which was not empty, and
    /// then blocks in the middle of its write, causes no wakeup.
    next_check: Instant,
    check_delay: Duration,
}

impl PartialLine {
    /// The line has `length` bytes now, at `now_ms` milliseconds since the epoch.
    pub(super) fn extend(previous: Option<Self>, length: usize, now_ms: i64) -> Self {
        let now = Instant::now();
        let unchanged = previous.filter(|previous| previous.length == length);
        let check_delay = unchanged
            .map_or(MIN_CHECK_DELAY, |unchanged| (unchanged.check_delay * 2).min(PARTIAL_LINE_TIMEOUT));
        let (since, at) = previous.map_or((now, now_ms), |previous| (previous.since, previous.at));
        Self { since, at, length, next_check: now + check_delay, check_delay }
    }

    pub(super) fn next_check(&self) -> Instant {
        self.next_check
    }

    /// Time of the first byte, in milliseconds since the epoch.
    pub(super) fn at(&self) -> i64 {
        self.at
    }

    pub(super) fn is_expired(&self) -> bool {
        self.since.elapsed() >= PARTIAL_LINE_TIMEOUT
    }
}

#[cfg(test)]
mod tests {
    use crate::logs::capture::partial::*;

    #[test]
    fn unchanged_line_is_checked_less_often() {
        let first = PartialLine::extend(None, 3, 100);
        let same = PartialLine::extend(Some(first), 3, 200);
        assert_eq!((same.check_delay, same.at(), same.since), (MIN_CHECK_DELAY * 2, 100, first.since));
        let grown = PartialLine::extend(Some(same), 4, 300);
        assert_eq!((grown.check_delay, grown.at()), (MIN_CHECK_DELAY, 100));
        let old = (0..20).fold(grown, |partial, _| PartialLine::extend(Some(partial), 4, 400));
        assert_eq!(old.check_delay, PARTIAL_LINE_TIMEOUT);
    }
}
