//! App specs: the resolved description of an app, without behavior.
//!
//! `config` resolves a file or a command line to an [`AppSpec`], the daemon receives it through the API and
//! saves it in its state. Paths are absolute, defaults are filled in, and PM2 aliases are resolved.
//! Serialized durations are milliseconds.
#![warn(missing_docs)]

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub mod dependencies;
mod known_programs;
pub mod limits;
pub mod origin;
mod patch;
mod policy;
mod probe;
mod rotation;
mod runtime;

pub use dependencies::{Condition, Dependency};
pub use known_programs::known_program;
pub use limits::Limits;
pub use policy::{KillMode, Overlap, Readiness, ReadySignal, RestartDelay, RestartPolicy, StopPolicy};
pub use probe::{Autoscale, PortOptions, Probe, ProbeAction};
pub use rotation::{Rotation, WhenFull};
pub use runtime::{Runtime, runtime_of};

/// Environment variables by name.
pub type EnvVars = BTreeMap<String, String>;

/// Saves durations as whole milliseconds.
pub mod millis {
    use super::{Deserialize, Duration};

    /// Writes a duration as milliseconds.
    pub fn serialize<S: serde::Serializer>(value: &Duration, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_u64(u64::try_from(value.as_millis()).unwrap_or(u64::MAX))
    }

    /// Reads a duration from milliseconds.
    pub fn deserialize<'de, D: serde::Deserializer<'de>>(input: D) -> Result<Duration, D::Error> {
        u64::deserialize(input).map(Duration::from_millis)
    }
}

/// A resolved app spec: one entry of the ecosystem file.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AppSpec {
    /// App name, to display and select by.
    pub name: String,
    /// Namespace, to select groups of apps.
    #[serde(default = "default_namespace")]
    pub namespace: String,
    /// Container image, for exports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Absolute path of the program or script, a name that is looked up in the `PATH` of the app at each
    /// start, or a shell command (with [`Launcher::Shell`]).
    pub script: String,
    /// How `script` is executed.
    #[serde(default)]
    pub launcher: Launcher,
    /// Arguments for the script.
    #[serde(default)]
    pub args: Vec<String>,
    /// Absolute working directory.
    pub cwd: PathBuf,
    /// Configured environment variables; they override inherited ones.
    #[serde(default)]
    pub env: EnvVars,
    /// Filter for inherited variables.
    #[serde(default)]
    pub filter_env: EnvFilter,
    /// Number of instances at the first start.
    #[serde(default = "default_instances")]
    pub instances: u32,
    /// Whether instances share their ports.
    #[serde(default)]
    pub exec_mode: ExecMode,
    /// Keep the port open while the app restarts, also with a single instance: connections are queued, not
    /// refused.
    #[serde(default)]
    pub hold_port: bool,
    /// Load balancing of shared ports.
    #[serde(default)]
    pub balance: Balance,
    /// Addresses for socket activation: `127.0.0.1:3000`, or a port.
    #[serde(default)]
    pub listen: Vec<String>,
    /// Options for shared ports.
    #[serde(default)]
    pub ports: PortOptions,
    /// Autoscaling, if configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscale: Option<Autoscale>,
    /// Variable for the instance number.
    #[serde(default = "default_instance_var")]
    pub instance_var: String,
    /// Variable of `env` that is incremented for each instance.
    #[serde(default)]
    pub increment_var: Option<String>,
    /// User to run the app as. Requires that the daemon runs as root.
    #[serde(default)]
    pub account: Option<Account>,
    /// Start the app when it is added.
    #[serde(default = "default_true")]
    pub autostart: bool,
    /// Dependencies: apps that must be ready, or have completed, before this one starts, and that are stopped after it.
    #[serde(default)]
    pub depends_on: Vec<Dependency>,
    /// Restart policy.
    #[serde(default)]
    pub restart: RestartPolicy,
    /// Stop policy.
    #[serde(default)]
    pub stop: StopPolicy,
    /// Readiness.
    #[serde(default)]
    pub readiness: Readiness,
    /// Liveness probe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Probe>,
    /// Watchdog interval in milliseconds (`WATCHDOG=1` on `NOTIFY_SOCKET`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watchdog: Option<u64>,
    /// Log settings.
    #[serde(default)]
    pub logs: LogSpec,
    /// Pid file, with `-<id>` inserted before `.pid`; in `pids/` of the daemon if absent.
    #[serde(default)]
    pub pid_file: Option<PathBuf>,
    /// Restart when files change.
    #[serde(default)]
    pub watch: Option<WatchSpec>,
    /// Cron schedule for restarts: five fields, or six with leading seconds.
    #[serde(default)]
    pub cron_restart: Option<String>,
    /// Time zone of the schedule; that of the machine if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timezone: Option<String>,
    /// What the schedule does while the previous run has not ended.
    #[serde(default, skip_serializing_if = "Overlap::is_default")]
    pub overlap: Overlap,
    /// Restart when the process tree uses more than this number of bytes.
    #[serde(default)]
    pub max_memory_restart: Option<u64>,
    /// Hard limits of each instance.
    #[serde(default)]
    pub limits: Limits,
    /// `version` of the nearest `package.json`, shown in lists.
    #[serde(default)]
    pub version: Option<String>,
    /// Ecosystem file that defines the app.
    #[serde(default)]
    pub source: Option<PathBuf>,
    /// Fingerprints of that file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<origin::SpecOrigin>,
}

