//! Hard limits of an app, enforced by the kernel.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Hard limits of each instance; absent: no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Memory of the process tree, in bytes.
    pub memory: Option<u64>,
    /// CPU time, in percent of one core.
    pub cpu: Option<u32>,
    /// Number of processes and threads.
    pub pids: Option<u32>,
    /// Number of open files of each process. Default: the hard limit of rsm.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nofile: Option<u32>,
}

impl Limits {
    /// Whether no limit of the whole tree is set.
    pub fn is_empty(&self) -> bool {
        *self == Self { nofile: self.nofile, ..Self::default() }
    }
}
