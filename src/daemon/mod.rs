//! The daemon: supervises apps and serves the API. It can die at any time; the keeper restarts it, and the
//! next daemon continues from the saved state.
//!
//! [`main`] attaches to the keeper, recovers the state, and runs the loop, the API and all jobs as tasks on one
//! thread. Log capture, the cluster, sampling and file writes have their own threads.

mod api;
mod home_watch;
pub(crate) mod jobs;
mod keeper_notices;
mod recovery;
mod shutdown;
pub mod supervisor;
mod world;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener as StdListener;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::runtime;
use tokio::sync::{broadcast, mpsc};
use tokio::task::{JoinHandle, LocalSet, spawn_local};

use crate::cluster::{ClusterThread, TreeContext};
use crate::daemon::api::instances::InstanceQueries;
use crate::daemon::api::{Api, ApiParts};
use crate::daemon::home_watch::HomeWatch;
use crate::daemon::jobs::autosave::Autosave;
use crate::daemon::jobs::autoscale::Autoscaler;
use crate::daemon::jobs::reload::Reloads;
use crate::daemon::keeper_notices::KeeperNotices;
use crate::daemon::recovery::Recovery;
use crate::daemon::shutdown::{ExitReason, Shutdown, handle_signals};
use crate::daemon::supervisor::handle::SupervisorHandle;
use crate::daemon::supervisor::{Input, Supervisor};
use crate::daemon::world::cluster_events::cluster_host;
use crate::daemon::world::keeper_link::{KeeperLink, KeeperState};
use crate::daemon::world::limits::ResourceLimiter;
use crate::daemon::world::node_channel::NodeChannels;
use crate::daemon::world::port_registry::PortRegistry;
use crate::daemon::world::ports::{Notifiers, PortSharing};
use crate::daemon::world::state_writer::StateWriter;
use crate::daemon::world::usage::run_sampling;
use crate::daemon::world::{SystemWorld, WorldParts};
use crate::instance::launch::run_marker;
use crate::ipc::client::Client;
use crate::ipc::message::{EventView, Pong, Request};
use crate::ipc::server;
use crate::keeper::protocol::{CHANNEL_FD, FdRole, KeeperRequest, LISTENER_FD, UpgradeResult};
use crate::logs::{LogConfig, LogHandle, LogWorkers, daemon_log};
use crate::paths::Home;
use crate::process::{detached, fd_channel, oom_score, spawn};
use crate::settings::RsmSettings;
use crate::version::version;

/// How many events a slow subscriber can lag behind.
const EVENT_BACKLOG: usize = 1024;
/// How often to check for blocked log workers.
const STALL_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Runs the daemon until a shutdown is done or another process takes over. Only the keeper can start it: it
/// passes the channel and the API's socket at fixed numbers.
///
/// # Errors
/// The keeper did not start this process, or the system refuses what every daemon needs.
pub fn main(home: &Home) -> io::Result<()> {
    let channel = inherited_fd(CHANNEL_FD)?;
    let listener = StdListener::from(inherited_fd(LISTENER_FD)?);
    listener.set_nonblocking(true)?;
    let _ = nix::sys::prctl::set_name(c"rsm-daemon");
    oom_score::lower_own_score();
    let nofile = spawn::raise_nofile_limit(); // a failure is no reason to exit
    let settings = load_settings_and_log(home)?;
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let result = LocalSet::new().block_on(&runtime, async {
        let daemon = Daemon::start(home, &settings, channel).await?;
        daemon.run_until_exit(UnixListener::from_std(listener.try_clone()?)?).await
    });
    // A thread of the runtime may be blocked by a disk; the end of the process does not wait for it.
    runtime.shutdown_background();
    let is_blocked = !detached::stalled_calls().is_empty();
    let result = result.and_then(|(reason, link, log_workers)| {
        drop(log_workers); // writes what is still in the pipes
        match reason {
            ExitReason::KeeperLost => {
                tracing::warn!("keeper died; taking over as keeper");
                if is_blocked {
                    let _ = spawn::leave_blocked_threads(); // otherwise `execve` waits for them
                }
                Err(link.exec_keeper(listener.as_fd(), nofile))
            }
            ExitReason::ShutDown | ExitReason::Replaced => Ok(()),
        }
    });
    result.inspect_err(|error| tracing::error!("daemon exits: {error}"))
}

fn inherited_fd(number: i32) -> io::Result<OwnedFd> {
    fd_channel::take_inherited_fd(number).map_err(|_| {
        io::Error::new(io::ErrorKind::InvalidInput, "`rsm daemon` must be started by the keeper")
    })
}

