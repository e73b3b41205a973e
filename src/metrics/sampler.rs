//! Samples the process trees of all runs, cheaply enough to do it every second.
//!
//! An idle process costs one read of an open file. A tree is searched for new members only if one of its
//! processes had a child, which [`PidWatcher`] detects for all trees at once, and every [`FULL_SCAN_ROUNDS`]
//! samples. Shared memory is read again only for processes that were active.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use nix::sys::resource::{Resource, getrlimit};

use super::Usage;
use crate::metrics::new_pids::{NewPids, PidWatcher};
use crate::metrics::tracked_process::FdBudget;
use crate::metrics::tracked_tree::{SystemUnits, TrackedTree};
use crate::process::proc::stat::{self, Stat};
use crate::process::process_ref::ProcessRef;

/// Number of samples after which a tree is searched anyway, in case a new process was not detected.
const FULL_SCAN_ROUNDS: u64 = 64;

/// Number of new pids per tree above which it is cheaper to search all trees.
const MAX_NEW_PIDS: usize = 4;

/// The sampler keeps files open up to this fraction of the daemon's limit of open files.
const FD_BUDGET_DIVISOR: u64 = 4;

/// Measures the usage of runs, each time since the previous sample.
#[derive(Debug)]
pub struct Sampler {
    runs: HashMap<u64, SampledRun>,
    units: SystemUnits,
    new_pids: PidWatcher,
    round: u64,
    /// The run of each known process; kept only to reuse its memory.
    run_by_pid: HashMap<i32, u64>,
}

#[derive(Debug)]
struct SampledRun {
    tree: TrackedTree,
    /// One of its processes may have had a child.
    has_grown: bool,
    /// The last sample that included it.
    round: u64,
}

impl Default for Sampler {
    fn default() -> Self {
        Self::new()
    }
}

