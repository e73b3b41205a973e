//! `ClusterThread` and `Cluster`: the thread of the engine with its event loop, and the daemon's handle of it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::oneshot;

use crate::cluster::activation::{OpenError, OpenRequest};
use crate::cluster::engine::{Engine, SocketInfo};
use crate::cluster::event::ClusterHost;
use crate::cluster::runs::{RunStarted, TreeContext};
use crate::cluster::state::{PortSettings, RunPhase};
use crate::cluster::steering::ProbeTarget;

/// Interval of polling the sockets of draining runs: the kernel does not report that a queue is empty or that a socket
/// was shut down.
const DRAIN_POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Epoll data of the event that wakes the loop, and of sockets that are shut down; no run has these keys.
const WAKE_TOKEN: u64 = u64::MAX;
const SHUTDOWN_TOKEN: u64 = u64::MAX - 1;

enum ClusterCommand {
    SetApp(String, PortSettings),
    RemoveApp(String),
    OpenSockets(OpenRequest, oneshot::Sender<Result<Vec<OwnedFd>, OpenError>>),
    RunStarted(Box<RunStarted>),
    RecoveryComplete,
    SetPhase(u64, RunPhase),
    RunEnded(u64),
    RetireSlot(String, u32),
    ListPorts(String, oneshot::Sender<Vec<SocketInfo>>),
    WaitDrained(u64, oneshot::Sender<()>),
    ProbeTarget(u64, u16, oneshot::Sender<ProbeTarget>),
    Stop,
}

/// The thread of the engine. Dropping this stops it and waits until it has ended; the keeper still has the held
/// sockets.
#[derive(Debug)]
pub struct ClusterThread {
    cluster: Cluster,
    thread: Option<JoinHandle<()>>,
}

/// A handle of the engine. Methods send a command and return at once; commands are executed in the order sent. They do
/// nothing after the thread has ended.
#[derive(Clone, Debug)]
pub struct Cluster {
    commands: mpsc::Sender<ClusterCommand>,
    wake: Arc<EventFd>,
}

impl std::fmt::Debug for ClusterCommand {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("ClusterCommand")
    }
}

impl ClusterThread {
    /// Starts the thread with what the previous daemon stored in the keeper; descriptors of other names are ignored.
    ///
    /// # Errors
    /// The system is out of threads, descriptors or memory.
    pub fn start(
        host: Box<dyn ClusterHost>,
        context: TreeContext,
        stored: Vec<(String, OwnedFd)>,
    ) -> io::Result<Self> {
        let engine = Engine::restore(host, context, stored)?;
        let (commands, receiver) = mpsc::channel();
        let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(wake.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, WAKE_TOKEN))?;
        epoll.add(&engine.shutdowns().0, EpollEvent::new(EpollFlags::EPOLLIN, SHUTDOWN_TOKEN))?;
        let event_loop = ClusterLoop { engine, epoll, wake: Arc::clone(&wake), commands: receiver };
        let thread =
            std::thread::Builder::new().name("rsm-cluster".into()).spawn(move || event_loop.run())?;
        Ok(Self { cluster: Cluster { commands, wake }, thread: Some(thread) })
    }

    /// A handle of the engine.
    pub fn handle(&self) -> Cluster {
        self.cluster.clone()
    }
}

impl Drop for ClusterThread {
    fn drop(&mut self) {
        self.cluster.send(ClusterCommand::Stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("cluster thread panicked");
        }
    }
}

impl Cluster {
    /// Adds or changes an app. Must precede its runs.
    pub fn set_app(&self, name: impl Into<String>, settings: PortSettings) {
        self.send(ClusterCommand::SetApp(name.into(), settings));
    }

    /// Removes an app: releases its sockets, those of runs that continue when they end.
    pub fn remove_app(&self, name: impl Into<String>) {
        self.send(ClusterCommand::RemoveApp(name.into()));
    }

    /// Opens listening sockets that are passed to a run at its start; see [`activation`](super::activation). If the run
    /// does not start, call [`run_ended`](Self::run_ended).
    pub fn open_sockets(&self, request: OpenRequest) -> oneshot::Receiver<Result<Vec<OwnedFd>, OpenError>> {
        self.request(|reply| ClusterCommand::OpenSockets(request, reply))
    }

    /// A run starts, or continues from a previous daemon. May be repeated.
    pub fn run_started(&self, started: RunStarted) {
        self.send(ClusterCommand::RunStarted(Box::new(started)));
    }

    /// All runs from before this daemon are registered: other runs of the saved state have ended.
    pub fn recovery_complete(&self) {
        self.send(ClusterCommand::RecoveryComplete);
    }

    /// Lets a run get connections.
    pub fn set_ready(&self, run: u64) {
        self.send(ClusterCommand::SetPhase(run, RunPhase::Ready));
    }

    /// Stops new connections to a run, as long as there is another run.
    pub fn drain(&self, run: u64) {
        self.send(ClusterCommand::SetPhase(run, RunPhase::Draining));
    }

    /// A run and all its processes have ended. Connections wait in its sockets for the replacement.
    pub fn run_ended(&self, run: u64) {
        self.send(ClusterCommand::RunEnded(run));
    }

    /// No other run of the slot follows: releases its sockets, now or when its run ends. Valid until a run of the slot
    /// starts.
    pub fn retire_slot(&self, app: impl Into<String>, slot: u32) {
        self.send(ClusterCommand::RetireSlot(app.into(), slot));
    }

    /// Lists the listening sockets of an app with the length of their queues.
    pub fn ports(&self, app: impl Into<String>) -> oneshot::Receiver<Vec<SocketInfo>> {
        self.request(|reply| ClusterCommand::ListPorts(app.into(), reply))
    }

