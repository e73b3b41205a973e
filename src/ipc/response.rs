//! The bodies of responses: state as shown to clients.
//!
//! Times are milliseconds since the epoch, durations milliseconds, sizes bytes. The field names
//! are stable: they are the API.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::app;
use crate::exit::Exit;
pub use crate::logs::item::{LogItem, LogPosition, OutputStream};
pub use crate::metrics::{HostInfo, ProcessInfo};
use crate::spec::AppSpec;

/// Answer to [`super::routes::Request::Ping`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Pong {
    /// Version of the daemon.
    pub version: String,
    /// Its pid.
    pub pid: i32,
    /// Result of the last upgrade.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<UpgradeOutcome>,
}

/// Result of an upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UpgradeOutcome {
    /// The new daemon is running.
    Succeeded,
    /// The new daemon exited before it was ready; rolled back.
    Crashed,
    /// The new daemon was not ready in time; rolled back.
    TimedOut,
}

/// Status of an instance, in PM2's terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Starting, not ready yet.
    Launching,
    /// Runs.
    Online,
    /// Stopping, or cleaning up remaining processes.
    Stopping,
    /// Stopped.
    Stopped,
    /// Waiting for the next restart.
    #[serde(rename = "waiting restart")]
    Waiting,
    /// Restart limit reached.
    Errored,
}

impl Status {
    /// The word shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Launching => "launching",
            Self::Online => "online",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Waiting => "waiting restart",
            Self::Errored => "errored",
        }
    }
}

/// An instance, as a list shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct InstanceView {
    /// Its id, `pm_id` in PM2.
    pub id: u32,
    /// The app's name.
    pub name: String,
    /// The app's namespace.
    pub namespace: String,
    /// Its number among the instances of the app, from 0.
    pub number: u32,
    /// `fork` or `cluster`.
    pub mode: crate::spec::ExecMode,
    /// Status.
    pub status: Status,
    /// Reason why it is not online.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
    /// The process, while one runs.
    pub pid: Option<i32>,
    /// When the process was started.
    pub started_at: Option<u64>,
    /// Uptime in milliseconds.
    pub uptime: Option<u64>,
    /// Restarts since it was added or reset.
    pub restarts: u32,
    /// Unstable restarts within the restart window.
    pub unstable_restarts: u32,
    /// CPU usage of the process tree, in percent of a core.
    pub cpu: f32,
    /// Memory of the process tree in bytes; shared pages are counted once.
    pub memory: u64,
    /// Memory limit in bytes (`max_memory_restart`).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub memory_limit: Option<u64>,
    /// User it runs as.
    pub user: String,
    /// Whether it is restarted when files change.
    pub watching: bool,
    /// Version of the app.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub version: Option<String>,
    /// The ecosystem file it was started from.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub source: Option<PathBuf>,
    /// How it differs from that file, if it does.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub drift: Option<String>,
}

/// Reply of an instance to an action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TriggerReply {
    /// Its id.
    pub id: u32,
    /// Its app's name.
    pub name: String,
    /// Its app's namespace.
    pub namespace: String,
    /// Return value of the action.
    #[serde(default)]
    pub reply: serde_json::Value,
    /// Error, if there is no reply.
    #[serde(rename = "error", skip_serializing_if = "Option::is_none", default)]
    pub problem: Option<String>,
}

/// Details of an instance, without values of environment variables.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct InstanceDetail {
    /// As in the list.
    #[serde(flatten)]
    pub view: InstanceView,
    /// Resolved spec; values of `env` are empty.
    #[serde(with = "app::as_app")]
    #[schemars(with = "app::App")]
    pub spec: AppSpec,
    /// What is executed: program and arguments.
    pub command: Vec<String>,
    /// File of standard output, if there is one.
    pub out_file: Option<PathBuf>,
    /// File of standard error, if there is one.
    pub error_file: Option<PathBuf>,
    /// File for both streams.
    pub log_file: Option<PathBuf>,
    /// The pid file.
    pub pid_file: PathBuf,
    /// When it was added.
    pub created_at: u64,
    /// Exit history, newest last.
    pub exits: Vec<ExitView>,
    /// All processes of its tree.
    pub processes: Vec<i32>,
    /// Established connections on shared ports.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub connections: Option<u64>,
    /// Port sharing, if used.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ports: Option<SharedPorts>,
    /// Effective hard limits.
    #[serde(default)]
    pub limits: Vec<LimitView>,
}

