//! `Engine`: executes commands of the daemon and answers supervised calls.
//!
//! It owns the state and the parts that act on the system, and reports events to its host. Answers to calls are in
//! `calls`. The state is saved before a call is answered or a command is finished, so that the next daemon continues
//! from there.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::Epoll;
use tokio::sync::oneshot;

use crate::cluster::activation::{self, OpenError, OpenRequest};
use crate::cluster::address::Address;
use crate::cluster::calls::call::{CallVerdict, SupervisedCall};
use crate::cluster::calls::pending::PendingCalls;
use crate::cluster::event::{ClusterEvent, ClusterHost, FdStoreOp, PortWarning};
use crate::cluster::mechanism::Mechanism;
use crate::cluster::memfd_document::MemfdDocument;
use crate::cluster::runs::{RunStarted, RunTable, TreeContext};
use crate::cluster::sockets::{self, SocketStore};
use crate::cluster::state::{ClusterState, HeldSocket, PortOwner, PortSettings, RunPhase};
use crate::cluster::steering::ProbeTarget;
use crate::cluster::steering::attach::Steering;
use crate::cluster::steering::rebalance::HungQueues;
use crate::cluster::stored::{CALLS_NAME, STATE_NAME, StoredFds};
use crate::cluster::sys::{self, DEFAULT_BACKLOG};
use crate::cluster::unused::{UnusedSockets, find_unused};
use crate::cluster::watch::{CLOSED_GRACE, ClosedListener, ListenerWatch};
use crate::process::seccomp::{Notification, Notifier};

/// A client that started to connect to a socket is in its queue after this time. Slower ones are rare and are
/// rejected.
const DRAIN_DELAY: Duration = Duration::from_millis(250);

/// A run that still has connections in its queue this long after it gets no new ones hangs.
const STUCK_DELAY: Duration = Duration::from_secs(1);

/// A listening socket of an app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketInfo {
    /// Slot of the app; 0 if all slots share one queue.
    pub slot: u32,
    /// Address that it listens on.
    pub address: Address,
    /// Keys of the runs that have it.
    pub runs: Vec<u64>,
    /// Number of connections that wait to be accepted; `None` for UDP.
    pub queued: Option<u32>,
}

/// State and parts of port sharing.
pub(crate) struct Engine {
    pub(super) host: Box<dyn ClusterHost>,
    pub(super) state: ClusterState,
    pub(super) sockets: SocketStore,
    pub(super) runs: RunTable,
    pub(super) unused: UnusedSockets,
    pub(super) watch: ListenerWatch,
    steering: Steering,
    document: MemfdDocument,
    pending_calls: PendingCalls,
    /// There was no saved state, or it could not be read.
    state_lost: bool,
    drains: Vec<(u64, oneshot::Sender<()>)>,
}

/// Start and end of the daemon.
impl Engine {
    /// Continues with what the previous daemon stored; starts with an empty state if there is none that can be read.
    pub fn restore(
        mut host: Box<dyn ClusterHost>,
        context: TreeContext,
        stored: Vec<(String, OwnedFd)>,
    ) -> io::Result<Self> {
        let stored = StoredFds::from_named(stored);
        let saved = stored.document.as_ref().and_then(|document| document.read().ok());
        let decoded = saved.and_then(|bytes| ClusterState::decode(&bytes));
        let state_lost = decoded.is_none();
        let mut state = decoded.unwrap_or_default();
        let sockets = SocketStore::restore(stored.sockets, &mut state, &mut *host)?;
        let document = stored.document.map_or_else(MemfdDocument::new, Ok)?;
        let pending_calls = stored.pending_calls.map_or_else(PendingCalls::new, Ok)?;
        for (name, fd) in [(STATE_NAME, document.as_fd()), (CALLS_NAME, pending_calls.as_fd())] {
            host.store_fd(FdStoreOp::Store(name.to_owned(), fd.try_clone_to_owned()?));
        }
        Ok(Self {
            host,
            state,
            sockets,
            runs: RunTable::new(context),
            unused: UnusedSockets::default(),
            watch: ListenerWatch::default(),
            steering: Steering::default(),
            document,
            pending_calls,
            state_lost,
            drains: Vec::new(),
        })
    }

