//! Whole trees: what lives below a process, and what is left when it is dead.
//!
//! While the first process of a run lives, its tree is what descends from it. When it dies, the
//! kernel gives all that is left to the keeper, the nearest subreaper above. There a process is
//! known as the run's by its session or process group (the dead leader's pid, which the kernel does
//! not give away while a member lives) or by the mark in its environment. One that opened a session
//! of its own and cleaned its environment and lost its parent is not found this way.

use std::collections::{HashMap, HashSet};

use super::pidfd::ProcessRef;
use super::proc_fs::{Stat, children, variable};

/// A process of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Which one.
    pub process: ProcessRef,
    /// Its process group.
    pub group: i32,
}

/// A run whose first process is dead.
#[derive(Clone, Copy, Debug)]
pub struct RunLeft {
    /// The run's number, as it stands in the environment of its processes.
    pub run: u64,
    /// Its first process.
    pub leader: ProcessRef,
}

/// The tree below a live process, that one first. Zombies are left out: they are gone but for the
/// record. Empty if the process is gone or another one has its pid.
pub fn members(leader: ProcessRef) -> Vec<Member> {
    let mut found = Vec::new();
    if Stat::of(leader.pid).is_ok_and(|stat| stat.start_time == leader.start_time) {
        descend(leader.pid, &mut found, &mut HashSet::new());
    }
    found
}

/// `seen` keeps a pid that is used again meanwhile from leading in circles.
fn descend(pid: i32, found: &mut Vec<Member>, seen: &mut HashSet<i32>) {
    let mut next = vec![pid];
    while let Some(pid) = next.pop() {
        let Ok(stat) = Stat::of(pid) else { continue };
        if !seen.insert(pid) {
            continue;
        }
        if stat.state != b'Z' {
            let process = ProcessRef { pid, start_time: stat.start_time };
            found.push(Member { process, group: stat.group });
        }
        next.extend(children(pid, stat.threads));
    }
}

/// What is left of each of these runs. `live` are the leaders of runs that go on; one look at the
/// keeper's children serves all.
pub fn remains(
    keeper: i32,
    runs: &[RunLeft],
    mark: &str,
    live: &HashSet<i32>,
) -> HashMap<u64, Vec<ProcessRef>> {
    let by_leader: HashMap<i32, u64> = runs.iter().map(|left| (left.leader.pid, left.run)).collect();
    let numbers: HashSet<u64> = runs.iter().map(|left| left.run).collect();
    let mut left: HashMap<u64, Vec<ProcessRef>> = HashMap::new();
    let mut seen = HashSet::new();
    let mut add = |run: u64, pid: i32| {
        let mut found = Vec::new();
        descend(pid, &mut found, &mut seen);
        left.entry(run).or_default().extend(found.into_iter().map(|member| member.process));
    };
    for child in children(keeper, 1).into_iter().filter(|child| !live.contains(child)) {
        let Ok(stat) = Stat::of(child) else { continue };
        let by_session = by_leader.get(&stat.session).or_else(|| by_leader.get(&stat.group)).copied();
        let by_mark = || variable(child, mark)?.parse().ok().filter(|run| numbers.contains(run));
        if let Some(run) = by_session.or_else(by_mark) {
            add(run, child);
        }
    }
    // A leader that nobody is the parent of any more (the keeper died) may still be there.
    for run in runs {
        for member in if run.leader.runs() { members(run.leader) } else { Vec::new() } {
            left.entry(run.run).or_default().push(member.process);
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Child, Command, Stdio};

    use super::*;

    fn sh(script: &str) -> (Child, Vec<i32>) {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdout(Stdio::piped()).env("RSM_TREE_TEST", "77");
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        (child, line.split_whitespace().map(|pid| pid.parse().unwrap()).collect())
    }

    #[test]
    fn the_whole_tree_is_found_whatever_its_sessions() {
        let (mut child, said) = sh("sleep 1000 & a=$!; setsid sleep 1000 & b=$!; echo $a $b; wait");
        let leader = ProcessRef::of(child.id().cast_signed()).unwrap();
        let pids: HashSet<i32> = members(leader).iter().map(|member| member.process.pid).collect();
        assert!(
            said.iter().all(|pid| pids.contains(pid)) && pids.contains(&leader.pid),
            "{said:?} in {pids:?}"
        );
        let stranger = ProcessRef { start_time: 1, ..leader };
        assert!(members(stranger).is_empty());
        for member in members(leader) {
            member.process.signal(libc::SIGKILL).unwrap();
        }
        child.wait().unwrap();
        assert!(members(leader).is_empty());
    }

    #[test]
    fn what_is_left_is_known_by_its_mark() {
        // This process plays the keeper.
        nix::sys::prctl::set_child_subreaper(true).unwrap();
        let (mut child, said) = sh("(setsid sh -c 'echo $$; exec sleep 1000' &)");
        let leader = ProcessRef { pid: child.id().cast_signed(), start_time: 1 };
        child.wait().unwrap();
        let me = std::process::id().cast_signed();
        let run = RunLeft { run: 77, leader };
        // Children of a thread are listed with that thread: the first one adopts.
        let left = remains(me, &[run], "RSM_TREE_TEST", &HashSet::new());
        let left = left.get(&77).cloned().unwrap_or_default();
        assert_eq!(left.iter().map(|process| process.pid).collect::<Vec<_>>(), said);
        assert!(remains(me, &[RunLeft { run: 78, leader }], "RSM_TREE_TEST", &HashSet::new()).is_empty());
        left[0].signal(libc::SIGKILL).unwrap();
    }
}
