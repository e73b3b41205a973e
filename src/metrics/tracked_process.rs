//! One process of a tree, read at every sample.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use crate::process::proc::stat::{self, Stat, pss};
use crate::process::process_ref::ProcessRef;

/// After reading the PSS, the minimum pause before the next time, as a multiple of its duration. The kernel
/// walks all page tables for it: some milliseconds per gigabyte, during which `mmap` in the app waits.
const PSS_PAUSE_FACTOR: u64 = 50;

/// Limits the number of files that are kept open, so that trees of thousands of processes do not use all
/// descriptors of the daemon.
#[derive(Clone, Debug)]
pub(super) struct FdBudget {
    used: Arc<()>,
    max: usize,
}

impl FdBudget {
    pub(super) fn new(max: usize) -> Self {
        Self { used: Arc::new(()), max }
    }

    fn acquire(&self) -> Option<Arc<()>> {
        (Arc::strong_count(&self.used) <= self.max).then(|| Arc::clone(&self.used))
    }
}

/// A process and its most recent measurements.
#[derive(Debug)]
pub(super) struct TrackedProcess {
    pub(super) process: ProcessRef,
    pub(super) stat: Stat,
    /// `/proc/PID/stat`, which always refers to the same process; `None` if the budget is used up.
    stat_file: Option<(File, Arc<()>)>,
    pss: Option<PssSample>,
}

/// A measurement of the proportional set size.
#[derive(Clone, Copy, Debug)]
struct PssSample {
    bytes: u64,
    /// Resident pages at that time.
    resident: u64,
    /// The earliest time of the next measurement, on the clock of the sampler.
    valid_until: u64,
}

impl TrackedProcess {
    /// Starts to track a process; `None` if it does not exist any more.
    pub(super) fn open(process: ProcessRef, budget: &FdBudget) -> Option<Self> {
        let open = |permit| Some((stat::open_stat(process.pid).ok()?, permit));
        let stat_file = budget.acquire().and_then(open);
        let stat = read_stat(stat_file.as_ref(), process).ok()?;
        Some(Self { process, stat, stat_file, pss: None })
    }

    /// Reads the process again and returns the previous values; `None` if it does not exist any more. If it
    /// cannot be read (too many open files), the values stay unchanged.
    pub(super) fn refresh(&mut self) -> Option<Stat> {
        let before = self.stat;
        match read_stat(self.stat_file.as_ref(), self.process) {
            Ok(stat) => self.stat = stat,
            Err(error) if stat::is_process_gone(&error) => return None,
            Err(_) => {}
        }
        Some(before)
    }

    /// Measures the proportional set size, unless the previous measurement is still valid.
    pub(super) fn sample_pss(&mut self, now: u64) {
        if self.pss.is_some_and(|sample| now < sample.valid_until) {
            return;
        }
        let start = Instant::now();
        let bytes = pss(self.process.pid);
        let duration = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        let valid_until = now.saturating_add(duration.saturating_mul(PSS_PAUSE_FACTOR));
        self.pss = bytes.map(|bytes| PssSample { bytes, resident: self.stat.rss_pages, valid_until });
    }

    /// Its part of the tree's memory in bytes: the PSS when last measured, plus the change of the resident
    /// size since. The resident size if the PSS cannot be measured.
    pub(super) fn memory_estimate(&self, page_size: u64) -> u64 {
        let Some(sample) = self.pss else { return self.stat.rss_pages * page_size };
        let growth = self.stat.rss_pages.saturating_sub(sample.resident) * page_size;
        let decrease = sample.resident.saturating_sub(self.stat.rss_pages) * page_size;
        (sample.bytes + growth).saturating_sub(decrease)
    }
}

fn read_stat(stat_file: Option<&(File, Arc<()>)>, process: ProcessRef) -> io::Result<Stat> {
    let stat = match stat_file {
        Some((file, _)) => Stat::read_from(file)?,
        None => Stat::of(process.pid)?,
    };
    let is_same = stat.start_time == process.start_time;
    if is_same { Ok(stat) } else { Err(io::Error::from_raw_os_error(libc::ESRCH)) }
}

#[cfg(test)]
mod tests {
    use crate::metrics::tracked_process::*;
    use crate::process::fixture::Fixture;

    #[test]
    fn keeps_files_open_within_budget() {
        let mut app = Fixture::sh("read _");
        let budget = FdBudget::new(1);
        let mut first = TrackedProcess::open(app.leader(), &budget).unwrap();
        let mut second = TrackedProcess::open(app.leader(), &budget).unwrap();
        assert!(first.stat_file.is_some() && second.stat_file.is_none());
        assert!(first.refresh().is_some() && second.refresh().is_some());
        app.kill_leader();
        assert!(first.refresh().is_none() && second.refresh().is_none());
        drop(first);
        let app = Fixture::sh("read _");
        assert!(TrackedProcess::open(app.leader(), &budget).unwrap().stat_file.is_some());
    }

    #[test]
    fn estimates_growth_since_measurement() {
        let app = Fixture::sh("read _");
        let mut tracked = TrackedProcess::open(app.leader(), &FdBudget::new(1)).unwrap();
        assert_eq!(tracked.memory_estimate(10), tracked.stat.rss_pages * 10);
        tracked.pss = Some(PssSample { bytes: 500, resident: 100, valid_until: 7 });
        tracked.stat.rss_pages = 130;
        tracked.sample_pss(6);
        assert_eq!(tracked.memory_estimate(10), 800);
        tracked.stat.rss_pages = 90;
        assert_eq!(tracked.memory_estimate(10), 400);
    }
}
