//! Hard limits of a run, enforced by its cgroup, or by resource limits where there is no cgroup.
//!
//! Resource limits are weaker: memory is limited per process, and an allocation beyond the limit fails
//! instead of killing the tree; processes are counted per user; CPU time cannot be limited.

pub mod cgroup;

use std::fs;
use std::path::PathBuf;

use nix::sys::resource::{Resource, setrlimit};
use serde::{Deserialize, Serialize};

use crate::spec::limits::Limits;

/// How the limits of a run are enforced. Part of a [`LaunchSpec`](super::spawn::LaunchSpec), so the
/// serialized names must not change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LimitEnforcement {
    /// The cgroup that the run joins.
    #[serde(rename = "group")]
    pub cgroup_path: Option<PathBuf>,
    /// The limits that the cgroup enforces.
    #[serde(rename = "by_group")]
    pub cgroup: Limits,
    /// The limits that resource limits enforce.
    #[serde(rename = "by_process")]
    pub rlimit: Limits,
    /// No other app runs as the same user, so that a limit per user is a limit of this app.
    #[serde(rename = "own_user")]
    pub exclusive_user: bool,
}

impl LimitEnforcement {
    /// Limits the calling process. If the cgroup cannot be joined, resource limits replace it.
    ///
    /// # Errors
    /// The process may not set these resource limits.
    pub fn apply(&self) -> nix::Result<()> {
        let joined = self.cgroup_path.as_ref().is_some_and(|group| cgroup::join_group(group).is_ok());
        let rlimit =
            |get: fn(&Limits) -> Option<u64>| get(&self.rlimit).or(get(&self.cgroup).filter(|_| !joined));
        if let Some(bytes) = rlimit(|limits| limits.memory) {
            // Unlike RLIMIT_AS it does not count memory that is only reserved: V8 reserves gigabytes.
            setrlimit(Resource::RLIMIT_DATA, bytes, bytes)?;
        }
        if let Some(max) = rlimit(|limits| limits.pids.map(u64::from)).filter(|_| self.exclusive_user) {
            setrlimit(Resource::RLIMIT_NPROC, max, max)?;
        }
        Ok(())
    }
}

/// The resource limits of a process.
pub fn current_rlimits(pid: i32) -> Limits {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap_or_default();
    let soft = |name: &str| -> Option<u64> {
        limits.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
    };
    let pids = soft("Max processes").and_then(|max| u32::try_from(max).ok());
    Limits { memory: soft("Max data size"), cpu: None, pids, nofile: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_resource_limits_of_process() {
        let own = current_rlimits(std::process::id().cast_signed());
        let (data, _) = nix::sys::resource::getrlimit(Resource::RLIMIT_DATA).unwrap();
        assert_eq!(own.memory.unwrap_or(u64::MAX), data);
        assert_eq!(current_rlimits(0), Limits::default());
    }
}
