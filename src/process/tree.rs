//! Process trees of runs, and the orphans that remain after their leader has exited.
//!
//! While the leader of a run is running, its tree consists of its descendants. When it exits, the kernel
//! reparents the rest to the keeper, the nearest subreaper. The keeper's children belong to a run if their
//! session or process group is the pid of its leader, which the kernel does not reuse while a member exists,
//! if they have its tag (see [`super::run_tag`]), or if they have its run marker in their environment.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::proc::environ::env_var;
use super::proc::stat::{Stat, all_pids, children, comm};
use super::proc::status;
use super::process_ref::ProcessRef;
use super::run_tag::RunTag;

/// Maximum number of scans of the keeper's children while new ones appear.
const MAX_SCANS: u32 = 16;

/// The name of a daemon: the keeper's child that belongs to no run, also if it cannot exit.
const DAEMON_NAME: &str = "rsm-daemon";

/// A process of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeMember {
    pub process: ProcessRef,
    pub parent: i32,
    pub group: i32,
    pub session: i32,
    /// It is exiting: it executes no program any more, unless another thread of it is running.
    pub is_exiting: bool,
    /// False if it is exiting and its run cannot be determined: it is then a member of each run.
    pub is_assigned: bool,
}

impl TreeMember {
    fn new(pid: i32, stat: Stat) -> Self {
        let process = ProcessRef { pid, start_time: stat.start_time };
        let is_exiting = stat.exiting && stat.threads <= 1;
        let Stat { parent, group, session, .. } = stat;
        Self { process, parent, group, session, is_exiting, is_assigned: true }
    }
}

/// A run whose leader has exited.
#[derive(Clone, Copy, Debug)]
pub struct EndedRun {
    /// Its number, as in the run marker.
    pub run: u64,
    pub leader: ProcessRef,
    pub orphans: OrphanScope,
}

/// Where to search for the orphans of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrphanScope {
    /// Among the children of the keeper, which was the parent of the leader.
    KeeperChildren,
    /// Among all processes: the keeper that started the run has died.
    System,
    /// Among all processes, but only by run marker: it is not known when the leader exited, so its pid may be
    /// the session or group of another program by now.
    SystemUnverified,
}

/// The environment variable that identifies the run of a process: its value is the number of the run and the
/// owner, because several instances of rsm use the same numbers.
#[derive(Clone, Debug)]
pub struct RunMarker {
    pub name: &'static str,
    /// Distinguishes this rsm from others on the machine.
    pub owner: String,
}

impl RunMarker {
    /// The value of the variable for a run.
    pub fn value(&self, run: u64) -> String {
        format!("{run}@{}", self.owner)
    }

    /// The tag of the processes of a run.
    pub fn tag(&self, run: u64) -> RunTag {
        RunTag::new(&self.value(run))
    }

    /// The run in the environment of a process.
    fn run_of(&self, pid: i32) -> Option<u64> {
        let value = env_var(pid, self.name)?;
        let (run, owner) = value.split_once('@')?;
        run.parse().ok().filter(|_| owner == self.owner)
    }
}

/// All runs that have a process with this marker, each with its leader: the oldest session leader. `None` if
/// no process of the run is a session leader: the leader has exited.
///
/// Any user can start processes with any marker. `users` are those as whom apps run; processes of other users are
/// ignored, and `is_user` tells whether a run can have processes of a user.
pub fn find_marked(
    marker: &RunMarker,
    users: &HashSet<u32>,
    is_user: impl Fn(u64, u32) -> bool,
) -> BTreeMap<u64, Option<ProcessRef>> {
    let mut runs: BTreeMap<u64, Option<ProcessRef>> = BTreeMap::new();
    for pid in all_pids() {
        let Some(stat) = Stat::of(pid).ok().filter(|stat| !stat.is_dead()) else { continue };
        let Some(ids) = status::user_ids(pid).filter(|ids| ids.iter().all(|id| users.contains(id))) else {
            continue;
        };
        let Some(run) = marker.run_of(pid) else { continue };
        // Processes of runs of previous versions have no tag.
        let has_own_tag = RunTag::of(pid).is_none_or(|tag| tag == marker.tag(run));
        if !has_own_tag || !ids.iter().all(|id| is_user(run, *id)) {
            continue;
        }
        let oldest = runs.entry(run).or_default();
        let older = |other: ProcessRef| (stat.start_time, pid) < (other.start_time, other.pid);
        if stat.session == pid && oldest.is_none_or(older) {
            *oldest = Some(ProcessRef { pid, start_time: stat.start_time });
        }
    }
    runs
}

/// The process tree of a running leader, the leader first, without zombies. Empty if the leader does not
/// exist any more.
pub fn tree_members(leader: ProcessRef) -> Vec<TreeMember> {
    let mut found = Vec::new();
    if Stat::of(leader.pid).is_ok_and(|stat| stat.start_time == leader.start_time) {
        collect_descendants(leader.pid, &mut found, &mut HashSet::new());
    }
    found
}