    /// All runs that continue are known: other runs in the saved state have ended.
    pub fn recovery_complete(&mut self) {
        let ended = self.state.run_keys().into_iter().filter(|run| !self.runs.contains(*run));
        let ended: Vec<u64> = ended.collect();
        ended.into_iter().for_each(|run| self.run_ended(run));
        if std::mem::take(&mut self.state_lost) {
            self.adopt_listeners();
        }
        self.state.unknown_apps().iter().for_each(|app| self.release_unclaimed(app));
        // Programs of the previous daemon are still attached, but the map of their counters is lost.
        self.state.app_names().iter().for_each(|app| self.steer_app(app));
        let shared = self.state.sockets().filter(|(_, socket)| self.state.has_one_queue(&socket.app));
        shared.for_each(|(id, _)| self.sockets.watch_shutdown(id));
    }

    /// Adopts the listening sockets of all runs: daemon and keeper died at the same time, and the sockets that they
    /// held with them. Otherwise no other run could ever bind these ports. Only with [`Mechanism::Duplicate`]: an
    /// injected socket looks like any other socket of a program.
    fn adopt_listeners(&mut self) {
        let duplicating = self.runs.iter().filter(|(_, live)| live.mechanism() == Mechanism::Duplicate);
        let listeners = duplicating.flat_map(|(run, live)| {
            sockets::shared_listeners(live.leader()).into_iter().map(move |fd| (run, fd))
        });
        let listeners: Vec<(u64, OwnedFd)> = listeners.collect();
        for (run, fd) in listeners {
            if let Some(address) = self.sockets.adopt(run, fd, &mut self.state, &mut *self.host) {
                self.steer(address);
                self.republish(run);
            }
        }
        self.save();
    }

    /// Saves the state where the next daemon finds it.
    pub(super) fn save(&mut self) {
        let json = serde_json::to_vec(&self.state).map_err(io::Error::from);
        if let Err(error) = json.and_then(|json| self.document.write(&json)) {
            tracing::error!("cannot save the cluster state: {error}");
        }
    }
}

/// Commands about apps and slots.
impl Engine {
    /// Adds or changes an app.
    pub fn set_app(&mut self, name: &str, settings: PortSettings) {
        if self.state.set_app(name, settings) {
            self.release_unclaimed(name);
            self.steer_app(name);
            self.save();
        }
    }

    /// Removes an app. Its sockets are released now, or when their last run ends.
    pub fn remove_app(&mut self, name: &str) {
        self.state.remove_app(name);
        self.release_unclaimed(name);
        self.save();
    }

    /// No other run of the slot follows: clients must be refused at once instead of waiting.
    pub fn retire_slot(&mut self, app: &str, slot: u32) {
        self.state.retire_slot(app, slot);
        self.release_unclaimed(app);
        self.save();
    }

    /// The listening sockets of an app.
    pub fn ports(&self, app: &str) -> Vec<SocketInfo> {
        let listening = self.state.sockets_of_app(app).filter(|(_, socket)| socket.listening);
        let info = |(id, socket): (u64, &HeldSocket)| SocketInfo {
            slot: socket.slot,
            address: socket.address,
            runs: socket.claims.iter().copied().filter(|run| self.state.run(*run).is_some()).collect(),
            queued: self.sockets.accept_queue_length(id),
        };
        listening.map(info).collect()
    }

    /// Listening sockets for a run with socket activation, one per address.
    pub fn open_sockets(&mut self, request: OpenRequest) -> Result<Vec<OwnedFd>, OpenError> {
        let OpenRequest { run, app, slot, uid, addresses } = request;
        let entry = self.state.start_run(run, &app, slot).clone();
        let slot = self.state.slot_key(&entry);
        let mut fds = Vec::new();
        for address in addresses {
            let to_error = |errno| OpenError { address, errno };
            let id = match self.find_listener(&entry.app, slot, address, run) {
                Some(id) => id,
                None => self.open_listener(&entry.app, slot, address, uid).map_err(to_error)?,
            };
            self.state.claim(id, run);
            let fd = self.sockets.fd(id).ok_or(Errno::EBADF).map_err(to_error)?;
            fds.push(fd.try_clone_to_owned().map_err(|_| to_error(Errno::EMFILE))?);
            self.steer(address);
        }
        self.save();
        Ok(fds)
    }