/// Load balancing between the instances of an app.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// Round-robin where eBPF is available, else random.
    #[default]
    Random,
    /// Sticky by client address, while the instance is up.
    IpHash,
    /// One accept queue for all instances; an idle instance takes the next connection.
    Shared,
}

/// How the script is executed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Launcher {
    /// Directly: a binary, or a file with a #! line.
    #[default]
    Direct,
    /// With an interpreter: `program args… script …`, such as `node` or `python3`.
    Interpreter {
        /// Absolute path, or a name that is looked up in the `PATH` of the app at each start.
        program: String,
        /// Arguments before the script (`node_args`).
        args: Vec<String>,
    },
    /// As a command for `sh -c` (`bash` if available).
    Shell,
    /// By the static file server of rsm; `args` are those of `rsm serve`.
    Serve,
}

/// Whether the instances of an app share their listening ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExecMode {
    /// Instances do not share ports.
    #[default]
    Fork,
    /// Instances share ports.
    Cluster,
}

/// Filter for inherited variables; variables in `env` are not filtered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EnvFilter {
    /// Inherit all variables.
    #[default]
    None,
    /// Inherit no variables.
    All,
    /// Do not inherit variables whose name contains one of these substrings.
    Containing(Vec<String>),
    /// Do not inherit this variable.
    #[serde(alias = "exactly")]
    Exact(String),
}

/// User to run an app as, resolved to numeric ids so that a later change of the user database has no effect
/// on the app.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Account {
    /// User name, for display and for `USER`.
    pub user: String,
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary group ids, from the user database.
    pub groups: Vec<u32>,
    /// Home directory of the user; becomes `HOME`.
    pub home: PathBuf,
}

/// Log settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LogSpec {
    /// File for standard output.
    pub out: LogPath,
    /// File for standard error.
    pub err: LogPath,
    /// Additional file for both streams.
    pub combined: Option<LogPath>,
    /// All instances write to the same files; otherwise `-<id>` is inserted before `.log`.
    pub merge: bool,
    /// Timestamp format for each line, in the (day.js) tokens of PM2.
    pub date_format: Option<String>,
    /// Log format.
    pub format: LogFormat,
    /// Rotation and retention.
    pub rotation: Rotation,
    /// Named pipes that get the output in addition to the files: `rsm runtime` shows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirror: Option<LogMirror>,
}

/// A named pipe for each stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LogMirror {
    /// For standard output.
    pub out: PathBuf,
    /// For standard error.
    pub err: PathBuf,
}

/// Path of a log file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogPath {
    /// The default path, such as `$RSM_HOME/logs/<name>-out.log`.
    #[default]
    Default,
    /// Not written to a file; can still be followed.
    #[serde(alias = "nowhere")]
    Discard,
    /// This absolute path.
    File(PathBuf),
}

