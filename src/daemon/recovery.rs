//! Recovery: loads the state of the previous daemon, finds its running apps and continues their supervision.
//!
//! The state is in memory in the keeper's fd store, and on disk in case the keeper died, too. If it is damaged,
//! the previous version is used, and finally the list of `rsm save`.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use crate::atomic_file::{self, Durability};
use crate::daemon::jobs::dump;
use crate::daemon::supervisor::Supervisor;
use crate::daemon::world::SystemWorld;
use crate::daemon::world::keeper_link::{AttachedRun, KeeperLink, KeeperState, STATE_FD_NAME};
use crate::instance::Instance;
use crate::instance::launch::run_marker;
use crate::instance::snapshot::{self, Snapshot, SnapshotError};
use crate::instance::state::{RunProcess, State};
use crate::instance::status::RunId;
use crate::keeper::protocol::{FdRole, KeeperRequest, RoleFd};
use crate::paths::Home;
use crate::process::detached::GuardedThread;
use crate::process::proc::environ::env_var;
use crate::process::process_ref::{self, ProcessRef};
use crate::process::spawn::stdio;
use crate::process::tree::{self, OrphanScope};
use crate::time;

/// Maximum number of runs of an instance that are not in the saved state.
const MAX_UNSAVED_RUNS: u32 = 100_000;
/// How long reopening the pipes of an app may take. The app can block it.
const REOPEN_TIMEOUT: Duration = Duration::from_secs(1);

/// The state of the previous daemon.
#[derive(Default)]
struct RecoveredState {
    snapshot: Snapshot,
    /// Whether a state exists: apps may be running.
    has_state: bool,
    /// Whether a damaged state was found: apps may be running that the snapshot does not contain.
    is_incomplete: bool,
}

/// The state and the runs with which a daemon continues.
pub struct Recovery {
    snapshot: Snapshot,
    runs: Vec<AttachedRun>,
    /// Whether this keeper replaced one that died.
    is_successor: bool,
}

impl Recovery {
    /// Loads the state. If the keeper died, also has the new keeper adopt the apps that survived it.
    pub fn load(home: &Home, link: &KeeperLink, keeper: &mut KeeperState) -> Self {
        let mut state = load_state(home, &keeper.fd_store);
        let mut runs = std::mem::take(&mut keeper.runs);
        if keeper.is_successor && state.has_state {
            for survivor in find_survivors(&mut state, &runs, &run_marker(home)) {
                adopt_in_keeper(link, &survivor);
                runs.push(survivor);
            }
        }
        Self { snapshot: state.snapshot, runs, is_successor: keeper.is_successor }
    }

    /// Where orphans of the runs can be. They are children of the keeper, unless it did not start all runs.
    pub fn orphan_scope(&self) -> OrphanScope {
        match self.runs.iter().all(|run| run.is_child) && !self.is_successor {
            true => OrphanScope::KeeperChildren,
            false => OrphanScope::System,
        }
    }

    /// Continues the supervision of the instances and connects to their runs.
    pub fn resume(self, supervisor: &mut Supervisor<SystemWorld>) {
        self.set_orphan_scopes(&mut supervisor.world);
        let Self { snapshot, runs, .. } = self;
        let process = |attached: &AttachedRun| {
            let ProcessRef { pid, start_time } = attached.process;
            let run = attached.run;
            (run, RunProcess { run: run.number, pid, start_time, since: time::now() })
        };
        supervisor.restore_snapshot(snapshot, &runs.iter().map(process).collect());
        let instances = supervisor.instances().clone();
        supervisor.world.set_apps(&instances);
        for attached in runs {
            match supervisor.instance_of(attached.run).cloned() {
                Some(instance) => supervisor.world.adopt(&instance, attached),
                None => {
                    let run = attached.run.to_u64();
                    tracing::warn!(run, "stopping a run without an instance");
                }
            }
        }
        supervisor.world.recovery_complete();
        supervisor.finish_batch();
    }

