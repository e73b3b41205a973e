//! `ListenerWatch`: finds listeners that a program has closed although it keeps running.
//!
//! rsm has a duplicate of each socket, so that closing it changes nothing in the kernel: the queue grows, and nobody
//! accepts. The kernel reports neither that a process has closed a descriptor nor how many are open. So the descriptors
//! are checked: those of sockets with waiting connections soon, all others once a second. Usually that is one `readlink`
//! per socket, because it is known where the socket was open last.

use std::collections::{BTreeSet, HashMap};
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use crate::cluster::address::Protocol;
use crate::cluster::runs::{OpenSockets, RunTable};
use crate::cluster::sockets::SocketStore;
use crate::cluster::state::ClusterState;
use crate::cluster::sys;
use crate::process::proc::fds;

/// Interval of checking sockets with waiting connections.
const INTERVAL: Duration = Duration::from_millis(200);
/// Every this many intervals, all sockets are checked.
const FULL_CHECK: u32 = 5;
/// A socket that is sent to another process is open in none for a moment: it counts as closed only if it still is after
/// this time.
const CONFIRM_DELAY: Duration = Duration::from_millis(50);
/// A socket that is closed for longer is checked like all others.
const CONFIRM_PERIOD: Duration = Duration::from_secs(1);
/// How long a closed socket without any other one for its address is kept: the program may be about to exit, and
/// connections wait for its next run.
pub(crate) const CLOSED_GRACE: Duration = Duration::from_secs(10);

/// A socket that is closed sooner after `listen` was only a test of the port.
const TEST_DURATION: Duration = Duration::from_secs(2);

/// A socket and a run that has it.
type Claim = (u64, u64);

/// A listener that a run has closed, or shut down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClosedListener {
    pub socket: u64,
    pub run: u64,
    pub since: Instant,
    /// It listened for a moment only.
    pub was_test: bool,
}

/// What is known of the listeners of all runs.
#[derive(Debug, Default)]
pub(crate) struct ListenerWatch {
    /// Process and descriptor where it was open last.
    openers: HashMap<Claim, (i32, RawFd)>,
    listened_at: HashMap<Claim, Instant>,
    closed_since: HashMap<Claim, Instant>,
    next_check: Option<Instant>,
    checks: u32,
}

impl ListenerWatch {
    /// Records where a run listens.
    pub fn record_listen(&mut self, socket: u64, run: u64, process: i32, number: RawFd) {
        self.listened_at.insert((socket, run), Instant::now());
        self.openers.insert((socket, run), (process, number));
        self.closed_since.remove(&(socket, run));
    }

    /// Checks the listeners if that is due; those that are closed, and the time until the next check.
    pub fn check(
        &mut self,
        state: &ClusterState,
        runs: &RunTable,
        sockets: &SocketStore,
    ) -> (Vec<ClosedListener>, Option<Duration>) {
        let now = Instant::now();
        if let Some(next) = self.next_check.filter(|next| *next > now) {
            return (Vec::new(), Some(next - now));
        }
        let known = |(socket, run): &Claim| state.socket(*socket).is_some() && runs.contains(*run);
        self.openers.retain(|claim, _| known(claim));
        self.listened_at.retain(|claim, instant| known(claim) && instant.elapsed() < 2 * TEST_DURATION);
        self.closed_since.retain(|claim, _| known(claim));
        let watched = watched_claims(state, runs, sockets);
        if watched.is_empty() {
            return (Vec::new(), None);
        }
        self.checks = (self.checks + 1) % FULL_CHECK;
        let closed: Vec<Claim> = watched
            .into_iter()
            .filter(|claim| self.is_due(*claim, sockets) && !self.is_open(*claim, state, runs, sockets))
            .collect();
        let mut confirmed = Vec::new();
        for (socket, run) in closed {
            let since = *self.closed_since.entry((socket, run)).or_insert(now);
            if now.duration_since(since) >= CONFIRM_DELAY {
                let listened_at = self.listened_at.get(&(socket, run));
                let was_test =
                    listened_at.is_some_and(|instant| since.duration_since(*instant) < TEST_DURATION);
                confirmed.push(ClosedListener { socket, run, since, was_test });
            }
        }
        let unconfirmed = self.closed_since.values().any(|since| now.duration_since(*since) < CONFIRM_DELAY);
        let interval = if unconfirmed { CONFIRM_DELAY } else { INTERVAL };
        self.next_check = Some(now + interval);
        (confirmed, Some(interval))
    }

    /// Whether all listening sockets of a run are open where it listened on them.
    pub fn has_all_open(&self, run: u64, state: &ClusterState) -> bool {
        let mut listeners = state.sockets_of_run(run).filter(|(_, socket)| socket.listening);
        listeners.all(|(id, socket)| {
            let opener = self.openers.get(&(id, run));
            opener.is_some_and(|(process, number)| {
                fds::socket_inode(*process, *number).is_ok_and(|inode| inode == Some(socket.inode))
            })
        })
    }

    /// Whether any run has listened on a socket a moment ago.
    pub fn may_be_test(&self, socket: u64) -> bool {
        let is_recent =
            |(claim, instant): (&Claim, &Instant)| claim.0 == socket && instant.elapsed() < TEST_DURATION;
        self.listened_at.iter().any(is_recent)
    }

    fn is_due(&self, claim: Claim, sockets: &SocketStore) -> bool {
        self.checks == 0
            || self.closed_since.get(&claim).is_some_and(|since| since.elapsed() < CONFIRM_PERIOD)
            || sockets.accept_queue_length(claim.0).is_none_or(|queued| queued > 0)
    }

    /// Whether a process of the run has the socket open, and it listens. Also if that cannot be determined.
    fn is_open(
        &mut self,
        claim: Claim,
        state: &ClusterState,
        runs: &RunTable,
        sockets: &SocketStore,
    ) -> bool {
        let (id, run) = claim;
        let (Some(socket), Some(live), Some(fd)) = (state.socket(id), runs.get(run), sockets.fd(id)) else {
            return true;
        };
        let is_here = |(process, number): &(i32, RawFd)| {
            fds::socket_inode(*process, *number).is_ok_and(|inode| inode == Some(socket.inode))
        };
        let opener = self
            .openers
            .get(&claim)
            .copied()
            .filter(is_here)
            .or_else(|| OpenSockets::of_tree(live.leader(), live.leader().pid).opener(socket.inode));
        let open = match opener {
            Some(opener) => {
                self.openers.insert(claim, opener);
                true
            }
            // The next run of the slot needs it.
            None if live.leader().is_exiting() => true,
            // Orphans may have it.
            None => {
                let open = runs.open_sockets_of(&BTreeSet::from([run]));
                self.openers.extend(open.opener(socket.inode).map(|opener| (claim, opener)));
                open.is_incomplete() || open.contains(socket.inode)
            }
        };
        let is_open = open && sys::is_listening(fd);
        if is_open {
            self.closed_since.remove(&claim);
        }
        is_open
    }
}

/// Listening TCP sockets and the runs that accept their connections. A draining run may close its sockets.
fn watched_claims(state: &ClusterState, runs: &RunTable, sockets: &SocketStore) -> Vec<Claim> {
    let listeners = state.sockets().filter(|(id, socket)| {
        socket.listening && socket.address.protocol == Protocol::Tcp && sockets.fd(*id).is_some()
    });
    let claims = listeners.flat_map(|(id, socket)| socket.claims.iter().map(move |run| (id, *run)));
    claims.filter(|(_, run)| runs.contains(*run) && !state.is_draining(*run)).collect()
}
