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
use super::asked::SupervisedCall;
use super::book::{ClusterState, HeldSocket, PortSettings, RunPhase, RunState, SteeringPlan};
use super::even::RoundRobinGroup;
use super::event::{ClusterEvent, ClusterHost, PortWarning};
use super::look::SocketOptions;
use super::memory::{MemfdDocument, PendingCalls};
use super::open::TreeContext;
use super::path::Mechanism;
use super::socket;
use super::steer::{ProbeRoute, SteeringTarget};
use super::turns::RoundRobin;
use crate::process::process_ref::ProcessRef;
use crate::process::seccomp::{Notification, Notifier};
use crate::spec::Balance;

/// A client that has begun to connect to a socket is in its queue after this time at the latest; longer
/// ones are rare, and lose.
const ROUND_TRIP: Duration = Duration::from_millis(250);

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
    pub path: Mechanism,
    /// Why this way.
    pub why: String,
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
    pub waiting: Option<u32>,
}

/// How our checks come to a run's port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeTarget {
    /// From this address: it leads to the run and to no other.
    From(Ipv4Addr),
    /// As everybody: the port is not shared, or all have one queue.
    Plain,
    /// Not at all: other runs of the app listen there, and this one does not.
    Absent,
}

/// What a call is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CallVerdict {
    /// The kernel carries it out.
    Pass,
    /// This is its result.
    Result(nix::Result<()>),
}

/// A run under this daemon.
#[derive(Debug)]
pub(super) struct LiveRun {
    pub leader: ProcessRef,
    pub path: Mechanism,
    pub why: String,
    pub path_told: bool,
    pub notifier: Option<Arc<Notifier>>,
    pub options: HashMap<u64, SocketOptions>,
    /// When it first listened.
    pub listened: Option<Instant>,
    /// Since when it gets no new connections.
    pub quiet: Option<Instant>,
}

pub(super) struct Engine {
    pub outside: Box<dyn ClusterHost>,
    pub family: TreeContext,
    pub book: ClusterState,
    /// Held sockets by their number in the book.
    pub held: BTreeMap<u64, OwnedFd>,
    pub live: BTreeMap<u64, LiveRun>,
    /// When to sweep after which run.
    pub sweeps: BTreeSet<(Instant, u64)>,
    pub let_go_at: HashMap<(Protocol, u16, u32), Instant>,
    pub record: MemfdDocument,
    pub hands: PendingCalls,
    /// We may not steer by turns.
    pub no_turns: bool,
    /// Nothing was left of a former daemon's book.
    pub bookless: bool,
    /// The groups that are served in turns.
    pub rounds: BTreeMap<Address, RoundRobinGroup>,
    pub drains: Vec<(u64, oneshot::Sender<()>)>,
}

impl Engine {
    /// Makes an app known, or changes what it wants.
    pub fn app(&mut self, name: String, settings: PortSettings) {
        if self.book.apps.get(&name) != Some(&settings) {
            self.book.apps.insert(name.clone(), settings);
            self.let_go_unclaimed(&name);
            self.steer_app(&name);
            self.save();
        }
    }

    /// Lets go of all that an app has, now or when its last run ends.
    pub fn forget(&mut self, name: &str) {
        self.book.apps.remove(name);
        self.book.abandoned.retain(|(app, _)| app != name);
        self.let_go_unclaimed(name);
        self.save();
    }

    /// Answers a run's calls from now on; first those that a former daemon left unanswered.
    pub fn began(&mut self, began: RunStarted) {
        let RunStarted { run, app, slot, leader, path, why, notifier } = began;
        self.book.abandoned.remove(&(app.clone(), slot));
        self.book.runs.entry(run).or_insert(RunState { app, slot, phase: RunPhase::Starting });
        let notifier = notifier.map(|fd| Arc::new(Notifier::from(fd)));
        // One that has its sockets already, from before, has long been listening.
        let listened = self.book.sockets.values().any(|socket| socket.claims.contains(&run));
        let listened = listened.then(Instant::now);
        let options = HashMap::new();
        let quiet =
            self.book.runs.get(&run).filter(|run| run.phase == RunPhase::Quiet).map(|_| Instant::now());
        let live = LiveRun { leader, path, why, path_told: false, notifier, options, listened, quiet };
        self.live.insert(run, live);
        self.save();
        self.tell_again(run);
        for call in self.hands.of_run(run) {
            self.handle(run, &call);
        }
    }

