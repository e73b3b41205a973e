//! The engine: all that is known, all descriptors, and what follows from commands.
//!
//! How calls are answered stands in `bind` and `listen`; how what nobody uses any more is found, in
//! `sweep`. Before a call is answered or a command is done the book is saved.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::address::{Address, Protocol};
use super::event::{ClusterEvent, ClusterHost, PortWarning};
use crate::cluster::calls::call::SupervisedCall;
use crate::cluster::calls::inspect::SocketOptions;
use crate::cluster::mechanism::Mechanism;
use crate::cluster::memfd_document::{MemfdDocument, PendingCalls};
use crate::cluster::open_sockets::TreeContext;
use crate::cluster::state::{ClusterState, HeldSocket, PortSettings, RunPhase, RunState, SteeringPlan};
use crate::cluster::steering::rebalance::RoundRobinGroup;
use crate::cluster::steering::round_robin::RoundRobin;
use crate::cluster::steering::{ProbeRoute, SteeringTarget};
use crate::cluster::sys;
use crate::process::process_ref::ProcessRef;
use crate::process::seccomp::{Notification, Notifier};
use crate::spec::Balance;

/// A client that has begun to connect to a socket is in its queue after this time at the latest; longer
/// ones are rare, and lose.
const DRAIN_DELAY: Duration = Duration::from_millis(250);

/// A run begins, or goes on under another daemon.
#[derive(Debug)]
pub struct RunStarted {
    /// Its number, one that no other run has.
    pub run: u64,
    /// Its app, made known before.
    pub app: String,
    /// Its slot.
    pub slot: u32,
    /// Its first process.
    pub leader: ProcessRef,
    /// The way its ports are shared.
    pub mechanism: Mechanism,
    /// Why this way.
    pub reason: String,
    /// What its calls are answered through, if it has to ask.
    pub notifier: Option<OwnedFd>,
}

/// A socket of an app, as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketInfo {
    /// The slot; 0 for all with one queue.
    pub slot: u32,
    /// Where it listens.
    pub address: Address,
    /// The runs that have it.
    pub runs: Vec<u64>,
    /// Connections that wait to be accepted; `None` for UDP.
    pub queued: Option<u32>,
}

/// How our checks come to a run's port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeTarget {
    /// From this address: it leads to the run and to no other.
    Via(Ipv4Addr),
    /// As everybody: the port is not shared, or all have one queue.
    Direct,
    /// Not at all: other runs of the app listen there, and this one does not.
    NotListening,
}

/// What a call is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CallVerdict {
    /// The kernel carries it out.
    Continue,
    /// This is its result.
    Return(nix::Result<()>),
}

/// A run under this daemon.
#[derive(Debug)]
pub(super) struct LiveRun {
    pub leader: ProcessRef,
    pub mechanism: Mechanism,
    pub reason: String,
    pub mechanism_reported: bool,
    pub notifier: Option<Arc<Notifier>>,
    pub options: HashMap<u64, SocketOptions>,
    /// When it first listened.
    pub first_listen: Option<Instant>,
    /// Since when it gets no new connections.
    pub draining_since: Option<Instant>,
}

pub(super) struct Engine {
    pub host: Box<dyn ClusterHost>,
    pub tree_context: TreeContext,
    pub state: ClusterState,
    /// Held sockets by their number in the book.
    pub held: BTreeMap<u64, OwnedFd>,
    pub runs: BTreeMap<u64, LiveRun>,
    /// When to sweep after which run.
    pub gc_schedule: BTreeSet<(Instant, u64)>,
    pub released_at: HashMap<(Protocol, u16, u32), Instant>,
    pub document: MemfdDocument,
    pub pending_calls: PendingCalls,
    /// We may not steer by turns.
    pub round_robin_unavailable: bool,
    /// Nothing was left of a former daemon's book.
    pub state_lost: bool,
    /// The groups that are served in turns.
    pub round_robin: BTreeMap<Address, RoundRobinGroup>,
    pub drains: Vec<(u64, oneshot::Sender<()>)>,
}

