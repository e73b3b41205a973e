//! The keeper's table of runs: every app it is the parent of, and what the daemon has yet to hear.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::wire::News;
use crate::exit::StartStep;
use crate::process::proc_fs::Stat;
use crate::process::reap::Ended;
use crate::process::report::{Report, Told};
use crate::process::spawn::Forked;

/// One life of an app's instance.
#[derive(Debug)]
pub struct Run {
    /// The daemon's number for it.
    pub id: u64,
    /// Its first process.
    pub pid: i32,
    /// That process's start time, in clock ticks since boot.
    pub start_time: u64,
    /// The launch order and what else the daemon wants kept: survives the daemon, not the run.
    pub kept: Vec<OwnedFd>,
    /// Tells whether `exec` succeeded; gone once that is known.
    pub report: Option<Report>,
    /// What the answers to its filter's questions go through, if it has one.
    pub notifier: Option<OwnedFd>,
    ended: Option<Ended>,
    failed: Option<(StartStep, i32)>,
    owes_start: bool,
    owes_end: bool,
}

/// All runs not yet released.
#[derive(Debug, Default)]
pub struct Runs(Vec<Run>);

impl Runs {
    /// Adds a run that was just forked.
    pub fn add(&mut self, id: u64, forked: Forked, kept: Vec<OwnedFd>) {
        let Forked { pid, report } = forked;
        // A zombie's stat stays readable, and we alone reap it: this cannot be someone else's.
        let start_time = Stat::of(pid).map_or(0, |stat| stat.start_time);
        let report = Some(report);
        let (ended, failed, owes_start, owes_end) = (None, None, false, false);
        let notifier = None;
        self.0.push(Run { id, pid, start_time, kept, report, notifier, ended, failed, owes_start, owes_end });
    }

    /// Adds a run that could not even be forked, so that its failure is told like any other.
    pub fn add_failed(&mut self, id: u64, step: StartStep, errno: Errno) {
        let failed = Some((step, errno as i32));
        self.0.push(Run {
            id,
            pid: 0,
            start_time: 0,
            kept: Vec::new(),
            report: None,
            notifier: None,
            ended: None,
            failed,
            owes_start: true,
            owes_end: false,
        });
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Run> {
        self.0.iter()
    }

    /// Whether this number is taken.
    pub fn contains(&self, id: u64) -> bool {
        self.0.iter().any(|run| run.id == id)
    }

    /// Forgets a run that has ended; one that still runs stays, whatever the daemon believes.
    pub fn release(&mut self, id: u64) {
        self.0.retain(|run| run.id != id || run.ended.is_none() && run.failed.is_none());
    }

    /// Signals a run's group or first process, unless that is reaped.
    pub fn signal(&self, id: u64, signal: i32, group: bool) {
        let Some(run) = self.0.iter().find(|run| run.id == id && run.ended.is_none() && run.pid > 0) else {
            return;
        };
        let target = Pid::from_raw(if group { -run.pid } else { run.pid });
        // A child that has not come to `setsid` yet has no group of its own.
        if let Ok(signal) = Signal::try_from(signal)
            && kill(target, signal) == Err(Errno::ESRCH)
            && group
        {
            let _ = kill(Pid::from_raw(run.pid), signal);
        }
    }

    /// Notes that a child has ended, if it is one of the runs.
    pub fn ended(&mut self, pid: i32, ended: Ended) {
        let Some(run) = self.0.iter_mut().find(|run| run.pid == pid && run.ended.is_none()) else { return };
        // What the child had to say about its start is in the pipe by now.
        run.read_report(true);
        run.ended = Some(ended);
        run.owes_end = run.failed.is_none();
    }

    /// Reads the reports of runs that are just starting.
    pub fn read_reports(&mut self) {
        self.0.iter_mut().for_each(|run| run.read_report(false));
    }

    /// After a new daemon has attached and heard of every run: of the ended ones it must hear too.
    pub fn attached(&mut self) {
        for run in &mut self.0 {
            run.owes_start = run.report.is_none() && (run.failed.is_some() || run.ended.is_none());
            run.owes_end = run.ended.is_some() && run.failed.is_none();
        }
    }

    /// Tells all that is owed, until `tell` refuses. True if nothing is left.
    pub fn tell(&mut self, mut tell: impl FnMut(&News, &[BorrowedFd<'_>]) -> bool) -> bool {
        for run in &mut self.0 {
            if run.owes_start && run.tell_start(&mut tell).is_none() {
                return false;
            }
            if let (true, Some(ended)) = (run.owes_end, run.ended) {
                if !tell(&News::Exited { run: run.id, ended }, &[]) {
                    return false;
                }
                run.owes_end = false;
            }
        }
        // A failed start needs no release: told is done, once its child is reaped.
        self.0.retain(|run| run.failed.is_none() || run.owes_start || run.pid > 0 && run.ended.is_none());
        true
    }
}

impl Run {
    /// All descriptors that the daemon is shown: those kept, then the notifier.
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.kept.iter().chain(&self.notifier).map(AsFd::as_fd).collect()
    }

    /// Learns how the start went. `last`: the child is dead, there will be no more.
    fn read_report(&mut self, last: bool) {
        let Some(report) = self.report.take() else { return };
        loop {
            match report.read() {
                Told::Notifier(notifier) => self.notifier = Some(notifier),
                Told::Failed(step, errno) => break self.failed = Some((step, errno)),
                Told::Nothing if !last => return self.report = Some(report),
                // Nothing, and yet dead: a descendant got hold of the other end before `exec`.
                Told::Started | Told::Nothing => break,
            }
        }
        self.owes_start = true;
    }

    fn tell_start(&mut self, tell: &mut impl FnMut(&News, &[BorrowedFd<'_>]) -> bool) -> Option<()> {
        let news = match self.failed {
            Some((step, errno)) => News::SpawnFailed { run: self.id, step: step as u64, errno },
            None => News::Spawned { run: self.id, pid: self.pid, start_time: self.start_time },
        };
        let notifier: Vec<_> = self.notifier.iter().map(AsFd::as_fd).collect();
        self.owes_start = !tell(&news, &notifier);
        (!self.owes_start).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::report;

    #[test]
    fn the_daemon_gets_the_notifier_with_the_start_and_again_when_it_attaches() {
        let (report, teller) = report::pair().unwrap();
        let mut runs = Runs::default();
        let (kept, pipe) = nix::unistd::pipe().unwrap();
        runs.add(7, Forked { pid: std::process::id().cast_signed(), report }, vec![kept]);
        teller.notifier(pipe.as_fd()).unwrap();
        runs.read_reports();
        assert!(runs.tell(|news, _| panic!("{news:?} is not known yet")));
        drop(teller);
        runs.read_reports();
        let mut told = Vec::new();
        assert!(runs.tell(|news, fds| {
            told.push((news.clone(), fds.len()));
            true
        }));
        assert!(matches!(told[..], [(News::Spawned { run: 7, .. }, 1)]), "{told:?}");
        assert_eq!(runs.iter().map(|run| run.descriptors().len()).collect::<Vec<_>>(), [2]);
        runs.attached();
        assert!(runs.tell(|news, fds| matches!(news, News::Spawned { .. }) && fds.len() == 1));
    }
}
