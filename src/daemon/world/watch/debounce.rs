//! Debounce of file changes. Pure: the time is an argument.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Minimum delay: saving one file causes several events, a checkout thousands.
const MIN_DELAY: Duration = Duration::from_millis(100);

/// Maximum delay, which prevents an overflow of the clock.
const MAX_DELAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Changes that continue for this long are reported in the log.
const UNSETTLED_AFTER: Duration = Duration::from_secs(30);

/// Collects a burst of changes, which ends when nothing has changed for the delay.
#[derive(Debug)]
pub(super) struct Debounce {
    delay: Duration,
    burst: Option<Burst>,
}

#[derive(Debug)]
struct Burst {
    first: PathBuf,
    last: PathBuf,
    since: Instant,
    due: Instant,
    warned: bool,
}

impl Debounce {
    /// `delay` is limited to the range from 100 ms to one day.
    pub(super) fn new(delay: Duration) -> Self {
        Self { delay: delay.clamp(MIN_DELAY, MAX_DELAY), burst: None }
    }

    /// Adds a change.
    pub(super) fn changed(&mut self, path: PathBuf, now: Instant) {
        let due = now + self.delay;
        match &mut self.burst {
            Some(burst) => (burst.last, burst.due) = (path, due),
            None => {
                self.burst = Some(Burst { first: path.clone(), last: path, since: now, due, warned: false });
            }
        }
    }

    /// The time until the burst can end; `None` without a burst.
    pub(super) fn remaining(&self, now: Instant) -> Option<Duration> {
        self.burst.as_ref().map(|burst| burst.due.saturating_duration_since(now))
    }

    /// The first path of the burst, if the burst has ended.
    pub(super) fn take(&mut self, now: Instant) -> Option<PathBuf> {
        self.burst.take_if(|burst| burst.due <= now).map(|burst| burst.first)
    }

    /// The path that changed last, once per burst that does not end.
    pub(super) fn unsettled_path(&mut self, now: Instant) -> Option<&Path> {
        let burst =
            self.burst.as_mut().filter(|burst| !burst.warned && now >= burst.since + UNSETTLED_AFTER)?;
        burst.warned = true;
        Some(&burst.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn burst_returns_first_path_after_delay() {
        let start = Instant::now();
        let mut quiet = Debounce::new(ms(300));
        assert_eq!(quiet.remaining(start), None);
        quiet.changed("a".into(), start);
        quiet.changed("b".into(), start + ms(200));
        assert_eq!(quiet.remaining(start + ms(300)), Some(ms(200)));
        assert_eq!(quiet.take(start + ms(499)), None);
        assert_eq!(quiet.take(start + ms(500)), Some("a".into()));
        assert_eq!(quiet.take(start + ms(900)), None, "a burst is returned once");
    }

    #[test]
    fn delay_is_limited() {
        let start = Instant::now();
        let mut quiet = Debounce::new(Duration::ZERO);
        quiet.changed("a".into(), start);
        assert_eq!(quiet.remaining(start), Some(MIN_DELAY));
        let mut quiet = Debounce::new(Duration::MAX);
        quiet.changed("a".into(), start);
        assert_eq!(quiet.remaining(start), Some(MAX_DELAY));
    }

    #[test]
    fn reports_unsettled_path_once() {
        let start = Instant::now();
        let mut quiet = Debounce::new(ms(100));
        quiet.changed("a.js".into(), start);
        quiet.changed("data.db".into(), start + ms(29_999));
        assert_eq!(quiet.unsettled_path(start + ms(29_999)), None);
        assert_eq!(quiet.unsettled_path(start + UNSETTLED_AFTER), Some(Path::new("data.db")));
        assert_eq!(quiet.unsettled_path(start + UNSETTLED_AFTER * 2), None);
    }
}