impl Engine {
    /// Makes an app known, or changes what it wants.
    pub fn set_app(&mut self, name: String, settings: PortSettings) {
        if self.state.apps.get(&name) != Some(&settings) {
            self.state.apps.insert(name.clone(), settings);
            self.release_unclaimed(&name);
            self.steer_app(&name);
            self.save();
        }
    }

    /// Lets go of all that an app has, now or when its last run ends.
    pub fn remove_app(&mut self, name: &str) {
        self.state.apps.remove(name);
        self.state.retired_slots.retain(|(app, _)| app != name);
        self.release_unclaimed(name);
        self.save();
    }

    /// Answers a run's calls from now on; first those that a former daemon left unanswered.
    pub fn run_started(&mut self, began: RunStarted) {
        let RunStarted { run, app, slot, leader, mechanism: path, reason: why, notifier } = began;
        self.state.retired_slots.remove(&(app.clone(), slot));
        self.state.runs.entry(run).or_insert(RunState { app, slot, phase: RunPhase::Starting });
        let notifier = notifier.map(|fd| Arc::new(Notifier::from(fd)));
        // One that has its sockets already, from before, has long been listening.
        let listened = self.state.sockets.values().any(|socket| socket.claims.contains(&run));
        let listened = listened.then(Instant::now);
        let options = HashMap::new();
        let quiet =
            self.state.runs.get(&run).filter(|run| run.phase == RunPhase::Draining).map(|_| Instant::now());
        let live = LiveRun {
            leader,
            mechanism: path,
            reason: why,
            mechanism_reported: false,
            notifier,
            options,
            first_listen: listened,
            draining_since: quiet,
        };
        self.runs.insert(run, live);
        self.save();
        self.republish(run);
        for call in self.pending_calls.of_run(run) {
            self.handle_call(run, &call);
        }
    }

    /// Lets a run have connections, or no more of them.
    pub fn set_phase(&mut self, run: u64, phase: RunPhase) {
        let Some(entry) = self.state.runs.get_mut(&run) else { return };
        entry.phase = phase;
        if let Some(live) = self.runs.get_mut(&run) {
            live.draining_since = (phase == RunPhase::Draining).then(Instant::now);
        }
        let app = entry.app.clone();
        if phase == RunPhase::Draining {
            self.release_unsteerable(run);
        }
        for address in self.addresses_of(run) {
            self.steer(address);
        }
        if phase == RunPhase::Ready {
            self.release_unclaimed(&app); // of the run whose place it takes, if that is gone
        }
        self.save();
    }

    /// Nothing of a run is left.
    pub fn run_ended(&mut self, run: u64) {
        self.runs.remove(&run);
        self.pending_calls.clear_run(run);
        let Some(entry) = self.state.runs.remove(&run) else { return };
        let addresses = self.addresses_of(run);
        let mut touched = BTreeSet::new();
        for (id, socket) in &mut self.state.sockets {
            if socket.claims.remove(&run) {
                touched.insert(*id);
            }
        }
        self.release_unclaimed(&entry.app);
        // Whatever it did to them on its way out, connections for its replacement wait there.
        let left: Vec<u64> = self.state.sockets.keys().copied().filter(|id| touched.contains(id)).collect();
        left.into_iter().for_each(|id| self.relisten(id));
        for address in addresses {
            self.steer(address);
        }
        self.save();
    }

    /// All runs that go on have begun: those that the book has besides are over.
    pub fn recovery_complete(&mut self) {
        let over: Vec<u64> =
            self.state.runs.keys().copied().filter(|run| !self.runs.contains_key(run)).collect();
        over.into_iter().for_each(|run| self.run_ended(run));
        if std::mem::take(&mut self.state_lost) {
            self.adopt_listeners();
        }
        // Apps that nobody knows any more.
        let known: BTreeSet<String> = self.state.apps.keys().cloned().collect();
        let unknown: BTreeSet<String> =
            self.state.sockets.values().map(|socket| socket.app.clone()).collect();
        unknown.difference(&known).for_each(|app| self.release_unclaimed(app));
        // A former daemon's programs go on, but what they count is known to nobody.
        known.iter().for_each(|app| self.steer_app(app));
    }

