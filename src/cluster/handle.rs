//! The engine's thread, and the handle that the daemon has of it.

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
use crate::cluster::engine::{Engine, ProbeTarget, RunStarted, SocketInfo};
use crate::cluster::event::ClusterHost;
use crate::cluster::open_sockets::TreeContext;
use crate::cluster::state::{PortSettings, RunPhase};

/// How often the sockets of runs that are about to go are looked at: the kernel does not tell when a queue
/// is empty, or a socket is shut down.
const DRAIN_POLL_INTERVAL: Duration = Duration::from_millis(5);

/// What epoll says of our own wake-up call; no run has this number.
const WAKE_TOKEN: u64 = u64::MAX;

enum ClusterCommand {
    SetApp(String, PortSettings),
    RemoveApp(String),
    Open(OpenRequest, oneshot::Sender<Result<Vec<OwnedFd>, OpenError>>),
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

/// The thread. Dropping it ends it and waits for that; held sockets stay with the keeper.
#[derive(Debug)]
pub struct ClusterThread {
    cluster: Cluster,
    thread: Option<JoinHandle<()>>,
}

/// The handle. Its methods send a command and return; they are carried out in the order sent. Once the
/// thread has ended they do nothing.
#[derive(Clone, Debug)]
pub struct Cluster {
    commands: mpsc::Sender<ClusterCommand>,
    wake: Arc<EventFd>,
}

impl std::fmt::Debug for ClusterCommand {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Command")
    }
}

impl ClusterThread {
    /// Starts the thread with what a former daemon had stored with the keeper; of that, whatever is not
    /// the engine's is ignored.
    ///
    /// # Errors
    /// The system gives no thread, no epoll or no memory file.
    pub fn start(
        outside: Box<dyn ClusterHost>,
        family: TreeContext,
        stored: Vec<(String, OwnedFd)>,
    ) -> io::Result<Self> {
        let engine = Engine::restore(outside, family, stored)?;
        let (commands, orders) = mpsc::channel();
        let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(wake.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, WAKE_TOKEN))?;
        let desk = ClusterLoop { engine, epoll, wake: Arc::clone(&wake), commands: orders };
        let thread = std::thread::Builder::new().name("rsm-cluster".into()).spawn(move || desk.run())?;
        Ok(Self { cluster: Cluster { commands, wake }, thread: Some(thread) })
    }

    /// A handle of it.
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
    /// Makes an app known, or changes what it wants. Comes before its runs.
    pub fn set_app(&self, name: impl Into<String>, settings: PortSettings) {
        self.send(ClusterCommand::SetApp(name.into(), settings));
    }

    /// An app is gone: closes its sockets, those that a run still has when that ends.
    pub fn remove_app(&self, name: impl Into<String>) {
        self.send(ClusterCommand::RemoveApp(name.into()));
    }

    /// Sockets that listen at these addresses, for a run to be passed at its start; see
    /// [`passed`](super::passed). If it does not start after all, it has [`ended`](Self::ended).
    pub fn open_sockets(&self, opening: OpenRequest) -> oneshot::Receiver<Result<Vec<OwnedFd>, OpenError>> {
        self.request(|answer| ClusterCommand::Open(opening, answer))
    }

    /// A run begins, or was there before this daemon. Said twice it does no harm.
    pub fn run_started(&self, began: RunStarted) {
        self.send(ClusterCommand::RunStarted(Box::new(began)));
    }

    /// All runs that were there before this daemon have been told: those that a former one knew besides are
    /// over.
    pub fn recovery_complete(&self) {
        self.send(ClusterCommand::RecoveryComplete);
    }

    /// A run may get connections.
    pub fn set_ready(&self, run: u64) {
        self.send(ClusterCommand::SetPhase(run, RunPhase::Ready));
    }

    /// A run shall get no new connections, as long as there is any other.
    pub fn drain(&self, run: u64) {
        self.send(ClusterCommand::SetPhase(run, RunPhase::Draining));
    }

    /// Nothing of a run is left. Its sockets hold what comes for its replacement.
    pub fn run_ended(&self, run: u64) {
        self.send(ClusterCommand::RunEnded(run));
    }

    /// No replacement is coming: closes the slot's sockets, now or when its run ends. Holds until the
    /// slot's next run begins.
    pub fn retire_slot(&self, app: impl Into<String>, slot: u32) {
        self.send(ClusterCommand::RetireSlot(app.into(), slot));
    }

    /// The listening sockets of an app, with the length of their queues.
    pub fn ports(&self, app: impl Into<String>) -> oneshot::Receiver<Vec<SocketInfo>> {
        self.request(|answer| ClusterCommand::ListPorts(app.into(), answer))
    }

    /// Resolves once nobody waits in a queue that this run alone takes from; at once where another run
    /// takes from it, too. Where there is no other slot to steer to, that may be never: set a limit.
    pub fn wait_drained(&self, run: u64) -> oneshot::Receiver<()> {
        self.request(|answer| ClusterCommand::WaitDrained(run, answer))
    }

    /// How our checks come to a run's port; see [`PortSettings::doors`].
    pub fn probe_target(&self, run: u64, port: u16) -> oneshot::Receiver<ProbeTarget> {
        self.request(|answer| ClusterCommand::ProbeTarget(run, port, answer))
    }

    fn request<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> ClusterCommand) -> oneshot::Receiver<T> {
        let (answer, receiver) = oneshot::channel();
        self.send(command(answer));
        receiver
    }

    fn send(&self, command: ClusterCommand) {
        // Fails only when the thread is gone; dropping the command is the answer then. The counter
        // cannot overflow before the thread reads it.
        if self.commands.send(command).is_ok() {
            let _ = self.wake.write(1);
        }
    }
}

