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

/// The keeper's children are looked through so often at most, when others keep coming.
const MOST_LOOKS: u32 = 16;

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
        if !stat.is_dead() {
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
    let mut left = HashMap::new();
    let mut there = children(keeper, 1);
    for _ in 0..MOST_LOOKS {
        left = adopted(&there, runs, mark, live);
        // One that ended meanwhile may have left its children to the keeper after we had its list.
        let now = children(keeper, 1);
        let came = now.iter().any(|child| !live.contains(child) && !there.contains(child));
        there = now;
        if !came {
            break;
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

/// What of the keeper's children belongs to these runs, and all below it.
fn adopted(
    there: &[i32],
    runs: &[RunLeft],
    mark: &str,
    live: &HashSet<i32>,
) -> HashMap<u64, Vec<ProcessRef>> {
    let by_leader: HashMap<i32, u64> = runs.iter().map(|left| (left.leader.pid, left.run)).collect();
    let numbers: HashSet<u64> = runs.iter().map(|left| left.run).collect();
    let mut left: HashMap<u64, Vec<ProcessRef>> = HashMap::new();
    let mut seen = HashSet::new();
    // The daemon is the keeper's child, too. Whatever its environment says (it may have been started
    // from within an app of another keeper, whose runs bear the same numbers), it is no app's.
    let me = std::process::id().cast_signed();
    for child in there.iter().copied().filter(|child| *child != me && !live.contains(child)) {
        let Ok(stat) = Stat::of(child) else { continue };
        let by_session = by_leader.get(&stat.session).or_else(|| by_leader.get(&stat.group)).copied();
        let by_mark = || variable(child, mark)?.parse().ok().filter(|run| numbers.contains(run));
        if let Some(run) = by_session.or_else(by_mark) {
            let mut found = Vec::new();
            descend(child, &mut found, &mut seen);
            left.entry(run).or_default().extend(found.into_iter().map(|member| member.process));
        } else if Stat::of(child).is_ok_and(|now| now.exiting && !now.is_dead()) {
            // Nobody can tell any more whose it was, and it has yet to leave its children to the keeper.
            // Until then none of these runs is over. (Asked only now: it may have begun to end between
            // the first look and the reading of its environment, which then fails.)
            for run in runs {
                left.entry(run.run).or_default().push(ProcessRef { pid: child, start_time: stat.start_time });
            }
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::fixture::Fixture;

    /// Children of a thread are listed with that thread; of a process's threads the first one
    /// adopts. Tests run beside each other, so what other ones left is nobody's here.
    fn left_of(app: &Fixture, run: u64) -> Vec<ProcessRef> {
        let me = std::process::id().cast_signed();
        let runs = [RunLeft { run, leader: app.leader() }];
        remains(me, &runs, "RSM_RUN", &HashSet::new()).remove(&run).unwrap_or_default()
    }

    fn number(app: &Fixture) -> u64 {
        app.run.parse().unwrap()
    }

    #[test]
    fn the_whole_tree_is_found_whatever_its_sessions() {
        let mut app = Fixture::sh("sleep 1000 & echo $!; setsid sleep 1000 & echo $!; read _");
        let said = HashSet::from([app.leader(), app.process(), app.process()]);
        let found: Vec<ProcessRef> = members(app.leader()).iter().map(|member| member.process).collect();
        assert_eq!(found[0], app.leader());
        assert_eq!(found.into_iter().collect::<HashSet<_>>(), said);
        assert!(members(ProcessRef { start_time: 1, ..app.leader() }).is_empty());
        app.kill_leader();
        assert!(members(app.leader()).is_empty());
    }

    #[test]
    fn what_is_left_is_known_by_its_session() {
        let mut app = Fixture::sh("(env -i sleep 1000 & echo $!); echo x; read _");
        let orphan = app.process();
        app.line();
        app.kill_leader();
        assert_eq!(left_of(&app, number(&app)), [orphan]);
        orphan.signal(libc::SIGKILL).unwrap();
        while orphan.runs() {
            std::thread::yield_now();
        }
        assert!(left_of(&app, number(&app)).is_empty(), "a zombie is not left");
    }

    #[test]
    fn what_is_left_is_known_by_its_mark() {
        let mut app = Fixture::sh("(setsid sleep 1000 & echo $!); echo x; read _");
        let orphan = app.process();
        app.line();
        while Stat::of(orphan.pid).unwrap().session == app.leader().pid {
            std::thread::yield_now();
        }
        app.kill_leader();
        assert_eq!(left_of(&app, number(&app)), [orphan]);
        let other = Fixture::sh("exit 0");
        assert!(left_of(&app, number(&other)).is_empty(), "nothing but the mark says whose it is");
    }

    #[test]
    fn the_first_process_of_another_run_is_let_alone() {
        let mut app = Fixture::sh("(sleep 1000 & echo $!); echo x; read _");
        let orphan = app.process();
        app.line();
        app.kill_leader();
        assert_eq!(left_of(&app, number(&app)), [orphan]);
        let runs = [RunLeft { run: number(&app), leader: app.leader() }];
        let live = HashSet::from([orphan.pid]);
        assert!(remains(std::process::id().cast_signed(), &runs, "RSM_RUN", &live).is_empty());
    }
}
