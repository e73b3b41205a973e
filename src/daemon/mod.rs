//! The daemon: all decisions, the API, logs and metrics. It may die at any time; the keeper starts
//! it again and it takes up what there is.
//!
//! [`main`] attaches to the keeper, restores the state, and then runs the loop, the API and the
//! sampling side by side on one thread until a shutdown is done.

pub mod api;
mod autosave;
mod autoscale;
mod beside;
mod check;
pub mod commands;
mod cron;
mod drift;
pub mod dump;
mod effects;
pub mod handle;
mod health;
mod info;
mod jlist;
mod keeper_link;
pub mod launch;
mod limits;
pub mod liveness;
mod log_stream;
mod memory;
mod mirror;
mod node;
mod perform;
mod ports;
mod probe;
mod proof;
mod ready;
mod reload;
mod restore;
pub mod saved;
mod saver;
pub mod select;
pub mod settle;
mod speak;
mod start;
mod steps;
pub mod supervisor;
mod taken_up;
mod triggers;
pub mod upgrade;
mod views;
mod watch;
pub mod world;

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener as StdListener;

use tokio::sync::{Notify, broadcast, mpsc};

use self::api::{Api, Parts};
use self::effects::{Effects, Ways};
use self::handle::Handle;
use self::keeper_link::{KeeperLink, Kept};
use self::ports::Ports;
use self::reload::Reloads;
use self::saver::Saver;
use self::supervisor::{Input, Supervisor};
use crate::cluster::{self, ClusterThread};
use crate::exit::{Exit, StartFailure, StartStep};
use crate::instance::event::Event;
use crate::instance::life::RunId;
use crate::instance::state::Process;
use crate::ipc::client::Client;
use crate::ipc::message::{Pong, Request};
use crate::ipc::server;
use crate::keeper::protocol::{CHANNEL_FD, FdRole, KeeperNotice, KeeperRequest, LISTENER_FD, take_fd};
use crate::logs::{LogThread, Place, own};
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
    let keeper = fd_channel::take_inherited_fd(CHANNEL_FD).map_err(|_| not_by_hand())?;
    let listener = StdListener::from(fd_channel::take_inherited_fd(LISTENER_FD).map_err(|_| not_by_hand())?);
    listener.set_nonblocking(true)?;
    let _ = nix::sys::prctl::set_name(c"rsm-daemon");
    oom_score::lower_own_score();
    let nofile = spawn::raise_nofile_limit(); // what cannot be raised has to do
    let settings = load_settings_and_log(home)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = tokio::task::LocalSet::new().block_on(&runtime, async {
        let (link, mut kept) = KeeperLink::attach(keeper).await?;
        let listener = tokio::net::UnixListener::from_std(listener.try_clone()?)?;
        let log_thread = log_thread(home, &settings, &link, &mut kept)?;
        let ending = run(home, listener, link.clone(), kept, &log_thread).await?;
        Ok((ending, link, log_thread))
    });
    match result {
        Ok((ending, link, log_thread)) => {
            drop(log_thread); // writes what is still in the pipes
            match ending {
                Ending::KeeperLost => {
                    tracing::warn!("keeper died; taking over as keeper");
                    Err(link.become_keeper(listener.as_fd(), nofile))
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
    own::init(home, settings.log_level())?;
    if let Some(problem) = problem {
        tracing::error!("{problem}; using defaults");
    }
    Ok(settings)
}

/// The log threads, with the journals that a former daemon had or new ones in the keeper's hands.
fn log_thread(
    home: &Home,
    settings: &RsmSettings,
    link: &KeeperLink,
    kept: &mut Kept,
) -> io::Result<LogThread> {
    let place = Place { logs: home.logs(), indexes: home.log_indexes(), budget: settings.log_budget() };
    let link = link.clone();
    let keep = move |name, fd| link.send(KeeperRequest::StoreFd { name }, vec![(FdRole::Stored, fd)]);
    LogThread::start(place, &mut kept.stored, Box::new(keep))
}

fn not_by_hand() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "`rsm daemon` must be started by the keeper")
}

async fn run(
    home: &Home,
    listener: tokio::net::UnixListener,
    link: KeeperLink,
    kept: Kept,
    log_thread: &LogThread,
) -> io::Result<Ending> {
    let (queue, inputs) = mpsc::unbounded_channel();
    let events = broadcast::Sender::new(EVENT_BACKLOG);
    let (saver, logs) = (Saver::start()?, log_thread.logs());
    let (keeper, upgrade) = (kept.keeper, kept.upgrade);
    let (found, kept) = find(home, &link, kept);
    let (record, notifiers) = (ports::Record::default(), ports::Notifiers::default());
    let orphans = match kept.runs.iter().all(|run| run.child) && !kept.succeeds {
        true => OrphanScope::KeeperChildren,
        false => OrphanScope::System,
    };
    let family = cluster::Family { keeper, orphans, mark: launch::mark(home) };
    let outside = ports::outside(queue.clone(), record.clone(), link.clone());
    let cluster = ClusterThread::start(outside, family, kept.stored)?;
    let kept = Kept { stored: Vec::new(), ..kept };
    let ports = Ports::new(cluster.cluster(), record.clone(), notifiers.clone(), home.clone());
    let (channels, limiter) = (node::Channels::default(), limits::Limiter::new(home.clone()));
    let effects = Effects::new(Ways {
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
    take_up(&mut supervisor, found, kept);
    tracing::info!(version = version(), keeper, "daemon started");

    let handle = Handle::new(queue.clone());
    let reloads = Reloads::default();
    tokio::task::spawn_local(autoscale::follow(autoscale::Parts {
        handle: handle.clone(),
        cluster: cluster.cluster(),
        reloads: reloads.clone(),
        events: events.clone(),
    }));
    let autosave = autosave::Autosave::new(home.clone(), handle.clone(), saver.clone());
    tokio::task::spawn_local(autosave.clone().follow(events.subscribe()));
    let api = Api::new(Parts {
        autosave,
        home: home.clone(),
        handle: handle.clone(),
        logs: logs.clone(),
        saver: saver.clone(),
        events,
        link: link.clone(),
        keeper,
        upgrade,
        ports: record,
        known_dump: dump::Known::default(),
        channels,
        limiter: limiter.clone(),
        reloads,
        user: user_name(),
        closed: Notify::new(),
        replaced: Notify::new(),
    });
    tokio::task::spawn_local(supervise(supervisor, inputs));
    tokio::task::spawn_local(link.clone().send_waiting());
    tokio::task::spawn_local(health::sample(handle.clone(), queue.clone(), limiter.clone()));
    tokio::task::spawn_local(say_when_serving(home.clone(), link.clone()));
    let mut hears = tokio::task::spawn_local(hear(link.clone(), queue, api.clone(), notifiers, limiter));
    signals(&api, &logs)?;
    let ending = tokio::select! {
        () = server::serve(listener, api.clone(), server::Allowed::own_user(), api.closed()) => Ending::ShutDown,
        () = api.replaced() => Ending::Replaced,
        lost = &mut hears => {
            tracing::warn!("lost connection to the keeper: {lost:?}");
            Ending::KeeperLost
        }
    };
    match ending {
        Ending::ShutDown => {
            saver.forget(home.state()).await; // nothing is left that it could speak of
            link.send(KeeperRequest::Exit, Vec::new());
            tracing::info!("shutdown complete");
        }
        // What was decided is with the keeper, or in its mirror, after this.
        Ending::KeeperLost => handle.freeze().await,
        Ending::Replaced => tracing::info!("exiting for the upgraded daemon"),
    }
    drop(cluster);
    link.all_sent().await;
    saver.written().await;
    Ok(ending)
}

/// Tells the keeper once clients are answered: an upgrade that comes so far has succeeded.
async fn say_when_serving(home: Home, link: KeeperLink) {
    let answered = async { Client::connect(&home).await?.call::<Pong>(&Request::Ping).await };
    match answered.await {
        Ok(_) => link.send(KeeperRequest::Ready, Vec::new()),
        Err(error) => tracing::error!("self-check failed: {error}"),
    }
}

/// The loop. It waits for nothing but its queue.
async fn supervise(mut supervisor: Supervisor<Effects>, mut inputs: mpsc::UnboundedReceiver<Input>) {
    while let Some(input) = inputs.recv().await {
        supervisor.handle(input);
        // What has come meanwhile is handled in one go, so that it is saved and swept in one go.
        while let Ok(input) = inputs.try_recv() {
            supervisor.handle(input);
        }
        supervisor.end_of_batch();
    }
}

/// Finds the saved state, what the keeper has of it, and what lives without either.
fn find(home: &Home, link: &KeeperLink, mut kept: Kept) -> (restore::Found, Kept) {
    let mut found = restore::state(home, &kept.stored);
    if kept.succeeds && found.any {
        for survivor in restore::survivors(&mut found, &kept, &launch::mark(home)) {
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
fn take_up(supervisor: &mut Supervisor<Effects>, found: restore::Found, kept: Kept) {
    for instance in found.saved.all() {
        if let (Some(number), true) = (instance.life.state.run(), kept.succeeds) {
            let run = RunId { instance: instance.id, number };
            supervisor.world.foreign(run, OrphanScope::SystemUnverified);
        }
    }
    for run in kept.runs.iter().filter(|run| !run.child) {
        supervisor.world.foreign(run.run, OrphanScope::System);
    }
    let process = |kept: &keeper_link::KeptRun| {
        let (pid, start_time) = (kept.process.pid, kept.process.start_time);
        (kept.run, Process { run: kept.run.number, pid, start_time, since: crate::time::now() })
    };
    supervisor.restore(found.saved, &kept.runs.iter().map(process).collect());
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
    supervisor.world.all_began();
    supervisor.end_of_batch();
}

/// Turns what the keeper tells into inputs, until the keeper is gone.
async fn hear(
    link: KeeperLink,
    queue: mpsc::UnboundedSender<Input>,
    api: Api,
    notifiers: ports::Notifiers,
    limiter: limits::Limiter,
) -> io::Result<()> {
    loop {
        let (news, fds) = link.receive().await?;
        let (run, event) = match news {
            KeeperNotice::Spawned { run, pid, start_time } => {
                notifiers.borrow_mut().extend(take_fd(fds, FdRole::Notifier).map(|fd| (run, fd)));
                let run = RunId::from_u64(run);
                (run, Event::Spawned { run: run.number, pid, start_time })
            }
            KeeperNotice::SpawnFailed { run, step, errno } => {
                let run = RunId::from_u64(run);
                let step = StartStep::ALL.get(usize::try_from(step).unwrap_or(usize::MAX));
                let step = step.copied().unwrap_or(StartStep::Exec);
                let failure = StartFailure { step, errno, subject: String::new() };
                (run, Event::SpawnFailed { run: run.number, failure })
            }
            KeeperNotice::Exited { run, status } => {
                let run = RunId::from_u64(run);
                let exit = match status {
                    WaitStatus::Exited(code) => Exit::Code(code),
                    WaitStatus::Signaled(number, core) => {
                        let oom = number == libc::SIGKILL && limiter.out_of_memory(run);
                        Exit::Signal { number, core, oom }
                    }
                    WaitStatus::Unknown => Exit::Unknown,
                };
                (run, Event::Exited { run: run.number, exit })
            }
            KeeperNotice::Terminate => {
                shut_down_soon(&api);
                continue;
            }
            KeeperNotice::Hello { .. }
            | KeeperNotice::Run { .. }
            | KeeperNotice::StoredFd { .. }
            | KeeperNotice::SyncDone => continue,
        };
        let _ = queue.send(Input::Fact { instance: run.instance, event });
    }
}

/// SIGTERM and SIGINT shut down as `rsm kill` does; SIGUSR2 opens the log files anew.
fn signals(api: &Api, logs: &crate::logs::Logs) -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (mut reopen, mut hang_up) = (signal(SignalKind::user_defined2())?, signal(SignalKind::hangup())?);
    let (api, logs) = (api.clone(), logs.clone());
    tokio::task::spawn_local(async move {
        loop {
            tokio::select! {
                _ = term.recv() => shut_down_soon(&api),
                _ = int.recv() => shut_down_soon(&api),
                _ = reopen.recv() => drop(logs.reopen().await),
                _ = hang_up.recv() => {} // as PM2: a closed terminal is no reason to end
            }
        }
    });
    Ok(())
}

fn shut_down_soon(api: &Api) {
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
