//! Tells which processes may have come into being since the last look.
//!
//! Looking through every tree each second for new members would cost far more than all else that a
//! sample does: a process of a dozen threads has a dozen lists of children. But the kernel hands
//! out pids in order and tells the last one: if that has not moved, nobody was born.

use std::fs::File;
use std::ops::RangeInclusive;
use std::os::unix::fs::FileExt;

/// So many of the pids that were new at one look are named again at the next: the kernel hands out
/// a pid some microseconds before its process can be seen.
const REPEATED_PIDS: i32 = 8;

/// The pids handed out since the last look, to processes and to threads.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NewPids {
    /// None.
    None,
    /// These.
    Range(RangeInclusive<i32>),
    /// Nobody knows: the first look, the numbers began anew, or the kernel does not tell.
    Unknown,
}

/// Watches the last pid handed out.
#[derive(Debug)]
pub(super) struct PidWatcher {
    /// `/proc/loadavg`, whose last field it is.
    file: Option<File>,
    /// What it was at the last look, and at the one before.
    last: Option<i32>,
    before_last: Option<i32>,
}

impl PidWatcher {
    /// Has not looked yet.
    pub(super) fn new() -> Self {
        Self { file: File::open("/proc/loadavg").ok(), last: None, before_last: None }
    }

    /// Who was born since the call before.
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
    // Where the numbers began anew at the last look, `earlier` is the higher one.
    let known = earlier.filter(|earlier| *earlier <= last).map_or(newest, |earlier| earlier.max(newest));
    if known == now { NewPids::None } else { NewPids::Range(known + 1..=now) }
}

fn last_pid(loadavg: &File) -> Option<i32> {
    let mut text = [0; 128];
    let length = loadavg.read_at(&mut text, 0).ok()?;
    // Sandboxes that make their own `/proc` put a nought there.
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
    fn the_range_of_the_new_is_known() {
        assert_eq!(compare(Some(700), Some(700), Some(700)), NewPids::None);
        assert_eq!(compare(Some(700), Some(700), Some(702)), NewPids::Range(701..=702));
        for (last, now) in [(None, Some(7)), (Some(9), Some(7)), (Some(7), None), (None, None)] {
            assert_eq!(compare(Some(7), last, now), NewPids::Unknown);
        }
    }

    #[test]
    fn the_newest_are_named_twice() {
        assert_eq!(compare(Some(698), Some(700), Some(700)), NewPids::Range(699..=700));
        assert_eq!(compare(Some(600), Some(700), Some(701)), NewPids::Range(693..=701));
        assert_eq!(compare(Some(32000), Some(700), Some(700)), NewPids::Range(693..=700));
        assert_eq!(compare(None, Some(2), Some(3)), NewPids::Range(2..=3));
    }

    #[test]
    fn the_last_field_counts() {
        assert_eq!(parse(b"0.20 0.18 0.12 1/80 11206\n"), Some(11206));
        assert_eq!(parse(b"0.20 0.18 0.12 1/80"), None);
    }

    #[test]
    fn a_new_process_is_among_them() {
        let mut births = PidWatcher::new();
        assert_eq!(births.poll(), NewPids::Unknown);
        let app = Fixture::sh("read _");
        match births.poll() {
            NewPids::Range(pids) => assert!(pids.contains(&app.leader().pid)),
            NewPids::Unknown => {} // the numbers have just begun anew
            NewPids::None => panic!("a birth went unseen"),
        }
    }
}
