//! All that crosses the wire: requests, and the views they are answered with.
//!
//! These types are the contract between daemon and clients. They know nothing of HTTP (`route`
//! maps them to it) and nothing of the supervisor. Times are milliseconds since the epoch,
//! durations milliseconds, sizes bytes. The field names are stable: they are the API.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use super::view::*;
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
    /// Leave it as it is. What does not run gets the new settings for its next start, and what is as they
    /// say is known to be.
    Keep,
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

/// Gives apps new processes, slot by slot, each proven before the old one goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Reload {
    /// Instances in the list, with their own settings.
    pub select: Selectors,
    /// Apps with new settings; those that are not in the list are started.
    pub apps: Vec<AppSpec>,
    /// The environment they inherit: of `apps` always, of those selected if it is given.
    pub inherited: Option<Inherited>,
    /// Settings to change of those selected: a JSON merge patch of [`AppSpec`].
    pub changes: Option<serde_json::Map<String, serde_json::Value>>,
    /// How many instances of an app at a time.
    pub parallel: u32,
}

impl Default for Reload {
    fn default() -> Self {
        Self { select: Vec::new(), apps: Vec::new(), inherited: None, changes: None, parallel: 1 }
    }
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
    /// Gives apps new processes.
    Reload(Box<Reload>),
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
    /// Writes to the selected instances' standard input.
    Input {
        /// Which ones.
        select: Selectors,
        /// As it shall be written, the newline included.
        text: String,
    },
    /// Sends a message through Node's channel to the selected instances.
    Message {
        /// Which ones.
        select: Selectors,
        /// What `process.on('message')` gets.
        message: serde_json::Value,
    },
    /// Has the selected instances do what they offer through Node's channel.
    Trigger(Trigger),
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
    /// Lets a daemon of another binary take over. Once that is found fit there is no answer: the
    /// connection breaks, and `Ping` tells what came of it.
    Upgrade {
        /// The binary, by its absolute path.
        binary: PathBuf,
    },
    /// Stops every app, then daemon and keeper.
    Shutdown,
    /// The OpenAPI document.
    OpenApi,
}

/// An action that apps offer through Node's channel (`axm:action`), as `pm2 trigger` asks for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Trigger {
    /// Which instances.
    pub select: Selectors,
    /// The action's name.
    pub action: String,
    /// What it is given.
    #[serde(default)]
    pub param: Option<serde_json::Value>,
}

/// Which log lines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LogQuery {
    /// Which instances; empty: all.
    pub select: Selectors,
    /// How many of the last lines, of each instance's stream; with `grep` of all together.
    pub lines: usize,
    /// Go on with those to come.
    pub follow: bool,
    /// Standard output.
    pub out: bool,
    /// Standard error.
    pub err: bool,
    /// Not before this. Milliseconds since the epoch.
    pub since: Option<u64>,
    /// Not after this. Milliseconds since the epoch.
    pub until: Option<u64>,
    /// Only lines that match this regular expression.
    pub grep: Option<String>,
    /// Say places, and begin at these: what a stream that broke had said last of each file. Empty: begin
    /// as without, but say them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub places: Option<Vec<LogPlace>>,
}

impl Default for LogQuery {
    fn default() -> Self {
        let (since, until, grep, places) = (None, None, None, None);
        let (out, err) = (true, true);
        Self { select: Vec::new(), lines: 15, follow: false, out, err, since, until, grep, places }
    }
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
