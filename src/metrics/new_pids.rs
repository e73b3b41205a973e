//! Which pids were assigned since the previous sample.
//!
//! Searching every tree for new members each second would cost far more than the rest of a sample: a process
//! with a dozen threads has a dozen lists of children. But the kernel assigns pids in order, and shows the
//! last one: if it has not changed, no process was created.

use std::fs::File;
use std::ops::RangeInclusive;
use std::os::unix::fs::FileExt;

/// Number of pids of one sample that are returned again by the next one: the kernel assigns a pid some
/// microseconds before its process is visible in `/proc`.
const REPEATED_PIDS: i32 = 8;

/// The pids that were assigned since the previous call, to processes and threads.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NewPids {
    None,
    Range(RangeInclusive<i32>),
    /// The first call, pids have wrapped around, or the kernel does not show the last pid.
    Unknown,
}

/// Watches the last assigned pid.
#[derive(Debug)]
pub(super) struct PidWatcher {
    /// `/proc/loadavg`; the pid is its last field.
    file: Option<File>,
    /// The values of the previous call, and of the one before that.
    last: Option<i32>,
    before_last: Option<i32>,
}

impl PidWatcher {
    pub(super) fn new() -> Self {
        Self { file: File::open("/proc/loadavg").ok(), last: None, before_last: None }
    }

    /// The new pids since the previous call.
    pub(super) fn poll(&mut self) -> NewPids {
        let now = self.file.as_ref().and_then(last_pid);
        let last = std::mem::replace(&mut self.last, now);
        compare(std::mem::replace(&mut self.before_last, last), last, now)
    }
}

fn compare(earlier: Option<i32>, last: Option<i32>, now: Option<i32>) -> NewPids {
    let (Some(last), Some(now)) = (last, now) else { return NewPids::Unknown };
    if now < last {
        return NewPids::Unknown;
    }
    let newest = last - REPEATED_PIDS.min(last - 1);
    // After a wraparound in the previous call, `earlier` is greater than `last`.
    let known = earlier.filter(|earlier| *earlier <= last).map_or(newest, |earlier| earlier.max(newest));
    if known == now { NewPids::None } else { NewPids::Range(known + 1..=now) }
}

fn last_pid(loadavg: &File) -> Option<i32> {
    let mut text = [0; 128];
    let length = loadavg.read_at(&mut text, 0).ok()?;
    // Sandboxes that emulate `/proc` show 0.
    parse(&text[..length]).filter(|pid| *pid > 0)
}

fn parse(loadavg: &[u8]) -> Option<i32> {
    std::str::from_utf8(loadavg).ok()?.split_ascii_whitespace().nth(4)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use crate::metrics::new_pids::*;
    use crate::process::fixture::Fixture;

    #[test]
    fn returns_range_of_new_pids() {
        assert_eq!(compare(Some(700), Some(700), Some(700)), NewPids::None);
        assert_eq!(compare(Some(700), Some(700), Some(702)), NewPids::Range(701..=702));
        for (last, now) in [(None, Some(7)), (Some(9), Some(7)), (Some(7), None), (None, None)] {
            assert_eq!(compare(Some(7), last, now), NewPids::Unknown);
        }
    }

    #[test]
    fn returns_newest_pids_twice() {
        assert_eq!(compare(Some(698), Some(700), Some(700)), NewPids::Range(699..=700));
        assert_eq!(compare(Some(600), Some(700), Some(701)), NewPids::Range(693..=701));
        assert_eq!(compare(Some(32000), Some(700), Some(700)), NewPids::Range(693..=700));
        assert_eq!(compare(None, Some(2), Some(3)), NewPids::Range(2..=3));
    }

    #[test]
    fn parses_last_field() {
        assert_eq!(parse(b"0.20 0.18 0.12 1/80 11206\n"), Some(11206));
        assert_eq!(parse(b"0.20 0.18 0.12 1/80"), None);
    }

    #[test]
    fn detects_new_process() {
        let mut watcher = PidWatcher::new();
        assert_eq!(watcher.poll(), NewPids::Unknown);
        let app = Fixture::sh("read _");
        match watcher.poll() {
            NewPids::Range(pids) => assert!(pids.contains(&app.leader().pid)),
            NewPids::Unknown => {} // pids have just wrapped around
            NewPids::None => panic!("a new process was not detected"),
        }
    }
}
