//! The keeper's runs: all that it has started or adopted, and which notices of each are not sent yet.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::protocol::{FdRole, KeeperNotice, RoleBorrowedFd, RoleFd};
use crate::exit::StartStep;
use crate::process::proc::stat::Stat;
use crate::process::process_ref::ProcessRef;
use crate::process::spawn::ForkedChild;
use crate::process::spawn::report::{StartMessage, StartReport};
use crate::process::wait::PidfdWatch;
use crate::process::wait::WaitStatus;

#[derive(Debug)]
pub struct KeeperRun {
    /// Its number, chosen by the daemon.
    pub id: u64,
    /// Its leader.
    pub process: ProcessRef,
    /// The descriptors that the next daemon gets. Closed with the run.
    pub fds: Vec<RoleFd>,
    /// How its exit is detected.
    pub wait_method: WaitMethod,
    /// Open until it is known whether `exec` succeeded.
    pub start_report: Option<StartReport>,
    /// The notifier of its seccomp filter, if it has one.
    pub notifier: Option<OwnedFd>,
    pub wait_status: Option<WaitStatus>,
    /// The step of its start that failed, and the error number.
    pub failed: Option<(StartStep, i32)>,
    /// The result of the start is not sent to the daemon yet.
    pub start_unreported: bool,
    /// The exit is not sent to the daemon yet.
    pub exit_unreported: bool,
    /// The daemon does not need the run any more: it has ended, but another process still has to reap it.
    pub released: bool,
}

/// How the exit of a run's leader is detected.
#[derive(Debug)]
pub enum WaitMethod {
    /// It is a child: it is reaped.
    Reap,
    /// Another keeper started it: it is watched.
    Watch(PidfdWatch),
    /// It could not be forked, or has exited.
    None,
}

impl KeeperRun {
    /// A run without unsent notices.
    pub fn new(id: u64, process: ProcessRef, fds: Vec<RoleFd>, wait_method: WaitMethod) -> Self {
        Self {
            id,
            process,
            fds,
            wait_method,
            start_report: None,
            notifier: None,
            wait_status: None,
            failed: None,
            start_unreported: false,
            exit_unreported: false,
            released: false,
        }
    }
}

/// All runs that are not released.
#[derive(Debug, Default)]
pub struct Runs(Vec<KeeperRun>);

impl Runs {
    /// Adds a run that was just forked.
    pub fn add(&mut self, id: u64, forked: ForkedChild, fds: Vec<RoleFd>) {
        let ForkedChild { pid, report } = forked;
        // The stat of a zombie stays readable until this process reaps it: the pid cannot be reused.
        let start_time = Stat::of(pid).map_or(0, |stat| stat.start_time);
        let run = KeeperRun::new(id, ProcessRef { pid, start_time }, fds, WaitMethod::Reap);
        self.0.push(KeeperRun { start_report: Some(report), ..run });
    }

    /// Adds a run that could not be forked, so that its failure is reported like any other.
    pub fn add_failed(&mut self, id: u64, step: StartStep, errno: Errno) {
        let run = KeeperRun::new(id, ProcessRef { pid: 0, start_time: 0 }, Vec::new(), WaitMethod::None);
        self.0.push(KeeperRun { failed: Some((step, errno as i32)), start_unreported: true, ..run });
    }

    /// Adds a run that another keeper started. If its process has exited, that is reported.
    pub fn adopt(&mut self, id: u64, process: ProcessRef, fds: Vec<RoleFd>) {
        let (wait_method, wait_status) = match PidfdWatch::new(process) {
            Ok(watch) => (WaitMethod::Watch(watch), None),
            Err(_) => (WaitMethod::None, Some(WaitStatus::Unknown)),
        };
        let run = KeeperRun::new(id, process, fds, wait_method);
        let is_alive = wait_status.is_none();
        self.0.push(KeeperRun { wait_status, start_unreported: is_alive, exit_unreported: !is_alive, ..run });
    }

    /// Adds a run of a handover.
    pub fn push(&mut self, run: KeeperRun) {
        self.0.push(run);
    }

    pub fn iter(&self) -> impl Iterator<Item = &KeeperRun> {
        self.0.iter().filter(|run| !run.released)
    }

