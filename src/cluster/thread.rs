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

use super::book::{PortSettings, RunPhase};
use super::engine::{Engine, ProbeTarget, RunStarted, SocketInfo};
use super::event::ClusterHost;
use super::open::TreeContext;
use super::passed::{OpenError, OpenRequest};

/// How often the sockets of runs that are about to go are looked at: the kernel does not tell when a queue
/// is empty, or a socket is shut down.
const LOOK: Duration = Duration::from_millis(5);

/// What epoll says of our own wake-up call; no run has this number.
const WOKEN: u64 = u64::MAX;

enum ClusterCommand {
    App(String, PortSettings),
    Forget(String),
    Open(OpenRequest, oneshot::Sender<Result<Vec<OwnedFd>, OpenError>>),
    Began(Box<RunStarted>),
    AllBegan,
    SetPhase(u64, RunPhase),
    Ended(u64),
    Abandon(String, u32),
    Ports(String, oneshot::Sender<Vec<SocketInfo>>),
    Drained(u64, oneshot::Sender<()>),
    WayTo(u64, u16, oneshot::Sender<ProbeTarget>),
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
        epoll.add(wake.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, WOKEN))?;
        let desk = ClusterLoop { engine, epoll, wake: Arc::clone(&wake), orders };
        let thread = std::thread::Builder::new().name("rsm-cluster".into()).spawn(move || desk.serve())?;
        Ok(Self { cluster: Cluster { commands, wake }, thread: Some(thread) })
    }

    /// A handle of it.
    pub fn cluster(&self) -> Cluster {
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
    pub fn app(&self, name: impl Into<String>, settings: PortSettings) {
        self.send(ClusterCommand::App(name.into(), settings));
    }

    /// An app is gone: closes its sockets, those that a run still has when that ends.
    pub fn forget(&self, name: impl Into<String>) {
        self.send(ClusterCommand::Forget(name.into()));
    }

    /// Sockets that listen at these addresses, for a run to be passed at its start; see
    /// [`passed`](super::passed). If it does not start after all, it has [`ended`](Self::ended).
    pub fn open(&self, opening: OpenRequest) -> oneshot::Receiver<Result<Vec<OwnedFd>, OpenError>> {
        self.ask(|answer| ClusterCommand::Open(opening, answer))
    }

    /// A run begins, or was there before this daemon. Said twice it does no harm.
    pub fn began(&self, began: RunStarted) {
        self.send(ClusterCommand::Began(Box::new(began)));
    }

    /// All runs that were there before this daemon have been told: those that a former one knew besides are
    /// over.
    pub fn all_began(&self) {
        self.send(ClusterCommand::AllBegan);
    }

    /// A run may get connections.
    pub fn ready(&self, run: u64) {
        self.send(ClusterCommand::SetPhase(run, RunPhase::Ready));
    }

    /// A run shall get no new connections, as long as there is any other.
    pub fn quiet(&self, run: u64) {
        self.send(ClusterCommand::SetPhase(run, RunPhase::Quiet));
    }

    /// Nothing of a run is left. Its sockets hold what comes for its replacement.
    pub fn ended(&self, run: u64) {
        self.send(ClusterCommand::Ended(run));
    }

    /// No replacement is coming: closes the slot's sockets, now or when its run ends. Holds until the
    /// slot's next run begins.
    pub fn abandon(&self, app: impl Into<String>, slot: u32) {
        self.send(ClusterCommand::Abandon(app.into(), slot));
    }

    /// The listening sockets of an app, with the length of their queues.
    pub fn ports(&self, app: impl Into<String>) -> oneshot::Receiver<Vec<SocketInfo>> {
        self.ask(|answer| ClusterCommand::Ports(app.into(), answer))
    }

    /// Resolves once nobody waits in a queue that this run alone takes from; at once where another run
    /// takes from it, too. Where there is no other slot to steer to, that may be never: set a limit.
    pub fn drained(&self, run: u64) -> oneshot::Receiver<()> {
        self.ask(|answer| ClusterCommand::Drained(run, answer))
    }

    /// How our checks come to a run's port; see [`PortSettings::doors`].
    pub fn way_to(&self, run: u64, port: u16) -> oneshot::Receiver<ProbeTarget> {
        self.ask(|answer| ClusterCommand::WayTo(run, port, answer))
    }

    fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> ClusterCommand) -> oneshot::Receiver<T> {
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
    orders: mpsc::Receiver<ClusterCommand>,
}