    fn set_orphan_scopes(&self, world: &mut SystemWorld) {
        for instance in self.snapshot.all() {
            if let (Some(number), true) = (instance.status().state.run(), self.is_successor) {
                let run = RunId { instance: instance.id(), number };
                world.set_orphan_scope(run, OrphanScope::SystemUnverified);
            }
        }
        for attached in self.runs.iter().filter(|attached| !attached.is_child) {
            world.set_orphan_scope(attached.run, OrphanScope::System);
        }
    }
}

/// Reads the latest usable state.
fn load_state(home: &Home, fd_store: &[(String, OwnedFd)]) -> RecoveredState {
    let usable = |snapshot, is_incomplete| RecoveredState { snapshot, has_state: true, is_incomplete };
    let stored = fd_store.iter().find(|(name, _)| name == STATE_FD_NAME).map(|(_, fd)| read_memfd(fd));
    match stored {
        Some(Ok(snapshot)) => return usable(snapshot, false),
        Some(Err(error)) => tracing::error!("cannot use the state stored by the keeper: {error}"),
        None => {}
    }
    // A reboot ended all runs.
    if !is_same_boot(home) {
        return RecoveredState::default();
    }
    let mut is_incomplete = false;
    for path in [home.state(), home.previous_state()] {
        match read_file(&path) {
            Ok(Some(snapshot)) => return usable(snapshot, is_incomplete),
            Ok(None) => {}
            Err(error) => {
                let result = atomic_file::quarantine(&path);
                tracing::error!("{}: {error}; {result}", path.display());
                is_incomplete = true;
            }
        }
    }
    if !is_incomplete {
        return RecoveredState::default();
    }
    tracing::error!("no usable state; falling back to the saved list");
    let dump = dump::load(home).map(|(snapshot, _)| snapshot).unwrap_or_default();
    usable(dump, is_incomplete)
}

fn read_memfd(fd: &OwnedFd) -> Result<Snapshot, UnusableState> {
    let file = std::fs::File::from(fd.try_clone()?);
    let length = file.metadata()?.len();
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(snapshot::decode(&bytes)?)
}

