//! Control groups (cgroup v2): limits that the kernel enforces for a whole process tree.
//!
//! The groups of runs are created below the cgroup of rsm if that is delegated (systemd's `Delegate=yes`) or
//! owned by the user of rsm; for root otherwise in a directory at the top. A cgroup that enables controllers
//! for its children must not contain processes ("no internal processes", cgroups(7)), so rsm moves its own to
//! `main`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::process::xattr::xattr;
use crate::spec::limits::Limits;

/// The controllers of the three limits.
const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];

/// The group of processes that belong to no run.
const MAIN_GROUP: &str = "main";

/// The period of CPU quotas in microseconds: the kernel's default.
const CPU_PERIOD_US: u64 = 100_000;

/// The cgroup that contains the groups of runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupRoot {
    path: PathBuf,
}

impl CgroupRoot {
    /// Finds the root for this process. `name` is the name of a directory at the top.
    ///
    /// # Errors
    /// No cgroup can be used; the error is text.
    pub fn discover(name: &str) -> Result<Self, String> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mount = mount_point(&mounts).ok_or("cgroup v2 is not mounted")?;
        let own = cgroup_of("self").map(|own| mount.join(own)).ok_or("rsm is not in a cgroup v2")?;
        // Created by a previous daemon.
        if own.ends_with(MAIN_GROUP)
            && let Some(base) = own.parent().filter(|base| is_delegated(base))
        {
            return Self::prepare(base);
        }
        if is_delegated(&own) {
            return Self::prepare(&own);
        }
        if !nix::unistd::geteuid().is_root() {
            return Err(format!("{} is not delegated to this user", own.display()));
        }
        enable_controllers(&mount);
        let base = mount.join(name);
        fs::create_dir_all(&base).map_err(|error| format!("cannot create {}: {error}", base.display()))?;
        Self::prepare(&base).inspect_err(|_| drop(fs::remove_dir(&base)))
    }

    /// Prepares a cgroup for the groups of runs.
    ///
    /// # Errors
    /// It has none of the controllers, or its processes cannot be moved.
    fn prepare(base: &Path) -> Result<Self, String> {
        let offered = fs::read_to_string(base.join("cgroup.controllers")).unwrap_or_default();
        if !offered.split_whitespace().any(|name| CONTROLLERS.contains(&name)) {
            return Err(format!("{} has no memory, cpu or pids controller", base.display()));
        }
        move_own_processes(base).map_err(|error| {
            format!("cannot move the processes of rsm to {}/{MAIN_GROUP}: {error}", base.display())
        })?;
        enable_controllers(base);
        let root = Self { path: base.to_owned() };
        root.remove_empty_groups();
        Ok(root)
    }

    /// Removes empty groups of a previous daemon.
    fn remove_empty_groups(&self) {
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with("run-") {
                let _ = fs::remove_dir(entry.path()); // fails if there are processes in it
            }
        }
    }

    /// Creates the group of a run; returns its path and the limits that it enforces.
    ///
    /// # Errors
    /// The directory cannot be created.
    pub fn create_group(&self, run: u64, limits: &Limits) -> io::Result<(PathBuf, Limits)> {
        let group = self.path.join(format!("run-{run}"));
        match fs::create_dir(&group) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let set = |file: &str, value: String| fs::write(group.join(file), value).is_ok();
        let memory = limits.memory.filter(|bytes| set("memory.max", bytes.to_string()));
        if memory.is_some() {
            // Kill the whole tree at once: a part of an app is of no use.
            set("memory.oom.group", "1".into());
        }
        let quota = |percent: u32| (u64::from(percent) * CPU_PERIOD_US / 100).max(1000);
        let cpu = limits.cpu.filter(|percent| set("cpu.max", format!("{} {CPU_PERIOD_US}", quota(*percent))));
        let pids = limits.pids.filter(|max| set("pids.max", max.to_string()));
        Ok((group, Limits { memory, cpu, pids, nofile: None }))
    }

    /// Kills the remaining processes in the group of a run, and removes the group if it is empty. True if the
    /// group does not exist any more.
    pub fn remove_group(&self, run: u64) -> bool {
        let group = self.path.join(format!("run-{run}"));
        let _ = fs::write(group.join("cgroup.kill"), "1"); // since Linux 5.14
        match fs::remove_dir(&group) {
            Ok(()) => true,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }

    /// Number of processes of a run that the kernel has killed because of the memory limit of its group.
    pub fn oom_kills(&self, run: u64) -> u64 {
        let events = self.path.join(format!("run-{run}")).join("memory.events");
        let events = fs::read_to_string(events).unwrap_or_default();
        let count = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
    }

    /// The limits that the group of a run enforces for a process; none if the process is not in the group.
    pub fn effective_limits(&self, run: u64, pid: i32) -> Limits {
        let name = format!("run-{run}");
        let inside = cgroup_of(&pid.to_string()).is_some_and(|group| group.ends_with(&name));
        let group = self.path.join(name);
        let read = |file: &str| fs::read_to_string(group.join(file)).ok().filter(|_| inside);
        let quota = |text: String| {
            let (quota, period) = text.trim().split_once(' ')?;
            let (quota, period): (u64, u64) = (quota.parse().ok()?, period.parse().ok()?);
            u32::try_from((quota * 100).checked_div(period)?).ok()
        };
        Limits {
            nofile: None,
            memory: read("memory.max").and_then(|text| text.trim().parse().ok()),
            cpu: read("cpu.max").and_then(quota),
            pids: read("pids.max").and_then(|text| text.trim().parse().ok()),
        }
    }
}

