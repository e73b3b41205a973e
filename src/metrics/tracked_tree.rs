//! The tree of one run, from sample to sample.

use crate::metrics::tracked_process::{FdBudget, TrackedProcess};
use crate::metrics::{LargestProcess, Usage};
use crate::process::proc::stat::{self, Stat};
use crate::process::process_ref::ProcessRef;
use crate::process::tree;

/// Within so many milliseconds a second sample only repeats the figure: `/proc` counts processor
/// time in hundredths of a second.
const MIN_INTERVAL_MS: u64 = 50;

/// The measures of this machine.
#[derive(Clone, Debug)]
pub(super) struct SystemUnits {
    /// Bytes of a page.
    pub(super) page_size: u64,
    /// Clock ticks a second.
    pub(super) ticks_per_second: u64,
    /// All cores busy.
    pub(super) max_percent: f64,
    /// For files kept open.
    pub(super) fd_budget: FdBudget,
}

/// A tree. Who was once in it stays in it until it ends, also when its parent is gone and the
/// keeper has it.
#[derive(Debug)]
pub(super) struct TrackedTree {
    leader: ProcessRef,
    members: Vec<TrackedProcess>,
    /// Ticks used since `at`.
    ticks: u64,
    at: u64,
    /// What it uses.
    pub(super) usage: Usage,
}

/// What a tree has used between two looks, in ticks.
#[derive(Debug, Default, PartialEq, Eq)]
struct CpuDelta {
    /// By those that are there.
    live: u64,
    /// By those that were reaped in the tree, over all their lives.
    reaped: u64,
    /// Of that, what had been counted while they lived.
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

    /// A parent that ignores SIGCHLD is not charged for its children: then nothing of `counted` is
    /// in `reaped`, and the living must not pay for it.
    fn total(&self) -> u64 {
        self.live + self.reaped.saturating_sub(self.already_counted)
    }
}

impl TrackedTree {
    /// Begins with a tree; `None` if its leader is gone.
    pub(super) fn new(leader: ProcessRef, now: u64, measures: &SystemUnits) -> Option<Self> {
        let usage = Usage::default();
        let mut new = Self { leader, members: Vec::new(), ticks: 0, at: now, usage };
        new.add_members(&measures.fd_budget, &mut CpuDelta::default());
        new.members.first().filter(|first| first.process == leader)?;
        new.publish_usage(true, now, measures);
        Some(new)
    }

    /// The pids of its processes.
    pub(super) fn pids(&self) -> impl Iterator<Item = i32> {
        self.members.iter().map(|member| member.process.pid)
    }

    /// Looks at all members again, and with `search` for new ones. False if the leader is gone.
    pub(super) fn update(&mut self, search: bool, now: u64, measures: &SystemUnits) -> bool {
        let mut spent = CpuDelta::default();
        let mut changed = self.update_members(&mut spent, now);
        if self.members.first().is_none_or(|first| first.process != self.leader || first.stat.is_dead()) {
            return false;
        }
        changed |= search && self.add_members(&measures.fd_budget, &mut spent);
        self.ticks += spent.total();
        self.update_cpu(now, measures);
        self.publish_usage(changed, now, measures);
        true
    }

    /// True if one has ended.
    fn update_members(&mut self, spent: &mut CpuDelta, now: u64) -> bool {
        let several = self.members.len() > 1;
        let (mut ended, mut died) = (Vec::new(), false);
        self.members.retain_mut(|member| {
            let Some(before) = member.refresh() else {
                ended.push(member.stat);
                return false;
            };
            spent.add(&before, &member.stat);
            died |= member.stat.is_dead() && !before.is_dead();
            let used = before.cpu_ticks != member.stat.cpu_ticks || before.rss_pages != member.stat.rss_pages;
            if several && used {
                member.sample_pss(now);
            }
            true
        });
        // What the keeper has reaped is not in the tree's account.
        for last in ended.iter().filter(|last| self.pids().any(|pid| pid == last.parent)) {
            spent.remove(last);
        }
        died || !ended.is_empty()
    }