/// Loads the settings and opens rsm's own log at the configured level.
fn load_settings_and_log(home: &Home) -> io::Result<RsmSettings> {
    let loaded = RsmSettings::load(home);
    let problem = loaded.as_ref().err().map(ToString::to_string);
    let settings = loaded.unwrap_or_default();
    if let Err(error) = daemon_log::init(home, settings.log_level()) {
        // A disk that is read-only or full must not end the supervision of running apps.
        daemon_log::init_stderr(settings.log_level())?;
        let path = home.daemon_log();
        tracing::error!(
            "cannot write {}: {error}; state and logs are in memory and in pipes",
            path.display()
        );
    }
    if let Some(problem) = problem {
        tracing::error!("{problem}; using defaults");
    }
    Ok(settings)
}

/// The parts that all others share.
struct Daemon {
    home: Home,
    keeper: KeeperLink,
    keeper_pid: i32,
    /// The result of the upgrade that started this daemon.
    upgrade: UpgradeResult,
    log_workers: LogWorkers,
    state_writer: StateWriter,
    queue: mpsc::UnboundedSender<Input>,
    events: broadcast::Sender<EventView>,
    handle: SupervisorHandle,
    cluster: ClusterThread,
    port_registry: PortRegistry,
    notifiers: Notifiers,
    node_channels: NodeChannels,
    limiter: ResourceLimiter,
    /// The API socket that a previous daemon created again.
    recreated_listener: Option<UnixListener>,
}

impl Daemon {
    /// Attaches to the keeper, recovers the state and starts the loop.
    async fn start(home: &Home, settings: &RsmSettings, channel: OwnedFd) -> io::Result<Self> {
        let (keeper, mut state) = KeeperLink::attach(channel).await?;
        let recreated_listener = home_watch::take_listener(&mut state.fd_store);
        let log_workers = start_log_workers(home, settings, &keeper, &mut state)?;
        let state_writer = StateWriter::start()?;
        let recovery = Recovery::load(home, &keeper, &mut state);
        let (queue, inputs) = mpsc::unbounded_channel();
        let port_registry = PortRegistry::default();
        let tree_context = TreeContext {
            keeper: state.keeper_pid,
            orphans: recovery.orphan_scope(),
            marker: run_marker(home),
        };
        let host = cluster_host(queue.clone(), port_registry.clone(), keeper.clone());
        let daemon = Self {
            home: home.clone(),
            keeper,
            keeper_pid: state.keeper_pid,
            upgrade: state.upgrade,
            log_workers,
            state_writer,
            handle: SupervisorHandle::new(queue.clone()),
            queue,
            events: broadcast::Sender::new(EVENT_BACKLOG),
            cluster: ClusterThread::start(host, tree_context, state.fd_store)?,
            port_registry,
            notifiers: Notifiers::default(),
            node_channels: NodeChannels::default(),
            limiter: ResourceLimiter::new(home.clone()),
            recreated_listener,
        };
        let mut supervisor = Supervisor::new(daemon.world());
        recovery.resume(&mut supervisor);
        spawn_local(run_supervisor(supervisor, inputs));
        tracing::info!(version = version(), keeper = daemon.keeper_pid, "daemon started");
        Ok(daemon)
    }

    /// Serves clients until the daemon must exit.
    async fn run_until_exit(
        mut self,
        listener: UnixListener,
    ) -> io::Result<(ExitReason, KeeperLink, LogWorkers)> {
        let reloads = Reloads::default();
        let is_new_list = self.handle.get(None).await.is_ok_and(|list| list.is_empty());
        let (handle, state_writer) = (self.handle.clone(), self.state_writer.clone());
        let autosave = Autosave::new(self.home.clone(), handle, state_writer, is_new_list);
        let shutdown = Shutdown::new(self.handle.clone(), autosave.clone(), self.keeper.clone());
        let mut keeper_notices = self.spawn_tasks(&reloads, &autosave, &shutdown);
        handle_signals(shutdown.clone(), self.log_workers.handle())?;
        let api = self.api(reloads, autosave, shutdown.clone());
        let own_user = server::AllowedUids::own_user();
        let (added, added_listeners) = mpsc::unbounded_channel();
        if let Some(recreated) = self.recreated_listener.take() {
            let _ = added.send(recreated);
        }
        let home_watch = HomeWatch {
            home: self.home.clone(),
            keeper: self.keeper.clone(),
            queue: self.queue.clone(),
            listeners: added,
        };
        spawn_local(home_watch.run());
        let listeners = server::Listeners::new(listener, added_listeners);
        let reason = tokio::select! {
            () = server::serve_all(listeners, api, own_user, shutdown.wait_shutdown()) => ExitReason::ShutDown,
            () = shutdown.wait_upgrade() => ExitReason::Replaced,
            error = &mut keeper_notices => {
                tracing::warn!("lost connection to the keeper: {error:?}");
                ExitReason::KeeperLost
            }
        };
        let (keeper, log_workers) = self.finish(reason).await;
        Ok((reason, keeper, log_workers))
    }