    /// Resolves when the queues that only this run serves are empty. Without another slot that gets the new
    /// connections, that may never happen: set a timeout.
    pub fn wait_drained(&self, run: u64) -> oneshot::Receiver<()> {
        self.request(|reply| ClusterCommand::WaitDrained(run, reply))
    }

    /// How a probe reaches the port of a run; see [`PortSettings::probe_routes`].
    pub fn probe_target(&self, run: u64, port: u16) -> oneshot::Receiver<ProbeTarget> {
        self.request(|reply| ClusterCommand::ProbeTarget(run, port, reply))
    }

    fn request<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> ClusterCommand) -> oneshot::Receiver<T> {
        let (reply, receiver) = oneshot::channel();
        self.send(command(reply));
        receiver
    }

    fn send(&self, command: ClusterCommand) {
        // Fails only after the thread has ended: a dropped command closes its reply channel. The counter of the event
        // cannot overflow before the thread reads it.
        if self.commands.send(command).is_ok() {
            let _ = self.wake.write(1);
        }
    }
}

/// The event loop of the thread.
struct ClusterLoop {
    engine: Engine,
    epoll: Epoll,
    wake: Arc<EventFd>,
    commands: mpsc::Receiver<ClusterCommand>,
}

impl ClusterLoop {
    fn run(mut self) {
        let mut events = [EpollEvent::empty(); 64];
        let mut next_rebalance: Option<Instant> = None;
        loop {
            // `|` and not `||`: both must be called.
            let has_draining = self.engine.poll_drains() | self.engine.relisten_shared();
            if next_rebalance.is_none_or(|instant| instant <= Instant::now()) {
                next_rebalance = self.engine.rebalance().map(|pause| Instant::now() + pause);
            }
            let next_watch = self.engine.watch_listeners();
            let count =
                match self.epoll.wait(&mut events, self.timeout(has_draining, next_rebalance, next_watch)) {
                    Ok(count) => count,
                    Err(Errno::EINTR) => 0,
                    Err(errno) => return tracing::error!("cluster event loop failed: {errno}"),
                };
            for event in &events[..count] {
                match event.data() {
                    WAKE_TOKEN => drop(self.wake.read()),
                    SHUTDOWN_TOKEN => self.engine.relisten_shut_down(),
                    run if event.events().contains(EpollFlags::EPOLLIN) => self.engine.receive_call(run),
                    // All processes under the filter have exited.
                    run => self.unregister_notifier(run),
                }
            }
            if self.engine.next_gc().is_some_and(|instant| instant <= Instant::now()) {
                self.engine.collect_unused();
            }
            while let Ok(command) = self.commands.try_recv() {
                if !self.handle_command(command) {
                    return;
                }
            }
        }
    }

    fn timeout(
        &self,
        has_draining: bool,
        next_rebalance: Option<Instant>,
        next_watch: Option<Duration>,
    ) -> EpollTimeout {
        let next = self.engine.next_gc().into_iter().chain(next_rebalance).min();
        let next = next.map(|instant| instant.saturating_duration_since(Instant::now()));
        let drain_poll = has_draining.then_some(DRAIN_POLL_INTERVAL);
        let wait = next.into_iter().chain(drain_poll).chain(next_watch).min();
        // Rounded up, not to wake before something is due.
        let millis = wait.map(|wait| wait.as_millis() + 1);
        millis
            .map_or(EpollTimeout::NONE, |millis| EpollTimeout::try_from(millis).unwrap_or(EpollTimeout::MAX))
    }

    /// Stops polling the notifier of a run. Closing it is not enough: the keeper has a duplicate.
    fn unregister_notifier(&self, run: u64) {
        if let Some(notifier) = self.engine.notifier(run) {
            // Fails if it was removed before.
            let _ = self.epoll.delete(&*notifier);
        }
    }

    /// False if the loop must end.
    fn handle_command(&mut self, command: ClusterCommand) -> bool {
        match command {
            ClusterCommand::SetApp(name, settings) => self.engine.set_app(&name, settings),
            ClusterCommand::RemoveApp(name) => self.engine.remove_app(&name),
            // Replies fail if the receiver was dropped.
            ClusterCommand::OpenSockets(request, reply) => {
                drop(reply.send(self.engine.open_sockets(request)))
            }
            ClusterCommand::RunStarted(started) => self.run_started(*started),
            ClusterCommand::RecoveryComplete => self.engine.recovery_complete(),
            ClusterCommand::SetPhase(run, phase) => self.engine.set_phase(run, phase),
            ClusterCommand::RunEnded(run) => {
                self.unregister_notifier(run);
                self.engine.run_ended(run);
            }
            ClusterCommand::RetireSlot(app, slot) => self.engine.retire_slot(&app, slot),
            ClusterCommand::ListPorts(app, reply) => drop(reply.send(self.engine.ports(&app))),
            ClusterCommand::ProbeTarget(run, port, reply) => {
                _ = reply.send(self.engine.probe_target(run, port));
            }
            ClusterCommand::WaitDrained(run, done) => self.engine.wait_drained(run, done),
            ClusterCommand::Stop => return false,
        }
        true
    }

    fn run_started(&mut self, started: RunStarted) {
        let run = started.run;
        self.unregister_notifier(run);
        self.engine.run_started(started);
        let Some(notifier) = self.engine.notifier(run) else { return };
        if let Err(errno) = self.epoll.add(&*notifier, EpollEvent::new(EpollFlags::EPOLLIN, run)) {
            tracing::error!("cannot handle socket calls of run {run}: {errno}; restart the app");
        }
    }
}
