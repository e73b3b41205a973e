//! Finding held sockets that no process uses: a port that was only probed, or that a new run does not
//! listen on. Connections to them would wait for ever.

use std::collections::{BTreeSet, HashSet};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::book::HeldSocket;
use super::engine::Engine;
use super::event::ClusterEvent;
use super::open::{OpenSockets, RunLeader};
use super::socket;

/// When to look, counted from a `bind` or `listen`: soon for probes, then for what comes late.
const LOOKS: [Duration; 4] =
    [Duration::from_millis(100), Duration::from_secs(1), Duration::from_secs(11), Duration::from_secs(60)];

/// How long after its first `listen` a run may take to come back for its slot's other ports.
const GRACE: Duration = Duration::from_secs(10);

impl Engine {
    /// Plans looks after a run.
    pub(super) fn sweep_soon(&mut self, run: u64) {
        let now = Instant::now();
        self.sweeps.retain(|(_, other)| *other != run);
        self.sweeps.extend(LOOKS.map(|look| (now + look, run)));
    }

    /// When the next look is due.
    pub(super) fn next_sweep(&self) -> Option<Instant> {
        self.sweeps.first().map(|(at, _)| *at)
    }

    /// Looks after all runs that it is time for: one look at the processes serves all.
    pub(super) fn sweep(&mut self) {
        let now = Instant::now();
        let later = self.sweeps.split_off(&(now, u64::MAX));
        let due = std::mem::replace(&mut self.sweeps, later);
        let places: BTreeSet<(String, u32)> = due
            .into_iter()
            .filter_map(|(_, run)| self.book.runs.get(&run))
            .map(|run| (run.app.clone(), self.book.place(run)))
            .collect();
        let runs: BTreeSet<u64> =
            places.iter().flat_map(|(app, place)| self.book.runs_at(app, *place)).collect();
        // Not before all have been made known to us, after another daemon's death.
        if runs.is_empty() || !runs.iter().all(|run| self.live.contains_key(run)) {
            return;
        }
        let open = self.open_in_runs(&runs);
        if open.hidden {
            return; // Better a socket too many than one that somebody uses.
        }
        let useless: Vec<u64> =
            places.iter().flat_map(|(app, place)| self.useless_at(app, *place, &open.inodes)).collect();
        if !useless.is_empty() {
            useless.into_iter().for_each(|id| self.close(id));
            self.save();
        }
    }

    /// Lets go of a socket that no process has, and tells the runs that it was of.
    fn close(&mut self, id: u64) {
        let Some(socket) = self.book.sockets.get(&id).cloned() else { return };
        self.let_go(id);
        for run in socket.claims {
            let has_another = |other: &HeldSocket| {
                other.listening && other.address == socket.address && other.claims.contains(&run)
            };
            if socket.listening && !self.book.sockets.values().any(has_another) {
                self.outside.tell(ClusterEvent::Closed { run, address: socket.address });
            }
        }
    }

    pub(super) fn open_in_runs(&self, runs: &BTreeSet<u64>) -> OpenSockets {
        let (mut leaders, mut others) = (Vec::new(), HashSet::new());
        for (run, live) in &self.live {
            if runs.contains(run) {
                leaders.push(RunLeader { run: *run, process: live.leader });
            } else {
                others.insert(live.leader.pid);
            }
        }
        OpenSockets::in_runs(&self.family, &leaders, &others)
    }

    fn useless_at(&self, app: &str, place: u32, open: &HashSet<u64>) -> Vec<u64> {
        let settled = self.book.runs_at(app, place).iter().any(|run| {
            let listened = self.live.get(run).and_then(|live| live.listened);
            listened.is_some_and(|at| at.elapsed() > GRACE)
        });
        let unused = self.book.sockets_at(app, place).filter(|(id, socket)| {
            let fd = self.held.get(id);
            // Bound to a port before it connected: the program's own affair, ended when it ends it.
            let client = !socket.listening && fd.is_some_and(|fd| socket::is_connected(fd.as_fd()));
            client || !open.contains(&socket.inode)
        });
        unused
            .filter(|(_, socket)| !socket.listening || self.book.is_claimed(socket) || settled)
            .map(|(id, _)| id)
            .collect()
    }
}
