//! What an app is: the resolved, unchanging description that every other part reads.
//!
//! An [`AppSpec`] is what `config` makes of a file or a command line, what travels to the
//! daemon, and what is kept in its state. Paths are absolute here, defaults are filled in, and
//! no PM2 alias is left. Durations are milliseconds on the wire and in saved files.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub mod limits;
pub mod order;
pub mod origin;
mod patch;
mod policy;
mod probe;
mod rotation;
mod runtime;

pub use limits::Limits;
pub use policy::{Readiness, RestartDelay, RestartPolicy, Sign, StopPolicy};
pub use probe::{Autoscale, Check, PortRules, Probe};
pub use rotation::{Rotation, WhenFull};
pub use runtime::{Runtime, runtime_of};

/// Environment variables by name.
pub type Vars = BTreeMap<String, String>;

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

/// One entry of the ecosystem file, resolved.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AppSpec {
    /// The name shown and selected by.
    pub name: String,
    /// Groups apps for selection.
    #[serde(default = "default_namespace")]
    pub namespace: String,
    /// Absolute path of the program or script; a bare name is looked up in the app's `PATH` at
    /// each start; a whole shell line with [`Launcher::Shell`].
    pub script: String,
    /// How `script` becomes a process.
    #[serde(default)]
    pub launcher: Launcher,
    /// Arguments after the script.
    #[serde(default)]
    pub args: Vec<String>,
    /// Working directory, absolute.
    pub cwd: PathBuf,
    /// The variables given to the app by file or flags; they win over inherited ones.
    #[serde(default)]
    pub env: Vars,
    /// Which inherited variables the app does not get.
    #[serde(default)]
    pub filter_env: EnvFilter,
    /// How many instances are wanted at the first start.
    #[serde(default = "one")]
    pub instances: u32,
    /// Whether instances share their ports.
    #[serde(default)]
    pub exec_mode: ExecMode,
    /// Also without instances that share it, the port is held while the app restarts: connections
    /// wait instead of being refused.
    #[serde(default)]
    pub hold_port: bool,
    /// How connections are spread over instances that share their ports.
    #[serde(default)]
    pub balance: Balance,
    /// Addresses that the app listens on, for where it cannot be asked: `127.0.0.1:3000`, or a port.
    #[serde(default)]
    pub listen: Vec<String>,
    /// What it may do with ports that it shares.
    #[serde(default)]
    pub ports: PortRules,
    /// How many instances follow the load, if that is wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscale: Option<Autoscale>,
    /// Receives the instance's number.
    #[serde(default = "default_instance_var")]
    pub instance_var: String,
    /// This variable of `env` grows by one with each instance.
    #[serde(default)]
    pub increment_var: Option<String>,
    /// Run as another user (needs a daemon run by root).
    #[serde(default)]
    pub account: Option<Account>,
    /// Start it when it is added.
    #[serde(default = "yes")]
    pub autostart: bool,
    /// Apps that must be online before it starts, and that are stopped after it.
    #[serde(default)]
    pub depends_on: Vec<String>,
    /// Whether and how late a run follows an exit.
    #[serde(default)]
    pub restart: RestartPolicy,
    /// How a run is ended.
    #[serde(default)]
    pub stop: StopPolicy,
    /// When a run counts as online.
    #[serde(default)]
    pub readiness: Readiness,
    /// Whether it still works is found out by this check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Probe>,
    /// It says at least so often that it works (`WATCHDOG=1` on `NOTIFY_SOCKET`). Milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watchdog: Option<u64>,
    /// Where its output goes.
    #[serde(default)]
    pub logs: LogSpec,
    /// Where the pid is written, `-<id>` put before `.pid`; the daemon's `pids/` if absent.
    #[serde(default)]
    pub pid_file: Option<PathBuf>,
    /// Restart when files change.
    #[serde(default)]
    pub watch: Option<WatchSpec>,
    /// Restart on this schedule: five fields, or six with leading seconds.
    #[serde(default)]
    pub cron_restart: Option<String>,
    /// Restart when the whole tree uses more than this many bytes.
    #[serde(default)]
    pub max_memory_restart: Option<u64>,
    /// What each instance may use at most.
    #[serde(default)]
    pub limits: Limits,
    /// `version` of the nearest `package.json`, shown in lists.
    #[serde(default)]
    pub version: Option<String>,
    /// The ecosystem file it came from.
    #[serde(default)]
    pub source: Option<PathBuf>,
    /// What that file said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<origin::Origin>,
}

/// How connections are spread over the instances of an app.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// By chance, evenly.
    #[default]
    Random,
    /// By the client's address: it stays with its instance while that is up.
    IpHash,
    /// One queue that all instances take from: whoever is free is next.
    Shared,
}

