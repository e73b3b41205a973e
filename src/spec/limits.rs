//! What an app may use at most, enforced by the kernel.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Hard limits of each instance; what is absent has none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Memory of its processes together, in bytes.
    pub memory: Option<u64>,
    /// Processor time, in percent of one core.
    pub cpu: Option<u32>,
    /// Processes and threads.
    pub pids: Option<u32>,
}

impl Limits {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
