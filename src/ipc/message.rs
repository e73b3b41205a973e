//! All that crosses the wire: requests, and the views they are answered with.
//!
//! These types are the contract between daemon and clients. They know nothing of HTTP (`route`
//! maps them to it) and nothing of the supervisor. Times are milliseconds since the epoch,
//! durations milliseconds, sizes bytes. The field names are stable: they are the API.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::instance::exit::Exit;
use crate::spec::{AppSpec, Vars};

/// Which instances a request is about: each an id, a name, a namespace, `/regex/` or `all`.
pub type Selectors = Vec<String>;

/// Adds apps, or brings those that are there up to date.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StartApps {
    /// The apps.
    pub apps: Vec<AppSpec>,
    /// The environment the apps inherit: that of the shell the command was typed in.
    #[serde(default)]
    pub inherited: Inherited,
    /// What to do with an app whose name is taken.
    #[serde(default)]
    pub existing: Existing,
}

/// An inherited environment; `Debug` shows names only.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Inherited(pub Vars);

impl std::fmt::Debug for Inherited {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} variables", self.0.len())
    }
}

/// What to do when an app of the same name is there already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Existing {
    /// Restart it with the new settings (an ecosystem file).
    #[default]
    Restart,
    /// Refuse while it runs, start it if it does not (a single script).
    Refuse,
    /// Add another beside it (`--force`).
    Duplicate,
}

/// Acts on instances that are there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ActOn {
    /// Which ones.
    pub select: Selectors,
    /// Replaces the inherited environment (`--update-env`).
    #[serde(default)]
    pub inherited: Option<Inherited>,
    /// Settings to change first: a JSON merge patch of [`AppSpec`].
    #[serde(default)]
    pub changes: Option<serde_json::Map<String, serde_json::Value>>,
}

/// What to do with the selected instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Start those that do not run; restart those that do, as PM2's `start NAME`.
    Start,
    /// Stop, keep in the list.
    Stop,
    /// Stop if it runs, then start.
    Restart,
    /// Stop and forget.
    Delete,
    /// Counters to zero.
    Reset,
}

/// How many instances an app shall have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScaleTo {
    /// Exactly so many.
    Exactly(u32),
    /// So many more.
    Add(u32),
    /// So many fewer.
    Remove(u32),
}

/// Every wish a client can have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Is the daemon there?
    Ping,
    /// Versions, pids, memory, paths.
    Info,
    /// All instances.
    List,
    /// All instances in PM2's shape.
    Jlist,
    /// Everything about the selected instances.
    Describe(Selectors),
    /// The variables given to an instance (file, flags), with their values.
    Env(u32),
    /// Adds apps.
    Start(StartApps),
    /// Acts on instances.
    Act(Action, ActOn),
    /// Changes the number of instances.
    Scale {
        /// The app's name.
        name: String,
        /// How many.
        to: ScaleTo,
    },
    /// Sends a signal to the selected instances' processes.
    Signal {
        /// Which ones.
        select: Selectors,
        /// By name, `SIGUSR2` or `USR2`.
        signal: String,
    },
    /// Writes the dump.
    Save {
        /// Also when the list is empty.
        force: bool,
    },
    /// Starts what the dump holds and is not in the list.
    Resurrect,
    /// Empties the dump.
    ClearDump,
    /// Empties the log files of the selected instances.
    Flush(Selectors),
    /// Opens all log files anew.
    ReopenLogs,
    /// Log lines, then those to come.
    Logs(LogQuery),
    /// What happens, as it happens.
    Events,
    /// Stops every app, then daemon and keeper.
    Shutdown,
    /// The OpenAPI document.
    OpenApi,
}

/// Which log lines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LogQuery {
    /// Which instances; empty: all.
    pub select: Selectors,
    /// How many of the last lines, of each instance's stream.
    pub lines: usize,
    /// Go on with those to come.
    pub follow: bool,
    /// Standard output.
    pub out: bool,
    /// Standard error.
    pub err: bool,
}

impl Default for LogQuery {
    fn default() -> Self {
        Self { select: Vec::new(), lines: 15, follow: false, out: true, err: true }
    }
}

/// One element of the log stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum LogItem {
    /// A line.
    Line {
        /// The instance's id.
        id: u32,
        /// The app's name.
        name: String,
        /// Which stream.
        stream: Stream,
        /// When it was read; absent for lines from a file.
        #[serde(skip_serializing_if = "Option::is_none")]
        at: Option<u64>,
        /// The line, without its newline; bytes that are not UTF-8 are replaced.
        line: String,
    },
    /// The client read too slowly: this many lines were left out here.
    Missed {
        /// How many.
        lines: u64,
    },
}

/// Standard output or standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// Answer to [`Request::Ping`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Pong {
    /// Version of the daemon.
    pub version: String,
    /// Its pid.
    pub pid: i32,
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
    /// User it runs as.
    pub user: String,
    /// Restarted when files change.
    pub watching: bool,
    /// Version of the app.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub version: Option<String>,
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

/// Answer to [`Request::Save`] and [`Request::ClearDump`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Saved {
    /// How many instances were saved.
    pub instances: usize,
    /// Where.
    pub file: PathBuf,
}

/// Answer to [`Request::Info`].
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
}

/// One of rsm's own processes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ProcessInfo {
    /// Its pid.
    pub pid: i32,
    /// Milliseconds since it started.
    pub uptime: u64,
    /// Bytes resident, shared pages in proportion.
    pub memory: u64,
}

/// The machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HostInfo {
    /// Cores usable by this daemon.
    pub cores: usize,
    /// Load average over 1, 5, 15 minutes.
    pub load: [f64; 3],
    /// Bytes of memory in all.
    pub memory_total: u64,
    /// Bytes of memory in use.
    pub memory_used: u64,
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
    /// It could not be started.
    StartFailed,
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

/// An error as a client sees it. `{"error": {…}}` on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// For programs.
    pub code: ErrorCode,
    /// For people: what and where.
    pub message: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hint: Option<String>,
}

/// Kinds of API errors; each has its HTTP status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// 400: the request makes no sense.
    Invalid,
    /// 403: not for this user.
    Forbidden,
    /// 404: no such instance or path.
    NotFound,
    /// 405: the path exists, the method does not.
    MethodNotAllowed,
    /// 409: not in this state.
    Conflict,
    /// 413: too large.
    TooLarge,
    /// 500: our own trouble, or the disk's.
    Internal,
    /// 503: shutting down.
    Unavailable,
}

impl ErrorCode {
    /// The HTTP status it travels with.
    pub fn status(self) -> u16 {
        match self {
            Self::Invalid => 400,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::Conflict => 409,
            Self::TooLarge => 413,
            Self::Internal => 500,
            Self::Unavailable => 503,
        }
    }
}

impl ApiError {
    /// An error without a hint.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None }
    }

    /// The same with a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}