    /// The held socket of a slot for an address, unless another run uses it.
    fn find_listener(&self, app: &str, slot: u32, address: Address, run: u64) -> Option<u64> {
        let is_usable = |id: u64, socket: &HeldSocket| {
            socket.address == address
                && !self.state.is_used_by_others(socket, run)
                && self.sockets.fd(id).is_some_and(sys::is_listening)
        };
        self.state.sockets_at(app, slot).find(|(id, socket)| is_usable(*id, socket)).map(|(id, _)| id)
    }

    fn open_listener(&mut self, app: &str, slot: u32, address: Address, uid: u32) -> nix::Result<u64> {
        if self.sockets.limit_reached(&self.state, app).is_some() {
            return Err(Errno::EMFILE);
        }
        if self.state.overlapping(address).any(|(_, socket)| socket.app != app && socket.listening) {
            return Err(Errno::EADDRINUSE);
        }
        let owner = PortOwner { protocol: address.protocol, port: address.port(), uid };
        let fd = activation::open_listener(address, self.sockets.owns_port(&self.state, owner))?;
        let id = self.state.add(HeldSocket {
            app: app.to_owned(),
            slot,
            address,
            inode: sys::inode(fd.as_fd())?,
            uid,
            listening: true,
            backlog: DEFAULT_BACKLOG,
            claims: Default::default(),
        });
        self.state.join_group(id);
        self.sockets.hold(id, fd, &mut *self.host);
        Ok(id)
    }
}

/// Commands about runs.
impl Engine {
    /// Answers the calls of a run from now on; first those that the previous daemon did not answer.
    pub fn run_started(&mut self, started: RunStarted) {
        let run = started.run;
        self.state.start_run(run, &started.app, started.slot);
        // A run that has sockets was started under a previous daemon.
        let has_listened = self.state.sockets_of_run(run).next().is_some();
        self.runs.add(started, has_listened, self.state.is_draining(run));
        self.save();
        self.republish(run);
        for call in self.pending_calls.of_run(run) {
            self.handle_call(run, &call);
        }
    }

    /// Changes whether a run gets connections.
    pub fn set_phase(&mut self, run: u64, phase: RunPhase) {
        if phase == RunPhase::Ready && !self.watch.has_all_open(run, &self.state) {
            // It would get connections on a port that it only tested.
            let unused =
                find_unused(BTreeSet::from([run]), &self.state, &self.runs, &self.sockets, &self.watch);
            self.release_unused(unused);
        }
        let Some(app) = self.state.set_phase(run, phase) else { return };
        let draining = phase == RunPhase::Draining;
        if let Some(live) = self.runs.get_mut(run) {
            live.set_draining(draining);
        }
        if draining {
            self.sockets.release_unsteerable(run, &self.state, &mut *self.host);
        }
        for address in self.state.addresses_of_run(run) {
            self.steer(address);
        }
        if phase == RunPhase::Ready {
            self.release_unclaimed(&app); // sockets of the run that it replaces, if that has ended
        }
        self.save();
    }

    /// A run and all its processes have ended.
    pub fn run_ended(&mut self, run: u64) {
        self.runs.remove(run);
        self.pending_calls.clear_run(run);
        let Some(ended) = self.state.end_run(run) else { return };
        self.release_unclaimed(&ended.app);
        // Connections for the replacement wait in these sockets, although the run may have shut them down.
        for id in ended.sockets {
            self.relisten(id);
            // Other runs serve those that wait sooner than a replacement.
            self.hand_over_queue(id, &self.state.ready_alternatives(id));
        }
        for address in ended.addresses {
            self.steer(address);
        }
        self.save();
    }

    /// How a probe reaches a run's port.
    pub fn probe_target(&self, run: u64, port: u16) -> ProbeTarget {
        self.state.probe_target(run, port)
    }

    /// Notifies `done` when the queues that only this run serves are empty.
    pub fn wait_drained(&mut self, run: u64, done: oneshot::Sender<()>) {
        self.drains.push((run, done));
        self.poll_drains();
    }