    /// Whether there is a run with this number.
    pub fn contains(&self, id: u64) -> bool {
        self.0.iter().any(|run| run.id == id)
    }

    /// Removes a run that has ended. If its leader is not reaped yet, because another process traces it, the run is
    /// removed then; one that is running stays.
    pub fn release(&mut self, id: u64) {
        self.0.retain(|run| run.id != id || run.wait_status.is_none() && run.failed.is_none());
        let is_zombie = |process: ProcessRef| {
            Stat::of(process.pid).is_ok_and(|stat| stat.start_time == process.start_time && stat.is_dead())
        };
        for run in self.0.iter_mut().filter(|run| run.id == id && is_zombie(run.process)) {
            run.released = true;
            run.fds.clear();
        }
    }

    /// Signals a run's process group or leader, unless the leader has exited.
    pub fn signal(&self, id: u64, signal: i32, group: bool) {
        let Some(run) = self.0.iter().find(|run| run.id == id && run.wait_status.is_none()) else { return };
        match &run.wait_method {
            WaitMethod::Reap => signal_child(run.process.pid, signal, group),
            WaitMethod::Watch(watch) => watch.signal(signal, group),
            WaitMethod::None => {}
        }
    }

    /// Records the exit of a reaped child, if it is the leader of a run.
    pub fn on_reaped(&mut self, pid: i32, status: WaitStatus) {
        let is_leader = |run: &&mut KeeperRun| {
            run.process.pid == pid && run.wait_status.is_none() && matches!(run.wait_method, WaitMethod::Reap)
        };
        let Some(run) = self.0.iter_mut().find(is_leader) else { return };
        // All messages of the child about its start are in the socket by now.
        run.poll_start_report(true);
        run.wait_status = Some(status);
        run.exit_unreported = run.failed.is_none();
        self.0.retain(|run| !run.released || run.wait_status.is_none());
    }

    /// Records the exit of a run that another process reported.
    pub fn set_exit(&mut self, id: u64, status: WaitStatus) {
        self.0.iter_mut().filter(|run| run.id == id).for_each(|run| run.wait_status = Some(status));
    }

