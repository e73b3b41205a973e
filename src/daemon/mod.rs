//! The daemon: all decisions, the API, logs and metrics. It may die at any time; the keeper starts
//! it again and it takes up what there is.
//!
//! [`main`] attaches to the keeper, restores the state, and then runs the loop, the API and the
//! sampling side by side on one thread until a shutdown is done.

pub mod api;
pub mod jobs;
mod recovery;
pub mod supervisor;
mod world;

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener as StdListener;

use tokio::sync::{Notify, broadcast, mpsc};

use self::api::{Api, ApiParts};
use self::supervisor::{Input, Supervisor};
use crate::cluster::{self, ClusterThread};
use crate::daemon::jobs::reload::Reloads;
use crate::daemon::supervisor::handle::SupervisorHandle;
use crate::daemon::world::keeper_link::{KeeperLink, KeeperState};
use crate::daemon::world::ports::PortSharing;
use crate::daemon::world::state_writer::StateWriter;
use crate::daemon::world::{SystemWorld, WorldParts};
use crate::exit::{Exit, StartFailure, StartStep};
use crate::instance::event::InstanceEvent;
use crate::instance::state::RunProcess;
use crate::instance::status::RunId;
use crate::ipc::client::Client;
use crate::ipc::message::{Pong, Request};
use crate::ipc::server;
use crate::keeper::protocol::{CHANNEL_FD, FdRole, KeeperNotice, KeeperRequest, LISTENER_FD, take_fd};
use crate::logs::{LogConfig, LogWorkers, daemon_log};
use crate::paths::Home;
use crate::process::{fd_channel, oom_score, spawn, tree::OrphanScope, wait::WaitStatus};
use crate::settings::RsmSettings;
use crate::version::version;

/// How many events a slow reader of the event stream may lag behind.
const EVENT_BACKLOG: usize = 1024;

/// How a daemon's work comes to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// Every app is stopped.
    ShutDown,
    /// The keeper is to start another daemon in its place.
    Replaced,
    /// The keeper is dead: the daemon is to become one.
    KeeperLost,
}

/// Runs the daemon until a shutdown is done, or another daemon is to follow. Started by the keeper
/// only, which passes the channel and the API's socket at known numbers.
///
/// # Errors
/// It was not started by a keeper, or the system refuses what every daemon needs.
pub fn main(home: &Home) -> io::Result<()> {
    let keeper = fd_channel::take_inherited_fd(CHANNEL_FD).map_err(|_| error_not_started_by_keeper())?;
    let listener = StdListener::from(
        fd_channel::take_inherited_fd(LISTENER_FD).map_err(|_| error_not_started_by_keeper())?,
    );
    listener.set_nonblocking(true)?;
    let _ = nix::sys::prctl::set_name(c"rsm-daemon");
    oom_score::lower_own_score();
    let nofile = spawn::raise_nofile_limit(); // what cannot be raised has to do
    let settings = load_settings_and_log(home)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = tokio::task::LocalSet::new().block_on(&runtime, async {
        let (link, mut kept) = KeeperLink::attach(keeper).await?;
        let listener = tokio::net::UnixListener::from_std(listener.try_clone()?)?;
        let log_thread = start_log_workers(home, &settings, &link, &mut kept)?;
        let ending = run(home, listener, link.clone(), kept, &log_thread).await?;
        Ok((ending, link, log_thread))
    });
    match result {
        Ok((ending, link, log_thread)) => {
            drop(log_thread); // writes what is still in the pipes
            match ending {
                Ending::KeeperLost => {
                    tracing::warn!("keeper died; taking over as keeper");
                    Err(link.exec_keeper(listener.as_fd(), nofile))
                }
                Ending::ShutDown | Ending::Replaced => Ok(()),
            }
        }
        Err(error) => Err(error),
    }
    .inspect_err(|error| tracing::error!("daemon exits: {error}"))
}

