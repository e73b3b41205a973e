//! `RunTable`: the runs of this daemon, and the sockets that their processes have open.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cluster::calls::inspect::RecordedOptions;
use crate::cluster::mechanism::Mechanism;
use crate::process::proc::fds;
use crate::process::process_ref::ProcessRef;
use crate::process::seccomp::Notifier;
use crate::process::tree::{self, EndedRun, OrphanScope, RunMarker};

/// A run that starts, or that continues under this daemon.
#[derive(Debug)]
pub struct RunStarted {
    /// Key of the run, which no other run has.
    pub run: u64,
    /// Name of its app.
    pub app: String,
    /// Slot of the app.
    pub slot: u32,
    /// First process.
    pub leader: ProcessRef,
    /// How it gets its sockets.
    pub mechanism: Mechanism,
    /// Why this mechanism was chosen.
    pub reason: String,
    /// Seccomp listener, if its calls are supervised.
    pub notifier: Option<OwnedFd>,
    /// Port for debuggers (Node's inspector): listening on it does not mean that the app is ready.
    pub inspector_port: Option<u16>,
}

/// How the processes of runs are found.
#[derive(Clone, Debug)]
pub struct TreeContext {
    /// Parent of all leaders that it forked, and of orphans of their trees.
    pub keeper: i32,
    /// Where orphans are: anywhere if another keeper forked some of the runs.
    pub orphans: OrphanScope,
    /// Environment variable of all processes of a run.
    pub marker: RunMarker,
}

/// A run under this daemon.
#[derive(Debug)]
pub(crate) struct LiveRun {
    leader: ProcessRef,
    mechanism: Mechanism,
    reason: String,
    mechanism_published: bool,
    notifier: Option<Arc<Notifier>>,
    options: RecordedOptions,
    first_listen: Option<Instant>,
    draining_since: Option<Instant>,
    inspector_port: Option<u16>,
}

impl LiveRun {
    /// Whether a port is the one for debuggers.
    pub fn is_inspector(&self, port: u16) -> bool {
        self.inspector_port == Some(port)
    }

    pub fn leader(&self) -> ProcessRef {
        self.leader
    }

    pub fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    pub fn notifier(&self) -> Option<Arc<Notifier>> {
        self.notifier.clone()
    }

    /// Options that were set on its sockets, as far as they cannot be read.
    pub fn options(&self) -> &RecordedOptions {
        &self.options
    }

    pub fn options_mut(&mut self) -> &mut RecordedOptions {
        &mut self.options
    }

    pub fn record_listen(&mut self) {
        self.first_listen.get_or_insert_with(Instant::now);
    }

    /// Whether it has listened for longer than this.
    pub fn has_listened_for(&self, duration: Duration) -> bool {
        self.first_listen.is_some_and(|first_listen| first_listen.elapsed() > duration)
    }

    /// Records whether it gets new connections.
    pub fn set_draining(&mut self, draining: bool) {
        self.draining_since = draining.then(Instant::now);
    }

    /// Whether it has been draining for less than this.
    pub fn is_draining_within(&self, duration: Duration) -> bool {
        self.draining_since.is_some_and(|since| since.elapsed() < duration)
    }

    /// Mechanism and reason, at the first call only.
    pub fn take_unpublished_mechanism(&mut self) -> Option<(Mechanism, String)> {
        let published = std::mem::replace(&mut self.mechanism_published, true);
        (!published).then(|| (self.mechanism, self.reason.clone()))
    }
}

/// Runs under this daemon, by key.
#[derive(Debug)]
pub(crate) struct RunTable {
    context: TreeContext,
    live: BTreeMap<u64, LiveRun>,
}

impl RunTable {
    pub fn new(context: TreeContext) -> Self {
        Self { context, live: BTreeMap::new() }
    }

