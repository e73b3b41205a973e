//! The daemon: all decisions, the API, logs and metrics. It may die at any time; the keeper starts
//! it again and it takes up what there is.
//!
//! [`main`] attaches to the keeper, restores the state, and then runs the loop, the API and the
//! sampling side by side on one thread until a shutdown is done.

pub mod api;
mod clock;
pub mod commands;
mod cron;
pub mod dump;
mod effects;
pub mod handle;
mod health;
mod info;
mod jlist;
mod keeper_link;
mod launch;
mod log_stream;
pub mod saved;
mod saver;
pub mod select;
mod settle;
pub mod supervisor;
mod triggers;
mod views;
mod watch;
pub mod world;

use std::io;
use std::os::unix::net::UnixListener as StdListener;

use tokio::sync::{Notify, broadcast, mpsc};

use self::api::{Api, Parts};
use self::effects::Effects;
use self::handle::Handle;
use self::keeper_link::{KeeperLink, Kept, KeptRun};
use self::saved::Saved;
use self::saver::Saver;
use self::supervisor::{Input, Supervisor};
use crate::conf::Conf;
use crate::exit::{Exit, StartFailure, StartStep};
use crate::instance::event::Event;
use crate::instance::life::RunId;
use crate::instance::state::Process;
use crate::ipc::server;
use crate::keeper::wire::{News, Order};
use crate::keeper::{CHANNEL_FD, LISTENER_FD};
use crate::logs::{Journal, LogThread, Place, own};
use crate::paths::Home;
use crate::process::reap::Ended;
use crate::process::{channel, spawn};

/// How many events a slow reader of the event stream may lag behind.
const EVENT_BACKLOG: usize = 1024;

/// Runs the daemon until a shutdown is done. Started by the keeper only, which passes the channel
/// and the API's socket at known numbers.
///
/// # Errors
/// It was not started by a keeper, or the system refuses what every daemon needs.
pub fn main(home: &Home) -> io::Result<()> {
    let keeper = channel::inherited(CHANNEL_FD).map_err(|_| not_by_hand())?;
    let listener = StdListener::from(channel::inherited(LISTENER_FD).map_err(|_| not_by_hand())?);
    listener.set_nonblocking(true)?;
    let _ = nix::sys::prctl::set_name(c"rsm-daemon");
    let _ = spawn::raise_open_files(); // what cannot be raised has to do
    let conf = Conf::load(&home.conf());
    let mentioned = conf.as_ref().err().map(ToString::to_string);
    let conf = conf.unwrap_or_default();
    own::init(home, conf.log_level)?;
    if let Some(problem) = mentioned {
        tracing::error!("{}: {problem}; the defaults hold", home.conf().display());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = tokio::task::LocalSet::new().block_on(&runtime, async {
        let (link, mut kept) = KeeperLink::attach(keeper).await?;
        let listener = tokio::net::UnixListener::from_std(listener)?;
        let log_thread = log_thread(home, conf.log_budget, &link, &mut kept)?;
        run(home, listener, link, kept, &log_thread).await
        // The thread is dropped here: it writes what is still in the pipes.
    });
    if let Err(error) = &result {
        tracing::error!("the daemon ends: {error}");
    }
    result
}

/// The log thread, with the journal that a former daemon had or a new one in the keeper's hands.
fn log_thread(home: &Home, budget: u64, link: &KeeperLink, kept: &mut Kept) -> io::Result<LogThread> {
    let mut take = |name: &str| {
        let found = kept.stored.iter().position(|(stored, _)| stored == name)?;
        Some(kept.stored.swap_remove(found).1)
    };
    let journal = match Journal::NAMES.map(&mut take) {
        [Some(record), Some(marker)] => Journal::take_over(record, marker)?,
        _ => {
            let journal = Journal::new()?;
            for (name, fd) in Journal::NAMES.into_iter().zip(journal.descriptors()?) {
                link.send(Order::Store { name: name.into() }, vec![fd]);
            }
            journal
        }
    };
    let place = Place { logs: home.logs(), indexes: home.log_indexes(), budget };
    LogThread::start(place, journal)
}

fn not_by_hand() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        "`rsm daemon` is started by the keeper; use any other command",
    )
}