/// Loads the settings and opens rsm's own log at the level that they say.
fn load_settings_and_log(home: &Home) -> io::Result<RsmSettings> {
    let loaded = RsmSettings::load(home);
    let problem = loaded.as_ref().err().map(ToString::to_string);
    let settings = loaded.unwrap_or_default();
    daemon_log::init(home, settings.log_level())?;
    if let Some(problem) = problem {
        tracing::error!("{problem}; using defaults");
    }
    Ok(settings)
}

/// The log threads, with the journals that a former daemon had or new ones in the keeper's hands.
fn start_log_workers(
    home: &Home,
    settings: &RsmSettings,
    link: &KeeperLink,
    kept: &mut KeeperState,
) -> io::Result<LogWorkers> {
    let place = LogConfig { logs: home.logs(), indexes: home.log_indexes(), budget: settings.log_budget() };
    let link = link.clone();
    let keep = move |name, fd| link.send(KeeperRequest::StoreFd { name }, vec![(FdRole::Stored, fd)]);
    LogWorkers::start(place, &mut kept.fd_store, Box::new(keep))
}

fn error_not_started_by_keeper() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "`rsm daemon` must be started by the keeper")
}

async fn run(
    home: &Home,
    listener: tokio::net::UnixListener,
    link: KeeperLink,
    kept: KeeperState,
    log_thread: &LogWorkers,
) -> io::Result<Ending> {
    let (queue, inputs) = mpsc::unbounded_channel();
    let events = broadcast::Sender::new(EVENT_BACKLOG);
    let (saver, logs) = (StateWriter::start()?, log_thread.handle());
    let (keeper, upgrade) = (kept.keeper, kept.upgrade);
    let (found, kept) = recover_state(home, &link, kept);
    let (record, notifiers) = (
        crate::daemon::world::ports::PortRegistry::default(),
        crate::daemon::world::ports::Notifiers::default(),
    );
    let orphans = match kept.runs.iter().all(|run| run.is_child) && !kept.is_successor {
        true => OrphanScope::KeeperChildren,
        false => OrphanScope::System,
    };
    let family = cluster::TreeContext { keeper, orphans, marker: crate::instance::launch::run_marker(home) };
    let outside = crate::daemon::world::ports::cluster_host(queue.clone(), record.clone(), link.clone());
    let cluster = ClusterThread::start(outside, family, kept.fd_store)?;
    let kept = KeeperState { fd_store: Vec::new(), ..kept };
    let ports = PortSharing::new(cluster.handle(), record.clone(), notifiers.clone(), home.clone());
    let (channels, limiter) = (
        crate::daemon::world::node_channel::NodeChannels::default(),
        crate::daemon::world::limits::ResourceLimiter::new(home.clone()),
    );
    let effects = SystemWorld::new(WorldParts {
        home: home.clone(),
        keeper: link.clone(),
        keeper_pid: keeper,
        logs: logs.clone(),
        saver: saver.clone(),
        queue: queue.clone(),
        events: events.clone(),
        ports,
        channels: channels.clone(),
        limiter: limiter.clone(),
    });
    let mut supervisor = Supervisor::new(effects);
    resume_runs(&mut supervisor, found, kept);
    tracing::info!(version = version(), keeper, "daemon started");

    let handle = SupervisorHandle::new(queue.clone());
    let reloads = Reloads::default();
    tokio::task::spawn_local(crate::daemon::jobs::autoscale::follow(
        crate::daemon::jobs::autoscale::AutoscaleParts {
            handle: handle.clone(),
            cluster: cluster.handle(),
            reloads: reloads.clone(),
            events: events.clone(),
        },
    ));
    let autosave = crate::daemon::jobs::autosave::Autosave::new(home.clone(), handle.clone(), saver.clone());
    tokio::task::spawn_local(autosave.clone().run(events.subscribe()));
    let api = Api::new(ApiParts {
        autosave,
        home: home.clone(),
        handle: handle.clone(),
        logs: logs.clone(),
        state_writer: saver.clone(),
        events,
        keeper_link: link.clone(),
        keeper,
        upgrade,
        port_registry: record,
        known_dump: crate::daemon::jobs::dump::DumpFingerprint::default(),
        node_channels: channels,
        limiter: limiter.clone(),
        reloads,
        user: user_name(),
        shutdown_done: Notify::new(),
        upgrade_done: Notify::new(),
    });
    tokio::task::spawn_local(run_supervisor(supervisor, inputs));
    tokio::task::spawn_local(link.clone().send_queued());
    tokio::task::spawn_local(crate::daemon::world::usage::start_sampling(
        handle.clone(),
        queue.clone(),
        limiter.clone(),
    ));
    tokio::task::spawn_local(announce_ready(home.clone(), link.clone()));
    let mut hears =
        tokio::task::spawn_local(run_keeper_link(link.clone(), queue, api.clone(), notifiers, limiter));
    handle_signals(&api, &logs)?;
    let ending = tokio::select! {
        () = server::serve(listener, api.clone(), server::AllowedUids::own_user(), api.wait_shutdown()) => Ending::ShutDown,
        () = api.wait_upgrade() => Ending::Replaced,
        lost = &mut hears => {
            tracing::warn!("lost connection to the keeper: {lost:?}");
            Ending::KeeperLost
        }
    };
    match ending {
        Ending::ShutDown => {
            saver.remove(home.state()).await; // nothing is left that it could speak of
            link.send(KeeperRequest::Exit, Vec::new());
            tracing::info!("shutdown complete");
        }
        // What was decided is with the keeper, or in its mirror, after this.
        Ending::KeeperLost => handle.freeze().await,
        Ending::Replaced => tracing::info!("exiting for the upgraded daemon"),
    }
    drop(cluster);
    link.flush().await;
    saver.flush().await;
    Ok(ending)
}

