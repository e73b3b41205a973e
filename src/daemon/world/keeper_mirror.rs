//! What the keeper has, as the daemon must have it too: should the keeper die, the daemon becomes one.

use std::collections::HashMap;
use std::os::fd::BorrowedFd;

use crate::keeper::fd_store::FdStore;
use crate::keeper::handover::HandoverOut;
use crate::keeper::protocol::{FdRole, KeeperNotice, KeeperRequest, RoleFd, UpgradeResult, take_fd};
use crate::keeper::runs::{KeeperRun, Runs, WaitMethod};
use crate::process::process_ref::ProcessRef;

/// The keeper's table, kept up by what is said in both directions.
#[derive(Debug, Default)]
pub struct KeeperMirror {
    runs: Runs,
    fd_store: FdStore,
    /// What goes with runs that are asked for and not told of yet.
    pending_spawns: HashMap<u64, Vec<RoleFd>>,
    is_terminating: bool,
}

impl KeeperMirror {
    /// The keeper said this.
    pub fn on_notice(&mut self, news: &KeeperNotice, fds: &[RoleFd]) {
        match news {
            KeeperNotice::Run { run, pid, start_time, is_child } => {
                let wait_method = if *is_child { WaitMethod::Reap } else { WaitMethod::None };
                self.add(
                    *run,
                    ProcessRef { pid: *pid, start_time: *start_time },
                    duplicate_all(fds),
                    wait_method,
                );
            }
            KeeperNotice::StoredFd { name } => {
                self.fd_store.store(name.clone(), take_fd(duplicate_all(fds), FdRole::Stored))
            }
            KeeperNotice::Spawned { run, pid, start_time } => {
                if let Some(mut kept) = self.pending_spawns.remove(run) {
                    kept.extend(duplicate_all(fds)); // the notifier
                    self.add(*run, ProcessRef { pid: *pid, start_time: *start_time }, kept, WaitMethod::Reap);
                }
            }
            KeeperNotice::SpawnFailed { run, .. } => drop(self.pending_spawns.remove(run)),
            KeeperNotice::Exited { run, status } => {
                // It came and went without a word in between.
                if let Some(kept) = self.pending_spawns.remove(run) {
                    self.add(*run, ProcessRef { pid: 0, start_time: 0 }, kept, WaitMethod::None);
                }
                self.runs.set_exit(*run, *status);
            }
            KeeperNotice::Terminate => self.is_terminating = true,
            KeeperNotice::Hello { .. } | KeeperNotice::SyncDone => {}
        }
    }

    /// The keeper was asked for this.
    pub fn on_request(&mut self, order: &KeeperRequest, fds: &[RoleFd]) {
        match order {
            KeeperRequest::Spawn { run, child_fds } => {
                let given = usize::try_from(*child_fds).unwrap_or(usize::MAX).saturating_add(1);
                self.pending_spawns.insert(*run, duplicate_all(fds.get(given..).unwrap_or_default()));
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

    /// All of it, for a keeper that is to follow.
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

/// Out of descriptors, the keeper's own copies must do.
fn duplicate_all(fds: &[RoleFd]) -> Vec<RoleFd> {
    fds.iter().filter_map(|(role, fd)| Some((*role, fd.try_clone().ok()?))).collect()
}

#[cfg(test)]
mod tests {
    use crate::daemon::world::keeper_mirror::*;
    use crate::process::wait::WaitStatus;

    fn null() -> RoleFd {
        (FdRole::Stored, std::fs::File::open("/dev/null").unwrap().into())
    }

    fn runs(mirror: &KeeperMirror) -> Vec<(u64, i32, usize, Option<WaitStatus>)> {
        let row = |run: &KeeperRun| (run.id, run.process.pid, run.fds.len(), run.wait_status);
        mirror.runs.iter().map(row).collect()
    }

    #[test]
    fn it_has_what_the_keeper_has() {
        let mut mirror = KeeperMirror::default();
        let told = KeeperNotice::Run { run: 1, pid: 11, start_time: 1, is_child: true };
        mirror.on_notice(&told, &[null(), null()]);
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
            "it runs still"
        );
        mirror.on_request(&KeeperRequest::Release { run: 1 }, &[]);
        assert_eq!(runs(&mirror), [(2, 22, 2, None)]);
    }

    #[test]
    fn stored_descriptors_are_copied() {
        let mut mirror = KeeperMirror::default();
        mirror.on_notice(&KeeperNotice::StoredFd { name: "a".into() }, &[null()]);
        mirror.on_request(&KeeperRequest::StoreFd { name: "b".into() }, &[null()]);
        mirror.on_request(&KeeperRequest::RemoveFd { name: "a".into() }, &[]);
        assert_eq!(mirror.fd_store.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["b"]);
    }
}
