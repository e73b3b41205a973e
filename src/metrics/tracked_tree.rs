//! The process tree of one run: its members, and its usage since the previous sample.

use crate::metrics::tracked_process::{FdBudget, TrackedProcess};
use crate::metrics::{LargestProcess, Usage};
use crate::process::proc::stat::{self, Stat};
use crate::process::process_ref::ProcessRef;
use crate::process::tree;

/// Minimum time between two CPU values, in milliseconds: `/proc` counts CPU time in units of 10 ms.
const MIN_INTERVAL_MS: u64 = 50;

/// Units and limits of this machine.
#[derive(Clone, Debug)]
pub(super) struct SystemUnits {
    pub(super) page_size: u64,
    pub(super) ticks_per_second: u64,
    /// CPU usage when all cores are busy.
    pub(super) max_percent: f64,
    pub(super) fd_budget: FdBudget,
}

/// A process tree. Its members belong to it until they exit, even if their parent has exited before.
#[derive(Debug)]
pub(super) struct TrackedTree {
    leader: ProcessRef,
    members: Vec<TrackedProcess>,
    /// CPU time since `ticks_since`.
    ticks: u64,
    ticks_since: u64,
    pub(super) usage: Usage,
}

/// CPU time of a tree between two samples, in ticks.
#[derive(Debug, Default, PartialEq, Eq)]
struct CpuDelta {
    /// Of the members.
    live: u64,
    /// Of processes that members have reaped, over their whole lifetime.
    reaped: u64,
    /// The part of it that was counted while they were members.
    already_counted: u64,
}

impl CpuDelta {
    fn add(&mut self, before: &Stat, now: &Stat) {
        self.live += now.cpu_ticks.saturating_sub(before.cpu_ticks);
        self.reaped += now.child_cpu_ticks.saturating_sub(before.child_cpu_ticks);
    }

    fn add_new(&mut self, stat: &Stat) {
        self.live += stat.cpu_ticks;
        self.reaped += stat.child_cpu_ticks;
    }

    fn remove(&mut self, last: &Stat) {
        self.already_counted += last.cpu_ticks + last.child_cpu_ticks;
    }

    /// The CPU time of children of a process that ignores SIGCHLD is not added to that process: then `reaped`
    /// does not contain `already_counted`, which must not be subtracted from `live`.
    fn total(&self) -> u64 {
        self.live + self.reaped.saturating_sub(self.already_counted)
    }
}

impl TrackedTree {
    /// Starts to track the tree of `leader`; `None` if the leader has exited.
    pub(super) fn new(leader: ProcessRef, now: u64, units: &SystemUnits) -> Option<Self> {
        let usage = Usage::default();
        let mut tree = Self { leader, members: Vec::new(), ticks: 0, ticks_since: now, usage };
        tree.add_members(&units.fd_budget, &mut CpuDelta::default());
        tree.members.first().filter(|first| first.process == leader)?;
        tree.update_memory(true, now, units);
        Some(tree)
    }

    pub(super) fn pids(&self) -> impl Iterator<Item = i32> {
        self.members.iter().map(|member| member.process.pid)
    }

    /// Reads all members again, and with `search` finds new ones. False if the leader has exited.
    pub(super) fn update(&mut self, search: bool, now: u64, units: &SystemUnits) -> bool {
        let mut delta = CpuDelta::default();
        let mut changed = self.update_members(&mut delta, now);
        if self.members.first().is_none_or(|first| first.process != self.leader || first.stat.is_dead()) {
            return false;
        }
        changed |= search && self.add_members(&units.fd_budget, &mut delta);
        self.ticks += delta.total();
        self.update_cpu(now, units);
        self.update_memory(changed, now, units);
        true
    }

    /// True if a member has exited.
    fn update_members(&mut self, delta: &mut CpuDelta, now: u64) -> bool {
        let has_several = self.members.len() > 1;
        let (mut gone, mut died) = (Vec::new(), false);
        self.members.retain_mut(|member| {
            let Some(before) = member.refresh() else {
                gone.push(member.stat);
                return false;
            };
            delta.add(&before, &member.stat);
            died |= member.stat.is_dead() && !before.is_dead();
            let was_active =
                before.cpu_ticks != member.stat.cpu_ticks || before.rss_pages != member.stat.rss_pages;
            if has_several && was_active {
                member.sample_pss(now);
            }
            true
        });
        // The CPU time of processes that the keeper has reaped is not in the values of a member.
        for last in gone.iter().filter(|last| self.pids().any(|pid| pid == last.parent)) {
            delta.remove(last);
        }
        died || !gone.is_empty()
    }

