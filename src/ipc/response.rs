//! The bodies of responses.
//!
//! Times are milliseconds since the epoch, durations milliseconds, sizes bytes. The field names are the API.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::app;
use crate::exit::Exit;
pub use crate::logs::item::{LogItem, LogPosition, OutputStream};
pub use crate::metrics::{HostInfo, ProcessInfo};
use crate::spec::AppSpec;

/// Response to [`super::routes::Request::Ping`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Pong {
    /// Version of the daemon.
    pub version: String,
    /// Pid of the daemon.
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
pub enum DisplayStatus {
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
    /// A job that has ended successfully.
    Completed,
    /// A job that has failed.
    Failed,
    /// A job that does not run, and is started by its schedule.
    Scheduled,
}

impl DisplayStatus {
    /// The name, as shown to users.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Launching => "launching",
            Self::Online => "online",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Waiting => "waiting restart",
            Self::Errored => "errored",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Scheduled => "scheduled",
        }
    }

    /// The name in PM2, which has no jobs.
    pub fn in_pm2(self) -> &'static str {
        match self {
            Self::Completed | Self::Failed | Self::Scheduled => Self::Stopped.as_str(),
            other => other.as_str(),
        }
    }

    /// Whether no process runs, and none follows by the restart policy.
    pub fn is_down(self) -> bool {
        match self {
            Self::Stopped | Self::Errored | Self::Completed | Self::Failed | Self::Scheduled => true,
            Self::Launching | Self::Online | Self::Stopping | Self::Waiting => false,
        }
    }
}

/// An instance, as a list shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct InstanceView {
    /// Id of the instance, `pm_id` in PM2.
    pub id: u32,
    /// The app's name.
    pub name: String,
    /// The app's namespace.
    pub namespace: String,
    /// Number of the instance within the app, from 0.
    pub number: u32,
    /// `fork` or `cluster`.
    pub mode: crate::spec::ExecMode,
    /// Status.
    pub status: DisplayStatus,
    /// Reason why it is not online.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
    /// Pid, while a process is running.
    pub pid: Option<i32>,
    /// When the process was started.
    pub started_at: Option<u64>,
    /// Uptime in milliseconds.
    pub uptime: Option<u64>,
    /// Restarts since it was added or reset.
    pub restarts: u32,
    /// Unstable restarts within the restart window.
    pub unstable_restarts: u32,
    /// Runs since it was added or reset.
    #[serde(default)]
    pub runs: u32,
    /// When its schedule (`cron_restart`) is due next, in milliseconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next_run: Option<u64>,
    /// The last run ended by itself, and not successfully.
    #[serde(default)]
    pub last_run_failed: bool,
    /// Unexpected exits since it was last healthy; 0 once it has been up for a while.
    #[serde(default)]
    pub failed_runs: u32,
    /// How the last run ended.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_exit: Option<Exit>,
    /// CPU usage of the process tree, in percent of a core.
    pub cpu: f32,
    /// Memory of the process tree in bytes; shared pages are counted once.
    pub memory: u64,
    /// Memory limit in bytes (`max_memory_restart`).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub memory_limit: Option<u64>,
    /// User that the process runs as.
    pub user: String,
    /// Whether it is restarted when files change.
    pub watching: bool,
    /// Whether its liveness probe passes; absent without a probe, and if it is not online.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub healthy: Option<bool>,
    /// Script, program or shell command.
    #[serde(default)]
    pub script: String,
    /// Version of the app.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub version: Option<String>,
    /// Ecosystem file that defines the app.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub source: Option<PathBuf>,
    /// Difference between the app and that file, if any.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub drift: Option<String>,
}

