//! Hard limits where there is no control group: a process's own resource limits.
//!
//! They are less: memory is counted for each process by itself, and an allocation over the limit fails
//! instead of ending the tree; processes are counted for all that the user has; processor time has none.

pub mod cgroup;

use std::fs;
use std::path::PathBuf;

use nix::sys::resource::{Resource, setrlimit};
use serde::{Deserialize, Serialize};

use crate::spec::limits::Limits;

/// How the limits of a run are enforced. Part of a [`LaunchSpec`](super::spawn::LaunchSpec): the serialized
/// names must stay.
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
    /// No other app runs as its user, so that counting the user's processes counts its own.
    #[serde(rename = "own_user")]
    pub exclusive_user: bool,
}

impl LimitEnforcement {
    /// Limits the calling process. A group that cannot be joined leaves the work to the process.
    ///
    /// # Errors
    /// The process may not limit itself so.
    pub fn apply(&self) -> nix::Result<()> {
        let joined = self.cgroup_path.as_ref().is_some_and(|group| cgroup::join_group(group).is_ok());
        let left = |of: fn(&Limits) -> Option<u64>| of(&self.rlimit).or(of(&self.cgroup).filter(|_| !joined));
        if let Some(bytes) = left(|limits| limits.memory) {
            // Unlike RLIMIT_AS it leaves out what is only reserved, of which V8 takes gigabytes.
            setrlimit(Resource::RLIMIT_DATA, bytes, bytes)?;
        }
        if let Some(most) = left(|limits| limits.pids.map(u64::from)).filter(|_| self.exclusive_user) {
            setrlimit(Resource::RLIMIT_NPROC, most, most)?;
        }
        Ok(())
    }
}

/// The limits that a process has by itself.
pub fn current_rlimits(pid: i32) -> Limits {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap_or_default();
    let soft = |name: &str| -> Option<u64> {
        limits.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
    };
    let pids = soft("Max processes").and_then(|most| u32::try_from(most).ok());
    Limits { memory: soft("Max data size"), cpu: None, pids }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_has_is_read_as_the_kernel_tells_it() {
        let own = current_rlimits(std::process::id().cast_signed());
        let (data, _) = nix::sys::resource::getrlimit(Resource::RLIMIT_DATA).unwrap();
        assert_eq!(own.memory.unwrap_or(u64::MAX), data);
        assert_eq!(current_rlimits(0), Limits::default());
    }
}