/// A hard limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LimitView {
    /// Its key: `memory_max`, `cpu_max` or `pids_max`.
    pub limit: String,
    /// Bytes, percent of one core, or processes and threads.
    pub value: u64,
    /// Enforced by `cgroup`, `rlimit` or `none`.
    pub enforced_by: String,
    /// Restrictions, if not enforced by a cgroup.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub note: Option<String>,
}

/// Port sharing of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SharedPorts {
    /// Mechanism; empty until the run binds a port.
    pub mechanism: String,
    /// Why this mechanism was chosen.
    pub reason: String,
    /// Addresses it listens on.
    pub addresses: Vec<String>,
    /// Warnings.
    pub warnings: Vec<String>,
}

/// Exit of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExitView {
    /// When.
    pub at: u64,
    /// Number of the run, from 1.
    pub run: u32,
    /// Pid, if it was started.
    pub pid: Option<i32>,
    /// How long it ran.
    pub uptime: u64,
    /// How it ended.
    pub exit: Exit,
    /// Whether the exit was requested.
    pub requested: bool,
    /// Killed after the grace period.
    #[serde(default)]
    pub killed: bool,
    /// Reason for the stop, if not a command.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
}

/// Result for one instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Outcome {
    /// Its id.
    pub id: u32,
    /// The app's name.
    pub name: String,
    /// Status afterwards; absent if deleted.
    pub status: Option<Status>,
    /// Error, if the operation failed.
    #[serde(rename = "error", skip_serializing_if = "Option::is_none", default)]
    pub problem: Option<String>,
    /// It did not end in its grace and was killed.
    #[serde(default)]
    pub killed: bool,
}

/// Result of an operation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// Affected instances, by id.
    pub instances: Vec<Outcome>,
    /// Warnings.
    #[serde(default)]
    pub notes: Vec<String>,
}

impl Report {
    /// Merges another report; duplicate notes are dropped.
    pub fn add(&mut self, part: Self) {
        self.instances.extend(part.instances);
        self.instances.sort_by_key(|outcome| outcome.id);
        let news: Vec<String> = part.notes.into_iter().filter(|note| !self.notes.contains(note)).collect();
        self.notes.extend(news);
    }
}

/// Answer to [`super::routes::Request::Save`] and [`super::routes::Request::ClearDump`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Saved {
    /// How many instances were saved.
    pub instances: usize,
    /// Where.
    pub file: PathBuf,
}

/// Answer to [`super::routes::Request::Info`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Info {
    /// Version of the daemon.
    pub version: String,
    /// The daemon.
    pub daemon: ProcessInfo,
    /// The keeper.
    pub keeper: ProcessInfo,
    /// Paths by name.
    pub paths: BTreeMap<String, PathBuf>,
    /// Instances by status.
    pub instances: BTreeMap<String, usize>,
    /// Host information.
    pub host: HostInfo,
    /// The list differs from the saved list.
    #[serde(default)]
    pub unsaved: bool,
}

/// Event of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EventView {
    /// When.
    pub at: u64,
    /// What.
    pub event: EventKind,
    /// The instance's id.
    pub id: u32,
    /// The app's name.
    pub name: String,
    /// The run it is about.
    pub run: u32,
    /// State after it.
    pub status: Status,
    /// How the run ended, for `exited`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub exit: Option<Exit>,
    /// Details.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub detail: Option<String>,
}

/// Kind of event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// It was added to the list.
    Added,
    /// A process is being started.
    Launching,
    /// It is ready.
    Online,
    /// Not ready in time; still running.
    ReadyTimeout,
    /// The liveness probe failed.
    Unhealthy,
    /// The liveness probe succeeds again.
    Healthy,
    /// Autoscaled.
    Scaled,
    /// It could not be started.
    StartFailed,
    /// Starting a replacement.
    Replacing,
    /// The replacement took over.
    Replaced,
    /// The replacement failed.
    ReplaceFailed,
    /// Draining connections.
    Draining,
    /// The stop signal was sent.
    Stopping,
    /// Its process ended.
    Exited,
    /// Stopped.
    Stopped,
    /// Restart scheduled.
    RestartScheduled,
    /// Restart limit reached.
    Errored,
    /// Deleted.
    Deleted,
}
