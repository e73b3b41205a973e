//! Waiting until changes rest. Pure: the time comes in as an argument.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The least quiet time: saving one file makes several events, a checkout thousands.
const LEAST: Duration = Duration::from_millis(100);

/// The most: any longer can only be a mistake, and must not overflow the clock.
const MOST: Duration = Duration::from_secs(24 * 60 * 60);

/// Changes without a rest for so long are worth a word in the log.
const RESTLESS: Duration = Duration::from_secs(30);

/// A burst of changes that ends when nothing changed for a while.
#[derive(Debug)]
pub(super) struct Quiet {
    delay: Duration,
    burst: Option<Burst>,
}

#[derive(Debug)]
struct Burst {
    first: PathBuf,
    last: PathBuf,
    since: Instant,
    due: Instant,
    told: bool,
}

impl Quiet {
    /// Bursts end after `delay`, kept between 100 ms and a day.
    pub(super) fn new(delay: Duration) -> Self {
        Self { delay: delay.clamp(LEAST, MOST), burst: None }
    }

    /// Something changed.
    pub(super) fn changed(&mut self, path: PathBuf, now: Instant) {
        let due = now + self.delay;
        match &mut self.burst {
            Some(burst) => (burst.last, burst.due) = (path, due),
            None => {
                self.burst = Some(Burst { first: path.clone(), last: path, since: now, due, told: false });
            }
        }
    }

    /// How long until the burst may end; `None` without one.
    pub(super) fn left(&self, now: Instant) -> Option<Duration> {
        self.burst.as_ref().map(|burst| burst.due.saturating_duration_since(now))
    }

    /// The first path of the burst, if it has come to rest.
    pub(super) fn take(&mut self, now: Instant) -> Option<PathBuf> {
        self.burst.take_if(|burst| burst.due <= now).map(|burst| burst.first)
    }

    /// The path that changed last, once in a burst that finds no rest.
    pub(super) fn restless(&mut self, now: Instant) -> Option<&Path> {
        let burst = self.burst.as_mut().filter(|burst| !burst.told && now >= burst.since + RESTLESS)?;
        burst.told = true;
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
    fn a_burst_gives_its_first_path_after_a_rest() {
        let start = Instant::now();
        let mut quiet = Quiet::new(ms(300));
        assert_eq!(quiet.left(start), None);
        quiet.changed("a".into(), start);
        quiet.changed("b".into(), start + ms(200));
        assert_eq!(quiet.left(start + ms(300)), Some(ms(200)));
        assert_eq!(quiet.take(start + ms(499)), None);
        assert_eq!(quiet.take(start + ms(500)), Some("a".into()));
        assert_eq!(quiet.take(start + ms(900)), None, "a burst is given once");
    }

    #[test]
    fn no_delay_is_too_short_or_too_long() {
        let start = Instant::now();
        let mut quiet = Quiet::new(Duration::ZERO);
        quiet.changed("a".into(), start);
        assert_eq!(quiet.left(start), Some(LEAST));
        let mut quiet = Quiet::new(Duration::MAX);
        quiet.changed("a".into(), start);
        assert_eq!(quiet.left(start), Some(MOST));
    }

    #[test]
    fn unrest_is_told_once_and_names_the_culprit() {
        let start = Instant::now();
        let mut quiet = Quiet::new(ms(100));
        quiet.changed("a.js".into(), start);
        quiet.changed("data.db".into(), start + ms(29_999));
        assert_eq!(quiet.restless(start + ms(29_999)), None);
        assert_eq!(quiet.restless(start + RESTLESS), Some(Path::new("data.db")));
        assert_eq!(quiet.restless(start + RESTLESS * 2), None);
    }
}