/// Tells the keeper once clients are answered: an upgrade that comes so far has succeeded.
async fn announce_ready(home: Home, link: KeeperLink) {
    let answered = async { Client::connect(&home).await?.call::<Pong>(&Request::Ping).await };
    match answered.await {
        Ok(_) => link.send(KeeperRequest::Ready, Vec::new()),
        Err(error) => tracing::error!("self-check failed: {error}"),
    }
}

/// The loop. It waits for nothing but its queue.
async fn run_supervisor(mut supervisor: Supervisor<SystemWorld>, mut inputs: mpsc::UnboundedReceiver<Input>) {
    while let Some(input) = inputs.recv().await {
        supervisor.handle(input);
        // What has come meanwhile is handled in one go, so that it is saved and swept in one go.
        while let Ok(input) = inputs.try_recv() {
            supervisor.handle(input);
        }
        supervisor.finish_batch();
    }
}

/// Finds the saved state, what the keeper has of it, and what lives without either.
fn recover_state(
    home: &Home,
    link: &KeeperLink,
    mut kept: KeeperState,
) -> (recovery::RecoveredState, KeeperState) {
    let mut found = recovery::load_state(home, &kept.fd_store);
    if kept.is_successor && found.has_state {
        for survivor in recovery::survivors(&mut found, &kept, &crate::instance::launch::run_marker(home)) {
            let (pid, start_time) = (survivor.process.pid, survivor.process.start_time);
            let copy = |(role, fd): &(FdRole, std::os::fd::OwnedFd)| Some((*role, fd.try_clone().ok()?));
            let copies = survivor.fds.iter().filter_map(copy).collect();
            link.send(KeeperRequest::Adopt { run: survivor.run.to_u64(), pid, start_time }, copies);
            tracing::info!(pid, run = survivor.run.to_u64(), "adopted running process");
            kept.runs.push(survivor);
        }
    }
    (found, kept)
}

