//! An app in the API. It has its own types, so that a change of the internal [`AppSpec`], which is also the
//! format of the saved list, does not change the API.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::spec::{
    self, Account, AppSpec, Autoscale, Balance, Dependency, EnvFilter, EnvVars, ExecMode, KillMode, Launcher,
    Limits, LogFormat, LogMirror, LogPath, LogSpec, Overlap, PortOptions, ProbeAction, RestartDelay,
    RestartPolicy, StopPolicy, WatchSpec, WhenFull, origin,
};

#[cfg(test)]
mod tests;

/// An app. Durations are milliseconds, sizes bytes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct App {
    /// Name.
    pub name: String,
    /// Namespace, for selection.
    #[serde(default = "default_namespace")]
    pub namespace: String,
    /// Container image, for exports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Absolute path of the program or script; or a name that is looked up in the `PATH` of the app at each
    /// start; or a shell command with the launcher `shell`.
    pub script: String,
    /// How the script is executed.
    #[serde(default)]
    pub launcher: Launcher,
    /// Arguments of the script.
    #[serde(default)]
    pub args: Vec<String>,
    /// Working directory, absolute.
    pub cwd: PathBuf,
    /// Environment variables; they override inherited ones.
    #[serde(default)]
    pub env: EnvVars,
    /// Which inherited variables the app does not get.
    #[serde(default)]
    pub filter_env: EnvFilter,
    /// Number of instances.
    #[serde(default = "default_instances")]
    pub instances: u32,
    /// Whether instances share their ports.
    #[serde(default)]
    pub exec_mode: ExecMode,
    /// Hold the port while the app restarts, in fork mode, too: connections wait instead of being refused.
    #[serde(default)]
    pub hold_port: bool,
    /// How connections are distributed over instances that share ports.
    #[serde(default)]
    pub balance: Balance,
    /// Addresses that the app listens on, where they cannot be detected: `127.0.0.1:3000`, or a port.
    #[serde(default)]
    pub listen: Vec<String>,
    /// Options of shared ports.
    #[serde(default)]
    pub ports: PortOptions,
    /// Autoscaling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscale: Option<Autoscale>,
    /// Variable that receives the number of the instance.
    #[serde(default = "default_instance_var")]
    pub instance_var: String,
    /// Variable of `env` that is incremented for each instance.
    #[serde(default)]
    pub increment_var: Option<String>,
    /// User to run as (needs a daemon of root).
    #[serde(default)]
    pub account: Option<Account>,
    /// Start it when it is added.
    #[serde(default = "default_true")]
    pub autostart: bool,
    /// Apps that must be ready, or have completed, before this one starts, and that stop after it.
    #[serde(default)]
    pub depends_on: Vec<Dependency>,
    /// Restart policy.
    #[serde(default)]
    pub restart: AppRestart,
    /// How an instance is stopped.
    #[serde(default)]
    pub stop: AppStop,
    /// When an instance is online.
    #[serde(default)]
    pub readiness: AppReadiness,
    /// Liveness probe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<AppProbe>,
    /// Maximum time between two `WATCHDOG=1` messages on `NOTIFY_SOCKET`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watchdog: Option<u64>,
    /// Log files.
    #[serde(default)]
    pub logs: AppLogs,
    /// Pid file; `-<id>` is inserted before `.pid`. Default: a file in `pids/` of the daemon.
    #[serde(default)]
    pub pid_file: Option<PathBuf>,
    /// Restart when files change.
    #[serde(default)]
    pub watch: Option<WatchSpec>,
    /// Restart on this cron schedule: five fields, or six with seconds first.
    #[serde(default)]
    pub cron_restart: Option<String>,
    /// Time zone of the schedule; that of the machine if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timezone: Option<String>,
    /// What the schedule does while the previous run has not ended.
    #[serde(default, skip_serializing_if = "Overlap::is_default")]
    pub overlap: Overlap,
    /// Restart when the process tree uses more memory.
    #[serde(default)]
    pub max_memory_restart: Option<u64>,
    /// Hard limits of each instance.
    #[serde(default)]
    pub limits: Limits,
    /// Version shown in lists.
    #[serde(default)]
    pub version: Option<String>,
    /// The ecosystem file that defines the app.
    #[serde(default)]
    pub source: Option<PathBuf>,
    /// Fingerprints of that file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<origin::SpecOrigin>,
}