    /// No replacement is coming for a slot: who connects shall be refused at once.
    pub fn retire_slot(&mut self, app: String, slot: u32) {
        self.state.retired_slots.insert((app.clone(), slot));
        self.release_unclaimed(&app);
        self.save();
    }

    /// The sockets of an app that listen.
    pub fn ports(&self, app: &str) -> Vec<SocketInfo> {
        let listening = self.state.sockets.iter().filter(|(_, socket)| socket.app == app && socket.listening);
        listening
            .map(|(id, socket)| SocketInfo {
                slot: socket.slot,
                address: socket.address,
                runs: socket.claims.iter().copied().filter(|run| self.state.runs.contains_key(run)).collect(),
                queued: self.held.get(id).and_then(|fd| sys::accept_queue_length(fd.as_fd()).ok()),
            })
            .collect()
    }

    /// How to come to a run's port.
    pub fn probe_target(&self, run: u64, port: u16) -> ProbeTarget {
        let Some(app) = self.state.runs.get(&run).map(|run| run.app.as_str()) else {
            return ProbeTarget::Direct;
        };
        let at_port = |socket: &&HeldSocket| {
            socket.listening && socket.address.port() == port && socket.address.protocol == Protocol::Tcp
        };
        let sockets = self.state.sockets.iter().filter(|(_, socket)| socket.app == app && at_port(socket));
        let (own, others): (Vec<_>, Vec<_>) = sockets.partition(|(_, socket)| socket.claims.contains(&run));
        let shared = self.state.apps.get(app).is_some_and(|app| app.balance == Balance::Shared);
        let takes_v4 = |address: &Address| match address.socket {
            SocketAddr::V4(_) => true,
            SocketAddr::V6(v6) => v6.ip().is_unspecified() && !address.v6_only,
        };
        match own.iter().find(|(_, socket)| takes_v4(&socket.address)) {
            Some((id, _)) if !shared => ProbeTarget::Via(ProbeRoute::address(**id)),
            None if own.is_empty() && !others.is_empty() => ProbeTarget::NotListening,
            _ => ProbeTarget::Direct,
        }
    }

    /// Tells `done` once nobody waits in a queue that only this run takes from.
    pub fn wait_drained(&mut self, run: u64, done: oneshot::Sender<()>) {
        self.drains.push((run, done));
        self.poll_drains();
    }

    /// True if someone still waits for a queue to be empty.
    pub fn poll_drains(&mut self) -> bool {
        let drains = std::mem::take(&mut self.drains);
        let (done, waiting): (Vec<_>, Vec<_>) =
            drains.into_iter().partition(|(run, done)| done.is_closed() || self.is_drained(*run));
        self.drains = waiting;
        for (_, done) in done {
            // Whoever asked may have stopped waiting.
            let _ = done.send(());
        }
        !self.drains.is_empty()
    }

    fn is_drained(&self, run: u64) -> bool {
        let others = |claims: &BTreeSet<u64>| {
            let live =
                claims.iter().filter(|other| **other != run).filter_map(|other| self.state.runs.get(other));
            live.filter(|other| other.phase != RunPhase::Draining).count() > 0
        };
        let own = self.state.sockets.iter().filter(|(_, socket)| socket.claims.contains(&run));
        let mut own = own.filter(|(_, socket)| !others(&socket.claims)).peekable();
        let quiet = self.runs.get(&run).and_then(|live| live.draining_since);
        if own.peek().is_some() && quiet.is_some_and(|since| since.elapsed() < DRAIN_DELAY) {
            return false;
        }
        own.filter_map(|(id, _)| self.held.get(id))
            .all(|fd| sys::accept_queue_length(fd.as_fd()).unwrap_or(0) == 0)
    }

