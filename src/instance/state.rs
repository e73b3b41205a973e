//! The states of an instance, and the transitions between them.
//!
//! The goal (`Want`) is separate from the state (`State`): a stop that arrives while a process is being started only
//! changes the goal; when the process has started, it is stopped.
//!
//! | state | meaning | left by |
//! | --- | --- | --- |
//! | `Stopped` | no process runs, none is scheduled | start, restart |
//! | `Spawning` | the keeper was asked for a process and has not answered | `Spawned`, `SpawnFailed`, `Exited` |
//! | `Starting` | the process runs and is not ready; `overdue`: `listen_timeout` is over | `Ready`, `Listening`, the timer, drain, stop, restart, `Exited` |
//! | `Online` | the process runs and is ready | drain, stop, restart, `Exited` |
//! | `Draining` | replaced by other processes: no new connections, the open ones are served | `Drained`, the timer, stop, `Exited` |
//! | `Stopping` | the stop signal was sent | `Exited`; SIGKILL follows when `kill_timeout` is over |
//! | `CleaningUp` | the process has exited; the rest of its process tree is being ended | `TreeChecked` with nothing remaining |
//! | `Waiting` | no process runs; the next start is scheduled | the timer, start, restart, stop |
//! | `Errored` | the restart policy gave up, or a requested start failed | start, restart, stop |
//!
//! `Stopping` and `CleaningUp` pass through the same phases: `Grace` (stop signal sent), `Killed` (SIGKILL sent),
//! `Stuck` (SIGKILL had no effect in time: reported, and still waited for).

use serde::{Deserialize, Serialize};

use crate::process::process_ref::ProcessRef;
use crate::time::Moment;

/// The requested goal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Want {
    /// Running, or restarted by the restart policy.
    Up,
    /// Not running.
    Down,
    /// Removed from the list, once nothing runs.
    Gone,
}

/// The current state. See the table above.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// No process runs, none is scheduled.
    Stopped,
    /// A process was requested from the keeper.
    Spawning {
        /// Number of the run.
        run: u32,
        /// When the process was requested.
        since: Moment,
        /// A user waits for this start, so a failure is reported at once and not retried.
        #[serde(alias = "asked")]
        requested: bool,
        /// A restart was requested meanwhile: the process is stopped as soon as it has started.
        stale: bool,
    },
    /// The process runs and is not ready.
    Starting {
        /// The process.
        process: RunProcess,
        /// `listen_timeout` is over.
        #[serde(alias = "late")]
        overdue: bool,
    },
    /// The process runs and is ready.
    Online {
        /// The process.
        process: RunProcess,
    },
    /// The process runs and gets no new connections.
    #[serde(alias = "leaving")]
    Draining {
        /// The process.
        process: RunProcess,
    },
    /// The process was sent its stop signal.
    Stopping {
        /// The process.
        process: RunProcess,
        /// Which signal was sent last.
        phase: StopPhase,
    },
    /// The first process has exited; other processes of its tree may remain.
    #[serde(alias = "clearing")]
    CleaningUp {
        /// The process that has exited.
        process: RunProcess,
        /// The exit followed a stop or restart, or a start was requested meanwhile.
        #[serde(alias = "asked")]
        requested: bool,
        /// Which signal the remaining processes get.
        phase: StopPhase,
    },
    /// The next start is scheduled.
    Waiting {
        /// The time of the start on the monotonic clock, in milliseconds.
        until: u64,
    },
    /// The restart policy gave up, or a requested start failed.
    Errored {
        /// The reason, for users.
        #[serde(alias = "why")]
        reason: String,
    },
}

/// The signal that was sent last to end a process or its tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopPhase {
    /// The stop signal; `kill_timeout` is running.
    Grace,
    /// SIGKILL.
    Killed,
    /// SIGKILL, without effect in time.
    Stuck,
}

impl StopPhase {
    /// The phase after the timer of this one has fired.
    pub(crate) fn next(self) -> Self {
        match self {
            Self::Grace => Self::Killed,
            Self::Killed | Self::Stuck => Self::Stuck,
        }
    }

    /// How the remaining processes of a tree are ended in this phase.
    pub(crate) fn clean_up(self) -> CleanUp {
        match self {
            Self::Grace => CleanUp::Terminate,
            Self::Killed | Self::Stuck => CleanUp::Kill,
        }
    }
}

/// How the remaining processes of a tree are ended. `Kill` is greater than `Terminate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CleanUp {
    /// By the stop signal.
    Terminate,
    /// By SIGKILL.
    Kill,
}

/// The process of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunProcess {
    /// Number of the run.
    pub run: u32,
    /// The pid; 0 if the process exited before its pid was reported.
    pub pid: i32,
    /// Start time in clock ticks since boot: pid and start time identify a process, even if the pid is reused.
    pub start_time: u64,
    /// When the start was reported.
    pub since: Moment,
}

impl RunProcess {
    /// Its pid and start time.
    pub fn reference(&self) -> ProcessRef {
        ProcessRef { pid: self.pid, start_time: self.start_time }
    }
}

impl State {
    /// The run that the state is about.
    pub fn run(&self) -> Option<u32> {
        match self {
            Self::Spawning { run, .. } => Some(*run),
            Self::Starting { process, .. }
            | Self::Online { process }
            | Self::Draining { process }
            | Self::Stopping { process, .. }
            | Self::CleaningUp { process, .. } => Some(process.run),
            Self::Stopped | Self::Waiting { .. } | Self::Errored { .. } => None,
        }
    }

    /// The process, until its exit is known.
    pub fn process(&self) -> Option<&RunProcess> {
        match self {
            Self::Starting { process, .. }
            | Self::Online { process }
            | Self::Draining { process }
            | Self::Stopping { process, .. } => Some(process),
            Self::Spawning { .. }
            | Self::CleaningUp { .. }
            | Self::Stopped
            | Self::Waiting { .. }
            | Self::Errored { .. } => None,
        }
    }

    /// Whether the state changes only by a new event or after a delay: a command need not wait any longer.
    pub fn is_settled(&self) -> bool {
        match self {
            Self::Stopped | Self::Online { .. } | Self::Waiting { .. } | Self::Errored { .. } => true,
            Self::Stopping { .. } | Self::CleaningUp { .. } => self.is_stuck(),
            Self::Starting { overdue, .. } => *overdue,
            Self::Spawning { .. } | Self::Draining { .. } => false,
        }
    }

    /// Whether processes remain that SIGKILL did not end in time.
    pub fn is_stuck(&self) -> bool {
        let (Self::Stopping { phase, .. } | Self::CleaningUp { phase, .. }) = self else { return false };
        *phase == StopPhase::Stuck
    }
}