/// Restart policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AppRestart {
    /// Restart after an exit that was not requested.
    pub autorestart: bool,
    /// Maximum number of unstable restarts within `window`.
    pub max_restarts: u32,
    /// An exit before this uptime is unstable.
    pub min_uptime: u64,
    /// The time in which unstable restarts are counted.
    pub window: u64,
    /// Delay before a restart.
    pub delay: AppRestartDelay,
    /// Exit codes after which the app is not restarted.
    pub stop_exit_codes: Vec<i32>,
}

/// Delay before a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AppRestartDelay {
    /// Always the same.
    Fixed(u64),
    /// Exponential backoff: none after the first early exit, then `initial`, growing by half up to 15 s.
    Backoff {
        /// The first delay.
        initial: u64,
    },
    /// Exponential backoff of PM2: `initial` after the first exit, growing by half up to 15 s.
    Pm2Backoff {
        /// The first delay.
        initial: u64,
    },
}

/// How an instance is stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AppStop {
    /// The signal (`SIGINT`).
    pub signal: String,
    /// Time from the signal to SIGKILL.
    pub timeout: u64,
    /// Which processes get the signal.
    pub mode: KillMode,
    /// Send the message `shutdown` over the Node.js channel instead of the signal.
    pub by_message: bool,
}

/// When an instance is online.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AppReadiness {
    /// The app reports it.
    pub wait_ready: bool,
    /// Readiness probe.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probe: Option<AppProbe>,
    /// Maximum time.
    pub timeout: u64,
}

/// A probe of readiness or liveness.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AppProbe {
    /// What is done.
    pub action: ProbeAction,
    /// Time between two probes.
    pub interval: u64,
    /// Timeout of a probe.
    pub timeout: u64,
    /// Failures in a row until the instance is unhealthy.
    pub retries: u32,
    /// Time after the start in which failures are ignored.
    pub start_period: u64,
}

/// Log files of an app.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AppLogs {
    /// Standard output.
    pub out: AppLogFile,
    /// Standard error.
    pub err: AppLogFile,
    /// Both streams in one more file.
    pub combined: Option<AppLogFile>,
    /// All instances write to the same files.
    pub merge: bool,
    /// Timestamp of each line, in the format of PM2 (day.js).
    pub date_format: Option<String>,
    /// Format of a line.
    pub format: LogFormat,
    /// Rotation.
    pub rotation: AppRotation,
    /// Named pipes that get the output in addition to the files, for `rsm runtime`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirror: Option<LogMirror>,
}

/// A log file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AppLogFile {
    /// A file in `logs/` of the daemon.
    #[default]
    Default,
    /// No file. Lines can still be followed.
    Discard,
    /// This absolute path.
    File(PathBuf),
}

/// Log rotation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AppRotation {
    /// Maximum size of a file.
    pub max_size: Option<u64>,
    /// Cron schedule.
    pub schedule: Option<String>,
    /// Number of rotated files to keep.
    pub retain: Option<u32>,
    /// Maximum age of rotated files.
    pub max_age: Option<u64>,
    /// Maximum total size of the rotated files of the app.
    pub max_total: Option<u64>,
    /// Compress rotated files with gzip.
    pub compress: bool,
    /// Do not compress the newest rotated file.
    pub delay_compress: bool,
    /// Rotate empty files, too.
    pub rotate_empty: bool,
    /// Date in the names of rotated files, in the format of PM2 (day.js).
    pub date_format: String,
    /// What happens to lines while a file cannot be written.
    pub when_full: WhenFull,
    /// Mode of new log files; 0640 reduced by the umask if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
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

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Default for AppRestart {
    fn default() -> Self {
        RestartPolicy::default().into()
    }
}

impl Default for AppStop {
    fn default() -> Self {
        StopPolicy::default().into()
    }
}

impl Default for AppReadiness {
    fn default() -> Self {
        spec::Readiness::default().into()
    }
}

impl Default for AppRotation {
    fn default() -> Self {
        spec::Rotation::default().into()
    }
}

