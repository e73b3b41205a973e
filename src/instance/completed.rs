//! Completed commands: the goals of each, saved with the state so that a repeated command is not carried out twice.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What a command wants of an instance. An outcome that differs is reported as a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// The process runs, is ready, and has not exited soon after its start.
    #[serde(alias = "up")]
    Online,
    /// The process runs and is ready. An exit before is not a problem: the restart policy handles it.
    Resumed,
    /// The program was executed.
    Started,
    /// The job has ended.
    Completed,
    /// Another process has replaced the current one.
    Replaced,
    /// No process runs.
    #[serde(alias = "down")]
    Stopped,
    /// The instance is not in the list.
    #[serde(alias = "gone")]
    Deleted,
    /// Any state.
    Any,
}

/// A command that was carried out. A client that repeats it, because the daemon died before it answered, gets the
/// answer without a second execution.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompletedCommand {
    /// The key that the client gave to the command.
    pub key: String,
    /// Name and goal of each instance concerned.
    pub goals: BTreeMap<u32, (String, Goal)>,
    /// Notes for the user in the answer.
    pub notes: Vec<String>,
}
