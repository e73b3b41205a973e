//! The keeper's table of runs: every app it starts or has taken over, and what the daemon has yet
//! to hear of each.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::wire::News;
use crate::exit::StartStep;
use crate::process::proc::stat::Stat;
use crate::process::process_ref::ProcessRef;
use crate::process::spawn::ForkedChild;
use crate::process::spawn::report::{StartMessage, StartReport};
use crate::process::wait::PidfdWatch;
use crate::process::wait::WaitStatus;

/// One life of an app's instance.
#[derive(Debug)]
pub struct Run {
    /// The daemon's number for it.
    pub id: u64,
    /// Its first process.
    pub process: ProcessRef,
    /// What the daemon wants kept: survives the daemon, not the run.
    pub kept: Vec<OwnedFd>,
    /// How its end is learned.
    pub bond: Bond,
    /// Tells whether `exec` succeeded; gone once that is known.
    pub report: Option<StartReport>,
    /// What the answers to its filter's questions go through, if it has one.
    pub notifier: Option<OwnedFd>,
    /// How it ended.
    pub ended: Option<WaitStatus>,
    /// Which step of its start failed, and with which error.
    pub failed: Option<(StartStep, i32)>,
    /// The daemon has yet to hear how the start went.
    pub owes_start: bool,
    /// And of the end.
    pub owes_end: bool,
}

/// What a run's first process is to the keeper.
#[derive(Debug)]
pub enum Bond {
    /// A child: it is reaped.
    Child,
    /// Another keeper began it: it is watched.
    Foreign(PidfdWatch),
    /// It could not even be made, or is gone.
    None,
}

impl Run {
    /// A run of which nothing is owed yet.
    pub fn new(id: u64, process: ProcessRef, kept: Vec<OwnedFd>, bond: Bond) -> Self {
        let (report, notifier, ended, failed) = (None, None, None, None);
        Self { id, process, kept, bond, report, notifier, ended, failed, owes_start: false, owes_end: false }
    }
}

/// All runs not yet released.
#[derive(Debug, Default)]
pub struct Runs(Vec<Run>);

impl Runs {
    /// Adds a run that was just forked.
    pub fn add(&mut self, id: u64, forked: ForkedChild, kept: Vec<OwnedFd>) {
        let ForkedChild { pid, report } = forked;
        // A zombie's stat stays readable, and we alone reap it: this cannot be someone else's.
        let start_time = Stat::of(pid).map_or(0, |stat| stat.start_time);
        let run = Run::new(id, ProcessRef { pid, start_time }, kept, Bond::Child);
        self.0.push(Run { report: Some(report), ..run });
    }

    /// Adds a run that could not even be forked, so that its failure is told like any other.
    pub fn add_failed(&mut self, id: u64, step: StartStep, errno: Errno) {
        let run = Run::new(id, ProcessRef { pid: 0, start_time: 0 }, Vec::new(), Bond::None);
        self.0.push(Run { failed: Some((step, errno as i32)), owes_start: true, ..run });
    }

    /// Adds a run that another keeper began. If its process is gone, that is told.
    pub fn adopt(&mut self, id: u64, process: ProcessRef, kept: Vec<OwnedFd>) {
        let (bond, ended) = match PidfdWatch::new(process) {
            Ok(watched) => (Bond::Foreign(watched), None),
            Err(_) => (Bond::None, Some(WaitStatus::Unknown)),
        };
        let run = Run::new(id, process, kept, bond);
        let alive = ended.is_none();
        self.0.push(Run { ended, owes_start: alive, owes_end: !alive, ..run });
    }

    /// Takes a run over as it is.
    pub fn push(&mut self, run: Run) {
        self.0.push(run);
    }

    /// All of them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Run> {
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

    /// Signals a run's group or first process, unless that has ended.
    pub fn signal(&self, id: u64, signal: i32, group: bool) {
        let Some(run) = self.0.iter().find(|run| run.id == id && run.ended.is_none()) else { return };
        match &run.bond {
            Bond::Child => signal_child(run.process.pid, signal, group),
            Bond::Foreign(watched) => watched.signal(signal, group),
            Bond::None => {}
        }
    }