impl Sampler {
    /// A sampler without runs.
    pub fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let files = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
        let units = SystemUnits {
            page_size: stat::page_size(),
            ticks_per_second: stat::ticks_per_second(),
            max_percent: cores as f64 * 100.0,
            fd_budget: FdBudget::new(usize::try_from(files / FD_BUDGET_DIVISOR).unwrap_or(usize::MAX)),
        };
        Self {
            runs: HashMap::new(),
            units,
            new_pids: PidWatcher::new(),
            round: 0,
            run_by_pid: HashMap::new(),
        }
    }

    /// The usage of each of these runs: its number, and pid and start time of its leader. `now` is in
    /// milliseconds, on any clock. The CPU usage is that since the previous sample, and 0 in the first sample
    /// of a run. Runs whose leader has exited are omitted; runs that are not in `runs` are removed.
    pub fn sample(&mut self, now: u64, runs: &[(u64, i32, u64)]) -> Vec<(u64, Usage)> {
        self.round += 1;
        // Before any tree is searched: a process that is created after this is detected by the next sample.
        match self.new_pids.poll() {
            NewPids::None => {}
            NewPids::Range(pids) if pids.clone().count() <= MAX_NEW_PIDS * (self.runs.len() + 16) => {
                self.mark_grown_trees(pids);
            }
            NewPids::Range(_) | NewPids::Unknown => {
                self.runs.values_mut().for_each(|entry| entry.has_grown = true)
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

    /// Marks the trees that contain the parent of a new pid. A new thread has the parent of its process,
    /// which may cause an unnecessary search, but no error.
    fn mark_grown_trees(&mut self, pids: RangeInclusive<i32>) {
        self.run_by_pid.clear();
        for (run, entry) in &self.runs {
            self.run_by_pid.extend(entry.tree.pids().map(|pid| (pid, *run)));
        }
        for stat in pids.filter_map(|pid| Stat::of(pid).ok()) {
            if let Some(entry) = self.run_by_pid.get(&stat.parent).and_then(|run| self.runs.get_mut(run)) {
                entry.has_grown = true;
            }
        }
    }

    fn sample_run(&mut self, run: u64, leader: ProcessRef, now: u64) -> Option<Usage> {
        if let Some(entry) = self.runs.get_mut(&run) {
            // Spread over several samples.
            let is_due = (self.round + run).is_multiple_of(FULL_SCAN_ROUNDS);
            let search = std::mem::take(&mut entry.has_grown) || is_due;
            if entry.tree.update(search, now, &self.units) {
                entry.round = self.round;
                return Some(entry.tree.usage.clone());
            }
            return None;
        }
        let tree = TrackedTree::new(leader, now, &self.units)?;
        let usage = tree.usage.clone();
        self.runs.insert(run, SampledRun { tree, has_grown: false, round: self.round });
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
    fn measures_cpu_time_of_tree() {
        let mut app = Fixture::python("print('x', flush=True)\nwhile True: pass");
        app.line();
        let mut sampler = Sampler::new();
        assert_eq!(only(sampler.sample(0, &run(&app))).cpu_percent, 0.0);
        let ticks = || Stat::of(app.leader().pid).unwrap().cpu_ticks;
        let start = ticks();
        wait_until(|| ticks() >= start + 20);
        // 20 ticks are 0.2 s: in an interval of 1 s, that is 20 % of a core.
        let percent = only(sampler.sample(1000, &run(&app))).cpu_percent;
        assert!((20.0..100.0).contains(&percent), "{percent}");
        // Too soon for a new value; the time since is counted in the next one.
        assert_eq!(only(sampler.sample(1001, &run(&app))).cpu_percent, percent);
        // A clock that is set back is ignored.
        assert_eq!(only(sampler.sample(500, &run(&app))).cpu_percent, percent);
    }

    #[test]
    fn counts_time_of_dead_child_once() {
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
        let start = total(Stat::of(app.leader().pid).unwrap());
        sampler.sample(0, &runs);
        app.send_line();
        let mut percents = Vec::new();
        for (now, expected) in [(1000, "burnt"), (2000, "zombie"), (3000, "reaped")] {
            assert_eq!(app.line(), expected);
            percents.push(only(sampler.sample(now, &runs)).cpu_percent);
            app.send_line();
        }
        // All time is counted while the child runs; when it is reaped, the parent's total already includes
        // it.
        let ticks = total(Stat::of(app.leader().pid).unwrap()) - start;
        let sum = percents.iter().sum::<f32>() * sampler.units.ticks_per_second as f32 / 100.0;
        assert!(percents[0] >= 25.0 && percents[1] < 10.0 && percents[2] < 10.0, "{percents:?}");
        // Each value is rounded down to whole ticks.
        assert!((sum - ticks as f32).abs() <= 6.0, "{sum} of {ticks} ticks: {percents:?}");
    }

    #[test]
    fn finds_child_of_idle_parent() {
        let mut app = Fixture::sh("read _; sleep 1000 & echo $!; read _");
        let mut sampler = Sampler::new();
        assert_eq!(only(sampler.sample(0, &run(&app))).processes, [app.leader().pid]);
        app.send_line();
        let child = app.process();
        let usage = only(sampler.sample(1000, &run(&app)));
        assert_eq!(usage.processes, [app.leader().pid, child.pid]);
    }

    #[test]
    fn counts_members_without_parent() {
        let mut app =
            Fixture::sh("exec 3<&0; sh -c 'sleep 1000 & echo $!; read _ <&3' & wait; echo x; read _");
        let orphan = app.process();
        let mut sampler = Sampler::new();
        assert_eq!(only(sampler.sample(0, &run(&app))).processes.len(), 3);
        app.send_line();
        app.line();
        let usage = only(sampler.sample(1000, &run(&app)));
        assert_eq!(usage.processes, [app.leader().pid, orphan.pid]);
    }

    #[test]
    fn ignores_reused_pid() {
        let app = Fixture::sh("read _");
        let mut sampler = Sampler::new();
        assert!(sampler.sample(0, &[(1, app.leader().pid, app.leader().start_time + 1)]).is_empty());
    }

    #[test]
    #[ignore = "a benchmark: run it alone, optimized, with --nocapture"]
    fn measures_cost_of_sample() {
        let threads = "import threading, time\n\
             for _ in range(11): threading.Thread(target=time.sleep, args=(1000,)).start()\n\
             print('x', flush=True)";
        for (kind, instances) in [("sleep", 100), ("python3 of 12 threads", 100)] {
            let mut apps: Vec<Fixture> = (0..instances)
                .map(|_| {
                    if kind == "sleep" {
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
            let start = used();
            for second in 1..=160 {
                sampler.sample(second * 1000, &runs);
            }
            let micros = (used() - start).num_microseconds() as f64 / 160.0 / f64::from(instances);
            println!("{kind}: {micros:.1} µs per instance");
        }
    }
}
