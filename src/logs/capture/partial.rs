//! The beginning of a line, seen in a pipe and left there until its end has come.

use std::time::{Duration, Instant};

/// How long the beginning of a line waits for its end before it is shown as it is: a prompt has no
/// newline.
const PARTIAL_LINE_TIMEOUT: Duration = Duration::from_secs(1);
/// After so long the beginning of a line is looked at again, then after twice that, and so on.
const MIN_CHECK_DELAY: Duration = Duration::from_millis(1);

/// The beginning of a line, seen in the pipe and left there.
#[derive(Clone, Copy, Debug)]
pub(in crate::logs) struct PartialLine {
    since: Instant,
    /// The same for its stamp: milliseconds since the epoch.
    at: i64,
    /// How much of it there was.
    length: usize,
    /// When it is looked at again, and after how long that was. A writer that fills a pipe which was
    /// not empty, and sleeps in the middle of its write, wakes nobody.
    next_check: Instant,
    check_delay: Duration,
}

impl PartialLine {
    /// There are `length` bytes now, `at` milliseconds since the epoch; `former`: what was seen before.
    pub(in crate::logs) fn extend(former: Option<Self>, length: usize, at: i64) -> Self {
        let now = Instant::now();
        let same = former.filter(|former| former.length == length);
        let pause = same.map_or(MIN_CHECK_DELAY, |same| (same.check_delay * 2).min(PARTIAL_LINE_TIMEOUT));
        let (since, at) = former.map_or((now, at), |former| (former.since, former.at));
        Self { since, at, length, next_check: now + pause, check_delay: pause }
    }

    /// When it is to be looked at again.
    pub(in crate::logs) fn next_check(&self) -> Instant {
        self.next_check
    }

    /// When its first byte was seen; milliseconds since the epoch.
    pub(in crate::logs) fn at(&self) -> i64 {
        self.at
    }

    /// Whether it has waited for long enough.
    pub(in crate::logs) fn is_expired(&self) -> bool {
        self.since.elapsed() >= PARTIAL_LINE_TIMEOUT
    }
}

#[cfg(test)]
mod tests {
    use crate::logs::capture::partial::*;

    #[test]
    fn what_grows_is_looked_at_soon_and_what_does_not_ever_later() {
        let first = PartialLine::extend(None, 3, 100);
        let same = PartialLine::extend(Some(first), 3, 200);
        assert_eq!((same.check_delay, same.at(), same.since), (MIN_CHECK_DELAY * 2, 100, first.since));
        let grown = PartialLine::extend(Some(same), 4, 300);
        assert_eq!((grown.check_delay, grown.at()), (MIN_CHECK_DELAY, 100));
        let long = (0..20).fold(grown, |waiting, _| PartialLine::extend(Some(waiting), 4, 400));
        assert_eq!(long.check_delay, PARTIAL_LINE_TIMEOUT);
    }
}
