//! Whole trees: what lives below a process, and what is left when it is dead.
//!
//! While the first process of a run lives, its tree is what descends from it. When it dies, the
//! kernel gives all_pids that is left to the keeper, the nearest subreaper above. There a process is
//! known as the run's by its session or process group (the dead leader's pid, which the kernel does
//! not give away while a member lives) or by the mark in its environment. One that opened a session
//! of its own and cleaned its environment and lost its parent is not found this way.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::proc::environ::env_var;
use super::proc::stat::{Stat, all_pids, children};
use super::process_ref::ProcessRef;

/// The keeper's children are looked through so often at most, when others keep coming.
const MAX_SCANS: u32 = 16;

/// A process of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeMember {
    /// Which one.
    pub process: ProcessRef,
    /// Its process group.
    pub group: i32,
}

/// A run whose first process is dead.
#[derive(Clone, Copy, Debug)]
pub struct EndedRun {
    /// The run's number, as it stands in the environment of its processes.
    pub run: u64,
    /// Its first process.
    pub leader: ProcessRef,
    /// Where its orphans are.
    pub orphans: OrphanScope,
}

/// Who took in what a run left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrphanScope {
    /// The keeper, whose child the run's first process was.
    KeeperChildren,
    /// Whoever adopts on this machine: the keeper that began the run is dead.
    System,
    /// The same, and nobody saw the first process end: what has its pid as session or group may be a
    /// stranger's by now.
    SystemUnverified,
}

/// By what env_var of its environment a process is known as one of ours: the run's number and,
/// since runs of another rsm bear the same numbers, whose it is.
#[derive(Clone, Debug)]
pub struct RunMarker {
    /// The env_var.
    pub name: &'static str,
    /// What tells our runs from those of others.
    pub owner: String,
}

impl RunMarker {
    /// The env_var's value for a run.
    pub fn value(&self, run: u64) -> String {
        format!("{run}@{}", self.owner)
    }

    /// The run that a process belongs to by its environment.
    fn run_of(&self, pid: i32) -> Option<u64> {
        let value = env_var(pid, self.name)?;
        let (run, owner) = value.split_once('@')?;
        run.parse().ok().filter(|_| owner == self.owner)
    }
}

/// All runs of which a process bears this mark, with their first process: of those that lead a
/// session the oldest. None where no process of the run leads one: the first one is gone.
pub fn find_marked(mark: &RunMarker) -> BTreeMap<u64, Option<ProcessRef>> {
    let mut runs: BTreeMap<u64, Option<ProcessRef>> = BTreeMap::new();
    for pid in all_pids() {
        let Some(stat) = Stat::of(pid).ok().filter(|stat| !stat.is_dead()) else { continue };
        let Some(run) = mark.run_of(pid) else { continue };
        let oldest = runs.entry(run).or_default();
        let older = |other: ProcessRef| (stat.start_time, pid) < (other.start_time, other.pid);
        if stat.session == pid && oldest.is_none_or(older) {
            *oldest = Some(ProcessRef { pid, start_time: stat.start_time });
        }
    }
    runs
}

/// The tree below a live process, that one first. Zombies are left out: they are gone but for the
/// record. Empty if the process is gone or another one has its pid.
pub fn tree_members(leader: ProcessRef) -> Vec<TreeMember> {
    let mut found = Vec::new();
    if Stat::of(leader.pid).is_ok_and(|stat| stat.start_time == leader.start_time) {
        collect_descendants(leader.pid, &mut found, &mut HashSet::new());
    }
    found
}

/// `seen` keeps a pid that is used again meanwhile from leading in circles.
fn collect_descendants(pid: i32, found: &mut Vec<TreeMember>, seen: &mut HashSet<i32>) {
    let mut next = vec![pid];
    while let Some(pid) = next.pop() {
        let Ok(stat) = Stat::of(pid) else { continue };
        if !seen.insert(pid) {
            continue;
        }
        if !stat.is_dead() {
            let process = ProcessRef { pid, start_time: stat.start_time };
            found.push(TreeMember { process, group: stat.group });
        }
        next.extend(children(pid, stat.threads));
    }
}