    /// Looks for processes that are new in the tree; true if there are any.
    fn add_members(&mut self, allowance: &FdBudget, spent: &mut CpuDelta) -> bool {
        let before = self.members.len();
        let mut roots = vec![self.leader];
        while let Some(root) = roots.pop() {
            for found in tree::tree_members(root) {
                if self.members.iter().any(|member| member.process == found.process) {
                    continue;
                }
                let Some(new) = TrackedProcess::open(found.process, allowance) else { continue };
                spent.add_new(&new.stat);
                self.members.push(new);
            }
            // Members whose parent is gone have trees of their own.
            if root == self.leader {
                let astray = |member: &&TrackedProcess| !self.pids().any(|pid| pid == member.stat.parent);
                roots.extend(self.members.iter().skip(1).filter(astray).map(|member| member.process));
            }
        }
        self.members.len() > before
    }

    fn update_cpu(&mut self, now: u64, measures: &SystemUnits) {
        let passed = now.saturating_sub(self.at);
        if (1..MIN_INTERVAL_MS).contains(&passed) || now == self.at {
            return; // charged next time
        }
        // A clock that was set back starts the account anew and leaves the figure.
        if passed > 0 {
            let seconds = passed as f64 / 1000.0;
            let percent = self.ticks as f64 / measures.ticks_per_second as f64 / seconds * 100.0;
            self.usage.cpu_percent = percent.min(measures.max_percent) as f32;
        }
        (self.ticks, self.at) = (0, now);
    }

    /// A process alone shares with nobody of its tree; several are added up in proportion.
    fn publish_usage(&mut self, changed: bool, now: u64, measures: &SystemUnits) {
        let alive = |member: &&mut TrackedProcess| !member.stat.is_dead();
        if changed || self.usage.processes.is_empty() {
            let alive: Vec<&mut TrackedProcess> = self.members.iter_mut().filter(alive).collect();
            self.usage.processes = alive.iter().map(|member| member.process.pid).collect();
            if alive.len() > 1 {
                alive.into_iter().for_each(|member| member.sample_pss(now));
            }
        }
        let alone = self.usage.processes.len() == 1;
        let living = || self.members.iter().filter(|member| !member.stat.is_dead());
        let bytes = |member: &TrackedProcess| match alone {
            true => member.stat.rss_pages * measures.page_size,
            false => member.memory_estimate(measures.page_size),
        };
        self.usage.memory = living().map(bytes).sum();
        let largest = living().max_by_key(|member| bytes(member));
        let former = self.usage.largest.take();
        self.usage.largest = largest.map(|member| {
            let pid = member.process.pid;
            // Read once: it stays the largest nearly always.
            let name = former.filter(|former| former.pid == pid && !changed).map(|former| former.name);
            let name = name.unwrap_or_else(|| stat::comm(pid).into());
            // Measured as the sum is: it is never more than that.
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
    fn a_reaped_child_is_counted_once() {
        let mut spent = CpuDelta::default();
        spent.add(&stat(10, 0), &stat(15, 120)); // the parent
        spent.remove(&stat(100, 0)); // the child, 20 ticks before its end
        assert_eq!(spent.total(), 5 + 20);
    }

    #[test]
    fn a_child_that_nobody_is_charged_for_takes_nothing_from_the_living() {
        let mut spent = CpuDelta::default();
        spent.add(&stat(10, 0), &stat(15, 0));
        spent.remove(&stat(100, 0));
        assert_eq!(spent.total(), 5);
    }

    #[test]
    fn short_lives_between_two_looks_count() {
        let mut spent = CpuDelta::default();
        spent.add(&stat(10, 3), &stat(10, 43));
        spent.add_new(&stat(7, 0));
        assert_eq!(spent.total(), 47);
    }
}