    /// Notes that a child has ended, if it is one of the runs.
    pub fn ended(&mut self, pid: i32, ended: WaitStatus) {
        let of_it =
            |run: &&mut Run| run.process.pid == pid && run.ended.is_none() && matches!(run.bond, Bond::Child);
        let Some(run) = self.0.iter_mut().find(of_it) else { return };
        // What the child had to say about its start is in the pipe by now.
        run.read_report(true);
        run.ended = Some(ended);
        run.owes_end = run.failed.is_none();
    }

    /// Notes that a run has ended, as told by another.
    pub fn note_end(&mut self, id: u64, ended: WaitStatus) {
        self.0.iter_mut().filter(|run| run.id == id).for_each(|run| run.ended = Some(ended));
    }

    /// Adds what to wait for: reports of starts, ends of those that are no children.
    pub fn wait_for<'fd>(&'fd self, fds: &mut Vec<PollFd<'fd>>) {
        for run in &self.0 {
            if let Some(report) = &run.report {
                fds.push(PollFd::new(report.as_fd(), PollFlags::POLLIN));
            }
            if let (Bond::Foreign(watched), None) = (&run.bond, run.ended) {
                let (fd, flags) = watched.poll_target();
                fds.push(PollFd::new(fd, flags));
            }
        }
    }

    /// When to look at them even if nothing is told.
    pub fn look_at(&self) -> Option<Instant> {
        let look_at = |run: &Run| match &run.bond {
            Bond::Foreign(watched) if run.ended.is_none() => watched.next_check(),
            Bond::Foreign(_) | Bond::Child | Bond::None => None,
        };
        self.0.iter().filter_map(look_at).min()
    }

    /// Takes note of reports of starts, and of ends of those that are no children.
    pub fn look(&mut self) {
        for run in &mut self.0 {
            run.read_report(false);
            if let (Bond::Foreign(watched), None) = (&mut run.bond, run.ended) {
                run.ended = watched.try_wait();
                run.owes_end = run.ended.is_some();
            }
        }
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
        self.0.retain(|run| {
            run.failed.is_none() || run.owes_start || matches!(run.bond, Bond::Child) && run.ended.is_none()
        });
        true
    }
}

fn signal_child(pid: i32, signal: i32, group: bool) {
    let target = Pid::from_raw(if group { -pid } else { pid });
    // A child that has not come to `setsid` yet has no group of its own.
    if let Ok(signal) = Signal::try_from(signal)
        && kill(target, signal) == Err(Errno::ESRCH)
        && group
    {
        let _ = kill(Pid::from_raw(pid), signal);
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
            match report.receive() {
                StartMessage::Notifier(notifier) => self.notifier = Some(notifier),
                StartMessage::Failed(step, errno) => break self.failed = Some((step, errno)),
                StartMessage::Pending if !last => return self.report = Some(report),
                // Nothing, and yet dead: a descendant got hold of the other end before `exec`.
                StartMessage::Execed | StartMessage::Pending => break,
            }
        }
        self.owes_start = true;
    }

    fn tell_start(&mut self, tell: &mut impl FnMut(&News, &[BorrowedFd<'_>]) -> bool) -> Option<()> {
        let ProcessRef { pid, start_time } = self.process;
        let news = match self.failed {
            Some((step, errno)) => News::SpawnFailed { run: self.id, step: step as u64, errno },
            None => News::Spawned { run: self.id, pid, start_time },
        };
        let notifier: Vec<_> = self.notifier.iter().map(AsFd::as_fd).collect();
        self.owes_start = !tell(&news, &notifier);
        (!self.owes_start).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::spawn::report;

    #[test]
    fn the_daemon_gets_the_notifier_with_the_start_and_again_when_it_attaches() {
        let (report, teller) = report::start_report_pair().unwrap();
        let mut runs = Runs::default();
        let (kept, pipe) = nix::unistd::pipe().unwrap();
        runs.add(7, ForkedChild { pid: std::process::id().cast_signed(), report }, vec![kept]);
        teller.send_notifier(pipe.as_fd()).unwrap();
        runs.look();
        assert!(runs.tell(|news, _| panic!("{news:?} is not known yet")));
        drop(teller);
        runs.look();
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