/// `seen` prevents an endless loop if a pid is reused during the search.
fn collect_descendants(pid: i32, found: &mut Vec<TreeMember>, seen: &mut HashSet<i32>) {
    let mut next = vec![pid];
    while let Some(pid) = next.pop() {
        let Ok(stat) = Stat::of(pid) else { continue };
        if !seen.insert(pid) {
            continue;
        }
        if !stat.is_dead() {
            found.push(TreeMember::new(pid, stat));
        }
        next.extend(children(pid, stat.threads));
    }
}

/// The remaining processes of each of these runs, parents before their children. `live` contains the leaders of running
/// runs. One scan of the keeper's children serves all runs.
///
/// In a search among all processes, tags and markers count only in processes of `users`, of the user of rsm and of the
/// users of running leaders: any other user can start processes with any marker.
pub fn find_remaining(
    keeper: i32,
    runs: &[EndedRun],
    marker: &RunMarker,
    live: &HashSet<i32>,
    users: &HashSet<u32>,
) -> HashMap<u64, Vec<TreeMember>> {
    let (own, foreign): (Vec<EndedRun>, Vec<EndedRun>) =
        runs.iter().partition(|run| run.orphans == OrphanScope::KeeperChildren);
    let mut remaining = HashMap::new();
    if !own.is_empty() {
        remaining.extend(find_adopted(|| children(keeper, 1), |_| true, &own, marker, live));
    }
    if !foreign.is_empty() {
        let is_candidate = |pid: &i32| *pid != keeper && *pid > 1;
        let scan = || all_pids().into_iter().filter(is_candidate).collect();
        let mut users = users.clone();
        users.insert(nix::unistd::geteuid().as_raw());
        let leaders = foreign.iter().map(|run| run.leader.pid).chain(live.iter().copied());
        users.extend(leaders.filter_map(status::user_ids).flatten());
        let is_trusted =
            |pid| status::user_ids(pid).is_some_and(|ids| ids.iter().all(|id| users.contains(id)));
        remaining.extend(find_adopted(scan, is_trusted, &foreign, marker, live));
    }
    // A leader whose keeper has died may still be running.
    for run in runs {
        for member in if run.leader.is_running() { tree_members(run.leader) } else { Vec::new() } {
            remaining.entry(run.run).or_default().push(member);
        }
    }
    // A scan of all processes may list a child before its parent.
    remaining.values_mut().for_each(|members| members.sort_by_key(|member| member.process.start_time));
    remaining
}

/// The processes of these runs among the results of `scan`, with their descendants.
fn find_adopted(
    scan: impl Fn() -> Vec<i32>,
    is_trusted: impl Fn(i32) -> bool,
    runs: &[EndedRun],
    marker: &RunMarker,
    live: &HashSet<i32>,
) -> HashMap<u64, Vec<TreeMember>> {
    let mut pids = scan();
    let mut remaining = HashMap::new();
    for _ in 0..MAX_SCANS {
        remaining = group_by_run(&pids, &is_trusted, runs, marker, live);
        // A process that exited after the scan may have left its children to the keeper since.
        let new_pids = scan();
        let has_new = new_pids.iter().any(|child| !live.contains(child) && !pids.contains(child));
        pids = new_pids;
        if !has_new {
            break;
        }
    }
    remaining
}

