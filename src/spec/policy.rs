//! Policies of an app: restart, stop, and readiness.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::known_programs::DEFAULT_STOP_SIGNAL;
use super::{Probe, millis};

/// Restart policy. Defaults are those of PM2 where it has them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RestartPolicy {
    /// Restart after a crash: an exit that was not requested.
    pub autorestart: bool,
    /// Maximum number of unstable restarts within `window`; then the app is errored.
    pub max_restarts: u32,
    /// Minimum uptime in milliseconds; an exit that is earlier, or before readiness, is unstable.
    #[serde(with = "millis")]
    #[schemars(with = "u64")]
    pub min_uptime: Duration,
    /// Restart window in milliseconds; extended if the delays alone exceed it.
    #[serde(with = "millis")]
    #[schemars(with = "u64")]
    pub window: Duration,
    /// Delay before a restart.
    pub delay: RestartDelay,
    /// Exit codes after which the app is not restarted.
    pub stop_exit_codes: Vec<i32>,
}

/// Delay before an automatic restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RestartDelay {
    /// Fixed delay (`restart_delay`) in milliseconds.
    Fixed(
        #[serde(with = "millis")]
        #[schemars(with = "u64")]
        Duration,
    ),
    /// Exponential backoff: the first unstable exit restarts immediately, then the delay is `initial`,
    /// multiplied by 1.5 each time, up to 15 s. Reset by a run of at least 30 s and `min_uptime`.
    #[serde(alias = "after_first")]
    Backoff {
        /// Initial delay in milliseconds.
        #[serde(with = "millis")]
        #[schemars(with = "u64")]
        initial: Duration,
    },
    /// Exponential backoff as in PM2 (`exp_backoff_restart_delay`): `initial` from the first exit on,
    /// multiplied by 1.5 each time, up to 15 s. Reset after 30 s of uptime.
    #[serde(alias = "from_first")]
    Pm2Backoff {
        /// Initial delay in milliseconds.
        #[serde(with = "millis")]
        #[schemars(with = "u64")]
        initial: Duration,
    },
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            autorestart: true,
            max_restarts: 16,
            min_uptime: Duration::from_millis(1000),
            window: Duration::from_secs(600),
            delay: RestartDelay::Backoff { initial: Duration::from_millis(100) },
            stop_exit_codes: Vec::new(),
        }
    }
}

/// What a schedule does while the previous run has not ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// The run is stopped, and the next one starts (as in PM2).
    #[default]
    Replace,
    /// The run continues; the scheduled one is skipped.
    Skip,
    /// The run continues; another one starts once it has ended.
    Queue,
}

impl Overlap {
    /// Whether this is the default.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Stop policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StopPolicy {
    /// Stop signal, by name (`SIGINT`).
    pub signal: String,
    /// Grace period between the stop signal and SIGKILL, in milliseconds.
    #[serde(with = "millis")]
    #[schemars(with = "u64")]
    pub timeout: Duration,
    /// Which processes get the stop signal.
    #[serde(alias = "whole_tree", alias = "tree", deserialize_with = "saved_kill_mode")]
    pub mode: KillMode,
    /// Send `shutdown` on the Node.js IPC channel instead of the signal, if the app has one.
    #[serde(alias = "message")]
    pub by_message: bool,
}

/// Which processes of a tree get the stop signal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KillMode {
    /// The topmost process of each branch that handles the signal. Those below are left to it; what remains gets the
    /// signal after it has exited.
    #[default]
    Topmost,
    /// All processes at once.
    All,
    /// The main process. Processes that have left its session keep running after it.
    Main,
}

/// Reads a kill mode, also as previous versions saved it: whether the whole tree gets the signal.
fn saved_kill_mode<'de, D: Deserializer<'de>>(input: D) -> Result<KillMode, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Saved {
        WholeTree(bool),
        Mode(KillMode),
    }
    Ok(match Saved::deserialize(input)? {
        Saved::WholeTree(false) => KillMode::Main,
        Saved::WholeTree(true) => KillMode::default(),
        Saved::Mode(mode) => mode,
    })
}

impl Default for StopPolicy {
    fn default() -> Self {
        Self {
            signal: DEFAULT_STOP_SIGNAL.into(),
            timeout: Duration::from_secs(10),
            mode: KillMode::default(),
            by_message: false,
        }
    }
}

/// Readiness of an app: when a run counts as online.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Readiness {
    /// The app reports readiness itself (`wait_ready`).
    pub wait_ready: bool,
    /// Readiness probe.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probe: Option<Probe>,
    /// Timeout in milliseconds.
    #[serde(with = "millis")]
    #[schemars(with = "u64")]
    pub timeout: Duration,
}

/// Condition for readiness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadySignal {
    /// The program is running.
    Running,
    /// The program listens on a port; if it does not within the timeout, it is considered ready.
    Listening,
    /// The app reports readiness.
    Notified,
    /// The readiness probe succeeds.
    ProbePassed,
}

impl Default for Readiness {
    fn default() -> Self {
        Self { wait_ready: false, probe: None, timeout: Duration::from_millis(3000) }
    }
}
