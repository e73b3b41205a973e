//! A copy of the keeper's state, with which the daemon becomes the keeper if the keeper dies.

use std::collections::HashMap;
use std::os::fd::BorrowedFd;

use crate::keeper::fd_store::FdStore;
use crate::keeper::handover::HandoverOut;
use crate::keeper::protocol::{FdRole, KeeperNotice, KeeperRequest, RoleFd, UpgradeResult, take_fd};
use crate::keeper::runs::{KeeperRun, Runs, WaitMethod};
use crate::process::process_ref::ProcessRef;

/// The keeper's runs and fd store, derived from the messages in both directions.
#[derive(Debug, Default)]
pub struct KeeperMirror {
    runs: Runs,
    fd_store: FdStore,
    /// Descriptors of runs whose spawn is requested and not confirmed yet.
    pending_spawns: HashMap<u64, Vec<RoleFd>>,
    is_terminating: bool,
}

impl KeeperMirror {
    /// Applies a message of the keeper.
    pub fn on_notice(&mut self, notice: &KeeperNotice, fds: &[RoleFd]) {
        match notice {
            KeeperNotice::Run { run, pid, start_time, is_child } => {
                let wait_method = if *is_child { WaitMethod::Reap } else { WaitMethod::None };
                let process = ProcessRef { pid: *pid, start_time: *start_time };
                self.add(*run, process, duplicate_all(fds), wait_method);
            }
            KeeperNotice::StoredFd { name } => {
                self.fd_store.store(name.clone(), take_fd(duplicate_all(fds), FdRole::Stored))
            }
            KeeperNotice::Spawned { run, pid, start_time } => {
                if let Some(mut run_fds) = self.pending_spawns.remove(run) {
                    run_fds.extend(duplicate_all(fds)); // the notifier
                    let process = ProcessRef { pid: *pid, start_time: *start_time };
                    self.add(*run, process, run_fds, WaitMethod::Reap);
                }
            }
            KeeperNotice::SpawnFailed { run, .. } => drop(self.pending_spawns.remove(run)),
            KeeperNotice::Exited { run, status } => {
                // It exited before `Spawned` was sent.
                if let Some(run_fds) = self.pending_spawns.remove(run) {
                    self.add(*run, ProcessRef { pid: 0, start_time: 0 }, run_fds, WaitMethod::None);
                }
                self.runs.set_exit(*run, *status);
            }
            KeeperNotice::Terminate => self.is_terminating = true,
            KeeperNotice::Hello { .. } | KeeperNotice::SyncDone => {}
        }
    }

    /// Applies a request of the daemon.
    pub fn on_request(&mut self, request: &KeeperRequest, fds: &[RoleFd]) {
        match request {
            KeeperRequest::Spawn { run, child_fds } => {
                // Before the descriptors of the run come the launch specification and those of the child.
                let first = usize::try_from(*child_fds).unwrap_or(usize::MAX).saturating_add(1);
                self.pending_spawns.insert(*run, duplicate_all(fds.get(first..).unwrap_or_default()));
            }
            KeeperRequest::Adopt { run, pid, start_time } => {
                let process = ProcessRef { pid: *pid, start_time: *start_time };
                self.add(*run, process, duplicate_all(fds), WaitMethod::None);
            }
            KeeperRequest::StoreFd { name } => {
                self.fd_store.store(name.clone(), take_fd(duplicate_all(fds), FdRole::Stored))
            }
            KeeperRequest::RemoveFd { name } => self.fd_store.remove(name),
            KeeperRequest::Release { run } => self.runs.release(*run),
            KeeperRequest::BeginShutdown => self.is_terminating = true,
            KeeperRequest::Signal { .. }
            | KeeperRequest::Exit
            | KeeperRequest::Upgrade
            | KeeperRequest::Ready => {}
        }
    }

    fn add(&mut self, run: u64, process: ProcessRef, fds: Vec<RoleFd>, wait_method: WaitMethod) {
        if !self.runs.contains(run) {
            self.runs.push(KeeperRun::new(run, process, fds, wait_method));
        }
    }

    /// The whole state, for the process that becomes the keeper.
    pub fn handover<'a>(&'a self, listener: BorrowedFd<'a>, nofile: Option<(u64, u64)>) -> HandoverOut<'a> {
        HandoverOut {
            listener,
            lock: None,
            daemon: None,
            runs: &self.runs,
            fd_store: &self.fd_store,
            terminate: self.is_terminating,
            upgrade: UpgradeResult::None,
            nofile,
        }
    }
}

/// Descriptors that cannot be duplicated are left out; the keeper still has them.
fn duplicate_all(fds: &[RoleFd]) -> Vec<RoleFd> {
    fds.iter().filter_map(|(role, fd)| Some((*role, fd.try_clone().ok()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::wait::WaitStatus;

    fn null() -> RoleFd {
        (FdRole::Stored, std::fs::File::open("/dev/null").unwrap().into())
    }

    fn runs(mirror: &KeeperMirror) -> Vec<(u64, i32, usize, Option<WaitStatus>)> {
        let row = |run: &KeeperRun| (run.id, run.process.pid, run.fds.len(), run.wait_status);
        mirror.runs.iter().map(row).collect()
    }

    #[test]
    fn mirror_follows_runs_of_keeper() {
        let mut mirror = KeeperMirror::default();
        let attached = KeeperNotice::Run { run: 1, pid: 11, start_time: 1, is_child: true };
        mirror.on_notice(&attached, &[null(), null()]);
        mirror.on_request(
            &KeeperRequest::Spawn { run: 2, child_fds: 2 },
            &[null(), null(), null(), null(), null()],
        );
        mirror.on_request(
            &KeeperRequest::Spawn { run: 3, child_fds: 2 },
            &[null(), null(), null(), null(), null()],
        );
        mirror.on_notice(&KeeperNotice::Spawned { run: 1, pid: 11, start_time: 1 }, &[]);
        mirror.on_notice(&KeeperNotice::Spawned { run: 2, pid: 22, start_time: 1 }, &[]);
        mirror.on_notice(&KeeperNotice::SpawnFailed { run: 3, step: 0, errno: 2 }, &[]);
        assert_eq!(runs(&mirror), [(1, 11, 2, None), (2, 22, 2, None)]);
        mirror.on_request(&KeeperRequest::Release { run: 2 }, &[]);
        mirror.on_notice(&KeeperNotice::Exited { run: 1, status: WaitStatus::Exited(3) }, &[]);
        assert_eq!(
            runs(&mirror),
            [(1, 11, 2, Some(WaitStatus::Exited(3))), (2, 22, 2, None)],
            "an exit alone does not release a run"
        );
        mirror.on_request(&KeeperRequest::Release { run: 1 }, &[]);
        assert_eq!(runs(&mirror), [(2, 22, 2, None)]);
    }

    #[test]
    fn mirror_follows_fd_store() {
        let mut mirror = KeeperMirror::default();
        mirror.on_notice(&KeeperNotice::StoredFd { name: "a".into() }, &[null()]);
        mirror.on_request(&KeeperRequest::StoreFd { name: "b".into() }, &[null()]);
        mirror.on_request(&KeeperRequest::RemoveFd { name: "a".into() }, &[]);
        assert_eq!(mirror.fd_store.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["b"]);
    }
}