/// Reply of an instance to an action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TriggerReply {
    /// Id of the instance.
    pub id: u32,
    /// Name of the app.
    pub name: String,
    /// Namespace of the app.
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
    /// The fields of the list.
    #[serde(flatten)]
    pub view: InstanceView,
    /// Resolved spec; values of `env` are empty.
    #[serde(with = "app::as_app")]
    #[schemars(with = "app::App")]
    pub spec: AppSpec,
    /// Executed program and arguments.
    pub command: Vec<String>,
    /// Log file of standard output, if any.
    pub out_file: Option<PathBuf>,
    /// Log file of standard error, if any.
    pub error_file: Option<PathBuf>,
    /// Log file for both streams.
    pub log_file: Option<PathBuf>,
    /// Why other log files than these are written, if so.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub log_notes: Vec<String>,
    /// The pid file.
    pub pid_file: PathBuf,
    /// When it was added.
    pub created_at: u64,
    /// Exit history, newest last.
    pub exits: Vec<ExitView>,
    /// Pids of the process tree.
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
    /// Key: `memory_max`, `cpu_max` or `pids_max`.
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
    /// Addresses that the run listens on.
    pub addresses: Vec<String>,
    /// Warnings.
    pub warnings: Vec<String>,
}

/// Exit of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExitView {
    /// Time of the exit.
    pub at: u64,
    /// Number of the run, from 1.
    pub run: u32,
    /// Pid, if it was started.
    pub pid: Option<i32>,
    /// Uptime of the run.
    pub uptime: u64,
    /// Exit status.
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
pub struct InstanceOutcome {
    /// Id of the instance.
    pub id: u32,
    /// Name of the app.
    pub name: String,
    /// Status afterwards; absent if deleted.
    pub status: Option<DisplayStatus>,
    /// Error, if the operation failed.
    #[serde(rename = "error", skip_serializing_if = "Option::is_none", default)]
    pub problem: Option<String>,
    /// Killed after the grace period.
    #[serde(default)]
    pub killed: bool,
}

/// Result of an operation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ActionReport {
    /// Affected instances, by id.
    pub instances: Vec<InstanceOutcome>,
    /// Notes.
    #[serde(default)]
    pub notes: Vec<String>,
    /// Warnings: conditions that are most likely mistakes, such as a port that two apps share.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl ActionReport {
    /// Merges another report; duplicate notes and warnings are dropped.
    pub fn add(&mut self, part: Self) {
        self.instances.extend(part.instances);
        self.instances.sort_by_key(|outcome| outcome.id);
        let new_notes: Vec<String> =
            part.notes.into_iter().filter(|note| !self.notes.contains(note)).collect();
        self.notes.extend(new_notes);
        let new_warnings: Vec<String> =
            part.warnings.into_iter().filter(|warning| !self.warnings.contains(warning)).collect();
        self.warnings.extend(new_warnings);
    }
}

/// Response to [`super::routes::Request::Save`] and [`super::routes::Request::ClearDump`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DumpInfo {
    /// Number of saved instances.
    pub instances: usize,
    /// Path of the dump file.
    pub file: PathBuf,
}

/// Response to [`super::routes::Request::Info`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DaemonInfo {
    /// Version of the daemon.
    pub version: String,
    /// Process of the daemon.
    pub daemon: ProcessInfo,
    /// Process of the keeper.
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
    /// System calls that do not return, usually because of a disk that does not respond.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stalled: Vec<StalledOperation>,
}

/// An operation that is blocked in a system call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StalledOperation {
    /// What is blocked, with the app.
    pub subject: String,
    /// Duration in milliseconds.
    pub duration: u64,
}

/// Event of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EventView {
    /// Time of the event.
    pub at: u64,
    /// Kind of event.
    pub event: EventKind,
    /// Id of the instance.
    pub id: u32,
    /// Name of the app.
    pub name: String,
    /// Number of the run.
    pub run: u32,
    /// Status after the event.
    pub status: DisplayStatus,
    /// Exit status of the run, for `exited`.
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
    /// Added to the list.
    Added,
    /// Starting a process.
    Launching,
    /// Ready.
    Online,
    /// Not ready in time; still running.
    ReadyTimeout,
    /// The liveness probe failed.
    Unhealthy,
    /// The liveness probe succeeds again.
    Healthy,
    /// Autoscaled.
    Scaled,
    /// The start failed.
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
    /// The process exited.
    Exited,
    /// Stopped.
    Stopped,
    /// Restart scheduled.
    RestartScheduled,
    /// A scheduled run was skipped or queued, because the previous one has not ended.
    Overlapped,
    /// Restart limit reached.
    Errored,
    /// Deleted.
    Deleted,
}
