//! Readiness and liveness probes, options of shared ports, and autoscaling.

use std::fmt;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::millis;

/// A readiness or liveness probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// Probe action.
    #[serde(alias = "check")]
    pub action: ProbeAction,
    /// Interval between probes, in milliseconds.
    #[serde(with = "millis")]
    #[schemars(with = "u64")]
    pub interval: Duration,
    /// Timeout of a probe, in milliseconds.
    #[serde(with = "millis")]
    #[schemars(with = "u64")]
    pub timeout: Duration,
    /// Consecutive failures until the instance is unhealthy (liveness only).
    pub retries: u32,
    /// Time after the start during which failures are ignored, unless a probe has succeeded before; in
    /// milliseconds (liveness only).
    #[serde(with = "millis")]
    #[schemars(with = "u64")]
    pub start_period: Duration,
}

/// Probe action. `$NAME` and `${NAME}` are replaced by variables of the instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProbeAction {
    /// HTTP GET of this `http://` URL; succeeds with a status from 200 to 399.
    Http(String),
    /// TCP connection to this port or `host:port`.
    Tcp(String),
    /// Shell command, executed as the user of the app, in its directory and with its environment; succeeds
    /// with exit code 0.
    Exec(String),
}

impl Probe {
    /// A readiness probe with the default times.
    pub fn readiness(action: ProbeAction) -> Self {
        let (interval, timeout) = (Duration::from_millis(500), Duration::from_secs(5));
        Self { action, interval, timeout, retries: 1, start_period: Duration::ZERO }
    }

    /// A liveness probe with the default times.
    pub fn liveness(action: ProbeAction) -> Self {
        let (interval, timeout) = (Duration::from_secs(10), Duration::from_secs(5));
        Self { action, interval, timeout, retries: 3, start_period: Duration::ZERO }
    }
}

impl fmt::Display for ProbeAction {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(url) => write!(out, "GET {url}"),
            Self::Tcp(address) => write!(out, "connect to {address}"),
            Self::Exec(line) => write!(out, "`{line}`"),
        }
    }
}

/// Options for shared ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PortOptions {
    /// Share UDP ports as well.
    pub udp: bool,
    /// Allow an unprivileged app to bind ports below 1024; the daemon must be allowed to.
    pub privileged: bool,
}

/// Autoscaling: the number of instances follows the load.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Autoscale {
    /// Minimum number of instances.
    pub min: u32,
    /// Maximum number of instances.
    pub max: u32,
    /// Average CPU usage per instance, in percent of a core, above which an instance is added. One is removed
    /// when the usage with one instance less would stay below half of it.
    pub cpu: u32,
    /// Average number of queued connections per instance above which an instance is added.
    pub queue: u32,
    /// Time above a threshold before an instance is added, in milliseconds.
    #[serde(with = "millis")]
    #[schemars(with = "u64")]
    pub up_after: Duration,
    /// Time below the thresholds before an instance is removed, in milliseconds.
    #[serde(with = "millis")]
    #[schemars(with = "u64")]
    pub down_after: Duration,
}

impl Autoscale {
    /// Autoscaling between these numbers of instances, with the default thresholds.
    pub fn new(min: u32, max: u32) -> Self {
        let (up_after, down_after) = (Duration::from_secs(10), Duration::from_secs(60));
        Self { min, max, cpu: 70, queue: 16, up_after, down_after }
    }
}