    /// Adds new processes of the tree; true if there are any.
    fn add_members(&mut self, budget: &FdBudget, delta: &mut CpuDelta) -> bool {
        let before = self.members.len();
        let mut roots = vec![self.leader];
        while let Some(root) = roots.pop() {
            for found in tree::tree_members(root) {
                if self.members.iter().any(|member| member.process == found.process) {
                    continue;
                }
                let Some(new) = TrackedProcess::open(found.process, budget) else { continue };
                delta.add_new(&new.stat);
                self.members.push(new);
            }
            // Members whose parent has exited are roots of separate trees.
            if root == self.leader {
                let is_root = |member: &&TrackedProcess| !self.pids().any(|pid| pid == member.stat.parent);
                roots.extend(self.members.iter().skip(1).filter(is_root).map(|member| member.process));
            }
        }
        self.members.len() > before
    }

    fn update_cpu(&mut self, now: u64, units: &SystemUnits) {
        let interval = now.saturating_sub(self.ticks_since);
        if (1..MIN_INTERVAL_MS).contains(&interval) || now == self.ticks_since {
            return; // counted next time
        }
        // If the clock was set back, the value stays and a new interval starts.
        if interval > 0 {
            let seconds = interval as f64 / 1000.0;
            let percent = self.ticks as f64 / units.ticks_per_second as f64 / seconds * 100.0;
            self.usage.cpu_percent = percent.min(units.max_percent) as f32;
        }
        (self.ticks, self.ticks_since) = (0, now);
    }

    /// Sums up the memory: the resident size of a single process, or the proportional set sizes of several.
    fn update_memory(&mut self, changed: bool, now: u64, units: &SystemUnits) {
        let is_alive = |member: &&mut TrackedProcess| !member.stat.is_dead();
        if changed || self.usage.processes.is_empty() {
            let alive: Vec<&mut TrackedProcess> = self.members.iter_mut().filter(is_alive).collect();
            self.usage.processes = alive.iter().map(|member| member.process.pid).collect();
            if alive.len() > 1 {
                alive.into_iter().for_each(|member| member.sample_pss(now));
            }
        }
        let is_single = self.usage.processes.len() == 1;
        let living = || self.members.iter().filter(|member| !member.stat.is_dead());
        let bytes = |member: &TrackedProcess| match is_single {
            true => member.stat.rss_pages * units.page_size,
            false => member.memory_estimate(units.page_size),
        };
        self.usage.memory = living().map(bytes).sum();
        let largest = living().max_by_key(|member| bytes(member));
        let previous = self.usage.largest.take();
        self.usage.largest = largest.map(|member| {
            let pid = member.process.pid;
            // Read only if the process changed: it is nearly always the same one.
            let name =
                previous.filter(|previous| previous.pid == pid && !changed).map(|previous| previous.name);
            let name = name.unwrap_or_else(|| stat::comm(pid).into());
            // The same measure as in the sum, so that it never exceeds the sum.
            LargestProcess { pid, name, memory: bytes(member) }
        });
    }
}

#[cfg(test)]
mod tests {
    use crate::metrics::tracked_tree::*;

    fn stat(cpu_ticks: u64, child_cpu_ticks: u64) -> Stat {
        let line = b"42 (sh) S 7 41 40 0 -1 0 1 2 3 4 50 60 70 80 20 0 1 0 9000 0 0 18446";
        Stat { cpu_ticks, child_cpu_ticks, ..Stat::parse(line).unwrap() }
    }

    #[test]
    fn counts_reaped_child_once() {
        let mut delta = CpuDelta::default();
        delta.add(&stat(10, 0), &stat(15, 120)); // the parent
        delta.remove(&stat(100, 0)); // the child, 20 ticks before its exit
        assert_eq!(delta.total(), 5 + 20);
    }

    #[test]
    fn uncharged_child_does_not_reduce_live_time() {
        let mut delta = CpuDelta::default();
        delta.add(&stat(10, 0), &stat(15, 0));
        delta.remove(&stat(100, 0));
        assert_eq!(delta.total(), 5);
    }

    #[test]
    fn counts_processes_between_samples() {
        let mut delta = CpuDelta::default();
        delta.add(&stat(10, 3), &stat(10, 43));
        delta.add_new(&stat(7, 0));
        assert_eq!(delta.total(), 47);
    }
}
