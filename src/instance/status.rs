//! What an instance has been through: all of it that changes, and all that is saved of it.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::exit::Exit;
use crate::instance::restart_policy::FailureHistory;
use crate::instance::state::{State, Want};
use crate::time::Moment;

/// How many ends of runs are remembered.
pub const MAX_HISTORY: usize = 20;

/// What an instance has been through: all of it that changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceStatus {
    /// What the user asked for.
    pub want: Want,
    /// What is so.
    pub state: State,
    /// Restarts since it was added or reset.
    pub restarts: u32,
    /// What the restart policy remembers.
    #[serde(alias = "failures")]
    pub failure_history: FailureHistory,
    /// Ends of runs, oldest first.
    #[serde(alias = "exits")]
    pub history: VecDeque<RunRecord>,
    /// When it was added or reset.
    pub created: Moment,
    /// Number of the latest run. Never used twice by one id, even after a delete.
    pub last_run: u32,
    /// The timer that counts; one that is not this has been overtaken.
    pub timer: Option<u64>,
    /// Why it was told to go, for the history.
    #[serde(alias = "why")]
    pub stop_reason: Option<String>,
    /// The latest run listened, or said that it is ready.
    #[serde(default)]
    pub ready: bool,
    /// What its check says against the latest run.
    #[serde(default, alias = "problem", skip_serializing_if = "Option::is_none")]
    pub health_problem: Option<String>,
    /// Why the last attempt to replace its process failed.
    #[serde(default, alias = "refused", skip_serializing_if = "Option::is_none")]
    pub replace_error: Option<String>,
}

impl InstanceStatus {
    /// The life of something that has not run yet. `last_run` follows the highest number ever used.
    pub fn new(last_run: u32, now: Moment) -> Self {
        Self {
            want: Want::Down,
            state: State::Stopped,
            restarts: 0,
            failure_history: FailureHistory::default(),
            history: VecDeque::new(),
            created: now,
            last_run,
            timer: None,
            stop_reason: None,
            ready: false,
            health_problem: None,
            replace_error: None,
        }
    }

    /// Adds the end of a run to the history.
    pub fn push_run(&mut self, ended: RunRecord) {
        self.history.push_back(ended);
        if self.history.len() > MAX_HISTORY {
            self.history.pop_front();
        }
    }

    /// As it is before a first start in a new life of the machine or the daemon: nothing runs,
    /// counts and history stay. `last_run` is the highest run number in use.
    pub fn reset_for_boot(&mut self, last_run: u32) {
        self.state = State::Stopped;
        self.timer = None;
        self.last_run = self.last_run.max(last_run);
        self.failure_history = FailureHistory::default();
    }
}

/// The end of a run, remembered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    /// When.
    pub at: Moment,
    /// The run's number.
    pub run: u32,
    /// Its pid; 0 if there was none.
    pub pid: i32,
    /// Milliseconds it ran.
    pub uptime: u64,
    /// How it ended.
    pub exit: Exit,
    /// It was told to go.
    #[serde(alias = "asked")]
    pub requested: bool,
    /// It outlived its grace, or something of its tree did.
    pub killed: bool,
    /// Why it was told to go.
    #[serde(alias = "why")]
    pub reason: Option<String>,
}

/// Names one run of one instance, for all time of a daemon's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RunId {
    /// The instance.
    pub instance: u32,
    /// The run's number in it, from 1.
    pub number: u32,
}

impl RunId {
    /// As the keeper and other outsiders carry it.
    pub fn to_u64(self) -> u64 {
        u64::from(self.instance) << 32 | u64::from(self.number)
    }

    /// Back again.
    pub fn from_u64(word: u64) -> Self {
        Self { instance: (word >> 32) as u32, number: word as u32 }
    }
}
