//! `UnusedSockets`: finds held sockets that no process has open.
//!
//! Such a port was only tested by the program, or the new run does not listen on it any more. Connections to it would
//! wait forever. Processes are inspected at a few moments after each `bind` and `listen`.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::cluster::address::Protocol;
use crate::cluster::runs::{LiveRun, OpenSockets, RunTable};
use crate::cluster::sockets::SocketStore;
use crate::cluster::state::ClusterState;
use crate::cluster::sys;
use crate::cluster::watch::ListenerWatch;

/// When runs are checked, from their last `bind` or `listen`: soon after tests of a port, and later for ports that a
/// program closes late.
const GC_DELAYS: [Duration; 4] =
    [Duration::from_millis(100), Duration::from_secs(1), Duration::from_secs(11), Duration::from_secs(60)];

/// How long a run may take, from its first `listen`, to listen on the other ports of its slot.
const RELISTEN_GRACE: Duration = Duration::from_secs(10);

/// Scheduled checks of runs.
#[derive(Debug, Default)]
pub(crate) struct UnusedSockets {
    schedule: BTreeSet<(Instant, u64)>,
}

impl UnusedSockets {
    /// Schedules checks of a run.
    pub fn schedule(&mut self, run: u64) {
        let now = Instant::now();
        self.schedule.retain(|(_, other)| *other != run);
        self.schedule.extend(GC_DELAYS.map(|delay| (now + delay, run)));
    }

    /// When the next check is due.
    pub fn next_check(&self) -> Option<Instant> {
        self.schedule.first().map(|(instant, _)| *instant)
    }

    /// The unused sockets of all slots that are due.
    pub fn find_due(
        &mut self,
        state: &ClusterState,
        runs: &RunTable,
        sockets: &SocketStore,
        watch: &ListenerWatch,
    ) -> Vec<u64> {
        find_unused(self.take_due(), state, runs, sockets, watch)
    }

    fn take_due(&mut self) -> BTreeSet<u64> {
        let later = self.schedule.split_off(&(Instant::now(), u64::MAX));
        let due = std::mem::replace(&mut self.schedule, later);
        due.into_iter().map(|(_, run)| run).collect()
    }
}

/// The unused sockets of the slots of these runs. Their processes are inspected once for all of them.
pub(crate) fn find_unused(
    of: BTreeSet<u64>,
    state: &ClusterState,
    runs: &RunTable,
    sockets: &SocketStore,
    watch: &ListenerWatch,
) -> Vec<u64> {
    let slots: BTreeSet<(String, u32)> = of
        .into_iter()
        .filter_map(|run| state.run(run))
        .map(|run| (run.app.clone(), state.slot_key(run)))
        .collect();
    let users: BTreeSet<u64> = slots.iter().flat_map(|(app, slot)| state.runs_at(app, *slot)).collect();
    // After the death of a daemon, not before all runs are known again.
    if users.is_empty() || !users.iter().all(|run| runs.contains(*run)) {
        return Vec::new();
    }
    let open = runs.open_sockets_of(&users);
    // Better keep an unused socket than release one in use.
    if open.is_incomplete() {
        return Vec::new();
    }
    let check = Check { state, runs, sockets, watch, open };
    slots.iter().flat_map(|(app, slot)| check.unused_at(app, *slot)).collect()
}

/// What one check compares.
struct Check<'a> {
    state: &'a ClusterState,
    runs: &'a RunTable,
    sockets: &'a SocketStore,
    watch: &'a ListenerWatch,
    open: OpenSockets,
}

impl Check<'_> {
    fn unused_at(&self, app: &str, slot: u32) -> Vec<u64> {
        let users = self.state.runs_at(app, slot);
        let is_settled = |live: &LiveRun| live.has_listened_for(RELISTEN_GRACE);
        let settled = users.iter().any(|run| self.runs.get(*run).is_some_and(is_settled));
        let unused = self.state.sockets_at(app, slot).filter(|(id, socket)| {
            // A socket that was bound before it connected belongs to a client; the program closes it.
            let is_client = !socket.listening && self.sockets.fd(*id).is_some_and(sys::is_connected);
            is_client || !self.open.contains(socket.inode)
        });
        unused
            .filter(|(id, socket)| match (socket.listening, self.state.is_claimed(socket)) {
                (false, _) => true,
                // Later it is not a test any more, but a listener that was closed: see `watch`.
                (true, true) => self.watch.may_be_test(*id) || socket.address.protocol == Protocol::Udp,
                (true, false) => settled,
            })
            .map(|(id, _)| id)
            .collect()
    }
}