/// What is left of each of these runs. `live` are the leaders of runs that go on; one look at the
/// keeper's children serves all_pids.
pub fn find_remaining(
    keeper: i32,
    runs: &[EndedRun],
    mark: &RunMarker,
    live: &HashSet<i32>,
) -> HashMap<u64, Vec<ProcessRef>> {
    let (ours, others): (Vec<EndedRun>, Vec<EndedRun>) =
        runs.iter().partition(|run| run.orphans == OrphanScope::KeeperChildren);
    let mut left = HashMap::new();
    if !ours.is_empty() {
        left.extend(find_adopted(|| children(keeper, 1), &ours, mark, live));
    }
    if !others.is_empty() {
        let known = |pid: &i32| *pid != keeper && *pid > 1;
        left.extend(find_adopted(|| all_pids().into_iter().filter(known).collect(), &others, mark, live));
    }
    // A leader that nobody is the parent of any more (the keeper died) may still be there.
    for run in runs {
        for member in if run.leader.is_running() { tree_members(run.leader) } else { Vec::new() } {
            left.entry(run.run).or_default().push(member.process);
        }
    }
    left
}

/// What belongs to these runs among the processes that `look` gives, and all_pids below it.
fn find_adopted(
    look: impl Fn() -> Vec<i32>,
    runs: &[EndedRun],
    mark: &RunMarker,
    live: &HashSet<i32>,
) -> HashMap<u64, Vec<ProcessRef>> {
    let mut there = look();
    let mut left = HashMap::new();
    for _ in 0..MAX_SCANS {
        left = group_by_run(&there, runs, mark, live);
        // One that ended meanwhile may have left its children to the keeper after we had its list.
        let now = look();
        let came = now.iter().any(|child| !live.contains(child) && !there.contains(child));
        there = now;
        if !came {
            break;
        }
    }
    left
}

