//! The bodies of requests, and errors.
//!
//! Times are milliseconds since the epoch, durations milliseconds, sizes bytes. The field names are the API.

use std::ffi::OsString;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::app;
use super::response::LogPosition;
use crate::spec::{AppSpec, EnvVars};

/// Variables for a single process, set by its parent: an app never inherits them.
const PROCESS_VARS: [&str; 7] = [
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PID",
    "NODE_CHANNEL_FD",
    "NODE_CHANNEL_SERIALIZATION_MODE",
    "NODE_UNIQUE_ID",
    "NOTIFY_SOCKET",
];

/// Variables that rsm sets for each app. In a shell outside of an app they are inherited, because a user may
/// have a `name` of their own.
const IDENTITY_VARS: [&str; 5] = ["NODE_APP_INSTANCE", "PM2_HOME", "name", "namespace", "pm_id"];

/// Selectors: id, name, namespace, `/regex/` or `all`.
pub type Selectors = Vec<String>;

/// Creates or updates apps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StartRequest {
    /// The apps.
    #[serde(with = "app::as_apps")]
    #[schemars(with = "Vec<app::App>")]
    pub apps: Vec<AppSpec>,
    /// Environment that the apps inherit.
    #[serde(default)]
    pub inherited: InheritedEnv,
    /// What to do if an app of the same name exists.
    #[serde(default)]
    pub existing: Existing,
    /// Respond when the programs are executed, without waiting until they are ready.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_wait: bool,
}

/// An inherited environment; `Debug` shows names only.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct InheritedEnv(pub EnvVars);

impl std::fmt::Debug for InheritedEnv {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} variables", self.0.len())
    }
}

impl InheritedEnv {
    /// The environment of this process as an app inherits it: without what rsm itself, or the parent of this
    /// process, set for this process alone. Also returns the names of variables that are not UTF-8.
    pub fn from_current() -> (Self, Vec<OsString>) {
        Self::from_vars(std::env::vars_os())
    }

    fn from_vars(all: impl Iterator<Item = (OsString, OsString)>) -> (Self, Vec<OsString>) {
        let (mut vars, mut dropped) = (EnvVars::new(), Vec::new());
        for (name, value) in all {
            match (name.into_string(), value.into_string()) {
                (Ok(name), Ok(value)) => drop(vars.insert(name, value)),
                (Ok(name), Err(_)) => dropped.push(name.into()),
                (Err(name), _) => dropped.push(name),
            }
        }
        let managed = vars.contains_key("RSM_RUN") || vars.contains_key("pm_id");
        vars.retain(|name, _| {
            let identity = managed && IDENTITY_VARS.contains(&name.as_str());
            !identity && !name.starts_with("RSM_") && !PROCESS_VARS.contains(&name.as_str())
        });
        (Self(vars), dropped)
    }
}

impl StartRequest {
    /// Starts these apps with the environment of this process.
    pub fn from_current_env(apps: impl IntoIterator<Item = AppSpec>) -> Self {
        let (inherited, _) = InheritedEnv::from_current();
        Self { apps: apps.into_iter().collect(), inherited, existing: Existing::default(), no_wait: false }
    }
}

/// What to do if an app of the same name exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Existing {
    /// Restart it with the new settings (an ecosystem file).
    #[default]
    Restart,
    /// Fail if it is running, start it otherwise.
    Refuse,
    /// Add a second app (`--force`).
    Duplicate,
    /// Keep it. Stopped instances get the new settings for their next start.
    Keep,
}

/// Acts on existing instances.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ActionRequest {
    /// The instances.
    pub select: Selectors,
    /// New inherited environment (`--update-env`).
    #[serde(default)]
    pub inherited: Option<InheritedEnv>,
    /// Settings to change first, as a JSON merge patch of the app.
    #[serde(default)]
    #[schemars(with = "Option<serde_json::Map<String, serde_json::Value>>")]
    pub changes: Option<serde_json::Map<String, serde_json::Value>>,
    /// Respond when the programs are executed, without waiting until they are ready.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_wait: bool,
}