fn group_by_run(
    pids: &[i32],
    is_trusted: impl Fn(i32) -> bool,
    runs: &[EndedRun],
    marker: &RunMarker,
    live: &HashSet<i32>,
) -> HashMap<u64, Vec<TreeMember>> {
    // A run without a known leader has no session. Session 0 is that of kernel threads, and of processes
    // whose session leader is outside of this container.
    let verified =
        runs.iter().filter(|run| run.orphans != OrphanScope::SystemUnverified && run.leader.pid > 1);
    let by_leader: HashMap<i32, u64> = verified.map(|run| (run.leader.pid, run.run)).collect();
    let at_keeper = runs.iter().all(|run| run.orphans == OrphanScope::KeeperChildren);
    let by_tag: HashMap<RunTag, u64> = runs.iter().map(|run| (marker.tag(run.run), run.run)).collect();
    let numbers: HashSet<u64> = runs.iter().map(|run| run.run).collect();
    let mut remaining: HashMap<u64, Vec<TreeMember>> = HashMap::new();
    let mut seen = HashSet::new();
    // The daemon is also a child of the keeper. It belongs to no app, even if it has a run marker because it
    // was started from an app of another keeper.
    let me = std::process::id().cast_signed();
    for child in pids.iter().copied().filter(|child| *child != me && !live.contains(child)) {
        let Ok(stat) = Stat::of(child) else { continue };
        let by_session = by_leader.get(&stat.session).or_else(|| by_leader.get(&stat.group)).copied();
        if by_session.is_none() && (stat.is_dead() || !is_trusted(child)) {
            continue;
        }
        let tag = if by_session.is_none() { RunTag::of(child) } else { None };
        let by_tag = tag.and_then(|tag| by_tag.get(&tag)).copied();
        // Reading an environment is expensive, so only that of a process whose limits were changed is read.
        let by_marker = || marker.run_of(child).filter(|run| tag.is_none() && numbers.contains(run));
        if let Some(run) = by_session.or(by_tag).or_else(by_marker) {
            let mut found = Vec::new();
            collect_descendants(child, &mut found, &mut seen);
            remaining.entry(run).or_default().extend(found);
        } else if at_keeper
            && tag.is_none()
            && Stat::of(child).is_ok_and(|now| now.exiting && !now.is_dead())
            && comm(child) != DAEMON_NAME
        {
            // Its run cannot be determined any more, and its children are not reparented yet: until then, no
            // run is complete. It is read again here because it may have begun to exit after the first read,
            // so that its environment could not be read.
            for run in runs {
                let member = TreeMember { is_assigned: false, ..TreeMember::new(child, stat) };
                remaining.entry(run.run).or_default().push(member);
            }
        }
    }
    remaining
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::fixture::{Fixture, wait_until};

    /// The remaining processes of a run. The test process is the keeper: orphans are listed as children of
    /// its main thread, together with those of other tests.
    fn remaining(app: &Fixture, run: u64) -> Vec<ProcessRef> {
        let me = std::process::id().cast_signed();
        let find = |orphans| {
            let runs = [EndedRun { run, leader: app.leader(), orphans }];
            let found = find_remaining(me, &runs, &marker(), &HashSet::new(), &HashSet::new()).remove(&run);
            found.unwrap_or_default().into_iter().map(|member| member.process).collect::<Vec<_>>()
        };
        let found = find(OrphanScope::KeeperChildren);
        assert_eq!(find(OrphanScope::System), found);
        found
    }

    fn marker() -> RunMarker {
        RunMarker { name: "RSM_RUN", owner: "/fixture".into() }
    }

    fn number(app: &Fixture) -> u64 {
        app.run.parse().unwrap()
    }

    #[test]
    fn finds_whole_tree_in_all_sessions() {
        let mut app = Fixture::sh("sleep 1000 & echo $!; setsid sleep 1000 & echo $!; read _");
        let expected = HashSet::from([app.leader(), app.process(), app.process()]);
        let found: Vec<ProcessRef> = tree_members(app.leader()).iter().map(|member| member.process).collect();
        assert_eq!(found[0], app.leader());
        assert_eq!(found.into_iter().collect::<HashSet<_>>(), expected);
        assert!(tree_members(ProcessRef { start_time: 1, ..app.leader() }).is_empty());
        app.kill_leader();
        assert!(tree_members(app.leader()).is_empty());
    }

    #[test]
    fn finds_orphans_by_session() {
        let mut app = Fixture::sh("(env -i sleep 1000 & echo $!); echo x; read _");
        let orphan = app.process();
        app.line();
        app.kill_leader();
        assert_eq!(remaining(&app, number(&app)), [orphan]);
        orphan.signal(libc::SIGKILL).unwrap();
        wait_until(|| !orphan.is_running());
        assert!(remaining(&app, number(&app)).is_empty(), "a zombie does not remain");
    }

    #[test]
    fn finds_orphans_by_marker() {
        let mut app = Fixture::sh("(setsid sleep 1000 & echo $!); echo x; read _");
        let orphan = app.process();
        app.line();
        wait_until(|| Stat::of(orphan.pid).unwrap().session != app.leader().pid);
        app.kill_leader();
        assert_eq!(remaining(&app, number(&app)), [orphan]);
        let mut other = Fixture::sh("exit 0");
        other.wait();
        assert!(remaining(&app, number(&other)).is_empty(), "only the marker identifies the run");
    }

    #[test]
    fn run_without_leader_has_no_session() {
        let leader = ProcessRef { pid: 0, start_time: 0 };
        let runs = [EndedRun { run: u64::MAX, leader, orphans: OrphanScope::System }];
        assert!(
            find_remaining(1, &runs, &marker(), &HashSet::new(), &HashSet::new()).is_empty(),
            "kernel threads have session 0"
        );
    }

    #[test]
    fn ignores_leaders_of_running_runs() {
        let mut app = Fixture::sh("(sleep 1000 & echo $!); echo x; read _");
        let orphan = app.process();
        app.line();
        app.kill_leader();
        assert_eq!(remaining(&app, number(&app)), [orphan]);
        let orphans = OrphanScope::KeeperChildren;
        let runs = [EndedRun { run: number(&app), leader: app.leader(), orphans }];
        let live = HashSet::from([orphan.pid]);
        assert!(
            find_remaining(std::process::id().cast_signed(), &runs, &marker(), &live, &HashSet::new())
                .is_empty()
        );
        // Without a verified leader only the marker counts.
        let runs = [EndedRun { orphans: OrphanScope::SystemUnverified, ..runs[0] }];
        let by_marker = |owner| {
            let marker = RunMarker { owner: String::from(owner), ..marker() };
            find_remaining(std::process::id().cast_signed(), &runs, &marker, &HashSet::new(), &HashSet::new())
                .remove(&number(&app))
        };
        assert_eq!(by_marker("/fixture").unwrap()[0].process, orphan);
        assert!(by_marker("/another").is_none());
    }
}