/// Converts a struct in both directions: fields as they are, fields of a converted type, durations, and
/// renamed fields.
macro_rules! convert {
    ($internal:ty, $api:ty: same $($same:ident)*; into $($into:ident)*; optional $($optional:ident)*;
        millis $($millis:ident)*; renamed $($internal_name:ident => $api_name:ident)*) => {
        impl From<$internal> for $api {
            fn from(from: $internal) -> Self {
                Self {
                    $($same: from.$same,)*
                    $($into: from.$into.into(),)*
                    $($optional: from.$optional.map(Into::into),)*
                    $($millis: millis(from.$millis),)*
                    $($api_name: from.$internal_name,)*
                }
            }
        }

        impl From<$api> for $internal {
            fn from(from: $api) -> Self {
                Self {
                    $($same: from.$same,)*
                    $($into: from.$into.into(),)*
                    $($optional: from.$optional.map(Into::into),)*
                    $($millis: Duration::from_millis(from.$millis),)*
                    $($internal_name: from.$api_name,)*
                }
            }
        }
    };
}

convert!(AppSpec, App:
    same name namespace script launcher args cwd env filter_env instances exec_mode hold_port balance listen ports
        image autoscale instance_var increment_var account autostart depends_on watchdog pid_file watch cron_restart timezone overlap
        max_memory_restart limits version source origin;
    into restart stop readiness logs; optional health; millis; renamed);
convert!(RestartPolicy, AppRestart:
    same autorestart max_restarts stop_exit_codes; into delay; optional; millis min_uptime window; renamed);
convert!(StopPolicy, AppStop:
    same signal mode; into; optional; millis timeout; renamed by_message => by_message);
convert!(spec::Readiness, AppReadiness:
    same wait_ready; into; optional probe; millis timeout; renamed);
convert!(spec::Probe, AppProbe:
    same retries; into; optional; millis interval timeout start_period; renamed action => action);
convert!(LogSpec, AppLogs:
    same merge date_format format mirror; into out err rotation; optional combined; millis; renamed);
convert!(spec::Rotation, AppRotation:
    same max_size schedule max_age max_total compress delay_compress rotate_empty date_format when_full mode;
    into; optional; millis; renamed retain => retain);

impl From<RestartDelay> for AppRestartDelay {
    fn from(delay: RestartDelay) -> Self {
        match delay {
            RestartDelay::Fixed(delay) => Self::Fixed(millis(delay)),
            RestartDelay::Backoff { initial } => Self::Backoff { initial: millis(initial) },
            RestartDelay::Pm2Backoff { initial } => Self::Pm2Backoff { initial: millis(initial) },
        }
    }
}

impl From<AppRestartDelay> for RestartDelay {
    fn from(delay: AppRestartDelay) -> Self {
        match delay {
            AppRestartDelay::Fixed(delay) => Self::Fixed(Duration::from_millis(delay)),
            AppRestartDelay::Backoff { initial } => Self::Backoff { initial: Duration::from_millis(initial) },
            AppRestartDelay::Pm2Backoff { initial } => {
                Self::Pm2Backoff { initial: Duration::from_millis(initial) }
            }
        }
    }
}

impl From<LogPath> for AppLogFile {
    fn from(path: LogPath) -> Self {
        match path {
            LogPath::Default => Self::Default,
            LogPath::Discard => Self::Discard,
            LogPath::File(path) => Self::File(path),
        }
    }
}

impl From<AppLogFile> for LogPath {
    fn from(file: AppLogFile) -> Self {
        match file {
            AppLogFile::Default => Self::Default,
            AppLogFile::Discard => Self::Discard,
            AppLogFile::File(path) => Self::File(path),
        }
    }
}

/// Writes a spec as an [`App`].
pub(super) mod as_app {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::{App, AppSpec};

    pub fn serialize<S: Serializer>(spec: &AppSpec, out: S) -> Result<S::Ok, S::Error> {
        App::from(spec.clone()).serialize(out)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<AppSpec, D::Error> {
        App::deserialize(input).map(Into::into)
    }
}

/// Writes specs as [`App`]s.
pub(super) mod as_apps {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::{App, AppSpec};

    pub fn serialize<S: Serializer>(specs: &[AppSpec], out: S) -> Result<S::Ok, S::Error> {
        out.collect_seq(specs.iter().map(|spec| App::from(spec.clone())))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<AppSpec>, D::Error> {
        Ok(Vec::<App>::deserialize(input)?.into_iter().map(Into::into).collect())
    }
}
