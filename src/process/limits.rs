//! Hard limits where there is no control group: a process's own resource limits.
//!
//! They are less: memory is counted for each process by itself, and an allocation over the limit fails
//! instead of ending the tree; processes are counted for all that the user has; processor time has none.

use std::fs;
use std::path::PathBuf;

use nix::sys::resource::{Resource, setrlimit};
use serde::{Deserialize, Serialize};

use super::cgroup;
use crate::spec::limits::Limits;

/// How a run is limited.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Means {
    /// The group it shall be in.
    pub group: Option<PathBuf>,
    /// What that holds.
    pub by_group: Limits,
    /// What the process itself has to hold.
    pub by_process: Limits,
    /// It runs as a user of its own, so that counting the user's processes counts its own.
    pub own_user: bool,
}

impl Means {
    /// Limits the calling process. A group that cannot be joined leaves the work to the process.
    ///
    /// # Errors
    /// The process may not limit itself so.
    pub fn apply(&self) -> nix::Result<()> {
        let joined = self.group.as_ref().is_some_and(|group| cgroup::join(group).is_ok());
        let left =
            |of: fn(&Limits) -> Option<u64>| of(&self.by_process).or(of(&self.by_group).filter(|_| !joined));
        if let Some(bytes) = left(|limits| limits.memory) {
            // Unlike RLIMIT_AS it leaves out what is only reserved, of which V8 takes gigabytes.
            setrlimit(Resource::RLIMIT_DATA, bytes, bytes)?;
        }
        if let Some(most) = left(|limits| limits.pids.map(u64::from)).filter(|_| self.own_user) {
            setrlimit(Resource::RLIMIT_NPROC, most, most)?;
        }
        Ok(())
    }
}

/// The limits that a process has by itself.
pub fn in_force(pid: i32) -> Limits {
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
        let own = in_force(std::process::id().cast_signed());
        let (data, _) = nix::sys::resource::getrlimit(Resource::RLIMIT_DATA).unwrap();
        assert_eq!(own.memory.unwrap_or(u64::MAX), data);
        assert_eq!(in_force(0), Limits::default());
    }
}