async fn run(
    home: &Home,
    listener: tokio::net::UnixListener,
    link: KeeperLink,
    kept: Kept,
    log_thread: &LogThread,
) -> io::Result<()> {
    let (queue, inputs) = mpsc::unbounded_channel();
    let events = broadcast::Sender::new(EVENT_BACKLOG);
    let (saver, logs) = (Saver::start()?, log_thread.logs());
    let keeper = kept.keeper;
    let effects = Effects::new(
        home.clone(),
        link.clone(),
        keeper,
        logs.clone(),
        saver.clone(),
        queue.clone(),
        events.clone(),
    );
    let mut supervisor = Supervisor::new(effects);
    restore(&mut supervisor, home, kept);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), keeper, "the daemon is up");

    let handle = Handle::new(queue.clone());
    let api = Api::new(Parts {
        home: home.clone(),
        handle: handle.clone(),
        logs: logs.clone(),
        saver: saver.clone(),
        events,
        link: link.clone(),
        keeper,
        user: user_name(),
        closed: Notify::new(),
    });
    tokio::task::spawn_local(supervise(supervisor, inputs));
    tokio::task::spawn_local(link.clone().send_waiting());
    tokio::task::spawn_local(health::sample(handle, queue.clone()));
    let mut hears = tokio::task::spawn_local(hear(link.clone(), queue, api.clone()));
    signals(&api, &logs)?;
    tokio::select! {
        () = server::serve(listener, api.clone(), server::Allowed::own_user(), api.closed()) => {}
        lost = &mut hears => return lost.unwrap_or_else(|error| Err(io::Error::other(error))),
    }
    saver.forget(home.state()).await; // nothing is left that it could speak of
    link.send(Order::Shutdown, Vec::new());
    tracing::info!("the daemon has shut down");
    Ok(())
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

/// Takes up the saved state and what the keeper has of it.
fn restore(supervisor: &mut Supervisor<Effects>, home: &Home, kept: Kept) {
    let process = |kept: &KeptRun| {
        let run = RunId::from_u64(kept.run);
        let (pid, start_time) = (kept.pid, kept.start_time);
        (run, Process { run: run.number, pid, start_time, since: clock::now() })
    };
    supervisor.restore(read_state(home), &kept.runs.iter().map(process).collect());
    for kept in kept.runs {
        let run = RunId::from_u64(kept.run);
        let instance =
            supervisor.instances().get(&run.instance).filter(|_| supervisor.is_current(run)).cloned();
        match instance {
            Some(instance) => supervisor.world.adopt(&instance, run, kept),
            None => {
                tracing::warn!(run = kept.run, "the keeper has a run that no instance is about; it is ended")
            }
        }
    }
    supervisor.end_of_batch();
}

fn read_state(home: &Home) -> Saved {
    let path = home.state();
    if !same_boot(home) {
        return Saved::default(); // what ran before the machine was started anew is gone
    }
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Saved::default(),
        Err(error) => {
            tracing::error!("reading {}: {error}", path.display());
            return Saved::default();
        }
    };
    saved::read(&bytes).unwrap_or_else(|error| {
        let aside = path.with_extension("json.unusable");
        tracing::error!("{} cannot be used: {error}; kept as {}", path.display(), aside.display());
        let _ = std::fs::rename(&path, aside);
        Saved::default()
    })
}

/// Whether the machine has not been started anew since the last daemon; notes its present life.
fn same_boot(home: &Home) -> bool {
    let now = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let same = std::fs::read(home.boot()).is_ok_and(|before| before == now);
    if !same && let Err(error) = saver::replace(&home.boot(), &now, false) {
        tracing::warn!("{}: {error}", home.boot().display());
    }
    same
}

/// Turns what the keeper tells into inputs, until the keeper is gone.
async fn hear(link: KeeperLink, queue: mpsc::UnboundedSender<Input>, api: Api) -> io::Result<()> {
    loop {
        let (news, _) = link.receive().await?;
        let (run, event) = match news {
            News::Spawned { run, pid, start_time } => {
                let run = RunId::from_u64(run);
                (run, Event::Spawned { run: run.number, pid, start_time })
            }
            News::SpawnFailed { run, step, errno } => {
                let run = RunId::from_u64(run);
                let step = StartStep::ALL.get(usize::try_from(step).unwrap_or(usize::MAX));
                let step = step.copied().unwrap_or(StartStep::Exec);
                let failure = StartFailure { step, errno, what: String::new() };
                (run, Event::SpawnFailed { run: run.number, failure })
            }
            News::Exited { run, ended } => {
                let run = RunId::from_u64(run);
                let exit = match ended {
                    Ended::Code(code) => Exit::Code(code),
                    Ended::Signal(number, core) => Exit::Signal { number, core },
                };
                (run, Event::Exited { run: run.number, exit })
            }
            News::Terminate => {
                shut_down_soon(&api);
                continue;
            }
            News::Hello { .. } | News::Run { .. } | News::Stored { .. } | News::Attached => continue,
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
                _ = reopen.recv() => drop(logs.reopen()),
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