    /// Notifies those that wait for drained runs; true if some still wait.
    pub fn poll_drains(&mut self) -> bool {
        self.hand_over_stuck_queues();
        let drains = std::mem::take(&mut self.drains);
        let (done, waiting): (Vec<_>, Vec<_>) =
            drains.into_iter().partition(|(run, done)| done.is_closed() || self.is_drained(*run));
        self.drains = waiting;
        for (_, done) in done {
            // Fails if the receiver was dropped.
            let _ = done.send(());
        }
        !self.drains.is_empty()
    }

    /// A draining run that does not empty its queue hangs: others serve it.
    fn hand_over_stuck_queues(&mut self) {
        let is_stuck =
            |run: &u64| self.runs.get(*run).is_some_and(|live| !live.is_draining_within(STUCK_DELAY));
        let stuck: Vec<u64> = self.drains.iter().map(|(run, _)| *run).filter(is_stuck).collect();
        for id in stuck.into_iter().flat_map(|run| self.state.exclusive_sockets(run)).collect::<Vec<_>>() {
            self.hand_over_queue(id, &self.state.ready_alternatives(id));
        }
    }

    fn hand_over_queue(&mut self, id: u64, targets: &[u64]) {
        if self.sockets.hand_over_queue(id, targets, &mut self.state) {
            self.steer_socket(id);
            self.save();
        }
    }

    fn is_drained(&self, run: u64) -> bool {
        let sockets = self.state.exclusive_sockets(run);
        let is_recent = self.runs.get(run).is_some_and(|live| live.is_draining_within(DRAIN_DELAY));
        let queues = sockets.iter().filter_map(|id| self.sockets.accept_queue_length(*id));
        sockets.is_empty() || !is_recent && queues.sum::<u32>() == 0
    }
}

/// Supervised calls.
impl Engine {
    /// The seccomp listener of a run.
    pub fn notifier(&self, run: u64) -> Option<Arc<Notifier>> {
        self.runs.get(run)?.notifier()
    }

    /// Receives the next call of a run and answers it.
    pub fn receive_call(&mut self, run: u64) {
        let Some(notifier) = self.notifier(run) else { return };
        let mut fallback = Notification::default();
        let pending = self.pending_calls.acquire(run).unwrap_or(&mut fallback);
        if notifier.receive(pending).is_err() {
            // A signal has interrupted the caller; it repeats the call.
            *pending = Notification::default();
            return;
        }
        let call = *pending;
        self.handle_call(run, &call);
    }

    fn handle_call(&mut self, run: u64, call: &Notification) {
        let Some(notifier) = self.notifier(run) else { return };
        let read = |address, length| self.read_caller_memory(run, call, address, length);
        let verdict = match SupervisedCall::parse(call, &read) {
            Ok(None) | Err(Errno::EFAULT) => CallVerdict::Continue,
            Ok(Some(SupervisedCall::Bind(args))) => self.bind(run, call, &args),
            Ok(Some(SupervisedCall::Listen(args))) => self.listen(run, call, &args),
            Ok(Some(SupervisedCall::SetSockOpt(args))) => self.record_option(run, call, &args),
            Ok(Some(SupervisedCall::LandlockRuleset(args))) => self.record_landlock(run, call, &args),
            Err(errno) => self.pass_uninspectable(run, errno),
        };
        // Fails if the caller has exited.
        let _ = match verdict {
            CallVerdict::Continue => notifier.continue_syscall(call.id),
            CallVerdict::Return(result) => notifier.respond(call.id, result),
        };
        self.pending_calls.complete(run, call.id);
    }

    /// Leaves a call that cannot be inspected to the kernel.
    pub(super) fn pass_uninspectable(&mut self, run: u64, errno: Errno) -> CallVerdict {
        self.warn(run, PortWarning::CallNotInspectable { errno });
        CallVerdict::Continue
    }

    pub(super) fn warn(&mut self, run: u64, warning: PortWarning) {
        self.host.publish(ClusterEvent::Warning { run, warning });
    }
}

/// Release and steering of sockets.
impl Engine {
    /// Releases the sockets of an app that no run has and that no later run will use.
    fn release_unclaimed(&mut self, app: &str) {
        self.state.releasable_sockets(app).into_iter().for_each(|id| self.release(id));
    }