    /// The world of the supervisor.
    fn world(&self) -> SystemWorld {
        let (cluster, registry) = (self.cluster.handle(), self.port_registry.clone());
        SystemWorld::new(WorldParts {
            home: self.home.clone(),
            keeper: self.keeper.clone(),
            keeper_pid: self.keeper_pid,
            logs: self.log_workers.handle(),
            state_writer: self.state_writer.clone(),
            queue: self.queue.clone(),
            events: self.events.clone(),
            ports: PortSharing::new(cluster, registry, self.notifiers.clone(), self.home.clone()),
            node_channels: self.node_channels.clone(),
            limiter: self.limiter.clone(),
        })
    }

    /// Starts all tasks beside the loop. Returns the one that ends when the keeper is dead.
    fn spawn_tasks(
        &self,
        reloads: &Reloads,
        autosave: &Autosave,
        shutdown: &Shutdown,
    ) -> JoinHandle<io::Error> {
        let autoscaler = Autoscaler {
            handle: self.handle.clone(),
            cluster: self.cluster.handle(),
            reloads: reloads.clone(),
            events: self.events.clone(),
        };
        spawn_local(autoscaler.run());
        spawn_local(autosave.clone().run(self.events.subscribe()));
        spawn_local(self.keeper.clone().send_queued());
        spawn_local(run_sampling(self.handle.clone(), self.queue.clone(), self.limiter.clone()));
        spawn_local(check_log_workers(self.log_workers.handle()));
        spawn_local(announce_ready(self.home.clone(), self.keeper.clone()));
        let keeper_notices = KeeperNotices {
            link: self.keeper.clone(),
            queue: self.queue.clone(),
            notifiers: self.notifiers.clone(),
            limiter: self.limiter.clone(),
            shutdown: shutdown.clone(),
        };
        spawn_local(keeper_notices.run())
    }

    fn api(&self, reloads: Reloads, autosave: Autosave, shutdown: Shutdown) -> Api {
        Api::new(ApiParts {
            home: self.home.clone(),
            handle: self.handle.clone(),
            instances: InstanceQueries::new(
                self.home.clone(),
                self.handle.clone(),
                self.node_channels.clone(),
                self.port_registry.clone(),
                self.limiter.clone(),
                self.log_workers.handle(),
            ),
            logs: self.log_workers.handle(),
            state_writer: self.state_writer.clone(),
            events: self.events.clone(),
            node_channels: self.node_channels.clone(),
            keeper_pid: self.keeper_pid,
            upgrade: self.upgrade,
            autosave,
            reloads,
            shutdown,
        })
    }

    /// Hands the state over to what follows: nothing after a shutdown, another daemon, or another keeper.
    async fn finish(self, reason: ExitReason) -> (KeeperLink, LogWorkers) {
        match reason {
            ExitReason::ShutDown => {
                self.state_writer.remove_state(self.home.state()).await;
                self.keeper.send(KeeperRequest::Exit, Vec::new());
                tracing::info!("shutdown complete");
            }
            // Afterwards all decisions are in the keeper, or in its mirror.
            ExitReason::KeeperLost => self.handle.freeze().await,
            ExitReason::Replaced => tracing::info!("exiting for the upgraded daemon"),
        }
        drop(self.cluster); // before the flush: it may still send requests
        self.keeper.flush().await;
        self.state_writer.flush().await;
        (self.keeper, self.log_workers)
    }
}

/// Starts the log workers, with the journals of the previous daemon or new ones in the fd store.
fn start_log_workers(
    home: &Home,
    settings: &RsmSettings,
    keeper: &KeeperLink,
    state: &mut KeeperState,
) -> io::Result<LogWorkers> {
    let config = LogConfig { logs: home.logs(), indexes: home.log_indexes(), budget: settings.log_budget() };
    let keeper = keeper.clone();
    let store = move |name, fd| keeper.send(KeeperRequest::StoreFd { name }, vec![(FdRole::Stored, fd)]);
    LogWorkers::start(config, &mut state.fd_store, Box::new(store))
}

/// The loop of the daemon. It waits for nothing but its queue.
async fn run_supervisor(mut supervisor: Supervisor<SystemWorld>, mut inputs: mpsc::UnboundedReceiver<Input>) {
    while let Some(input) = inputs.recv().await {
        supervisor.handle(input);
        // All queued inputs are one batch: one save and one cleanup for all of them.
        while let Ok(input) = inputs.try_recv() {
            supervisor.handle(input);
        }
        supervisor.finish_batch();
    }
}

/// Replaces log workers that an app blocks.
async fn check_log_workers(logs: LogHandle) {
    loop {
        tokio::time::sleep(STALL_CHECK_INTERVAL).await;
        logs.check_stalls();
    }
}

/// Tells the keeper when clients are served. An upgrade succeeds at this point.
async fn announce_ready(home: Home, keeper: KeeperLink) {
    let response = async { Client::connect(&home).await?.call::<Pong>(&Request::Ping).await };
    match response.await {
        Ok(_) => keeper.send(KeeperRequest::Ready, Vec::new()),
        Err(error) => tracing::error!("self-check failed: {error}"),
    }
}