/// Format of a line in a log file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// As written by the app.
    #[default]
    Raw,
    /// One JSON object per line.
    Json,
}

/// Files that restart an app when they change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WatchSpec {
    /// Absolute files or directories.
    pub paths: Vec<PathBuf>,
    /// Patterns to ignore in gitignore syntax, in addition to dotfiles and `node_modules`.
    #[serde(default)]
    pub ignore: Vec<String>,
    /// Delay after the last change, in milliseconds.
    #[serde(with = "millis")]
    #[schemars(with = "u64")]
    pub delay: Duration,
}

fn default_namespace() -> String {
    "default".into()
}

fn default_instance_var() -> String {
    "NODE_APP_INSTANCE".into()
}

fn default_instances() -> u32 {
    1
}

fn default_true() -> bool {
    true
}

impl AppSpec {
    /// Whether its ports are shared or held by rsm.
    pub fn shares_ports(&self) -> bool {
        self.exec_mode == ExecMode::Cluster || self.hold_port
    }

    /// Target number of instances: `instances`, or the current number within the limits of autoscaling.
    pub fn target_instances(&self, current: usize) -> usize {
        match &self.autoscale {
            Some(Autoscale { min, max, .. }) => current.clamp(*min as usize, (*max).max(*min) as usize),
            None => self.instances as usize,
        }
    }

    /// When a run of the app is ready.
    pub fn ready_signal(&self) -> ReadySignal {
        match &self.readiness {
            Readiness { probe: Some(_), .. } => ReadySignal::ProbePassed,
            Readiness { wait_ready: true, .. } => ReadySignal::Notified,
            _ if self.shares_ports() => ReadySignal::Listening,
            _ => ReadySignal::Running,
        }
    }

    /// Whether it runs to its end: it is not restarted, or only until it has succeeded.
    pub fn is_job(&self) -> bool {
        !self.restart.autorestart || self.restart.stop_exit_codes.contains(&0)
    }

    /// The names of the apps that it depends on.
    pub fn dependency_names(&self) -> Vec<String> {
        self.depends_on.iter().map(|dependency| dependency.app.clone()).collect()
    }

    /// An app with all defaults: `script`, executed directly in `cwd`.
    pub fn new(name: impl Into<String>, script: impl Into<String>, cwd: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            namespace: default_namespace(),
            image: None,
            script: script.into(),
            launcher: Launcher::Direct,
            args: Vec::new(),
            cwd: cwd.into(),
            env: EnvVars::new(),
            filter_env: EnvFilter::None,
            instances: 1,
            exec_mode: ExecMode::Fork,
            hold_port: false,
            balance: Balance::Random,
            listen: Vec::new(),
            ports: PortOptions::default(),
            autoscale: None,
            instance_var: default_instance_var(),
            increment_var: None,
            account: None,
            autostart: true,
            depends_on: Vec::new(),
            restart: RestartPolicy::default(),
            stop: StopPolicy::default(),
            readiness: Readiness::default(),
            health: None,
            watchdog: None,
            logs: LogSpec::default(),
            pid_file: None,
            watch: None,
            cron_restart: None,
            timezone: None,
            overlap: Overlap::default(),
            max_memory_restart: None,
            limits: Limits::default(),
            version: None,
            source: None,
            origin: None,
        }
    }
}

impl fmt::Debug for AppSpec {
    /// Hides the values of environment variables: specs are written to logs and error reports.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("AppSpec")
            .field("name", &self.name)
            .field("script", &self.script)
            .field("cwd", &self.cwd)
            .field("env", &self.env.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_hides_env_values() {
        let mut app = AppSpec::new("api", "/srv/api.js", "/srv");
        app.env.insert("TOKEN".into(), "hunter2".into());
        let shown = format!("{app:?}");
        assert!(shown.contains("TOKEN") && !shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn minimal_json_has_defaults() {
        let app: AppSpec = serde_json::from_str(r#"{"name":"a","script":"/bin/a","cwd":"/"}"#).unwrap();
        assert_eq!(app, AppSpec::new("a", "/bin/a", "/"));
    }
}
