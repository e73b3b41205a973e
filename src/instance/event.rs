//! What can happen to an instance, and what follows from it.

use super::state::RunProcess;
use crate::exit::{Exit, StartFailure};

/// What can happen to an instance: wishes, and facts from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InstanceEvent {
    /// Someone wants it to run.
    Start,
    /// Someone wants it down.
    Stop,
    /// Someone wants it to run anew; for what reason, if not by command.
    Restart(Option<String>),
    /// Someone wants it forgotten.
    Delete,
    /// The same, where others stand in for it: those who have come to it are served first.
    DrainAndDelete,
    /// The program runs.
    Spawned {
        /// Which run.
        run: u32,
        /// Its pid.
        pid: i32,
        /// Its start time in clock ticks since boot.
        start_time: u64,
    },
    /// It listens on a port that it shares.
    Listening {
        /// Which run.
        run: u32,
    },
    /// It is ready: it has said so.
    Ready {
        /// Which run.
        run: u32,
    },
    /// Nobody waits for it any more.
    Drained {
        /// Which run.
        run: u32,
    },
    /// The program could not be started.
    SpawnFailed {
        /// Which run.
        run: u32,
        /// At which step, and why.
        failure: StartFailure,
    },
    /// Its first process ended.
    Exited {
        /// Which run.
        run: u32,
        /// How.
        exit: Exit,
    },
    /// What is left of its tree was looked for.
    TreeChecked {
        /// Which run.
        run: u32,
        /// The pids found.
        remaining: Vec<i32>,
    },
    /// Somewhere a process without parent ended: maybe one that is being waited for.
    OrphanExited,
    /// A timer went off.
    TimerFired {
        /// The time it was set to.
        at: u64,
    },
}

impl InstanceEvent {
    /// The run it is about, if it is about one.
    pub fn run(&self) -> Option<u32> {
        match self {
            Self::Spawned { run, .. }
            | Self::Listening { run }
            | Self::Ready { run }
            | Self::Drained { run }
            | Self::SpawnFailed { run, .. }
            | Self::Exited { run, .. }
            | Self::TreeChecked { run, .. } => Some(*run),
            Self::Start
            | Self::Stop
            | Self::Restart(_)
            | Self::Delete
            | Self::DrainAndDelete
            | Self::OrphanExited
            | Self::TimerFired { .. } => None,
        }
    }
}

/// What shall be done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Start a process. Answered by `Spawned` or `SpawnFailed`.
    Spawn {
        /// Its run.
        run: u32,
    },
    /// Let it have no new connections. Answered by `Drained`.
    Drain {
        /// Its run.
        run: u32,
    },
    /// Send the app's stop signal to the tree.
    SendStopSignal {
        /// The process.
        process: RunProcess,
    },
    /// SIGKILL the whole tree.
    Kill {
        /// The process.
        process: RunProcess,
    },
    /// Look for what is left of the tree, and end it. Answered by `Swept`.
    CleanUpTree {
        /// The process that was.
        process: RunProcess,
        /// By SIGKILL; else by SIGTERM.
        force: bool,
    },
    /// The run is over and recorded: let go of what was kept for it.
    ReleaseRun {
        /// The run.
        run: u32,
    },
    /// Send `Due` at this point of the monotonic clock.
    SetTimer {
        /// Milliseconds.
        at: u64,
    },
    /// It is down and not wanted any more: take it from the list.
    Remove,
    /// Let those know who want to.
    Publish(Notice),
}

/// What others may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A process is being started.
    Launching,
    /// It is online.
    Online,
    /// It has not become ready in the time given, and goes on.
    ReadyTimeout,
    /// It could not be started.
    StartFailed(StartFailure),
    /// It gets no new connections.
    Draining,
    /// It was told to go, and why if not by command.
    Stopping(Option<String>),
    /// Its process ended.
    Exited(Exit),
    /// It is down, as it shall be.
    Stopped,
    /// The next start comes after this many milliseconds.
    RestartScheduled(u64),
    /// It was given up, and why.
    Errored(String),
}