    /// What a run's calls are answered through.
    pub fn notifier(&self, run: u64) -> Option<Arc<Notifier>> {
        self.runs.get(&run)?.notifier.clone()
    }

    /// Hears of a run's next call and answers it.
    pub fn receive_call(&mut self, run: u64) {
        let Some(notifier) = self.notifier(run) else { return };
        let mut call = Notification::default();
        let place = self.pending_calls.acquire(run).unwrap_or(&mut call);
        if notifier.receive(place).is_err() {
            // Its caller was interrupted before we came; it calls again.
            *place = Notification::default();
            return;
        }
        let call = *place;
        self.handle_call(run, &call);
    }

    fn handle_call(&mut self, run: u64, call: &Notification) {
        let Some(notifier) = self.notifier(run) else { return };
        let verdict = match SupervisedCall::parse(call) {
            Ok(None) | Err(nix::errno::Errno::EFAULT) => CallVerdict::Continue,
            Ok(Some(SupervisedCall::Bind { fd: number, address, length })) => {
                self.bind(run, call, number, (address, length))
            }
            Ok(Some(SupervisedCall::Listen { fd: number, backlog })) => {
                self.listen(run, call, number, backlog)
            }
            Ok(Some(SupervisedCall::SetSockOpt { fd: number, level, option: name, value })) => {
                self.record_option(run, call, number, (level, name), value)
            }
            Err(errno) => self.pass_uninspectable(run, errno),
        };
        // Whoever called may be gone by now.
        let _ = match verdict {
            CallVerdict::Continue => notifier.continue_syscall(call.id),
            CallVerdict::Return(result) => notifier.respond(call.id, result),
        };
        self.pending_calls.complete(run, call.id);
    }

    /// A call that cannot be looked into is left to the kernel.
    pub fn pass_uninspectable(&mut self, run: u64, errno: nix::errno::Errno) -> CallVerdict {
        self.warn(run, PortWarning::CallNotInspectable { errno });
        CallVerdict::Continue
    }

    pub fn warn(&mut self, run: u64, warning: PortWarning) {
        self.host.publish(ClusterEvent::Warning { run, warning });
    }

    fn addresses_of(&self, run: u64) -> BTreeSet<Address> {
        let own = self.state.sockets.values().filter(|socket| socket.claims.contains(&run));
        own.map(|socket| socket.address).collect()
    }

    fn steer_app(&mut self, app: &str) {
        let own = self.state.sockets.values().filter(|socket| socket.app == app);
        let addresses: BTreeSet<Address> = own.map(|socket| socket.address).collect();
        addresses.into_iter().for_each(|address| self.steer(address));
    }

    /// Has the kernel choose by the state of things as it is now.
    pub fn steer(&mut self, address: Address) {
        self.set_round_robin(address, None);
        let members = self.state.members(address);
        let Some((id, fd)) = members.iter().find_map(|id| Some((*id, self.held.get(id)?))) else { return };
        let steering = self.state.steering(address, None);
        if let SteeringPlan::Balanced(Balance::Random, targets, doors) = &steering
            && !self.round_robin_unavailable
        {
            match RoundRobin::attach(fd.as_fd(), targets, doors) {
                Ok(turns) => {
                    let ids = |target: &SteeringTarget| {
                        target
                            .members
                            .iter()
                            .filter_map(|index| members.get(*index as usize).copied())
                            .collect()
                    };
                    let slots = targets.iter().filter(|target| target.is_eligible()).map(ids).collect();
                    return self.set_round_robin(address, Some(RoundRobinGroup::new(turns, slots)));
                }
                // Not us, or not this kernel: it will not be otherwise the next time.
                Err(errno) => self.round_robin_unavailable = errno != nix::errno::Errno::E2BIG,
            }
        }
        if let Err(errno) = sys::attach_cbpf(fd.as_fd(), &steering.program()) {
            let run = self.state.sockets.get(&id).and_then(|socket| socket.claims.last().copied());
            self.warn(run.unwrap_or(0), PortWarning::SteeringFailed { address, errno });
        }
    }
}
