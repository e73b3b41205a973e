//! Samples the trees of all runs, cheaply enough to do it every second.
//!
//! An idle process costs one read of a file that stays open. Trees are searched for new members
//! only when one of theirs had a child, which [`PidWatcher`] finds out for all of them at once, and now
//! and then in any case. Shared memory is added up anew only for those that have done something.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use nix::sys::resource::{Resource, getrlimit};

use super::Usage;
use crate::metrics::new_pids::{NewPids, PidWatcher};
use crate::metrics::tracked_process::FdBudget;
use crate::metrics::tracked_tree::{SystemUnits, TrackedTree};
use crate::process::proc::stat::{self, Stat};
use crate::process::process_ref::ProcessRef;

/// Every tree is searched at least every so many samples, should a birth have gone unseen.
const FULL_SCAN_ROUNDS: u64 = 64;

/// That many new pids for each tree cost as much to look at as all the trees.
const MAX_NEW_PIDS: usize = 4;

/// This part of all files that the daemon may open is the most that is kept open here.
const FD_BUDGET_DIVISOR: u64 = 4;

/// Remembers what it needs to say how much was used since the last time.
#[derive(Debug)]
pub struct Sampler {
    runs: HashMap<u64, SampledRun>,
    units: SystemUnits,
    new_pids: PidWatcher,
    round: u64,
    /// The trees by member; its room is kept from sample to sample.
    parents: HashMap<i32, u64>,
}

#[derive(Debug)]
struct SampledRun {
    tree: TrackedTree,
    /// One of its processes had a child.
    grown: bool,
    /// The last sample that asked for it.
    round: u64,
}

impl Default for Sampler {
    fn default() -> Self {
        Self::new()
    }
}

