//! What a daemon finds when it comes up: the state the one before left, and what runs.
//!
//! The state lies with the keeper, in memory, and on the disk for the case that the keeper is gone,
//! too. There the generation before is kept, and what was saved by `rsm save` is the last resort.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::atomic_file::{self, Durability};
use crate::daemon::world::keeper_link::{AttachedRun, KeeperState};
use crate::instance::Instance;
use crate::instance::snapshot;
use crate::instance::snapshot::{Snapshot, SnapshotError};
use crate::instance::state::State;
use crate::instance::status::RunId;
use crate::keeper::protocol::{FdRole, RoleFd};
use crate::paths::Home;
use crate::process::process_ref::{self, ProcessRef};
use crate::process::spawn::stdio;
use crate::process::tree;

/// The name that the keeper has the state by.
pub const STATE_NAME: &str = "state";

/// The state that was found.
pub struct RecoveredState {
    /// The state.
    pub saved: Snapshot,
    /// There was any: not all of ours has ended for good.
    pub has_state: bool,
    /// There was one that cannot be used, so that runs of ours may be unknown to this one.
    pub is_incomplete: bool,
}

/// Reads the latest state that can be used.
pub fn load_state(home: &Home, stored: &[(String, OwnedFd)]) -> RecoveredState {
    let with_keeper = stored.iter().find(|(name, _)| name == STATE_NAME).map(|(_, fd)| from_memfd(fd));
    match with_keeper {
        Some(Ok(saved)) => return RecoveredState { saved, has_state: true, is_incomplete: false },
        Some(Err(error)) => tracing::error!("cannot use the state stored by the keeper: {error}"),
        None => {}
    }
    // What ran before the machine was started anew is gone.
    if !same_boot(home) {
        return RecoveredState { saved: Snapshot::default(), has_state: false, is_incomplete: false };
    }
    let mut incomplete = false;
    for path in [home.state(), home.previous_state()] {
        match from_file(&path) {
            Ok(Some(saved)) => return RecoveredState { saved, has_state: true, is_incomplete: incomplete },
            Ok(None) => {}
            Err(error) => {
                let aside = atomic_file::quarantine(&path);
                tracing::error!("{}: {error}; {aside}", path.display());
                incomplete = true;
            }
        }
    }
    if !incomplete {
        return RecoveredState { saved: Snapshot::default(), has_state: false, is_incomplete: incomplete };
    }
    tracing::error!("no usable state; falling back to the saved list");
    let dump = crate::daemon::jobs::dump::load(home).map(|(saved, _)| saved).unwrap_or_default();
    RecoveredState { saved: dump, has_state: true, is_incomplete: incomplete }
}

fn from_memfd(fd: &OwnedFd) -> Result<Snapshot, UnusableState> {
    let file = std::fs::File::from(fd.try_clone()?);
    let length = file.metadata()?.len();
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(snapshot::decode(&bytes)?)
}

fn from_file(path: &Path) -> Result<Option<Snapshot>, UnusableState> {
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

/// Whether the machine has not been started anew since the last daemon; notes its present life.
fn same_boot(home: &Home) -> bool {
    let now = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let same = std::fs::read(home.boot_id()).is_ok_and(|before| before == now);
    if !same && let Err(error) = atomic_file::replace(&home.boot_id(), &now, Durability::Process) {
        tracing::warn!("{}: {error}", home.boot_id().display());
    }
    same
}

/// Runs of ours that outlived daemon and keeper: those that the state names, by pid and start time,
/// and those that were begun too late to be in it, by their mark. With each come its output pipes.
/// `found` learns which numbers are taken.
pub fn survivors(found: &mut RecoveredState, kept: &KeeperState, mark: &tree::RunMarker) -> Vec<AttachedRun> {
    let known: BTreeSet<RunId> = kept.runs.iter().map(|run| run.run).collect();
    let named: BTreeMap<RunId, ProcessRef> = found.saved.all().filter_map(run_of).collect();
    let mut runs: Vec<(RunId, ProcessRef)> = named
        .iter()
        .filter(|(_, process)| process.is_running())
        .map(|(run, process)| (*run, *process))
        .collect();
    for (run, leader) in tree::find_marked(mark) {
        let run = RunId::from_u64(run);
        let has_instance = found.saved.instances().iter().any(|instance| instance.id() == run.instance);
        if found.is_incomplete && !has_instance {
            // What state it had is lost, and it may be all that somebody has: it is not ours to end.
            let pid = leader.map(|leader| leader.pid);
            tracing::error!(pid, "found a running app that is not in the state; ignoring it");
            // What is started from now on must not be taken for it.
            found.saved.last_run = found.saved.last_run.max(run.number);
        } else if !named.contains_key(&run) {
            // Without its first process it is told as ended, and what is left of it is cleared away.
            runs.push((run, leader.unwrap_or(ProcessRef { pid: 0, start_time: 0 })));
        }
    }
    runs.retain(|(run, _)| !known.contains(run));
    runs.into_iter()
        .map(|(run, process)| AttachedRun { run, process, fds: recover_fds(process), is_child: false })
        .collect()
}

/// The process that an instance has by its state.
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
    Some((run, ProcessRef { pid: process.pid, start_time: process.start_time }))
}

/// What a run had of us: the read ends of its output pipes, and our end of Node's channel.
fn recover_fds(leader: ProcessRef) -> Vec<RoleFd> {
    let mut fds = recover_pipes(leader);
    let environ = std::fs::read(format!("/proc/{}/environ", leader.pid)).unwrap_or_default();
    let number = environ.split(|byte| *byte == 0).find_map(|pair| pair.strip_prefix(b"NODE_CHANNEL_FD="));
    let number = number.and_then(|number| std::str::from_utf8(number).ok()?.parse::<i32>().ok());
    // Ours comes after its own.
    let end = number.and_then(|number| process_ref::duplicate_socketpair_end(leader, number.checked_add(1)?));
    fds.extend(end.map(|end| (FdRole::NodeChannel, end)));
    fds
}

/// The read ends of the output pipes that we once gave to a process. One that it has closed or
/// replaced is looked for in its descendants, and may be nowhere; a closed pipe stands for it.
fn recover_pipes(leader: ProcessRef) -> Vec<RoleFd> {
    let members = tree::tree_members(leader);
    let find = |number| members.iter().find_map(|it| stdio::reopen_output_pipe(it.process.pid, number));
    let (out, mut err) = (find(libc::STDOUT_FILENO), find(libc::STDERR_FILENO));
    if out.as_ref().zip(err.as_ref()).is_some_and(|(out, err)| stdio::is_same_file(out, err)) {
        err = None; // `2>&1`
    }
    let or_closed =
        |(role, pipe): (FdRole, Option<OwnedFd>)| Some((role, pipe.or_else(|| stdio::closed_pipe().ok())?));
    [(FdRole::Stdout, out), (FdRole::Stderr, err)].into_iter().filter_map(or_closed).collect()
}
