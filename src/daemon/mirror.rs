//! What the keeper has, as the daemon must have it too: should the keeper die, the daemon becomes one.

use std::collections::HashMap;
use std::os::fd::{BorrowedFd, OwnedFd};

use crate::keeper::handover::Leaving;
use crate::keeper::runs::{Bond, Run, Runs};
use crate::keeper::vault::Vault;
use crate::keeper::wire::{News, Order, Upgrade};
use crate::process::process_ref::ProcessRef;

/// The keeper's table, kept up by what is said in both directions.
#[derive(Debug, Default)]
pub struct Mirror {
    runs: Runs,
    vault: Vault,
    /// What goes with runs that are asked for and not told of yet.
    asked: HashMap<u64, Vec<OwnedFd>>,
    terminate: bool,
}

impl Mirror {
    /// The keeper said this.
    pub fn heard(&mut self, news: &News, fds: &[OwnedFd]) {
        match news {
            News::Run { run, pid, start_time, child } => {
                let bond = if *child { Bond::Child } else { Bond::None };
                self.add(*run, ProcessRef { pid: *pid, start_time: *start_time }, copies(fds), bond);
            }
            News::Stored { name } => self.vault.store(name.clone(), copies(fds).pop()),
            News::Spawned { run, pid, start_time } => {
                if let Some(mut kept) = self.asked.remove(run) {
                    kept.extend(copies(fds)); // the notifier
                    self.add(*run, ProcessRef { pid: *pid, start_time: *start_time }, kept, Bond::Child);
                }
            }
            News::SpawnFailed { run, .. } => drop(self.asked.remove(run)),
            News::Exited { run, ended } => {
                // It came and went without a word in between.
                if let Some(kept) = self.asked.remove(run) {
                    self.add(*run, ProcessRef { pid: 0, start_time: 0 }, kept, Bond::None);
                }
                self.runs.note_end(*run, *ended);
            }
            News::Terminate => self.terminate = true,
            News::Hello { .. } | News::Attached => {}
        }
    }

    /// The keeper was asked for this.
    pub fn ordered(&mut self, order: &Order, fds: &[OwnedFd]) {
        match order {
            Order::Spawn { run, given } => {
                let given = usize::try_from(*given).unwrap_or(usize::MAX).saturating_add(1);
                self.asked.insert(*run, copies(fds.get(given..).unwrap_or_default()));
            }
            Order::Adopt { run, pid, start_time } => {
                let process = ProcessRef { pid: *pid, start_time: *start_time };
                self.add(*run, process, copies(fds), Bond::None);
            }
            Order::Store { name } => self.vault.store(name.clone(), copies(fds).pop()),
            Order::Drop { name } => self.vault.drop(name),
            Order::Release { run } => self.runs.release(*run),
            Order::Closing => self.terminate = true,
            Order::Signal { .. } | Order::Shutdown | Order::Replace | Order::Serving => {}
        }
    }

    fn add(&mut self, run: u64, process: ProcessRef, kept: Vec<OwnedFd>, bond: Bond) {
        if !self.runs.contains(run) {
            self.runs.push(Run::new(run, process, kept, bond));
        }
    }

    /// All of it, for a keeper that is to follow.
    pub fn leaving<'a>(&'a self, listener: BorrowedFd<'a>, nofile: Option<(u64, u64)>) -> Leaving<'a> {
        Leaving {
            listener,
            lock: None,
            daemon: None,
            runs: &self.runs,
            vault: &self.vault,
            terminate: self.terminate,
            upgrade: Upgrade::None,
            nofile,
        }
    }
}

/// Out of descriptors, the keeper's own copies must do.
fn copies(fds: &[OwnedFd]) -> Vec<OwnedFd> {
    fds.iter().filter_map(|fd| fd.try_clone().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::wait::WaitStatus;

    fn null() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    fn runs(mirror: &Mirror) -> Vec<(u64, i32, usize, Option<WaitStatus>)> {
        let row = |run: &Run| (run.id, run.process.pid, run.kept.len(), run.ended);
        mirror.runs.iter().map(row).collect()
    }

    #[test]
    fn it_has_what_the_keeper_has() {
        let mut mirror = Mirror::default();
        let told = News::Run { run: 1, pid: 11, start_time: 1, child: true };
        mirror.heard(&told, &[null(), null()]);
        mirror.ordered(&Order::Spawn { run: 2, given: 2 }, &[null(), null(), null(), null(), null()]);
        mirror.ordered(&Order::Spawn { run: 3, given: 2 }, &[null(), null(), null(), null(), null()]);
        mirror.heard(&News::Spawned { run: 1, pid: 11, start_time: 1 }, &[]);
        mirror.heard(&News::Spawned { run: 2, pid: 22, start_time: 1 }, &[]);
        mirror.heard(&News::SpawnFailed { run: 3, step: 0, errno: 2 }, &[]);
        assert_eq!(runs(&mirror), [(1, 11, 2, None), (2, 22, 2, None)]);
        mirror.ordered(&Order::Release { run: 2 }, &[]);
        mirror.heard(&News::Exited { run: 1, ended: WaitStatus::Exited(3) }, &[]);
        assert_eq!(
            runs(&mirror),
            [(1, 11, 2, Some(WaitStatus::Exited(3))), (2, 22, 2, None)],
            "it runs still"
        );
        mirror.ordered(&Order::Release { run: 1 }, &[]);
        assert_eq!(runs(&mirror), [(2, 22, 2, None)]);
    }

    #[test]
    fn stored_descriptors_are_copied() {
        let mut mirror = Mirror::default();
        mirror.heard(&News::Stored { name: "a".into() }, &[null()]);
        mirror.ordered(&Order::Store { name: "b".into() }, &[null()]);
        mirror.ordered(&Order::Drop { name: "a".into() }, &[]);
        assert_eq!(mirror.vault.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["b"]);
    }
}
