//! What is left in the cgroup of our unit when all that rsm knows of has ended.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Kills every other process in the cgroup of the systemd unit that this process is the main one of, and
/// returns how many those were: a process that opened a session of its own, cleaned its environment and lost
/// its parent is known to nobody else. Without such a unit nothing happens.
pub fn end() -> usize {
    // Set for each process of a unit: only together with the name below is the cgroup all ours.
    if std::env::var_os("INVOCATION_ID").is_none() {
        return 0;
    }
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    own(&groups).map_or(0, |dir| end_below(&dir))
}

/// The directory of our unit's cgroup.
fn own(groups: &str) -> Option<PathBuf> {
    let mut places = groups.lines().filter_map(|line| {
        let (hierarchy, path) = line.split_once("::").or_else(|| line.split_once(":name=systemd:"))?;
        let path = path.trim_start_matches('/');
        // Never a slice or a session, in which others live.
        let unit = path.rsplit('/').next().is_some_and(|last| last.ends_with(".service"));
        let roots: &[&str] = if hierarchy == "0" {
            &["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        } else {
            &["/sys/fs/cgroup/systemd"]
        };
        let mut dirs = roots.iter().map(|root| Path::new(root).join(path));
        unit.then(|| dirs.find(|dir| dir.join("cgroup.procs").exists()))?
    });
    places.next()
}

fn end_below(dir: &Path) -> usize {
    let me = std::process::id().cast_signed();
    let below = fs::read_dir(dir).into_iter().flatten().flatten();
    let below = below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let deeper: usize = below.map(|entry| end_below(&entry.path())).sum();
    let procs = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    let others =
        procs.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0 && *pid != me);
    deeper + others.filter(|pid| kill(Pid::from_raw(*pid), Signal::SIGKILL).is_ok()).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_unit_of_our_own_is_cleared() {
        for other in ["0::/user.slice/user-0.slice/session-3.scope\n", "0::/\n", "1:cpu:/x.service\n", ""] {
            assert_eq!(own(other), None, "{other}");
        }
    }
}