impl Sampler {
    /// Knows no run yet.
    pub fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let files = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
        let measures = SystemUnits {
            page_size: stat::page_size(),
            ticks_per_second: stat::ticks_per_second(),
            max_percent: cores as f64 * 100.0,
            fd_budget: FdBudget::new(usize::try_from(files / FD_BUDGET_DIVISOR).unwrap_or(usize::MAX)),
        };
        Self {
            runs: HashMap::new(),
            units: measures,
            new_pids: PidWatcher::new(),
            round: 0,
            parents: HashMap::new(),
        }
    }

    /// What each of these runs (its number, first process, start time) uses. `now` is milliseconds
    /// on any clock. Processor time is of the time since the sample before; the first sample of a
    /// run says 0. Runs whose first process is gone are left out, and runs not asked for forgotten.
    pub fn sample(&mut self, now: u64, runs: &[(u64, i32, u64)]) -> Vec<(u64, Usage)> {
        self.round += 1;
        // Before any tree is searched: who is born after this is seen the next time.
        match self.new_pids.poll() {
            NewPids::None => {}
            NewPids::Range(pids) if pids.clone().count() <= MAX_NEW_PIDS * (self.runs.len() + 16) => {
                self.record_parents(pids);
            }
            NewPids::Range(_) | NewPids::Unknown => {
                self.runs.values_mut().for_each(|entry| entry.grown = true)
            }
        }
        let mut samples = Vec::with_capacity(runs.len());
        for (run, pid, start_time) in runs {
            let leader = ProcessRef { pid: *pid, start_time: *start_time };
            samples.extend(self.sample_run(*run, leader, now).map(|usage| (*run, usage)));
        }
        self.runs.retain(|_, entry| entry.round == self.round);
        samples
    }

    /// A thread has its process's parent, so a new one of a first process is taken for the keeper's
    /// child and one further below makes for a needless search. Neither does harm.
    fn record_parents(&mut self, born: RangeInclusive<i32>) {
        self.parents.clear();
        for (run, entry) in &self.runs {
            self.parents.extend(entry.tree.pids().map(|pid| (pid, *run)));
        }
        for stat in born.filter_map(|pid| Stat::of(pid).ok()) {
            if let Some(entry) = self.parents.get(&stat.parent).and_then(|run| self.runs.get_mut(run)) {
                entry.grown = true;
            }
        }
    }

    fn sample_run(&mut self, run: u64, leader: ProcessRef, now: u64) -> Option<Usage> {
        if let Some(entry) = self.runs.get_mut(&run) {
            // Not all in the same sample.
            let due = (self.round + run).is_multiple_of(FULL_SCAN_ROUNDS);
            let search = std::mem::take(&mut entry.grown) || due;
            if entry.tree.update(search, now, &self.units) {
                entry.round = self.round;
                return Some(entry.tree.usage.clone());
            }
            return None;
        }
        let tracked = TrackedTree::new(leader, now, &self.units)?;
        let usage = tracked.usage.clone();
        self.runs.insert(run, SampledRun { tree: tracked, grown: false, round: self.round });
        Some(usage)
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::resource::{UsageWho, getrusage};
    use nix::sys::time::TimeValLike;

    use super::*;
    use crate::process::fixture::{Fixture, wait_until};

    fn run(app: &Fixture) -> [(u64, i32, u64); 1] {
        [(1, app.leader().pid, app.leader().start_time)]
    }

    fn only(samples: Vec<(u64, Usage)>) -> Usage {
        assert_eq!(samples.len(), 1);
        samples.into_iter().next().unwrap().1
    }

    #[test]
    fn shared_pages_are_counted_once() {
        let mut app = Fixture::python(
            "import os, sys\n\
             held = bytearray(os.urandom(1 << 20)) * 80\n\
             child = os.fork()\n\
             if child: print(child, flush=True)\n\
             sys.stdin.read()",
        );
        let child = app.process();
        let mut sampler = Sampler::new();
        let usage = only(sampler.sample(0, &run(&app)));
        assert_eq!(usage.processes, [app.leader().pid, child.pid]);
        let megabytes = usage.memory >> 20;
        assert!((80..140).contains(&megabytes), "{megabytes} MiB for 80 MiB shared by two");
        app.kill_leader();
        assert!(sampler.sample(1000, &run(&app)).is_empty());
    }

    #[test]
    fn the_processor_time_of_the_tree_is_counted() {
        let mut app = Fixture::python("print('x', flush=True)\nwhile True: pass");
        app.line();
        let mut sampler = Sampler::new();
        assert_eq!(only(sampler.sample(0, &run(&app))).cpu_percent, 0.0);
        let ticks = || Stat::of(app.leader().pid).unwrap().cpu_ticks;
        let begun = ticks();
        wait_until(|| ticks() >= begun + 20);
        // Twenty ticks are 0.2 s; said to have passed in 1 s they are a fifth of a core.
        let percent = only(sampler.sample(1000, &run(&app))).cpu_percent;
        assert!((20.0..100.0).contains(&percent), "{percent}");
        // Too soon for another figure; what is used meanwhile is charged to the next.
        assert_eq!(only(sampler.sample(1001, &run(&app))).cpu_percent, percent);
        // A clock set back does no harm.
        assert_eq!(only(sampler.sample(500, &run(&app))).cpu_percent, percent);
    }

    #[test]
    fn a_dead_childs_time_is_neither_lost_nor_counted_twice() {
        let mut app = Fixture::python(
            "import os, sys, time\n\
             input()\n\
             child = os.fork()\n\
             if not child:\n\
             \x20   while time.process_time() < 0.3: pass\n\
             \x20   print('burnt', flush=True)\n\
             \x20   os.read(0, 3)\n\
             \x20   os._exit(0)\n\
             os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)\n\
             print('zombie', flush=True)\n\
             input()\n\
             os.waitpid(child, 0)\n\
             print('reaped', flush=True)\n\
             input()",
        );
        let runs = run(&app);
        let total = |stat: Stat| stat.cpu_ticks + stat.child_cpu_ticks;
        let mut sampler = Sampler::new();
        let begun = total(Stat::of(app.leader().pid).unwrap());
        sampler.sample(0, &runs);
        app.tell();
        let mut percents = Vec::new();
        for (now, said) in [(1000, "burnt"), (2000, "zombie"), (3000, "reaped")] {
            assert_eq!(app.line(), said);
            percents.push(only(sampler.sample(now, &runs)).cpu_percent);
            app.tell();
        }
        // All of it is seen while the child burns; then the account changes hands, unseen.
        let ticks = total(Stat::of(app.leader().pid).unwrap()) - begun;
        let sum = percents.iter().sum::<f32>() * sampler.units.ticks_per_second as f32 / 100.0;
        assert!(percents[0] >= 25.0 && percents[1] < 10.0 && percents[2] < 10.0, "{percents:?}");
        // Each account is cut to whole ticks.
        assert!((sum - ticks as f32).abs() <= 6.0, "{sum} of {ticks} ticks: {percents:?}");
    }

    #[test]
    fn a_child_is_found_though_its_parent_used_no_time() {
        let mut app = Fixture::sh("read _; sleep 1000 & echo $!; read _");
        let mut sampler = Sampler::new();
        assert_eq!(only(sampler.sample(0, &run(&app))).processes, [app.leader().pid]);
        app.tell();
        let child = app.process();
        let usage = only(sampler.sample(1000, &run(&app)));
        assert_eq!(usage.processes, [app.leader().pid, child.pid]);
    }

    #[test]
    fn a_member_whose_parent_is_gone_still_counts() {
        let mut app =
            Fixture::sh("exec 3<&0; sh -c 'sleep 1000 & echo $!; read _ <&3' & wait; echo x; read _");
        let orphan = app.process();
        let mut sampler = Sampler::new();
        assert_eq!(only(sampler.sample(0, &run(&app))).processes.len(), 3);
        app.tell();
        app.line();
        let usage = only(sampler.sample(1000, &run(&app)));
        assert_eq!(usage.processes, [app.leader().pid, orphan.pid]);
    }

    #[test]
    fn a_reused_pid_is_nobody_we_know() {
        let app = Fixture::sh("read _");
        let mut sampler = Sampler::new();
        assert!(sampler.sample(0, &[(1, app.leader().pid, app.leader().start_time + 1)]).is_empty());
    }

    #[test]
    #[ignore = "a measurement: run it alone, optimised, with --nocapture"]
    fn what_a_sample_costs() {
        let threads = "import threading, time\n\
             for _ in range(11): threading.Thread(target=time.sleep, args=(1000,)).start()\n\
             print('x', flush=True)";
        for (what, instances) in [("sleep", 100), ("python3 of 12 threads", 100)] {
            let mut apps: Vec<Fixture> = (0..instances)
                .map(|_| {
                    if what == "sleep" {
                        Fixture::sh("echo x; exec sleep 1000")
                    } else {
                        Fixture::python(threads)
                    }
                })
                .collect();
            apps.iter_mut().for_each(|app| drop(app.line()));
            let runs: Vec<_> =
                (1..).zip(&apps).map(|(n, app)| (n, app.leader().pid, app.leader().start_time)).collect();
            let mut sampler = Sampler::new();
            sampler.sample(0, &runs);
            let used =
                || getrusage(UsageWho::RUSAGE_THREAD).map(|all| all.user_time() + all.system_time()).unwrap();
            let begun = used();
            for second in 1..=160 {
                sampler.sample(second * 1000, &runs);
            }
            let took = (used() - begun).num_microseconds() as f64 / 160.0 / f64::from(instances);
            println!("{what}: {took:.1} µs an instance");
        }
    }
}
