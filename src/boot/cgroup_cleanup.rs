//! Processes that remain in the cgroup of the systemd unit after all known apps have stopped.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Kills every other process in the cgroup of the systemd unit of this process, and returns their number.
/// Only the cgroup still identifies a process that created a session, cleared its environment and lost its
/// parent. Does nothing outside of a unit.
pub fn kill_leftovers() -> usize {
    // Set for each process of a unit, also for sessions: the name of the cgroup must match too.
    if std::env::var_os("INVOCATION_ID").is_none() {
        return 0;
    }
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    own_unit_cgroup(&groups).map_or(0, |dir| kill_below(&dir))
}

/// The cgroup directory of the unit of this process.
fn own_unit_cgroup(groups: &str) -> Option<PathBuf> {
    let mut dirs = groups.lines().filter_map(|line| {
        let (hierarchy, path) = line.split_once("::").or_else(|| line.split_once(":name=systemd:"))?;
        let path = path.trim_start_matches('/');
        // Never a slice or a scope: other services and sessions are in it.
        let is_service = path.rsplit('/').next().is_some_and(|last| last.ends_with(".service"));
        let roots: &[&str] = if hierarchy == "0" {
            &["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        } else {
            &["/sys/fs/cgroup/systemd"]
        };
        let mut candidates = roots.iter().map(|root| Path::new(root).join(path));
        is_service.then(|| candidates.find(|dir| dir.join("cgroup.procs").exists()))?
    });
    dirs.next()
}

fn kill_below(dir: &Path) -> usize {
    let own_pid = std::process::id().cast_signed();
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let in_children: usize = dirs.map(|entry| kill_below(&entry.path())).sum();
    let procs = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    let others =
        procs.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0 && *pid != own_pid);
    in_children + others.filter(|pid| kill(Pid::from_raw(*pid), Signal::SIGKILL).is_ok()).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignores_cgroups_that_are_not_services() {
        for other in ["0::/user.slice/user-0.slice/session-3.scope\n", "0::/\n", "1:cpu:/x.service\n", ""] {
            assert_eq!(own_unit_cgroup(other), None, "{other}");
        }
    }
}