/// What to do with the selected instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Start stopped instances, restart running ones (as PM2).
    Start,
    /// Stop, keep in the list.
    Stop,
    /// Restart.
    Restart,
    /// Delete.
    Delete,
    /// Reset counters.
    Reset,
}

impl Action {
    /// All actions.
    pub const ALL: [Self; 5] = [Self::Start, Self::Stop, Self::Restart, Self::Delete, Self::Reset];

    /// The names of all actions, in the same order.
    pub const WORDS: [&str; 5] = ["start", "stop", "restart", "delete", "reset"];

    /// The name: a command, and a segment of a path.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Delete => "delete",
            Self::Reset => "reset",
        }
    }

    /// The action of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.as_str() == name)
    }

    /// What it does, for the API document.
    pub(super) fn summary(self) -> &'static str {
        match self {
            Self::Start => "Start the selected instances; restart those that are running",
            Self::Stop => "Stop the selected instances and keep them in the list",
            Self::Restart => "Restart the selected instances",
            Self::Delete => "Stop the selected instances and remove them from the list",
            Self::Reset => "Reset the counters of the selected instances",
        }
    }
}

/// Rolling replacement of instances.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ReloadRequest {
    /// Existing instances to reload.
    pub select: Selectors,
    /// Apps with new settings; unknown apps are started.
    #[serde(with = "app::as_apps")]
    #[schemars(with = "Vec<app::App>")]
    pub apps: Vec<AppSpec>,
    /// Inherited environment; required for `apps`.
    pub inherited: Option<InheritedEnv>,
    /// Settings to change of the selected instances, as a JSON merge patch of the app.
    #[schemars(with = "Option<serde_json::Map<String, serde_json::Value>>")]
    pub changes: Option<serde_json::Map<String, serde_json::Value>>,
    /// Instances of an app to replace at a time.
    pub parallel: u32,
}

impl Default for ReloadRequest {
    fn default() -> Self {
        Self { select: Vec::new(), apps: Vec::new(), inherited: None, changes: None, parallel: 1 }
    }
}

/// Target number of instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScaleTo {
    /// Exact number.
    Exactly(u32),
    /// Increase by.
    Add(u32),
    /// Decrease by.
    Remove(u32),
}

/// Changes the number of instances of an app.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ScaleRequest {
    /// The number.
    #[serde(flatten)]
    pub to: ScaleTo,
    /// Respond when the programs are executed, without waiting until they are ready.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_wait: bool,
}

impl From<ScaleTo> for ScaleRequest {
    fn from(to: ScaleTo) -> Self {
        Self { to, no_wait: false }
    }
}

/// Selects instances for a description.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DescribeQuery {
    /// The instances.
    pub select: Selectors,
    /// With the values of the environment variables, which are empty otherwise.
    pub env: bool,
}

impl From<Selectors> for DescribeQuery {
    fn from(select: Selectors) -> Self {
        Self { select, env: false }
    }
}

/// Sends a signal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SignalRequest {
    /// The instances.
    pub select: Selectors,
    /// Name of the signal: `SIGUSR2` or `USR2`.
    pub signal: String,
}

/// Writes to standard input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InputRequest {
    /// The instances.
    pub select: Selectors,
    /// Text to write, including the newline.
    pub text: String,
}

/// Sends a message over the Node.js channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MessageRequest {
    /// The instances.
    pub select: Selectors,
    /// Message passed to `process.on('message')`.
    pub message: serde_json::Value,
}

/// Saves the list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SaveRequest {
    /// Save an empty list.
    pub force: bool,
}

/// Empties log files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FlushRequest {
    /// The instances; empty: all.
    pub select: Selectors,
}