/// All that the thread has.
struct ClusterLoop {
    engine: Engine,
    epoll: Epoll,
    wake: Arc<EventFd>,
    commands: mpsc::Receiver<ClusterCommand>,
}

impl ClusterLoop {
    fn run(mut self) {
        let mut events = [EpollEvent::empty(); 64];
        let mut even = None;
        loop {
            // Both, so that neither is left out.
            let looks = self.engine.poll_drains() | self.engine.relisten_shared();
            if even.is_none_or(|at| at <= Instant::now()) {
                even = self.engine.rebalance().map(|pause| Instant::now() + pause);
            }
            let count = match self.epoll.wait(&mut events, self.timeout(looks, even)) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                Err(errno) => return tracing::error!("cluster event loop failed: {errno}"),
            };
            for event in &events[..count] {
                match event.data() {
                    WAKE_TOKEN => drop(self.wake.read()),
                    run if event.events().contains(EpollFlags::EPOLLIN) => self.engine.receive_call(run),
                    // Everything under the filter is gone.
                    run => self.unregister_notifier(run),
                }
            }
            if self.engine.next_gc().is_some_and(|at| at <= Instant::now()) {
                self.engine.collect_unused();
            }
            while let Ok(command) = self.commands.try_recv() {
                if !self.handle_command(command) {
                    return;
                }
            }
        }
    }

    fn timeout(&self, looks: bool, even: Option<Instant>) -> EpollTimeout {
        let planned = self.engine.next_gc().into_iter().chain(even).min();
        let planned = planned.map(|at| at.saturating_duration_since(Instant::now()));
        let wait = planned.into_iter().chain(looks.then_some(DRAIN_POLL_INTERVAL)).min();
        // Rounded up: woken a moment too early it would only wait again.
        let millis = wait.map(|wait| wait.as_millis() + 1);
        millis
            .map_or(EpollTimeout::NONE, |millis| EpollTimeout::try_from(millis).unwrap_or(EpollTimeout::MAX))
    }

    /// Hears no more of a run. Closing its notifier would not do: the keeper has a duplicate.
    fn unregister_notifier(&self, run: u64) {
        if let Some(notifier) = self.engine.notifier(run) {
            // Unless it had hung up before.
            let _ = self.epoll.delete(&*notifier);
        }
    }

    /// False if it is to stop.
    fn handle_command(&mut self, command: ClusterCommand) -> bool {
        match command {
            ClusterCommand::SetApp(name, settings) => self.engine.set_app(name, settings),
            ClusterCommand::RemoveApp(name) => self.engine.remove_app(&name),
            // Whoever asked may have stopped waiting.
            ClusterCommand::Open(opening, answer) => drop(answer.send(self.engine.open_sockets(opening))),
            ClusterCommand::RunStarted(began) => self.run_started(*began),
            ClusterCommand::RecoveryComplete => self.engine.recovery_complete(),
            ClusterCommand::SetPhase(run, phase) => self.engine.set_phase(run, phase),
            ClusterCommand::RunEnded(run) => {
                self.unregister_notifier(run);
                self.engine.run_ended(run);
            }
            ClusterCommand::RetireSlot(app, slot) => self.engine.retire_slot(app, slot),
            ClusterCommand::ListPorts(app, answer) => drop(answer.send(self.engine.ports(&app))),
            ClusterCommand::ProbeTarget(run, port, answer) => {
                _ = answer.send(self.engine.probe_target(run, port))
            }
            ClusterCommand::WaitDrained(run, done) => self.engine.wait_drained(run, done),
            ClusterCommand::Stop => return false,
        }
        true
    }

    fn run_started(&mut self, began: RunStarted) {
        let run = began.run;
        self.unregister_notifier(run);
        self.engine.run_started(began);
        let Some(notifier) = self.engine.notifier(run) else { return };
        if let Err(errno) = self.epoll.add(&*notifier, EpollEvent::new(EpollFlags::EPOLLIN, run)) {
            tracing::error!("cannot handle socket calls of run {run}: {errno}; restart the app");
        }
    }
}
