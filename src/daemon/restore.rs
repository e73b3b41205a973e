//! What a daemon finds when it comes up: the state the one before left, and what runs.
//!
//! The state lies with the keeper, in memory, and on the disk for the case that the keeper is gone,
//! too. There the generation before is kept, and what was saved by `rsm save` is the last resort.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::keeper_link::{Kept, KeptRun};
use super::saved::{self, Saved, SavedError};
use crate::atomic_file::{self, Durability};
use crate::instance::Instance;
use crate::instance::life::RunId;
use crate::instance::state::State;
use crate::keeper::protocol::{FdRole, RoleFd};
use crate::paths::Home;
use crate::process::process_ref::{self, ProcessRef};
use crate::process::spawn::stdio;
use crate::process::tree;

/// The name that the keeper has the state by.
pub const STATE: &str = "state";

/// The state that was found.
pub struct Found {
    /// The state.
    pub saved: Saved,
    /// There was any: not all of ours has ended for good.
    pub any: bool,
    /// There was one that cannot be used, so that runs of ours may be unknown to this one.
    pub incomplete: bool,
}

/// Reads the latest state that can be used.
pub fn state(home: &Home, stored: &[(String, OwnedFd)]) -> Found {
    let with_keeper = stored.iter().find(|(name, _)| name == STATE).map(|(_, fd)| from_memory(fd));
    match with_keeper {
        Some(Ok(saved)) => return Found { saved, any: true, incomplete: false },
        Some(Err(error)) => tracing::error!("cannot use the state stored by the keeper: {error}"),
        None => {}
    }
    // What ran before the machine was started anew is gone.
    if !same_boot(home) {
        return Found { saved: Saved::default(), any: false, incomplete: false };
    }
    let mut incomplete = false;
    for path in [home.state(), home.former_state()] {
        match from_file(&path) {
            Ok(Some(saved)) => return Found { saved, any: true, incomplete },
            Ok(None) => {}
            Err(error) => {
                let aside = atomic_file::quarantine(&path);
                tracing::error!("{}: {error}; {aside}", path.display());
                incomplete = true;
            }
        }
    }
    if !incomplete {
        return Found { saved: Saved::default(), any: false, incomplete };
    }
    tracing::error!("no usable state; falling back to the saved list");
    let dump = super::dump::load(home).map(|(saved, _)| saved).unwrap_or_default();
    Found { saved: dump, any: true, incomplete }
}

fn from_memory(fd: &OwnedFd) -> Result<Saved, UnusableError> {
    let file = std::fs::File::from(fd.try_clone()?);
    let length = file.metadata()?.len();
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(saved::read(&bytes)?)
}

fn from_file(path: &Path) -> Result<Option<Saved>, UnusableError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(saved::read(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Why a state cannot be used.
#[derive(Debug, thiserror::Error)]
enum UnusableError {
    #[error("cannot read it: {0}")]
    Unreadable(#[from] io::Error),
    #[error(transparent)]
    Content(#[from] SavedError),
}

/// Whether the machine has not been started anew since the last daemon; notes its present life.
fn same_boot(home: &Home) -> bool {
    let now = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let same = std::fs::read(home.boot()).is_ok_and(|before| before == now);
    if !same && let Err(error) = atomic_file::replace(&home.boot(), &now, Durability::Process) {
        tracing::warn!("{}: {error}", home.boot().display());
    }
    same
}

/// Runs of ours that outlived daemon and keeper: those that the state names, by pid and start time,
/// and those that were begun too late to be in it, by their mark. With each come its output pipes.
/// `found` learns which numbers are taken.
pub fn survivors(found: &mut Found, kept: &Kept, mark: &tree::RunMarker) -> Vec<KeptRun> {
    let known: BTreeSet<RunId> = kept.runs.iter().map(|run| run.run).collect();
    let named: BTreeMap<RunId, ProcessRef> = found.saved.all().filter_map(named).collect();
    let mut runs: Vec<(RunId, ProcessRef)> = named
        .iter()
        .filter(|(_, process)| process.is_running())
        .map(|(run, process)| (*run, *process))
        .collect();
    for (run, leader) in tree::find_marked(mark) {
        let run = RunId::from_u64(run);
        let has_instance = found.saved.instances().iter().any(|instance| instance.id == run.instance);
        if found.incomplete && !has_instance {
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
        .map(|(run, process)| KeptRun { run, process, fds: descriptors(process), child: false })
        .collect()
}

/// The process that an instance has by its state.
fn named(instance: &Instance) -> Option<(RunId, ProcessRef)> {
    let process = match &instance.life.state {
        State::Starting { process, .. }
        | State::Online { process }
        | State::Leaving { process }
        | State::Stopping { process, .. }
        | State::Clearing { process, .. } => process,
        State::Stopped | State::Spawning { .. } | State::Waiting { .. } | State::Errored { .. } => {
            return None;
        }
    };
    let run = RunId { instance: instance.id, number: process.run };
    Some((run, ProcessRef { pid: process.pid, start_time: process.start_time }))
}

/// What a run had of us: the read ends of its output pipes, and our end of Node's channel.
fn descriptors(leader: ProcessRef) -> Vec<RoleFd> {
    let mut fds = pipes(leader);
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
fn pipes(leader: ProcessRef) -> Vec<RoleFd> {
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