fn group_by_run(
    there: &[i32],
    runs: &[EndedRun],
    mark: &RunMarker,
    live: &HashSet<i32>,
) -> HashMap<u64, Vec<ProcessRef>> {
    // Without a first process that was ever seen there is no session either; number 0 is that of the
    // kernel's own threads, and of processes whose session began outside of this container.
    let seen_to_the_end =
        runs.iter().filter(|left| left.orphans != OrphanScope::SystemUnverified && left.leader.pid > 1);
    let by_leader: HashMap<i32, u64> = seen_to_the_end.map(|left| (left.leader.pid, left.run)).collect();
    let at_keeper = runs.iter().all(|left| left.orphans == OrphanScope::KeeperChildren);
    let numbers: HashSet<u64> = runs.iter().map(|left| left.run).collect();
    let mut left: HashMap<u64, Vec<ProcessRef>> = HashMap::new();
    let mut seen = HashSet::new();
    // The daemon is the keeper's child, too. Whatever its environment says (it may have been started
    // from within an app of another keeper, whose runs bear the same numbers), it is no app's.
    let me = std::process::id().cast_signed();
    for child in there.iter().copied().filter(|child| *child != me && !live.contains(child)) {
        let Ok(stat) = Stat::of(child) else { continue };
        let by_session = by_leader.get(&stat.session).or_else(|| by_leader.get(&stat.group)).copied();
        let by_mark = || mark.run_of(child).filter(|run| numbers.contains(run));
        if let Some(run) = by_session.or_else(by_mark) {
            let mut found = Vec::new();
            collect_descendants(child, &mut found, &mut seen);
            left.entry(run).or_default().extend(found.into_iter().map(|member| member.process));
        } else if at_keeper && Stat::of(child).is_ok_and(|now| now.exiting && !now.is_dead()) {
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
    use crate::process::fixture::{Fixture, wait_until};

    /// Children of a thread are listed with that thread; of a process's threads the first one
    /// adopts. Tests run beside each other, so what other ones left is nobody's here.
    fn left_of(app: &Fixture, run: u64) -> Vec<ProcessRef> {
        let me = std::process::id().cast_signed();
        let look = |orphans| {
            let runs = [EndedRun { run, leader: app.leader(), orphans }];
            find_remaining(me, &runs, &mark(), &HashSet::new()).remove(&run).unwrap_or_default()
        };
        let left = look(OrphanScope::KeeperChildren);
        assert_eq!(look(OrphanScope::System), left);
        left
    }

    fn mark() -> RunMarker {
        RunMarker { name: "RSM_RUN", owner: "/fixture".into() }
    }

    fn number(app: &Fixture) -> u64 {
        app.run.parse().unwrap()
    }

    #[test]
    fn the_whole_tree_is_found_whatever_its_sessions() {
        let mut app = Fixture::sh("sleep 1000 & echo $!; setsid sleep 1000 & echo $!; read _");
        let said = HashSet::from([app.leader(), app.process(), app.process()]);
        let found: Vec<ProcessRef> = tree_members(app.leader()).iter().map(|member| member.process).collect();
        assert_eq!(found[0], app.leader());
        assert_eq!(found.into_iter().collect::<HashSet<_>>(), said);
        assert!(tree_members(ProcessRef { start_time: 1, ..app.leader() }).is_empty());
        app.kill_leader();
        assert!(tree_members(app.leader()).is_empty());
    }

    #[test]
    fn what_is_left_is_known_by_its_session() {
        let mut app = Fixture::sh("(env -i sleep 1000 & echo $!); echo x; read _");
        let orphan = app.process();
        app.line();
        app.kill_leader();
        assert_eq!(left_of(&app, number(&app)), [orphan]);
        orphan.signal(libc::SIGKILL).unwrap();
        wait_until(|| !orphan.is_running());
        assert!(left_of(&app, number(&app)).is_empty(), "a zombie is not left");
    }

    #[test]
    fn what_is_left_is_known_by_its_mark() {
        let mut app = Fixture::sh("(setsid sleep 1000 & echo $!); echo x; read _");
        let orphan = app.process();
        app.line();
        wait_until(|| Stat::of(orphan.pid).unwrap().session != app.leader().pid);
        app.kill_leader();
        assert_eq!(left_of(&app, number(&app)), [orphan]);
        let mut other = Fixture::sh("exit 0");
        other.wait();
        assert!(left_of(&app, number(&other)).is_empty(), "nothing but the mark says whose it is");
    }

    #[test]
    fn a_run_without_first_process_has_no_session() {
        let leader = ProcessRef { pid: 0, start_time: 0 };
        let runs = [EndedRun { run: u64::MAX, leader, orphans: OrphanScope::System }];
        assert!(find_remaining(1, &runs, &mark(), &HashSet::new()).is_empty(), "that of kernel threads is 0");
    }

    #[test]
    fn the_first_process_of_another_run_is_let_alone() {
        let mut app = Fixture::sh("(sleep 1000 & echo $!); echo x; read _");
        let orphan = app.process();
        app.line();
        app.kill_leader();
        assert_eq!(left_of(&app, number(&app)), [orphan]);
        let orphans = OrphanScope::KeeperChildren;
        let runs = [EndedRun { run: number(&app), leader: app.leader(), orphans }];
        let live = HashSet::from([orphan.pid]);
        assert!(find_remaining(std::process::id().cast_signed(), &runs, &mark(), &live).is_empty());
        // One whose first process nobody saw end is known by its mark alone.
        let runs = [EndedRun { orphans: OrphanScope::SystemUnverified, ..runs[0] }];
        let by_mark = |owner| {
            let mark = RunMarker { owner: String::from(owner), ..mark() };
            find_remaining(std::process::id().cast_signed(), &runs, &mark, &HashSet::new())
                .remove(&number(&app))
        };
        assert_eq!(by_mark("/fixture"), Some(vec![orphan]));
        assert_eq!(by_mark("/another"), None);
    }
}