/// Takes up what was found.
fn resume_runs(supervisor: &mut Supervisor<SystemWorld>, found: recovery::RecoveredState, kept: KeeperState) {
    for instance in found.saved.all() {
        if let (Some(number), true) = (instance.status().state.run(), kept.is_successor) {
            let run = RunId { instance: instance.id(), number };
            supervisor.world.set_orphan_scope(run, OrphanScope::SystemUnverified);
        }
    }
    for run in kept.runs.iter().filter(|run| !run.is_child) {
        supervisor.world.set_orphan_scope(run.run, OrphanScope::System);
    }
    let process = |kept: &crate::daemon::world::keeper_link::AttachedRun| {
        let (pid, start_time) = (kept.process.pid, kept.process.start_time);
        (kept.run, RunProcess { run: kept.run.number, pid, start_time, since: crate::time::now() })
    };
    supervisor.restore_snapshot(found.saved, &kept.runs.iter().map(process).collect());
    let instances = supervisor.instances().clone();
    supervisor.world.apps(&instances);
    for kept in kept.runs {
        match supervisor.instance_of(kept.run).cloned() {
            Some(instance) => supervisor.world.adopt(&instance, kept),
            None => {
                let run = kept.run.to_u64();
                tracing::warn!(run, "stopping a run without an instance");
            }
        }
    }
    supervisor.world.recovery_complete();
    supervisor.finish_batch();
}

/// Turns what the keeper tells into inputs, until the keeper is gone.
async fn run_keeper_link(
    link: KeeperLink,
    queue: mpsc::UnboundedSender<Input>,
    api: Api,
    notifiers: crate::daemon::world::ports::Notifiers,
    limiter: crate::daemon::world::limits::ResourceLimiter,
) -> io::Result<()> {
    loop {
        let (news, fds) = link.receive().await?;
        let (run, event) = match news {
            KeeperNotice::Spawned { run, pid, start_time } => {
                notifiers.borrow_mut().extend(take_fd(fds, FdRole::Notifier).map(|fd| (run, fd)));
                let run = RunId::from_u64(run);
                (run, InstanceEvent::Spawned { run: run.number, pid, start_time })
            }
            KeeperNotice::SpawnFailed { run, step, errno } => {
                let run = RunId::from_u64(run);
                let step = StartStep::ALL.get(usize::try_from(step).unwrap_or(usize::MAX));
                let step = step.copied().unwrap_or(StartStep::Exec);
                let failure = StartFailure { step, errno, subject: String::new() };
                (run, InstanceEvent::SpawnFailed { run: run.number, failure })
            }
            KeeperNotice::Exited { run, status } => {
                let run = RunId::from_u64(run);
                let exit = match status {
                    WaitStatus::Exited(code) => Exit::Code(code),
                    WaitStatus::Signaled(number, core) => {
                        let oom = number == libc::SIGKILL && limiter.was_oom_killed(run);
                        Exit::Signal { number, core, oom }
                    }
                    WaitStatus::Unknown => Exit::Unknown,
                };
                (run, InstanceEvent::Exited { run: run.number, exit })
            }
            KeeperNotice::Terminate => {
                request_shutdown(&api);
                continue;
            }
            KeeperNotice::Hello { .. }
            | KeeperNotice::Run { .. }
            | KeeperNotice::StoredFd { .. }
            | KeeperNotice::SyncDone => continue,
        };
        let _ = queue.send(Input::InstanceEvent { instance: run.instance, event });
    }
}

/// SIGTERM and SIGINT shut down as `rsm kill` does; SIGUSR2 opens the log files anew.
fn handle_signals(api: &Api, logs: &crate::logs::LogHandle) -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (mut reopen, mut hang_up) = (signal(SignalKind::user_defined2())?, signal(SignalKind::hangup())?);
    let (api, logs) = (api.clone(), logs.clone());
    tokio::task::spawn_local(async move {
        loop {
            tokio::select! {
                _ = term.recv() => request_shutdown(&api),
                _ = int.recv() => request_shutdown(&api),
                _ = reopen.recv() => drop(logs.reopen().await),
                _ = hang_up.recv() => {} // as PM2: a closed terminal is no reason to end
            }
        }
    });
    Ok(())
}

fn request_shutdown(api: &Api) {
    let api = api.clone();
    tokio::task::spawn_local(async move {
        let _ = api.shut_down().await; // asked twice is asked once
    });
}

fn user_name() -> String {
    let uid = nix::unistd::geteuid();
    let user = nix::unistd::User::from_uid(uid).ok().flatten();
    user.map_or_else(|| uid.to_string(), |user| user.name)
}