/// How a script becomes a process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Launcher {
    /// The script is executed itself: a binary, or a file with a shebang.
    #[default]
    Direct,
    /// `program args… script …`: `node`, `python3` and the like.
    Interpreter {
        /// Absolute path, or a name looked up in the app's `PATH` at each start.
        program: String,
        /// Put before the script (`node_args`).
        args: Vec<String>,
    },
    /// The script is a line for `sh -c` (`bash` where there is one).
    Shell,
    /// rsm's own static file server; `args` are those of `rsm serve`.
    Serve,
}

/// Whether the instances of an app share their listening ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExecMode {
    /// Each instance is on its own.
    #[default]
    Fork,
    /// All instances answer on one port.
    Cluster,
}

/// Which inherited variables are kept from the app. Given ones (`env`) always pass.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EnvFilter {
    /// All are inherited.
    #[default]
    None,
    /// None is inherited.
    All,
    /// Those whose name contains one of these are not.
    Containing(Vec<String>),
    /// Just this one is not.
    Exactly(String),
}

/// Another user to run as, resolved to numbers so that a later change of the user database
/// cannot change who an app is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Account {
    /// User name, for display and `HOME`.
    pub user: String,
    /// Numeric user.
    pub uid: u32,
    /// Numeric primary group.
    pub gid: u32,
    /// Supplementary groups, those of the user database.
    pub groups: Vec<u32>,
    /// The user's home directory; becomes `HOME`.
    pub home: PathBuf,
}

/// Where the output of an app goes. A path of `None` is the default place under `logs/`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LogSpec {
    /// Standard output.
    pub out: LogPath,
    /// Standard error.
    pub err: LogPath,
    /// Both together, besides the two.
    pub combined: Option<LogPath>,
    /// All instances write to the same files; else `-<id>` is put before `.log`.
    pub merge: bool,
    /// Stamp of each line, in PM2's (day.js) tokens.
    pub date_format: Option<String>,
    /// Shape of each line.
    pub format: LogFormat,
    /// When files make way for new ones.
    pub rotation: Rotation,
}

/// One log file's place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogPath {
    /// `$RSM_HOME/logs/<name>-out.log` and the like.
    #[default]
    Default,
    /// Written nowhere; can still be followed live.
    Nowhere,
    /// This absolute path.
    File(PathBuf),
}

/// Shape of a line in a log file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// As the app wrote it.
    #[default]
    Raw,
    /// One JSON object a line.
    Json,
}

/// Which files an app is restarted for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WatchSpec {
    /// Absolute files or directories.
    pub paths: Vec<PathBuf>,
    /// Patterns in gitignore syntax, besides dotfiles and `node_modules`.
    #[serde(default)]
    pub ignore: Vec<String>,
    /// Quiet time after the last change. Milliseconds.
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

fn one() -> u32 {
    1
}

fn yes() -> bool {
    true
}

impl AppSpec {
    /// Whether its ports are shared or held by rsm.
    pub fn shares_ports(&self) -> bool {
        self.exec_mode == ExecMode::Cluster || self.hold_port
    }

    /// How many instances there shall be where there are so many: as many as it says, unless that follows the
    /// load.
    pub fn wanted_of(&self, there: usize) -> usize {
        match &self.autoscale {
            Some(Autoscale { min, max, .. }) => there.clamp(*min as usize, (*max).max(*min) as usize),
            None => self.instances as usize,
        }
    }

    /// What tells that a run is ready.
    pub fn sign(&self) -> Sign {
        match &self.readiness {
            Readiness { probe: Some(_), .. } => Sign::Probed,
            Readiness { wait_ready: true, .. } => Sign::Said,
            _ if self.shares_ports() => Sign::Listening,
            _ => Sign::Running,
        }
    }

    /// An app with every default: `script`, executed directly in `cwd`.
    pub fn new(name: impl Into<String>, script: impl Into<String>, cwd: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            namespace: default_namespace(),
            script: script.into(),
            launcher: Launcher::Direct,
            args: Vec::new(),
            cwd: cwd.into(),
            env: Vars::new(),
            filter_env: EnvFilter::None,
            instances: 1,
            exec_mode: ExecMode::Fork,
            hold_port: false,
            balance: Balance::Random,
            listen: Vec::new(),
            ports: PortRules::default(),
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
            max_memory_restart: None,
            limits: Limits::default(),
            version: None,
            source: None,
            origin: None,
        }
    }
}

impl fmt::Debug for AppSpec {
    /// Shows no environment value: specs end up in logs and error reports.
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
    fn a_minimal_json_spec_gets_the_defaults() {
        let app: AppSpec = serde_json::from_str(r#"{"name":"a","script":"/bin/a","cwd":"/"}"#).unwrap();
        assert_eq!(app, AppSpec::new("a", "/bin/a", "/"));
    }
}