impl ClusterLoop {
    fn serve(mut self) {
        let mut events = [EpollEvent::empty(); 64];
        let mut even = None;
        loop {
            // Both, so that neither is left out.
            let looks = self.engine.look_at_drains() | self.engine.revive();
            if even.is_none_or(|at| at <= Instant::now()) {
                even = self.engine.even_out().map(|pause| Instant::now() + pause);
            }
            let count = match self.epoll.wait(&mut events, self.timeout(looks, even)) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                Err(errno) => return tracing::error!("cluster event loop failed: {errno}"),
            };
            for event in &events[..count] {
                match event.data() {
                    WOKEN => drop(self.wake.read()),
                    run if event.events().contains(EpollFlags::EPOLLIN) => self.engine.hear(run),
                    // Everything under the filter is gone.
                    run => self.hang_up(run),
                }
            }
            if self.engine.next_sweep().is_some_and(|at| at <= Instant::now()) {
                self.engine.sweep();
            }
            while let Ok(command) = self.orders.try_recv() {
                if !self.obey(command) {
                    return;
                }
            }
        }
    }

    fn timeout(&self, looks: bool, even: Option<Instant>) -> EpollTimeout {
        let planned = self.engine.next_sweep().into_iter().chain(even).min();
        let planned = planned.map(|at| at.saturating_duration_since(Instant::now()));
        let wait = planned.into_iter().chain(looks.then_some(LOOK)).min();
        // Rounded up: woken a moment too early it would only wait again.
        let millis = wait.map(|wait| wait.as_millis() + 1);
        millis
            .map_or(EpollTimeout::NONE, |millis| EpollTimeout::try_from(millis).unwrap_or(EpollTimeout::MAX))
    }

    /// Hears no more of a run. Closing its notifier would not do: the keeper has a duplicate.
    fn hang_up(&self, run: u64) {
        if let Some(notifier) = self.engine.notifier(run) {
            // Unless it had hung up before.
            let _ = self.epoll.delete(&*notifier);
        }
    }

    /// False if it is to stop.
    fn obey(&mut self, command: ClusterCommand) -> bool {
        match command {
            ClusterCommand::App(name, settings) => self.engine.app(name, settings),
            ClusterCommand::Forget(name) => self.engine.forget(&name),
            // Whoever asked may have stopped waiting.
            ClusterCommand::Open(opening, answer) => drop(answer.send(self.engine.open(opening))),
            ClusterCommand::Began(began) => self.began(*began),
            ClusterCommand::AllBegan => self.engine.all_began(),
            ClusterCommand::SetPhase(run, phase) => self.engine.set_phase(run, phase),
            ClusterCommand::Ended(run) => {
                self.hang_up(run);
                self.engine.ended(run);
            }
            ClusterCommand::Abandon(app, slot) => self.engine.abandon(app, slot),
            ClusterCommand::Ports(app, answer) => drop(answer.send(self.engine.ports(&app))),
            ClusterCommand::WayTo(run, port, answer) => drop(answer.send(self.engine.way_to(run, port))),
            ClusterCommand::Drained(run, done) => self.engine.drained(run, done),
            ClusterCommand::Stop => return false,
        }
        true
    }

    fn began(&mut self, began: RunStarted) {
        let run = began.run;
        self.hang_up(run);
        self.engine.began(began);
        let Some(notifier) = self.engine.notifier(run) else { return };
        if let Err(errno) = self.epoll.add(&*notifier, EpollEvent::new(EpollFlags::EPOLLIN, run)) {
            tracing::error!("cannot handle socket calls of run {run}: {errno}; restart the app");
        }
    }
}
