//! How an app's runs are restarted, ended, and found ready.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Probe, millis};

/// Whether and how late a run follows an exit. Defaults are PM2's where it has them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RestartPolicy {
    /// Restart after an exit that nobody asked for.
    pub autorestart: bool,
    /// That many unstable restarts within `window`, and the app is given up.
    pub max_restarts: u32,
    /// An exit before this counts as unstable. Milliseconds.
    #[serde(with = "millis")]
    #[schemars(with = "u64")]
    pub min_uptime: Duration,
    /// How far back unstable restarts are counted. Milliseconds. The policy widens it where the
    /// delays alone would outlast it.
    #[serde(with = "millis")]
    #[schemars(with = "u64")]
    pub window: Duration,
    /// The pause before a restart.
    pub delay: RestartDelay,
    /// These exit codes end the app for good.
    pub stop_exit_codes: Vec<i32>,
}

/// The pause before an automatic restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RestartDelay {
    /// Always the same (`restart_delay`). Milliseconds.
    Fixed(
        #[serde(with = "millis")]
        #[schemars(with = "u64")]
        Duration,
    ),
    /// At once for the first early exit, then `initial`, each further one half as long again,
    /// up to 15 s. A run that lives `min_uptime` starts anew.
    AfterFirst {
        /// Milliseconds.
        #[serde(with = "millis")]
        #[schemars(with = "u64")]
        initial: Duration,
    },
    /// As PM2's `exp_backoff_restart_delay`: `initial` from the first exit on, each further one
    /// half as long again, up to 15 s; starts anew after 30 s of uptime.
    FromFirst {
        /// Milliseconds.
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
            delay: RestartDelay::AfterFirst { initial: Duration::from_millis(100) },
            stop_exit_codes: Vec::new(),
        }
    }
}

/// How a run is ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StopPolicy {
    /// The first signal, by name (`SIGINT`).
    pub signal: String,
    /// The grace between the signal and SIGKILL. Milliseconds.
    #[serde(with = "millis")]
    #[schemars(with = "u64")]
    pub timeout: Duration,
    /// Signal every process of the tree, not only the first.
    pub tree: bool,
    /// Say `shutdown` through Node's channel instead of the signal, where there is one.
    pub message: bool,
}

impl Default for StopPolicy {
    fn default() -> Self {
        Self { signal: "SIGINT".into(), timeout: Duration::from_secs(10), tree: true, message: false }
    }
}

/// When a run counts as online.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Readiness {
    /// The app says so itself (`wait_ready`).
    pub wait_ready: bool,
    /// It is found out by this check.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probe: Option<Probe>,
    /// How long it may take. Milliseconds.
    #[serde(with = "millis")]
    #[schemars(with = "u64")]
    pub timeout: Duration,
}

/// What tells that a run is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// That its program runs.
    Running,
    /// That it listens. One that does not come to that within the time given needs no port.
    Listening,
    /// That it says so.
    Said,
    /// That a check finds it so.
    Probed,
}

impl Default for Readiness {
    fn default() -> Self {
        Self { wait_ready: false, probe: None, timeout: Duration::from_millis(3000) }
    }
}
