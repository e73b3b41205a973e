//! Finding held sockets that no process uses: a port that was only probed, or that a new run does not
//! listen on. Connections to them would wait for ever.

use std::collections::{BTreeSet, HashSet};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use crate::cluster::engine::Engine;
use crate::cluster::event::ClusterEvent;
use crate::cluster::open_sockets::{OpenSockets, RunLeader};
use crate::cluster::state::HeldSocket;
use crate::cluster::sys;

/// When to look, counted from a `bind` or `listen`: soon for probes, then for what comes late.
const GC_DELAYS: [Duration; 4] =
    [Duration::from_millis(100), Duration::from_secs(1), Duration::from_secs(11), Duration::from_secs(60)];

/// How long after its first `listen` a run may take to come back for its slot's other ports.
const RELISTEN_GRACE: Duration = Duration::from_secs(10);

impl Engine {
    /// Plans looks after a run.
    pub(super) fn schedule_gc(&mut self, run: u64) {
        let now = Instant::now();
        self.gc_schedule.retain(|(_, other)| *other != run);
        self.gc_schedule.extend(GC_DELAYS.map(|look| (now + look, run)));
    }

    /// When the next look is due.
    pub(super) fn next_gc(&self) -> Option<Instant> {
        self.gc_schedule.first().map(|(at, _)| *at)
    }

    /// Looks after all runs that it is time for: one look at the processes serves all.
    pub(super) fn collect_unused(&mut self) {
        let now = Instant::now();
        let later = self.gc_schedule.split_off(&(now, u64::MAX));
        let due = std::mem::replace(&mut self.gc_schedule, later);
        let places: BTreeSet<(String, u32)> = due
            .into_iter()
            .filter_map(|(_, run)| self.state.runs.get(&run))
            .map(|run| (run.app.clone(), self.state.slot_key(run)))
            .collect();
        let runs: BTreeSet<u64> =
            places.iter().flat_map(|(app, place)| self.state.runs_at(app, *place)).collect();
        // Not before all have been made known to us, after another daemon's death.
        if runs.is_empty() || !runs.iter().all(|run| self.runs.contains_key(run)) {
            return;
        }
        let open = self.open_sockets_of(&runs);
        if open.incomplete {
            return; // Better a socket too many than one that somebody uses.
        }
        let useless: Vec<u64> =
            places.iter().flat_map(|(app, place)| self.unused_at(app, *place, &open.inodes)).collect();
        if !useless.is_empty() {
            useless.into_iter().for_each(|id| self.release_and_publish(id));
            self.save();
        }
    }

    /// Lets go of a socket that no process has, and tells the runs that it was of.
    fn release_and_publish(&mut self, id: u64) {
        let Some(socket) = self.state.sockets.get(&id).cloned() else { return };
        self.release(id);
        for run in socket.claims {
            let has_another = |other: &HeldSocket| {
                other.listening && other.address == socket.address && other.claims.contains(&run)
            };
            if socket.listening && !self.state.sockets.values().any(has_another) {
                self.host.publish(ClusterEvent::Closed { run, address: socket.address });
            }
        }
    }

    pub(super) fn open_sockets_of(&self, runs: &BTreeSet<u64>) -> OpenSockets {
        let (mut leaders, mut others) = (Vec::new(), HashSet::new());
        for (run, live) in &self.runs {
            if runs.contains(run) {
                leaders.push(RunLeader { run: *run, process: live.leader });
            } else {
                others.insert(live.leader.pid);
            }
        }
        OpenSockets::of_runs(&self.tree_context, &leaders, &others)
    }

    fn unused_at(&self, app: &str, place: u32, open: &HashSet<u64>) -> Vec<u64> {
        let settled = self.state.runs_at(app, place).iter().any(|run| {
            let listened = self.runs.get(run).and_then(|live| live.first_listen);
            listened.is_some_and(|at| at.elapsed() > RELISTEN_GRACE)
        });
        let unused = self.state.sockets_at(app, place).filter(|(id, socket)| {
            let fd = self.held.get(id);
            // Bound to a port before it connected: the program's own affair, ended when it ends it.
            let client = !socket.listening && fd.is_some_and(|fd| sys::is_connected(fd.as_fd()));
            client || !open.contains(&socket.inode)
        });
        unused
            .filter(|(_, socket)| !socket.listening || self.state.is_claimed(socket) || settled)
            .map(|(id, _)| id)
            .collect()
    }
}