    /// Releases a socket, and steers its group without it.
    pub(super) fn release(&mut self, id: u64) {
        if let Some(released) = self.sockets.release(id, &mut self.state, &mut *self.host) {
            self.steer(released.address);
            self.sockets.resume_accept(&released);
        }
    }

    /// When [`collect_unused`](Self::collect_unused) is due.
    pub fn next_gc(&self) -> Option<Instant> {
        self.unused.next_check()
    }

    /// Releases the unused sockets of all runs whose check is due.
    pub fn collect_unused(&mut self) {
        let unused = self.unused.find_due(&self.state, &self.runs, &self.sockets, &self.watch);
        self.release_unused(unused);
    }

    fn release_unused(&mut self, unused: Vec<u64>) {
        if !unused.is_empty() {
            unused.into_iter().for_each(|id| self.release_and_publish(id));
            self.save();
        }
    }

    /// Releases a socket and publishes which runs do not listen any more.
    fn release_and_publish(&mut self, id: u64) {
        let Some(socket) = self.state.socket(id).cloned() else { return };
        self.release(id);
        for run in socket.claims {
            if socket.listening && !self.state.is_listening_at(run, socket.address) {
                self.host.publish(ClusterEvent::Closed { run, address: socket.address });
            }
        }
    }

    /// Checks the listeners of all runs if that is due; the time until the next check.
    pub fn watch_listeners(&mut self) -> Option<Duration> {
        let (closed, pause) = self.watch.check(&self.state, &self.runs, &self.sockets);
        closed.into_iter().for_each(|closed| self.on_closed(closed));
        pause
    }

    /// Becomes readable when [`relisten_shut_down`](Self::relisten_shut_down) is due.
    pub fn shutdowns(&self) -> &Epoll {
        self.sockets.shutdowns()
    }

    /// Restarts listening on sockets of several runs that one of them has shut down.
    pub fn relisten_shut_down(&mut self) {
        self.sockets.shut_down().into_iter().for_each(|id| self.relisten(id));
    }

    /// A run has closed or shut down a listener although it continues.
    fn on_closed(&mut self, closed: ClosedListener) {
        let ClosedListener { socket: id, run, since, was_test } = closed;
        let Some(socket) = self.state.socket(id).cloned() else { return };
        let is_shut_down = self.sockets.fd(id).is_some_and(|fd| !sys::is_listening(fd));
        if is_shut_down && self.state.is_claimed_by_others(&socket, run) {
            return self.relisten(id); // the others still accept its connections
        }
        if self.state.is_claimed_by_others(&socket, run) {
            self.state.unclaim(id, run);
            self.host.publish(ClusterEvent::Closed { run, address: socket.address });
            self.steer(socket.address);
        } else if was_test || since.elapsed() > CLOSED_GRACE || !self.state.ready_alternatives(id).is_empty()
        {
            self.release_and_publish(id);
        } else {
            return self.host.publish(ClusterEvent::Closed { run, address: socket.address });
        }
        self.save();
    }

    fn steer_socket(&mut self, id: u64) {
        if let Some(address) = self.state.socket(id).map(|socket| socket.address) {
            self.steer(address);
        }
    }

    fn steer_app(&mut self, app: &str) {
        self.state.addresses_of_app(app).into_iter().for_each(|address| self.steer(address));
    }

    /// Makes the kernel choose members by the state now.
    pub(super) fn steer(&mut self, address: Address) {
        if let Err(error) = self.steering.attach(address, &self.state, &self.sockets) {
            let socket = self.state.socket(error.socket);
            let run = socket.and_then(|socket| socket.claims.last().copied());
            self.warn(run.unwrap_or(0), PortWarning::SteeringFailed { address, errno: error.errno });
        }
        self.sockets.update_visibility(address, &self.state);
    }

    /// Adjusts the groups that are served in turns; the time until the next call, if there is such a group.
    pub fn rebalance(&mut self) -> Option<Duration> {
        let (pause, hung) = self.steering.rebalance(&self.sockets);
        for HungQueues { sockets, targets } in hung {
            for id in sockets {
                self.hand_over_queue(id, &targets);
            }
        }
        pause
    }
}