/// Upgrades the daemon. On success the connection closes without a response; `ping` returns the result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpgradeRequest {
    /// Absolute path of the new binary.
    pub binary: PathBuf,
}

/// Action of an app (`axm:action`, `pm2 trigger`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TriggerRequest {
    /// The instances.
    pub select: Selectors,
    /// The action's name.
    pub action: String,
    /// Parameter.
    #[serde(default)]
    pub param: Option<serde_json::Value>,
}

/// Log query.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LogQuery {
    /// The instances; empty: all.
    pub select: Selectors,
    /// Recent lines per stream, or in total with `grep`.
    pub lines: usize,
    /// Follow new lines.
    pub follow: bool,
    /// Standard output.
    pub out: bool,
    /// Standard error.
    pub err: bool,
    /// Start time, ms since the epoch.
    pub since: Option<u64>,
    /// End time, ms since the epoch.
    pub until: Option<u64>,
    /// Only lines that match this regular expression.
    pub grep: Option<String>,
    /// Resume positions; an empty list enables positions without resuming.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub positions: Option<Vec<LogPosition>>,
}

impl Default for LogQuery {
    fn default() -> Self {
        let (since, until, grep, positions) = (None, None, None, None);
        let (out, err) = (true, true);
        Self { select: Vec::new(), lines: 15, follow: false, out, err, since, until, grep, positions }
    }
}

/// API error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// Error code.
    pub code: ErrorCode,
    /// Message.
    pub message: String,
    /// Suggested action.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hint: Option<String>,
}

/// Kinds of API errors; each has its HTTP status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// 400: invalid request.
    Invalid,
    /// 403: permission denied.
    Forbidden,
    /// 404: no such instance or path.
    NotFound,
    /// 405: the path exists, the method does not.
    MethodNotAllowed,
    /// 409: conflict with the current state.
    Conflict,
    /// 413: too large.
    TooLarge,
    /// 500: internal error.
    Internal,
    /// 503: shutting down.
    Unavailable,
}

impl ErrorCode {
    /// All codes.
    pub const ALL: [Self; 8] = [
        Self::Invalid,
        Self::Forbidden,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::Conflict,
        Self::TooLarge,
        Self::Internal,
        Self::Unavailable,
    ];

    /// The HTTP status of the response.
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

    /// Adds a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// An error of the client's request.
pub(super) fn invalid(message: String) -> ApiError {
    ApiError::new(ErrorCode::Invalid, message)
}

/// The body of every error response.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct ErrorBody {
    /// The error.
    pub error: ApiError,
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    fn names(vars: &[(&str, &str)]) -> Vec<String> {
        let vars = vars.iter().map(|(name, value)| (name.into(), value.into()));
        let (vars, dropped) = InheritedEnv::from_vars(vars);
        assert!(dropped.is_empty());
        vars.0.into_keys().collect()
    }

    #[test]
    fn keeps_names_of_a_plain_shell() {
        assert_eq!(names(&[("name", "ada"), ("RSM_HOME", "/h"), ("PATH", "/bin")]), ["PATH", "name"]);
        assert_eq!(names(&[("NODE_CHANNEL_FD", "3"), ("NODE_ENV", "test")]), ["NODE_ENV"]);
    }

    #[test]
    fn drops_the_identity_of_a_managed_app() {
        let inside =
            [("name", "api"), ("pm_id", "0"), ("NODE_APP_INSTANCE", "1"), ("RSM_RUN", "9"), ("LANG", "C")];
        assert_eq!(names(&inside), ["LANG"]);
    }

    #[test]
    fn reports_variables_that_are_not_utf8() {
        let odd = OsString::from_vec(vec![0xff]);
        let odd_vars = [("ODD".into(), odd.clone()), (odd.clone(), "x".into())];
        let (vars, dropped) = InheritedEnv::from_vars(odd_vars.into_iter());
        assert!(vars.0.is_empty());
        assert_eq!(dropped, [OsString::from("ODD"), odd]);
    }
}