fn read_file(path: &Path) -> Result<Option<Snapshot>, UnusableState> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(snapshot::decode(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Why a state cannot be used.
#[derive(Debug, thiserror::Error)]
enum UnusableState {
    #[error("cannot read it: {0}")]
    Unreadable(#[from] io::Error),
    #[error(transparent)]
    Invalid(#[from] SnapshotError),
}

/// Whether the system was not rebooted since the previous daemon. Records the current boot.
fn is_same_boot(home: &Home) -> bool {
    let boot = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let is_same = std::fs::read(home.boot_id()).is_ok_and(|previous| previous == boot);
    if !is_same && let Err(error) = atomic_file::replace(&home.boot_id(), &boot, Durability::Process) {
        tracing::warn!("{}: {error}", home.boot_id().display());
    }
    is_same
}

/// Finds runs that survived daemon and keeper: those in the state by pid and start time, later ones by their run
/// marker. Raises `last_run` of the state above the numbers of runs that are ignored.
fn find_survivors(
    state: &mut RecoveredState,
    known: &[AttachedRun],
    marker: &tree::RunMarker,
) -> Vec<AttachedRun> {
    let known: BTreeSet<RunId> = known.iter().map(|attached| attached.run).collect();
    let recorded: BTreeMap<RunId, ProcessRef> = state.snapshot.all().filter_map(run_of).collect();
    let mut runs: Vec<(RunId, ProcessRef)> = recorded
        .iter()
        .filter(|(_, process)| process.is_running())
        .map(|(run, process)| (*run, *process))
        .collect();
    let own_user = nix::unistd::geteuid().as_raw();
    let account = |instance: &Instance| instance.spec().account.as_ref().map(|account| account.uid);
    let users = state.snapshot.all().filter_map(account).chain([own_user]).collect();
    let is_user = |run: u64, user: u32| {
        let mut of_run =
            state.snapshot.all().filter(|instance| instance.id() == RunId::from_u64(run).instance);
        user == own_user || of_run.any(|instance| account(instance) == Some(user))
    };
    let marked = tree::find_marked(marker, &users, is_user);
    for (run, leader) in marked {
        let run = RunId::from_u64(run);
        let has_instance = state.snapshot.instances().iter().any(|instance| instance.id() == run.instance);
        if !can_be_running(state, run) {
            continue;
        }
        if state.is_incomplete && !has_instance {
            // Its instance is lost with the state. The app may be in use, so it is not stopped.
            let pid = leader.map(|leader| leader.pid);
            tracing::error!(pid, "found a running app that is not in the state; ignoring it");
            // New runs must not get the same number.
            state.snapshot.last_run = state.snapshot.last_run.max(run.number);
        } else if !recorded.contains_key(&run) {
            // A run without its leader is reported as exited, and its orphans are cleaned up.
            runs.push((run, leader.unwrap_or(ProcessRef { pid: 0, start_time: 0 })));
        }
    }
    runs.retain(|(run, _)| !known.contains(run));
    let mut recover = GuardedThread::new(recover_fds);
    let attached = |(run, process): (RunId, ProcessRef)| {
        let subject = format!("reopening the output pipes of process {}", process.pid);
        let fds = recover.call(&subject, REOPEN_TIMEOUT, process).unwrap_or_default();
        AttachedRun { run, process, fds, is_child: false }
    };
    runs.into_iter().map(attached).collect()
}

/// Whether a run that is not recorded can have been running when the state was lost. A run that was over before, as the
/// state shows, left only processes that were not to be stopped.
fn can_be_running(state: &RecoveredState, run: RunId) -> bool {
    let of_instance = || state.snapshot.all().filter(|instance| instance.id() == run.instance);
    if of_instance().any(|instance| instance.current_run() == Some(run)) {
        return true;
    }
    let last_run = of_instance().map(|instance| instance.status().last_run).max();
    // Run numbers only grow, and not by much between two saves of the state.
    match run.number.checked_sub(last_run.unwrap_or(state.snapshot.last_run)) {
        None | Some(0) => state.is_incomplete,
        Some(newer) => newer <= MAX_UNSAVED_RUNS,
    }
}

/// Has the keeper adopt a run that it did not start.
fn adopt_in_keeper(link: &KeeperLink, survivor: &AttachedRun) {
    let (run, ProcessRef { pid, start_time }) = (survivor.run.to_u64(), survivor.process);
    let duplicate = |(role, fd): &RoleFd| Some((*role, fd.try_clone().ok()?));
    let fds = survivor.fds.iter().filter_map(duplicate).collect();
    link.send(KeeperRequest::Adopt { run, pid, start_time }, fds);
    tracing::info!(pid, run, "adopted running process");
}

/// The run and process of an instance, according to its state.
fn run_of(instance: &Instance) -> Option<(RunId, ProcessRef)> {
    let process = match &instance.status().state {
        State::Starting { process, .. }
        | State::Online { process }
        | State::Draining { process }
        | State::Stopping { process, .. }
        | State::CleaningUp { process, .. } => process,
        State::Stopped | State::Spawning { .. } | State::Waiting { .. } | State::Errored { .. } => {
            return None;
        }
    };
    let run = RunId { instance: instance.id(), number: process.run };
    Some((run, process.reference()))
}

/// Opens the daemon's descriptors of a run again: the read ends of its output pipes and its Node channel. A closed pipe
/// replaces one that no process of the run has open.
fn recover_fds(leader: ProcessRef) -> Vec<RoleFd> {
    let [out, err] = stdio::reopen_output_pipes(leader);
    let or_closed =
        |(role, pipe): (FdRole, Option<OwnedFd>)| Some((role, pipe.or_else(|| stdio::closed_pipe().ok())?));
    let pipes = [(FdRole::Stdout, out), (FdRole::Stderr, err)];
    let mut fds: Vec<RoleFd> = pipes.into_iter().filter_map(or_closed).collect();
    let number = env_var(leader.pid, "NODE_CHANNEL_FD").and_then(|number| number.parse::<i32>().ok());
    // The app has a copy of the daemon's end under the next number.
    let end = number.and_then(|number| process_ref::duplicate_socketpair_end(leader, number.checked_add(1)?));
    fds.extend(end.map(|end| (FdRole::NodeChannel, end)));
    fds
}
