//! What an app is asked to find out whether it is ready, and whether it still works.

use std::fmt;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::millis;

/// A question, and how often it is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// What is asked.
    pub check: Check,
    /// Between two questions. Milliseconds.
    #[serde(with = "millis")]
    #[schemars(with = "u64")]
    pub interval: Duration,
    /// An answer that takes longer is none. Milliseconds.
    #[serde(with = "millis")]
    #[schemars(with = "u64")]
    pub timeout: Duration,
    /// So many failures in a row, and it is unhealthy. Not for readiness.
    pub retries: u32,
    /// Failures so soon after the start do not count, unless it has answered before. Milliseconds. Not for
    /// readiness.
    #[serde(with = "millis")]
    #[schemars(with = "u64")]
    pub start_period: Duration,
}

/// What is asked. `$NAME` and `${NAME}` stand for variables of the instance's environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// `GET` of this `http://` address is answered with a status from 200 to 399.
    Http(String),
    /// This port, or `host:port`, takes a connection.
    Tcp(String),
    /// This shell line, run as the app's user in its directory with its environment, ends with 0.
    Exec(String),
}

impl Probe {
    /// A check for readiness with the usual times.
    pub fn ready(check: Check) -> Self {
        let (interval, timeout) = (Duration::from_millis(500), Duration::from_secs(5));
        Self { check, interval, timeout, retries: 1, start_period: Duration::ZERO }
    }

    /// A check for health with the usual times.
    pub fn health(check: Check) -> Self {
        let (interval, timeout) = (Duration::from_secs(10), Duration::from_secs(5));
        Self { check, interval, timeout, retries: 3, start_period: Duration::ZERO }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(url) => write!(out, "GET {url}"),
            Self::Tcp(address) => write!(out, "connecting to {address}"),
            Self::Exec(line) => write!(out, "`{line}`"),
        }
    }
}

/// What an app may do with ports that it shares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PortRules {
    /// Its UDP ports are shared, too.
    pub udp: bool,
    /// It may bind privileged ports (below 1024) although its user may not; the daemon has to be able to.
    pub privileged: bool,
}

/// How many instances follow the load.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Autoscale {
    /// Never fewer.
    pub min: u32,
    /// Never more.
    pub max: u32,
    /// Above this mean of the instances' CPU one is added; below half of it, with one fewer, one goes.
    /// Percent of a core.
    pub cpu: u32,
    /// So many connections that wait to be accepted, on average for each instance, add one, too.
    pub queue: u32,
    /// How long the load must last before one is added. Milliseconds.
    #[serde(with = "millis")]
    #[schemars(with = "u64")]
    pub up_after: Duration,
    /// How long it must have gone before one goes. Milliseconds.
    #[serde(with = "millis")]
    #[schemars(with = "u64")]
    pub down_after: Duration,
}

impl Autoscale {
    /// Between these numbers, by the usual rules.
    pub fn between(min: u32, max: u32) -> Self {
        let (up_after, down_after) = (Duration::from_secs(10), Duration::from_secs(60));
        Self { min, max, cpu: 70, queue: 16, up_after, down_after }
    }
}