    /// Lets a run have connections, or no more of them.
    pub fn set_phase(&mut self, run: u64, phase: RunPhase) {
        let Some(entry) = self.book.runs.get_mut(&run) else { return };
        entry.phase = phase;
        if let Some(live) = self.live.get_mut(&run) {
            live.quiet = (phase == RunPhase::Quiet).then(Instant::now);
        }
        let app = entry.app.clone();
        if phase == RunPhase::Quiet {
            self.let_loose(run);
        }
        for address in self.addresses_of(run) {
            self.steer(address);
        }
        if phase == RunPhase::Ready {
            self.let_go_unclaimed(&app); // of the run whose place it takes, if that is gone
        }
        self.save();
    }

    /// Nothing of a run is left.
    pub fn ended(&mut self, run: u64) {
        self.live.remove(&run);
        self.hands.forget(run);
        let Some(entry) = self.book.runs.remove(&run) else { return };
        let addresses = self.addresses_of(run);
        let mut touched = BTreeSet::new();
        for (id, socket) in &mut self.book.sockets {
            if socket.claims.remove(&run) {
                touched.insert(*id);
            }
        }
        self.let_go_unclaimed(&entry.app);
        // Whatever it did to them on its way out, connections for its replacement wait there.
        let left: Vec<u64> = self.book.sockets.keys().copied().filter(|id| touched.contains(id)).collect();
        left.into_iter().for_each(|id| self.revive_one(id));
        for address in addresses {
            self.steer(address);
        }
        self.save();
    }

    /// All runs that go on have begun: those that the book has besides are over.
    pub fn all_began(&mut self) {
        let over: Vec<u64> =
            self.book.runs.keys().copied().filter(|run| !self.live.contains_key(run)).collect();
        over.into_iter().for_each(|run| self.ended(run));
        if std::mem::take(&mut self.bookless) {
            self.adopt();
        }
        // Apps that nobody knows any more.
        let known: BTreeSet<String> = self.book.apps.keys().cloned().collect();
        let unknown: BTreeSet<String> = self.book.sockets.values().map(|socket| socket.app.clone()).collect();
        unknown.difference(&known).for_each(|app| self.let_go_unclaimed(app));
        // A former daemon's programs go on, but what they count is known to nobody.
        known.iter().for_each(|app| self.steer_app(app));
    }

    /// No replacement is coming for a slot: who connects shall be refused at once.
    pub fn abandon(&mut self, app: String, slot: u32) {
        self.book.abandoned.insert((app.clone(), slot));
        self.let_go_unclaimed(&app);
        self.save();
    }

    /// The sockets of an app that listen.
    pub fn ports(&self, app: &str) -> Vec<SocketInfo> {
        let listening = self.book.sockets.iter().filter(|(_, socket)| socket.app == app && socket.listening);
        listening
            .map(|(id, socket)| SocketInfo {
                slot: socket.slot,
                address: socket.address,
                runs: socket.claims.iter().copied().filter(|run| self.book.runs.contains_key(run)).collect(),
                waiting: self.held.get(id).and_then(|fd| socket::waiting(fd.as_fd()).ok()),
            })
            .collect()
    }

    /// How to come to a run's port.
    pub fn way_to(&self, run: u64, port: u16) -> ProbeTarget {
        let Some(app) = self.book.runs.get(&run).map(|run| run.app.as_str()) else {
            return ProbeTarget::Plain;
        };
        let at_port = |socket: &&HeldSocket| {
            socket.listening && socket.address.port() == port && socket.address.protocol == Protocol::Tcp
        };
        let sockets = self.book.sockets.iter().filter(|(_, socket)| socket.app == app && at_port(socket));
        let (own, others): (Vec<_>, Vec<_>) = sockets.partition(|(_, socket)| socket.claims.contains(&run));
        let shared = self.book.apps.get(app).is_some_and(|app| app.balance == Balance::Shared);
        let takes_v4 = |address: &Address| match address.socket {
            SocketAddr::V4(_) => true,
            SocketAddr::V6(v6) => v6.ip().is_unspecified() && !address.only_v6,
        };
        match own.iter().find(|(_, socket)| takes_v4(&socket.address)) {
            Some((id, _)) if !shared => ProbeTarget::From(ProbeRoute::address(**id)),
            None if own.is_empty() && !others.is_empty() => ProbeTarget::Absent,
            _ => ProbeTarget::Plain,
        }
    }

    /// Tells `done` once nobody waits in a queue that only this run takes from.
    pub fn drained(&mut self, run: u64, done: oneshot::Sender<()>) {
        self.drains.push((run, done));
        self.look_at_drains();
    }

