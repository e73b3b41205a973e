//! Events of an instance, and the effects that follow from them.

use super::state::{CleanUp, RunProcess};
use crate::exit::{Exit, StartFailure};

/// What happens to an instance: requests, and reports from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InstanceEvent {
    /// A start is requested.
    Start,
    /// A stop is requested.
    Stop,
    /// A restart is requested, with the reason if it is not a command.
    Restart(Option<String>),
    /// Another run is requested, once the current one has ended.
    Enqueue,
    /// The deletion is requested.
    Delete,
    /// The deletion is requested, and other processes serve instead: open connections are served first.
    DrainAndDelete,
    /// The program was executed.
    Spawned {
        /// Number of the run.
        run: u32,
        /// Pid of the process.
        pid: i32,
        /// Start time in clock ticks since boot.
        start_time: u64,
    },
    /// The process listens on a shared port.
    Listening {
        /// Number of the run.
        run: u32,
    },
    /// The process sent its readiness notification, or its readiness probe succeeded.
    Ready {
        /// Number of the run.
        run: u32,
    },
    /// The process has no open connections any more.
    Drained {
        /// Number of the run.
        run: u32,
    },
    /// The program could not be executed.
    SpawnFailed {
        /// Number of the run.
        run: u32,
        /// The step that failed, and the error.
        failure: StartFailure,
    },
    /// The first process of the run exited.
    Exited {
        /// Number of the run.
        run: u32,
        /// Exit code or signal.
        exit: Exit,
    },
    /// The process tree of the run was searched after the exit.
    TreeChecked {
        /// Number of the run.
        run: u32,
        /// Pids of the processes that remain.
        remaining: Vec<i32>,
        /// The name of one of them that has created its own session.
        background: Option<String>,
    },
    /// An orphan exited; it may belong to a tree that is being cleaned up.
    OrphanExited,
    /// A timer fired.
    TimerFired {
        /// The time that the timer was set to.
        at: u64,
    },
}

impl InstanceEvent {
    /// The run that the event is about, if any.
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
            | Self::Enqueue
            | Self::Delete
            | Self::DrainAndDelete
            | Self::OrphanExited
            | Self::TimerFired { .. } => None,
        }
    }

    /// The new content of the pid file, if the event changes it: a pid, or none.
    pub fn pid_change(&self) -> Option<Option<i32>> {
        match self {
            Self::Spawned { pid, .. } => Some(Some(*pid)),
            Self::Exited { .. } => Some(None),
            Self::Start
            | Self::Stop
            | Self::Restart(_)
            | Self::Enqueue
            | Self::Delete
            | Self::DrainAndDelete
            | Self::Drained { .. }
            | Self::Listening { .. }
            | Self::Ready { .. }
            | Self::SpawnFailed { .. }
            | Self::TreeChecked { .. }
            | Self::OrphanExited
            | Self::TimerFired { .. } => None,
        }
    }
}

/// What has to be done after an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Start a process. Answered by `Spawned` or `SpawnFailed`.
    Spawn {
        /// Number of the run.
        run: u32,
    },
    /// Route no new connections to the run. Answered by `Drained`.
    Drain {
        /// Number of the run.
        run: u32,
    },
    /// Send the app's stop signal.
    SendStopSignal {
        /// The first process of the tree.
        process: RunProcess,
    },
    /// Send SIGKILL to the tree.
    Kill {
        /// The first process of the tree.
        process: RunProcess,
    },
    /// End the remaining processes of a tree. Answered by `TreeChecked`.
    CleanUpTree {
        /// The process that has exited.
        process: RunProcess,
        /// By which signal.
        mode: CleanUp,
    },
    /// The run is over and recorded: release its resources.
    ReleaseRun {
        /// Number of the run.
        run: u32,
    },
    /// Set a timer. Answered by `TimerFired`.
    SetTimer {
        /// Milliseconds on the monotonic clock.
        at: u64,
    },
    /// Remove the instance from the list.
    Remove,
    /// Publish an event to subscribers.
    Publish(Notice),
}

/// What is published to subscribers about an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A process is being started.
    Launching,
    /// The process is ready.
    Online,
    /// The process has not become ready within `listen_timeout`, and keeps running.
    ReadyTimeout,
    /// The process could not be started.
    StartFailed(StartFailure),
    /// The process gets no new connections.
    Draining,
    /// The process is being stopped, with the reason if it is not a command.
    Stopping(Option<String>),
    /// The process exited.
    Exited(Exit),
    /// Nothing runs, and no start is scheduled.
    Stopped,
    /// The next start follows after this many milliseconds.
    RestartScheduled(u64),
    /// No further start follows, for this reason.
    Errored(String),
}