    /// Adds the descriptors to poll: start reports, and watches of processes that are not children.
    pub fn poll_fds<'fd>(&'fd self, fds: &mut Vec<PollFd<'fd>>) {
        for run in &self.0 {
            if let Some(report) = &run.start_report {
                fds.push(PollFd::new(report.as_fd(), PollFlags::POLLIN));
            }
            if let (WaitMethod::Watch(watch), None) = (&run.wait_method, run.wait_status) {
                let (fd, flags) = watch.poll_target();
                fds.push(PollFd::new(fd, flags));
            }
        }
    }

    /// When to call [`Self::check_watched`] even if poll reports nothing.
    pub fn next_check(&self) -> Option<Instant> {
        let next_check = |run: &KeeperRun| match &run.wait_method {
            WaitMethod::Watch(watch) if run.wait_status.is_none() => watch.next_check(),
            WaitMethod::Watch(_) | WaitMethod::Reap | WaitMethod::None => None,
        };
        self.0.iter().filter_map(next_check).min()
    }

    /// Records start reports, and exits of processes that are not children.
    pub fn check_watched(&mut self) {
        for run in &mut self.0 {
            run.poll_start_report(false);
            if let (WaitMethod::Watch(watch), None) = (&mut run.wait_method, run.wait_status) {
                run.wait_status = watch.try_wait();
                run.exit_unreported = run.wait_status.is_some();
            }
        }
    }

    /// After a new daemon has received all runs: starts and exits must be reported to it again.
    pub fn mark_all_unreported(&mut self) {
        for run in self.0.iter_mut().filter(|run| !run.released) {
            run.start_unreported =
                run.start_report.is_none() && (run.failed.is_some() || run.wait_status.is_none());
            run.exit_unreported = run.wait_status.is_some() && run.failed.is_none();
        }
    }

    /// Sends all unsent notices until `send` returns false. True if none is left.
    pub fn send_notices(
        &mut self,
        mut send: impl FnMut(&KeeperNotice, &[RoleBorrowedFd<'_>]) -> bool,
    ) -> bool {
        for run in &mut self.0 {
            if run.start_unreported && run.send_start(&mut send).is_none() {
                return false;
            }
            if let (true, Some(status)) = (run.exit_unreported, run.wait_status) {
                if !send(&KeeperNotice::Exited { run: run.id, status }, &[]) {
                    return false;
                }
                run.exit_unreported = false;
            }
        }
        // A failed start needs no release: it is removed when it is reported and its child is reaped.
        self.0.retain(|run| {
            run.failed.is_none()
                || run.start_unreported
                || matches!(run.wait_method, WaitMethod::Reap) && run.wait_status.is_none()
        });
        true
    }
}

fn signal_child(pid: i32, signal: i32, group: bool) {
    let target = Pid::from_raw(if group { -pid } else { pid });
    // A child that has not called `setsid` yet has no process group.
    if let Ok(signal) = Signal::try_from(signal)
        && kill(target, signal) == Err(Errno::ESRCH)
        && group
    {
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

impl KeeperRun {
    /// The descriptors that the daemon gets: those kept with the run, and the notifier.
    pub fn all_fds(&self) -> Vec<RoleBorrowedFd<'_>> {
        let fds = self.fds.iter().map(|(role, fd)| (*role, fd.as_fd()));
        fds.chain(self.notifier_fd()).collect()
    }

    fn notifier_fd(&self) -> Option<RoleBorrowedFd<'_>> {
        Some((FdRole::Notifier, self.notifier.as_ref()?.as_fd()))
    }

    /// Receives the messages of the start report. `is_last`: the child has exited, none will follow.
    fn poll_start_report(&mut self, is_last: bool) {
        let Some(report) = self.start_report.take() else { return };
        loop {
            match report.receive() {
                StartMessage::Notifier(notifier) => self.notifier = Some(notifier),
                StartMessage::Failed(step, errno) => break self.failed = Some((step, errno)),
                StartMessage::Pending if !is_last => return self.start_report = Some(report),
                // Pending although it has exited: a descendant inherited the other end before `exec`.
                StartMessage::Execed | StartMessage::Pending => break,
            }
        }
        self.start_unreported = true;
    }

    fn send_start(
        &mut self,
        send: &mut impl FnMut(&KeeperNotice, &[RoleBorrowedFd<'_>]) -> bool,
    ) -> Option<()> {
        let ProcessRef { pid, start_time } = self.process;
        let notice = match self.failed {
            Some((step, errno)) => KeeperNotice::SpawnFailed { run: self.id, step: step as u64, errno },
            None => KeeperNotice::Spawned { run: self.id, pid, start_time },
        };
        let sent = send(&notice, self.notifier_fd().as_slice());
        self.start_unreported = !sent;
        sent.then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::spawn::report;

    #[test]
    fn notifier_is_sent_with_start_and_again_after_sync() {
        let (report, reporter) = report::start_report_pair().unwrap();
        let mut runs = Runs::default();
        let (kept, pipe) = nix::unistd::pipe().unwrap();
        let forked = ForkedChild { pid: std::process::id().cast_signed(), report };
        runs.add(7, forked, vec![(FdRole::Stdout, kept)]);
        reporter.send_notifier(pipe.as_fd()).unwrap();
        runs.check_watched();
        assert!(runs.send_notices(|notice, _| panic!("{notice:?} is not known yet")));
        drop(reporter);
        runs.check_watched();
        let mut sent = Vec::new();
        let roles = |fds: &[RoleBorrowedFd<'_>]| fds.iter().map(|(role, _)| *role).collect::<Vec<_>>();
        assert!(runs.send_notices(|notice, fds| {
            sent.push((notice.clone(), roles(fds)));
            true
        }));
        let [(KeeperNotice::Spawned { run: 7, .. }, with_start)] = &sent[..] else { panic!("{sent:?}") };
        assert_eq!(with_start[..], [FdRole::Notifier]);
        let all: Vec<_> = runs.iter().map(|run| roles(&run.all_fds())).collect();
        assert_eq!(all, [[FdRole::Stdout, FdRole::Notifier]]);
        runs.mark_all_unreported();
        assert!(
            runs.send_notices(|notice, fds| matches!(notice, KeeperNotice::Spawned { .. }) && fds.len() == 1)
        );
    }
}