    /// True if someone still waits for a queue to be empty.
    pub fn look_at_drains(&mut self) -> bool {
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
                claims.iter().filter(|other| **other != run).filter_map(|other| self.book.runs.get(other));
            live.filter(|other| other.phase != RunPhase::Quiet).count() > 0
        };
        let own = self.book.sockets.iter().filter(|(_, socket)| socket.claims.contains(&run));
        let mut own = own.filter(|(_, socket)| !others(&socket.claims)).peekable();
        let quiet = self.live.get(&run).and_then(|live| live.quiet);
        if own.peek().is_some() && quiet.is_some_and(|since| since.elapsed() < ROUND_TRIP) {
            return false;
        }
        own.filter_map(|(id, _)| self.held.get(id)).all(|fd| socket::waiting(fd.as_fd()).unwrap_or(0) == 0)
    }

    /// What a run's calls are answered through.
    pub fn notifier(&self, run: u64) -> Option<Arc<Notifier>> {
        self.live.get(&run)?.notifier.clone()
    }

    /// Hears of a run's next call and answers it.
    pub fn hear(&mut self, run: u64) {
        let Some(notifier) = self.notifier(run) else { return };
        let mut call = Notification::default();
        let place = self.hands.free(run).unwrap_or(&mut call);
        if notifier.receive(place).is_err() {
            // Its caller was interrupted before we came; it calls again.
            *place = Notification::default();
            return;
        }
        let call = *place;
        self.handle(run, &call);
    }

    fn handle(&mut self, run: u64, call: &Notification) {
        let Some(notifier) = self.notifier(run) else { return };
        let verdict = match SupervisedCall::of(call) {
            Ok(None) | Err(nix::errno::Errno::EFAULT) => CallVerdict::Pass,
            Ok(Some(SupervisedCall::Bind { number, address, length })) => {
                self.bind(run, call, number, (address, length))
            }
            Ok(Some(SupervisedCall::Listen { number, backlog })) => self.listen(run, call, number, backlog),
            Ok(Some(SupervisedCall::Option { number, level, name, value })) => {
                self.note_option(run, call, number, (level, name), value)
            }
            Err(errno) => self.unseen(run, errno),
        };
        // Whoever called may be gone by now.
        let _ = match verdict {
            CallVerdict::Pass => notifier.continue_syscall(call.id),
            CallVerdict::Result(result) => notifier.respond(call.id, result),
        };
        self.hands.answered(run, call.id);
    }

    /// A call that cannot be looked into is left to the kernel.
    pub fn unseen(&mut self, run: u64, errno: nix::errno::Errno) -> CallVerdict {
        self.warn(run, PortWarning::Unseen { errno });
        CallVerdict::Pass
    }

    pub fn warn(&mut self, run: u64, warning: PortWarning) {
        self.outside.tell(ClusterEvent::Warning { run, warning });
    }

    fn addresses_of(&self, run: u64) -> BTreeSet<Address> {
        let own = self.book.sockets.values().filter(|socket| socket.claims.contains(&run));
        own.map(|socket| socket.address).collect()
    }

    fn steer_app(&mut self, app: &str) {
        let own = self.book.sockets.values().filter(|socket| socket.app == app);
        let addresses: BTreeSet<Address> = own.map(|socket| socket.address).collect();
        addresses.into_iter().for_each(|address| self.steer(address));
    }

    /// Has the kernel choose by the state of things as it is now.
    pub fn steer(&mut self, address: Address) {
        self.set_rounds(address, None);
        let members = self.book.members(address);
        let Some((id, fd)) = members.iter().find_map(|id| Some((*id, self.held.get(id)?))) else { return };
        let steering = self.book.steering(address, None);
        if let SteeringPlan::Over(Balance::Random, targets, doors) = &steering
            && !self.no_turns
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
                    let slots = targets.iter().filter(|target| target.takes()).map(ids).collect();
                    return self.set_rounds(address, Some(RoundRobinGroup::new(turns, slots)));
                }
                // Not us, or not this kernel: it will not be otherwise the next time.
                Err(errno) => self.no_turns = errno != nix::errno::Errno::E2BIG,
            }
        }
        if let Err(errno) = socket::steer(fd.as_fd(), &steering.program()) {
            let run = self.book.sockets.get(&id).and_then(|socket| socket.claims.last().copied());
            self.warn(run.unwrap_or(0), PortWarning::Unsteered { address, errno });
        }
    }
}
