//! The status of an instance: goal, state, counters and history. It is saved with the state of the daemon.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::exit::Exit;
use crate::instance::restart_policy::FailureHistory;
use crate::instance::state::{State, Want};
use crate::time::Moment;

/// Number of former runs kept in the history.
pub const MAX_HISTORY: usize = 20;

/// Everything of an instance that events change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceStatus {
    /// The requested goal.
    pub want: Want,
    /// The current state.
    pub state: State,
    /// Restarts since the instance was added or reset.
    pub restarts: u32,
    /// Runs since the instance was added or reset.
    #[serde(default)]
    pub runs: u32,
    /// A schedule has requested another run, which starts once the current one has ended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub queued: bool,
    /// Recent failures, for the restart policy.
    #[serde(alias = "failures")]
    pub failure_history: FailureHistory,
    /// Former runs, oldest first.
    #[serde(alias = "exits")]
    pub history: VecDeque<RunRecord>,
    /// When the instance was added or reset.
    pub created: Moment,
    /// Number of the latest run. An id never uses a number twice, even after a deletion.
    pub last_run: u32,
    /// When the current timer fires. Timers with another time are obsolete.
    pub timer: Option<u64>,
    /// Why the process is being stopped, for the history.
    #[serde(alias = "why")]
    pub stop_reason: Option<String>,
    /// The latest run listened, or reported that it is ready.
    #[serde(default)]
    pub ready: bool,
    /// Whether former runs listened on a shared port, and when.
    #[serde(default)]
    pub listens: Listens,
    /// Why the probe of the latest run failed.
    #[serde(default, alias = "problem", skip_serializing_if = "Option::is_none")]
    pub health_problem: Option<String>,
    /// The program of the latest run that put itself into the background, while it is being stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub background: Option<String>,
    /// Why the last attempt to replace the process failed.
    #[serde(default, alias = "refused", skip_serializing_if = "Option::is_none")]
    pub replace_error: Option<String>,
}

impl InstanceStatus {
    /// The status of an instance that has not run yet. `last_run` is the highest run number in use.
    pub fn new(last_run: u32, now: Moment) -> Self {
        Self {
            want: Want::Down,
            state: State::Stopped,
            restarts: 0,
            runs: 0,
            queued: false,
            failure_history: FailureHistory::default(),
            history: VecDeque::new(),
            created: now,
            last_run,
            timer: None,
            stop_reason: None,
            ready: false,
            listens: Listens::default(),
            health_problem: None,
            background: None,
            replace_error: None,
        }
    }

    /// Adds a run to the history.
    pub(super) fn push_run(&mut self, run: RunRecord) {
        self.history.push_back(run);
        if self.history.len() > MAX_HISTORY {
            self.history.pop_front();
        }
    }

    /// The first run after `run` that ended without a request.
    pub fn ended_after(&self, run: u32) -> Option<&RunRecord> {
        self.history.iter().find(|record| record.run > run && !record.requested)
    }

    /// Prepares the status for the first start after a boot: nothing runs; counters and history stay. `last_run` is
    /// the highest run number in use.
    pub(super) fn reset_for_boot(&mut self, last_run: u32) {
        self.state = State::Stopped;
        self.timer = None;
        self.last_run = self.last_run.max(last_run);
        self.failure_history = FailureHistory::default();
    }
}

/// What is known about the listening sockets of an app that shares ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Listens {
    /// No run has lasted long enough to tell.
    #[default]
    Unknown,
    /// The last run did not listen within `listen_timeout`.
    Never,
    /// A run listened this many milliseconds after its start.
    After(u64),
}

/// A former run in the history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    /// When the run ended.
    pub at: Moment,
    /// Number of the run.
    pub run: u32,
    /// The pid; 0 if it is unknown.
    pub pid: i32,
    /// Duration of the run in milliseconds.
    pub uptime: u64,
    /// Exit code or signal.
    pub exit: Exit,
    /// The exit followed a stop or restart.
    #[serde(alias = "asked")]
    pub requested: bool,
    /// The run had become ready.
    #[serde(default = "was_ready")]
    pub ready: bool,
    /// The process, or one of its tree, did not exit within `kill_timeout` and was killed.
    pub killed: bool,
    /// Why the process was stopped, if not by a command.
    #[serde(alias = "why")]
    pub reason: Option<String>,
}

/// A run that was saved by a version that did not record readiness.
fn was_ready() -> bool {
    true
}

/// One run of one instance. Unique for as long as the state of the daemon is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RunId {
    /// Id of the instance.
    pub instance: u32,
    /// Number of the run in the instance, from 1.
    pub number: u32,
}

impl RunId {
    /// As one number, for the keeper and the log workers.
    pub fn to_u64(self) -> u64 {
        u64::from(self.instance) << 32 | u64::from(self.number)
    }

    /// From the number made by [`RunId::to_u64`].
    pub fn from_u64(id: u64) -> Self {
        Self { instance: (id >> 32) as u32, number: id as u32 }
    }
}