/// Moves the calling process to a group.
///
/// # Errors
/// The group does not exist, or may not be changed.
pub fn join_group(group: &Path) -> io::Result<()> {
    fs::write(group.join("cgroup.procs"), "0")
}

/// Enables each controller separately: one that the kernel lacks must not affect the others.
fn enable_controllers(group: &Path) {
    for controller in CONTROLLERS {
        let _ = fs::write(group.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

fn move_own_processes(base: &Path) -> io::Result<()> {
    let pids = fs::read_to_string(base.join("cgroup.procs"))?;
    if pids.trim().is_empty() {
        return Ok(());
    }
    let main = base.join(MAIN_GROUP);
    fs::create_dir_all(&main)?;
    for pid in pids.lines() {
        match fs::write(main.join("cgroup.procs"), pid) {
            // It has exited.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
            moved => moved?,
        }
    }
    Ok(())
}

/// The mount point of cgroup v2 (proc_pid_mountinfo(5): the file system type follows a single dash).
fn mount_point(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (fields, kind) = line.split_once(" - ")?;
        kind.starts_with("cgroup2 ").then(|| fields.split(' ').nth(4).map(PathBuf::from))?
    })
}

/// The cgroup of a process, relative to the mount point.
fn cgroup_of(pid: &str) -> Option<PathBuf> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(PathBuf::from(own))
}

/// Whether rsm may manage a cgroup: systemd marks delegated ones; those of another user are not writable.
fn is_delegated(group: &Path) -> bool {
    let marked = [c"user.delegate", c"trusted.delegate"]
        .iter()
        .any(|name| xattr(group, name).as_deref() == Some(b"1"));
    let writable =
        |file: &str| nix::unistd::access(&group.join(file), nix::unistd::AccessFlags::W_OK).is_ok();
    let is_user = !nix::unistd::geteuid().is_root();
    (marked || is_user) && writable("cgroup.procs") && writable("cgroup.subtree_control")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that looks like a cgroup, whose files the kernel would create.
    fn group(controllers: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cgroup.controllers"), controllers).unwrap();
        fs::write(dir.path().join("cgroup.procs"), "").unwrap();
        dir
    }

    #[test]
    fn writes_limits_in_kernel_format() {
        let dir = group("cpuset cpu memory pids\n");
        let root = CgroupRoot::prepare(dir.path()).unwrap();
        let limits = Limits { memory: Some(300 << 20), cpu: Some(150), pids: Some(20), nofile: None };
        let (group, enforced) = root.create_group(7, &limits).unwrap();
        assert_eq!((&enforced, group.file_name().unwrap().to_str()), (&limits, Some("run-7")));
        let read = |file: &str| fs::read_to_string(group.join(file)).unwrap();
        assert_eq!(
            (read("memory.max"), read("cpu.max"), read("pids.max"), read("memory.oom.group")),
            ("314572800".into(), "150000 100000".into(), "20".into(), "1".into())
        );
        fs::write(group.join("memory.events"), "low 0\noom 2\noom_kill 1\noom_group_kill 1\n").unwrap();
        assert_eq!((root.oom_kills(7), root.oom_kills(8)), (1, 0));
        assert_eq!(
            root.effective_limits(7, std::process::id().cast_signed()),
            Limits::default(),
            "the process is not in the group"
        );
        assert!(root.remove_group(8), "the group does not exist");
    }

    #[test]
    fn rejects_cgroup_without_controllers() {
        let dir = group("hugetlb\n");
        assert!(CgroupRoot::prepare(dir.path()).unwrap_err().contains("has no memory"));
    }

    #[test]
    fn moves_own_processes_to_main() {
        let dir = group("memory\n");
        fs::write(dir.path().join("cgroup.procs"), "4711\n").unwrap();
        CgroupRoot::prepare(dir.path()).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("main/cgroup.procs")).unwrap(), "4711");
    }

    #[test]
    fn finds_mount_point() {
        let mounts = "24 30 0:22 / /proc rw shared:12 - proc proc rw\n\
                      31 24 0:26 / /sys/fs/cgroup/unified rw,nosuid shared:4 - cgroup2 cgroup2 rw\n";
        assert_eq!(mount_point(mounts), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(mount_point("24 30 0:22 / /x rw - cgroup cgroup rw,memory"), None);
    }
}