    /// Adds a run. `has_listened`, `draining`: what is known of it from a previous daemon.
    pub fn add(&mut self, started: RunStarted, has_listened: bool, draining: bool) {
        let live = LiveRun {
            leader: started.leader,
            mechanism: started.mechanism,
            reason: started.reason,
            mechanism_published: false,
            notifier: started.notifier.map(|fd| Arc::new(Notifier::from(fd))),
            options: RecordedOptions::default(),
            first_listen: has_listened.then(Instant::now),
            draining_since: draining.then(Instant::now),
            inspector_port: started.inspector_port,
        };
        self.live.insert(started.run, live);
    }

    pub fn remove(&mut self, run: u64) {
        self.live.remove(&run);
    }

    pub fn get(&self, run: u64) -> Option<&LiveRun> {
        self.live.get(&run)
    }

    pub fn get_mut(&mut self, run: u64) -> Option<&mut LiveRun> {
        self.live.get_mut(&run)
    }

    pub fn contains(&self, run: u64) -> bool {
        self.live.contains_key(&run)
    }

    pub fn iter(&self) -> impl Iterator<Item = (u64, &LiveRun)> {
        self.live.iter().map(|(run, live)| (*run, live))
    }

    /// The sockets that all processes of these runs have open. Incomplete if one of the leaders exits: the sockets
    /// that it had open belong to the next run of its slot, and connections wait in their queues.
    pub fn open_sockets_of(&self, runs: &BTreeSet<u64>) -> OpenSockets {
        let TreeContext { keeper, orphans, marker } = &self.context;
        let (mut inspected, mut other_leaders) = (Vec::new(), HashSet::new());
        for (run, live) in self.iter() {
            if runs.contains(&run) {
                inspected.push(EndedRun { run, leader: live.leader, orphans: *orphans });
            } else {
                other_leaders.insert(live.leader.pid);
            }
        }
        let mut open = OpenSockets::default();
        let processes = tree::find_remaining(*keeper, &inspected, marker, &other_leaders, &HashSet::new());
        processes.into_values().flatten().for_each(|member| open.add_process(member.process.pid));
        // After the inspection: a leader that was alive here was alive then.
        open.incomplete |= inspected.iter().any(|run| run.leader.is_exiting());
        open
    }
}

/// Inodes of open sockets.
#[derive(Debug, Default)]
pub(crate) struct OpenSockets {
    /// By inode: a process that has it open, and its descriptor.
    openers: HashMap<u64, (i32, RawFd)>,
    incomplete: bool,
}

impl OpenSockets {
    /// The sockets of a process tree, and of one of its processes wherever that is.
    pub fn of_tree(leader: ProcessRef, process: i32) -> Self {
        let mut open = Self::default();
        tree::tree_members(leader).into_iter().for_each(|member| open.add_process(member.process.pid));
        open.add_process(process);
        open
    }

    pub fn contains(&self, inode: u64) -> bool {
        self.openers.contains_key(&inode)
    }

    /// A process that has a socket open, and its descriptor.
    pub fn opener(&self, inode: u64) -> Option<(i32, RawFd)> {
        self.openers.get(&inode).copied()
    }

    /// Whether there may be other sockets.
    pub fn is_incomplete(&self) -> bool {
        self.incomplete
    }

    fn add_process(&mut self, process: i32) {
        match fds::sockets(process) {
            Ok(sockets) => self.openers.extend(sockets.map(|(number, inode)| (inode, (process, number)))),
            // A process that has exited has no open sockets.
            Err(error) => self.incomplete |= error.kind() == io::ErrorKind::PermissionDenied,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn open_sockets_contain_socket_until_closed() {
        let me = ProcessRef::of(std::process::id().cast_signed()).unwrap();
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let inode = crate::cluster::sys::inode(socket.as_fd()).unwrap();
        let open = OpenSockets::of_tree(me, me.pid);
        assert!(open.contains(inode) && !open.is_incomplete());
        drop(socket);
        assert!(!OpenSockets::of_tree(me, me.pid).contains(inode));
    }
}
