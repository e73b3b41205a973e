//! Samples the trees of all runs, cheaply enough to do it every second.
//!
//! An idle tree costs one read of an open file. Its members are looked for anew, and shared
//! memory is added up anew, only when it has used the processor since (a fork or a page fault
//! does), and now and then in any case.

use std::collections::HashMap;
use std::fs::File;

use super::Usage;
use crate::process::pidfd::ProcessRef;
use crate::process::proc_fs::{self, Stat};
use crate::process::tree;

/// A tree is looked at whole at least every so many samples.
const LOOK_EVERY: u32 = 10;

/// Remembers what it needs to say how much was used since the last time.
#[derive(Debug)]
pub struct Sampler {
    runs: HashMap<u64, Tracked>,
    page: u64,
    ticks_per_second: u64,
    most_percent: f64,
}

#[derive(Debug)]
struct Tracked {
    members: Vec<Tracee>,
    /// Clock ticks of all members, and of children that they have reaped: what one that ended had
    /// used is in its parent's then, so the sum only grows.
    ticks: u64,
    at: u64,
    since_look: u32,
    usage: Usage,
}

/// The open file speaks of one process for ever.
#[derive(Debug)]
struct Tracee {
    pid: i32,
    stat: File,
}

/// The sum over a tree.
#[derive(Default)]
struct Sum {
    ticks: u64,
    resident: u64,
    gone: bool,
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
        Self {
            runs: HashMap::new(),
            page: proc_fs::page_size(),
            ticks_per_second: proc_fs::ticks_per_second(),
            most_percent: cores as f64 * 100.0,
        }
    }

    /// What each of these runs (its number, first process, start time) uses. `now` is milliseconds
    /// on any clock that is not set back. Runs that are gone are left out and forgotten.
    pub fn sample(&mut self, now: u64, runs: &[(u64, i32, u64)]) -> Vec<(u64, Usage)> {
        let mut before = std::mem::take(&mut self.runs);
        let mut samples = Vec::with_capacity(runs.len());
        for (run, pid, start_time) in runs {
            let leader = ProcessRef { pid: *pid, start_time: *start_time };
            if let Some(tracked) = self.look(before.remove(run), leader, now) {
                samples.push((*run, tracked.usage.clone()));
                self.runs.insert(*run, tracked);
            }
        }
        samples
    }

    fn look(&self, before: Option<Tracked>, leader: ProcessRef, now: u64) -> Option<Tracked> {
        let Some(mut tracked) = before else { return self.first_look(leader, now) };
        let mut sum = add_up(&tracked.members);
        tracked.since_look += 1;
        let active = sum.ticks != tracked.ticks || sum.gone;
        if active || tracked.since_look >= LOOK_EVERY {
            tracked.members = open_members(leader);
            tracked.since_look = 0;
            sum = add_up(&tracked.members);
            if tracked.members.is_empty() {
                return None;
            }
        }
        let used = sum.ticks.saturating_sub(tracked.ticks);
        let milliseconds = now.saturating_sub(tracked.at).max(1);
        let percent = used as f64 * 1000.0 / self.ticks_per_second as f64 / milliseconds as f64 * 100.0;
        tracked.usage.cpu_percent = percent.min(self.most_percent) as f32;
        if active || tracked.since_look == 0 {
            tracked.usage.memory = self.memory(&tracked.members, sum.resident);
            tracked.usage.processes = tracked.members.iter().map(|member| member.pid).collect();
        }
        (tracked.ticks, tracked.at) = (sum.ticks, now);
        Some(tracked)
    }

    fn first_look(&self, leader: ProcessRef, now: u64) -> Option<Tracked> {
        let members = open_members(leader);
        let sum = add_up(&members);
        let usage = Usage {
            cpu_percent: 0.0,
            memory: self.memory(&members, sum.resident),
            processes: members.iter().map(|member| member.pid).collect(),
        };
        let tracked = Tracked { members, ticks: sum.ticks, at: now, since_look: 0, usage };
        (!tracked.members.is_empty()).then_some(tracked)
    }

    /// A process alone shares with nobody of its tree; several are added up in proportion.
    fn memory(&self, members: &[Tracee], resident: u64) -> u64 {
        let resident = resident * self.page;
        if members.len() < 2 {
            return resident;
        }
        let shares = members.iter().map(|member| proc_fs::proportional_memory(member.pid));
        shares.sum::<Option<u64>>().filter(|sum| *sum > 0).unwrap_or(resident)
    }
}

fn open_members(leader: ProcessRef) -> Vec<Tracee> {
    let open = |member: &tree::Member| {
        let pid = member.process.pid;
        proc_fs::open(pid).ok().map(|stat| Tracee { pid, stat })
    };
    tree::members(leader).iter().filter_map(open).collect()
}

fn add_up(members: &[Tracee]) -> Sum {
    let mut sum = Sum::default();
    for member in members {
        match Stat::read_from(&member.stat) {
            Ok(stat) if stat.state != b'Z' => {
                sum.ticks += stat.ticks;
                sum.resident += stat.resident;
            }
            Ok(_) | Err(_) => sum.gone = true,
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Child, Command, Stdio};

    use super::*;

    fn python(script: &str) -> (Child, ProcessRef) {
        let mut child = Command::new("python3")
            .args(["-c", script])
            .stdout(Stdio::piped())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut String::new()).unwrap();
        let process = ProcessRef::of(child.id().cast_signed()).unwrap();
        (child, process)
    }

    fn end(mut child: Child, process: ProcessRef) {
        for member in tree::members(process) {
            member.process.signal(libc::SIGKILL).unwrap();
        }
        child.wait().unwrap();
    }

    #[test]
    fn shared_pages_are_counted_once() {
        let script = "import os, sys\n\
            held = bytearray(os.urandom(1 << 20)) * 80\n\
            kids = [p for p in (os.fork() for _ in range(1)) if p]\n\
            print('x', flush=True) if kids else None\n\
            sys.stdin.read()";
        let (child, process) = python(script);
        let mut sampler = Sampler::new();
        let runs = [(1, process.pid, process.start_time)];
        let usage = sampler.sample(0, &runs)[0].1.clone();
        assert_eq!(usage.processes.len(), 2);
        let megabytes = usage.memory >> 20;
        assert!((80..140).contains(&megabytes), "{megabytes} MiB for 80 MiB shared by two");
        end(child, process);
        assert!(sampler.sample(1000, &runs).is_empty());
    }

    #[test]
    fn the_processor_time_of_the_tree_is_counted() {
        let (child, process) = python("print('x', flush=True)\nwhile True: pass");
        let mut sampler = Sampler::new();
        let runs = [(1, process.pid, process.start_time)];
        assert_eq!(sampler.sample(0, &runs)[0].1.cpu_percent, 0.0);
        let ticks = Stat::of(process.pid).unwrap().ticks;
        while Stat::of(process.pid).unwrap().ticks < ticks + 20 {
            std::thread::yield_now();
        }
        // Twenty ticks are 0.2 s; said to have passed in 1 s they are a fifth of a core.
        let percent = sampler.sample(1000, &runs)[0].1.cpu_percent;
        assert!((20.0..100.0).contains(&percent), "{percent}");
        end(child, process);
    }

    #[test]
    fn a_reused_pid_is_nobody_we_know() {
        let (child, process) = python("print('x', flush=True)\ninput()");
        let mut sampler = Sampler::new();
        assert!(sampler.sample(0, &[(1, process.pid, process.start_time + 1)]).is_empty());
        end(child, process);
    }
}
