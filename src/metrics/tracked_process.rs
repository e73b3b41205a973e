//! One process of a tree, read again at every sample.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use crate::process::proc::stat::{self, Stat, pss};
use crate::process::process_ref::ProcessRef;

/// For how many times its own duration no reading of shared memory follows another. The kernel
/// walks all page tables for it, milliseconds for gigabytes, and the app's `mmap` waits meanwhile.
const PSS_PAUSE_FACTOR: u64 = 50;

/// Hands out the right to keep a file open, so that trees of thousands of processes do not take
/// every descriptor that the daemon may have.
#[derive(Clone, Debug)]
pub(super) struct FdBudget {
    used: Arc<()>,
    max: usize,
}

impl FdBudget {
    /// For at most so many files.
    pub(super) fn new(most: usize) -> Self {
        Self { used: Arc::new(()), max: most }
    }

    fn acquire(&self) -> Option<Arc<()>> {
        (Arc::strong_count(&self.used) <= self.max).then(|| Arc::clone(&self.used))
    }
}

/// A process, with what it had used at the last look.
#[derive(Debug)]
pub(super) struct TrackedProcess {
    /// Which one.
    pub(super) process: ProcessRef,
    /// Its state at the last look.
    pub(super) stat: Stat,
    /// `/proc/PID/stat`, which speaks of one process for ever; absent when the allowance is used up.
    stat_file: Option<(File, Arc<()>)>,
    pss: Option<PssSample>,
}

/// What of the shared memory is its part.
#[derive(Clone, Copy, Debug)]
struct PssSample {
    bytes: u64,
    /// Resident pages at that time.
    resident: u64,
    /// Not to be read again before, in the sample's milliseconds.
    valid_until: u64,
}

impl TrackedProcess {
    /// Begins to watch; `None` if the process is gone.
    pub(super) fn open(process: ProcessRef, allowance: &FdBudget) -> Option<Self> {
        let keep = |token| Some((stat::open_stat(process.pid).ok()?, token));
        let kept = allowance.acquire().and_then(keep);
        let stat = read_stat(kept.as_ref(), process).ok()?;
        Some(Self { process, stat, stat_file: kept, pss: None })
    }

    /// Looks again and returns what was so before; `None` if the process is gone. Where the look
    /// itself fails (too many open files), all is as before.
    pub(super) fn refresh(&mut self) -> Option<Stat> {
        let before = self.stat;
        match read_stat(self.stat_file.as_ref(), self.process) {
            Ok(stat) => self.stat = stat,
            Err(error) if stat::is_process_gone(&error) => return None,
            Err(_) => {}
        }
        Some(before)
    }

    /// Reads anew which part of shared memory is its own, if that may be had again already.
    pub(super) fn sample_pss(&mut self, now: u64) {
        if self.pss.is_some_and(|share| now < share.valid_until) {
            return;
        }
        let begun = Instant::now();
        let bytes = pss(self.process.pid);
        let took = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let rest_until = now.saturating_add(took.saturating_mul(PSS_PAUSE_FACTOR));
        self.pss =
            bytes.map(|bytes| PssSample { bytes, resident: self.stat.rss_pages, valid_until: rest_until });
    }

    /// Bytes that are its part of the tree's memory: its share when last weighed, and what it has
    /// come to hold since. One that cannot be weighed counts in full.
    pub(super) fn memory_estimate(&self, page: u64) -> u64 {
        let Some(share) = self.pss else { return self.stat.rss_pages * page };
        let more = self.stat.rss_pages.saturating_sub(share.resident) * page;
        let less = share.resident.saturating_sub(self.stat.rss_pages) * page;
        (share.bytes + more).saturating_sub(less)
    }
}

fn read_stat(kept: Option<&(File, Arc<()>)>, process: ProcessRef) -> io::Result<Stat> {
    let stat = match kept {
        Some((file, _)) => Stat::read_from(file)?,
        None => Stat::of(process.pid)?,
    };
    let same = stat.start_time == process.start_time;
    if same { Ok(stat) } else { Err(io::Error::from_raw_os_error(libc::ESRCH)) }
}

#[cfg(test)]
mod tests {
    use crate::metrics::tracked_process::*;
    use crate::process::fixture::Fixture;

    #[test]
    fn files_are_kept_within_the_allowance_and_work_without() {
        let mut app = Fixture::sh("read _");
        let allowance = FdBudget::new(1);
        let mut first = TrackedProcess::open(app.leader(), &allowance).unwrap();
        let mut second = TrackedProcess::open(app.leader(), &allowance).unwrap();
        assert!(first.stat_file.is_some() && second.stat_file.is_none());
        assert!(first.refresh().is_some() && second.refresh().is_some());
        app.kill_leader();
        assert!(first.refresh().is_none() && second.refresh().is_none());
        drop(first);
        let app = Fixture::sh("read _");
        assert!(TrackedProcess::open(app.leader(), &allowance).unwrap().stat_file.is_some());
    }

    #[test]
    fn growth_counts_before_it_is_weighed() {
        let app = Fixture::sh("read _");
        let mut watched = TrackedProcess::open(app.leader(), &FdBudget::new(1)).unwrap();
        assert_eq!(watched.memory_estimate(10), watched.stat.rss_pages * 10);
        watched.pss = Some(PssSample { bytes: 500, resident: 100, valid_until: 7 });
        watched.stat.rss_pages = 130;
        watched.sample_pss(6);
        assert_eq!(watched.memory_estimate(10), 800);
        watched.stat.rss_pages = 90;
        assert_eq!(watched.memory_estimate(10), 400);
    }
}
