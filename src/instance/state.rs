//! The states of an instance, and what moves it from one to the next.
//!
//! What the user asked for (`Want`) is kept apart from what is so (`State`): a stop that arrives
//! while a start is under way only changes the want, and the start's outcome finds it changed.
//!
//! | state | what is so | leaves it by |
//! | --- | --- | --- |
//! | `Stopped` | nothing runs, nothing is due | start, restart |
//! | `Spawning` | the keeper was asked for a process and has not answered | `Spawned`, `SpawnFailed` |
//! | `Starting` | the process runs and has yet to be ready; `late`: longer than it was given | `Ready`, the timer, stop, restart, `Exited` |
//! | `Online` | it runs and is ready | stop, restart, `Exited` |
//! | `Leaving` | others stand in for it: it gets no new connections, and is told to go once nobody waits for it | `Drained`, the timer, stop, `Exited` |
//! | `Stopping` | the process was told to go | `Exited`; when its grace is over, SIGKILL |
//! | `Clearing` | the process has ended; what is left of its tree is being ended | `Swept` with nothing left |
//! | `Waiting` | nothing runs; the next start is due later | the timer, start, stop |
//! | `Errored` | given up; `why` says why | start, restart, stop |
//!
//! `Stopping` and `Clearing` pass through the same phases: `Grace` (asked to go), `Killed` (not
//! asked any more), `Stuck` (the kernel does not end it: reported, and still waited for).

use serde::{Deserialize, Serialize};

use crate::time::Moment;

/// What the user asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Want {
    /// It shall run.
    Up,
    /// It shall not run.
    Down,
    /// It shall be forgotten once it is down.
    Gone,
}

/// What is so. See the table above.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Nothing runs.
    Stopped,
    /// A process was asked for.
    Spawning {
        /// Number of the run.
        run: u32,
        /// Since when.
        since: Moment,
        /// A user waits for it, so a failure is told at once and not retried.
        #[serde(alias = "asked")]
        requested: bool,
        /// Asked to restart meanwhile: what comes is out of date already.
        stale: bool,
    },
    /// It runs, and is not ready.
    Starting {
        /// The process.
        process: RunProcess,
        /// It has taken longer than it was given.
        #[serde(alias = "late")]
        overdue: bool,
    },
    /// It runs and is ready.
    Online {
        /// The process.
        process: RunProcess,
    },
    /// It runs, and gets no new connections.
    #[serde(alias = "leaving")]
    Draining {
        /// The process.
        process: RunProcess,
    },
    /// It was told to go.
    Stopping {
        /// The process.
        process: RunProcess,
        /// How hard.
        phase: StopPhase,
    },
    /// The first process is gone, the rest of its tree may not be.
    #[serde(alias = "clearing")]
    CleaningUp {
        /// The process that was.
        process: RunProcess,
        /// It was told to go; else it ended by itself.
        #[serde(alias = "asked")]
        requested: bool,
        /// How hard the rest is asked to go.
        phase: StopPhase,
    },
    /// The next start is due at this point of the monotonic clock.
    Waiting {
        /// Milliseconds.
        until: u64,
    },
    /// Given up.
    Errored {
        /// Why, in words.
        #[serde(alias = "why")]
        reason: String,
    },
}

/// How hard something is asked to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopPhase {
    /// By its signal; it has time.
    Grace,
    /// By SIGKILL.
    Killed,
    /// SIGKILL did not help in time.
    Stuck,
}

/// The process of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunProcess {
    /// Number of the run.
    pub run: u32,
    /// Its pid; 0 if it ended before it was told.
    pub pid: i32,
    /// Its start time in clock ticks since boot: with the pid, an identity that pid reuse cannot
    /// fake.
    pub start_time: u64,
    /// Since when it runs.
    pub since: Moment,
}

impl State {
    /// The run this state is about.
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

    /// The process, while it has not been seen to end.
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
}
