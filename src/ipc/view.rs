//! What requests are answered with: state as shown to clients.
//!
//! Times are milliseconds since the epoch, durations milliseconds, sizes bytes. The field names
//! are stable: they are the API.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::exit::Exit;
pub use crate::logs::item::{LogItem, LogPlace, Stream};
pub use crate::metrics::{HostInfo, ProcessInfo};
use crate::spec::AppSpec;

/// Answer to [`super::message::Request::Ping`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Pong {
    /// Version of the daemon.
    pub version: String,
    /// Its pid.
    pub pid: i32,
    /// What came of the latest upgrade.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<UpgradeOutcome>,
}

/// What came of an upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UpgradeOutcome {
    /// The daemon that says so is of the new binary.
    Done,
    /// The new daemon ended before it answered clients; the former binary goes on.
    Died,
    /// The new daemon did not come to answer clients in time; the former binary goes on.
    Silent,
}

/// State of an instance as shown: PM2's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Status {
    /// Being started, or not ready yet.
    #[serde(rename = "launching")]
    Launching,
    /// Runs.
    #[serde(rename = "online")]
    Online,
    /// Told to go, or being cleaned up after.
    #[serde(rename = "stopping")]
    Stopping,
    /// Does not run, and shall not.
    #[serde(rename = "stopped")]
    Stopped,
    /// Waits for its next start.
    #[serde(rename = "waiting restart")]
    Waiting,
    /// Given up.
    #[serde(rename = "errored")]
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
    /// What is so.
    pub status: Status,
    /// Why it is not online, in words, if there is something to say.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
    /// The process, while one runs.
    pub pid: Option<i32>,
    /// When the process was started.
    pub started_at: Option<u64>,
    /// How long it has run.
    pub uptime: Option<u64>,
    /// Restarts since it was added or reset.
    pub restarts: u32,
    /// Of these, the ones after an early exit, within the policy's window.
    pub unstable_restarts: u32,
    /// Percent of one core, whole tree.
    pub cpu: f32,
    /// Bytes, whole tree, shared pages counted once.
    pub memory: u64,
    /// Bytes at which it is restarted, if there is a limit.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub memory_limit: Option<u64>,
    /// User it runs as.
    pub user: String,
    /// Restarted when files change.
    pub watching: bool,
    /// Version of the app.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub version: Option<String>,
    /// The ecosystem file it was started from.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub source: Option<PathBuf>,
    /// How it may differ from that file; absent: it does not, as far as is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub drift: Option<String>,
}

/// What an instance answered to a [`super::message::Trigger`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TriggerReply {
    /// Its id.
    pub id: u32,
    /// Its app's name.
    pub name: String,
    /// Its app's namespace.
    pub namespace: String,
    /// What the action returned.
    #[serde(default)]
    pub reply: serde_json::Value,
    /// Why there is no reply.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub problem: Option<String>,
}

/// Everything about an instance; no environment values.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct InstanceDetail {
    /// As in the list.
    #[serde(flatten)]
    pub view: InstanceView,
    /// The resolved description; values of `env` are left empty.
    pub spec: AppSpec,
    /// What is executed: program and arguments.
    pub command: Vec<String>,
    /// File of standard output, if there is one.
    pub out_file: Option<PathBuf>,
    /// File of standard error, if there is one.
    pub error_file: Option<PathBuf>,
    /// File of both.
    pub log_file: Option<PathBuf>,
    /// The pid file.
    pub pid_file: PathBuf,
    /// When it was added.
    pub created_at: u64,
    /// The last ends of its runs, newest last.
    pub exits: Vec<ExitView>,
    /// All processes of its tree.
    pub processes: Vec<i32>,
    /// Connections that its processes have open at the ports it shares.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub connections: Option<u64>,
    /// How its ports are shared, if they are.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ports: Option<SharedPorts>,
    /// Which of its hard limits hold, and by what, while it runs.
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
    /// Who holds it: `cgroup`, `rlimit` or `nothing`.
    pub by: String,
    /// What that means, where it is not a cgroup.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub note: Option<String>,
}

/// How a run's ports are shared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SharedPorts {
    /// The way, in words; empty before the run has asked for a port.
    pub path: String,
    /// Why this way.
    pub why: String,
    /// Where it listens.
    pub addresses: Vec<String>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExitView {
    /// When.
    pub at: u64,
    /// Which run of the instance, from 1.
    pub run: u32,
    /// Its process, if it came to one.
    pub pid: Option<i32>,
    /// How long it ran.
    pub uptime: u64,
    /// How it ended.
    pub exit: Exit,
    /// Whether someone asked for it.
    pub asked: bool,
    /// It outlived its grace and was killed.
    #[serde(default)]
    pub killed: bool,
    /// Why it was asked to go, if not by command.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub why: Option<String>,
}

/// An instance that a request touched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Outcome {
    /// Its id.
    pub id: u32,
    /// The app's name.
    pub name: String,
    /// How it came out; absent: gone from the list, as asked.
    pub status: Option<Status>,
    /// Why it is not as wished; absent: it is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub problem: Option<String>,
    /// It did not end in its grace and was killed.
    #[serde(default)]
    pub killed: bool,
}

/// Answer to a request that acts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// Each instance touched, in the order of their ids.
    pub instances: Vec<Outcome>,
    /// What the user should know.
    #[serde(default)]
    pub notes: Vec<String>,
}

impl Report {
    /// Adds what another part of the same work came to. What is to be known is said once.
    pub fn add(&mut self, part: Self) {
        self.instances.extend(part.instances);
        self.instances.sort_by_key(|outcome| outcome.id);
        let news: Vec<String> = part.notes.into_iter().filter(|note| !self.notes.contains(note)).collect();
        self.notes.extend(news);
    }
}

/// Answer to [`super::message::Request::Save`] and [`super::message::Request::ClearDump`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Saved {
    /// How many instances were saved.
    pub instances: usize,
    /// Where.
    pub file: PathBuf,
}

/// Answer to [`super::message::Request::Info`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Info {
    /// Version of the daemon.
    pub version: String,
    /// The daemon.
    pub daemon: ProcessInfo,
    /// The keeper.
    pub keeper: ProcessInfo,
    /// Where files lie, by name.
    pub paths: BTreeMap<String, PathBuf>,
    /// Instances by status.
    pub instances: BTreeMap<String, usize>,
    /// Bytes of memory of the machine, used and in all; cores; load average.
    pub host: HostInfo,
    /// The list is not what was saved last: the next boot would bring back something else.
    #[serde(default)]
    pub unsaved: bool,
}

/// Something that happened to an instance.
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
    /// More, in words.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub detail: Option<String>,
}

/// What can happen to an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// It was added to the list.
    Added,
    /// A process is being started.
    Launching,
    /// It is ready.
    Online,
    /// It is not ready in the time given, and goes on.
    Late,
    /// Its check says that it does not work.
    Unhealthy,
    /// Its check says that it works again.
    Healthy,
    /// The number of instances follows the load.
    Scaled,
    /// It could not be started.
    StartFailed,
    /// Another process is started to take the place of the one that it has.
    Replacing,
    /// The other process has taken its place.
    Replaced,
    /// The other process failed, and the one that it has stays.
    Kept,
    /// It gets no new connections, and goes once nobody waits for it.
    Leaving,
    /// It was told to go.
    Stopping,
    /// Its process ended.
    Exited,
    /// It is down, as it shall be.
    Stopped,
    /// It will be started again after a delay.
    Waiting,
    /// It was given up.
    Errored,
    /// It was taken from the list.
    Deleted,
}
