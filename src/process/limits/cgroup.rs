//! Control groups (cgroup v2): limits that the kernel holds for a whole tree.
//!
//! Groups are made below rsm's own, where systemd has handed that over (`Delegate=yes`) or it belongs to
//! our user, or, as root, in a directory of their own at the top. A group with controllers for others
//! may hold no processes itself ("no internal processes", cgroups(7)), so those of ours move into `main`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::process::xattr::xattr;
use crate::spec::limits::Limits;

/// The controllers for the three limits.
const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];

/// Where the processes go that have no group of their own.
const MAIN_GROUP: &str = "main";

/// The period in which processor time is measured out, in microseconds: the kernel's default.
const CPU_PERIOD_US: u64 = 100_000;

/// A root for groups with limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupRoot {
    path: PathBuf,
}

impl CgroupRoot {
    /// Finds the root for this process. `name` is for a directory at the top.
    ///
    /// # Errors
    /// Why there is none, for people.
    pub fn discover(name: &str) -> Result<Self, String> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mount = mount_point(&mounts).ok_or("cgroup v2 is not mounted")?;
        let own = cgroup_of("self").map(|own| mount.join(own)).ok_or("rsm is not in a cgroup v2")?;
        // Made by a daemon before this one.
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

    /// Makes a directory of groups a root for ours.
    ///
    /// # Errors
    /// It has none of the controllers, or does not let go of its processes.
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

    /// Removes the empty groups that a daemon before this one has left.
    fn remove_empty_groups(&self) {
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with("run-") {
                let _ = fs::remove_dir(entry.path()); // the kernel keeps one with processes in it
            }
        }
    }

    /// Makes a group for a run; returns it, and the limits that hold in it.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn create_group(&self, run: u64, limits: &Limits) -> io::Result<(PathBuf, Limits)> {
        let group = self.path.join(format!("run-{run}"));
        match fs::create_dir(&group) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let set = |file: &str, value: String| fs::write(group.join(file), value).is_ok();
        let memory = limits.memory.filter(|bytes| set("memory.max", bytes.to_string()));
        if memory.is_some() {
            // The tree ends as one: what is left of it would be of no use.
            set("memory.oom.group", "1".into());
        }
        let quota = |percent: u32| (u64::from(percent) * CPU_PERIOD_US / 100).max(1000);
        let cpu = limits.cpu.filter(|percent| set("cpu.max", format!("{} {CPU_PERIOD_US}", quota(*percent))));
        let pids = limits.pids.filter(|most| set("pids.max", most.to_string()));
        Ok((group, Limits { memory, cpu, pids }))
    }

    /// Ends what is left in the group of a run, and removes it as soon as it is empty. True if there is
    /// nothing to remove any more.
    pub fn remove_group(&self, run: u64) -> bool {
        let group = self.path.join(format!("run-{run}"));
        let _ = fs::write(group.join("cgroup.kill"), "1"); // since Linux 5.14
        match fs::remove_dir(&group) {
            Ok(()) => true,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }

    /// How many processes of a run the kernel has ended for its group's limit of memory.
    pub fn oom_kills(&self, run: u64) -> u64 {
        let events = self.path.join(format!("run-{run}")).join("memory.events");
        let events = fs::read_to_string(events).unwrap_or_default();
        let count = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
    }

    /// The limits that hold for a process by the group of its run; none if it is not in it.
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
            memory: read("memory.max").and_then(|text| text.trim().parse().ok()),
            cpu: read("cpu.max").and_then(quota),
            pids: read("pids.max").and_then(|text| text.trim().parse().ok()),
        }
    }
}

/// Puts the calling process into a group.
///
/// # Errors
/// The group is gone, or not ours.
pub fn join_group(group: &Path) -> io::Result<()> {
    fs::write(group.join("cgroup.procs"), "0")
}

/// Each by itself: a kernel may lack one, and the others are of use.
fn enable_controllers(group: &Path) {
    for controller in CONTROLLERS {
        let _ = fs::write(group.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

fn move_own_processes(base: &Path) -> io::Result<()> {
    let there = fs::read_to_string(base.join("cgroup.procs"))?;
    if there.trim().is_empty() {
        return Ok(());
    }
    let main = base.join(MAIN_GROUP);
    fs::create_dir_all(&main)?;
    for pid in there.lines() {
        match fs::write(main.join("cgroup.procs"), pid) {
            // It has ended meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
            moved => moved?,
        }
    }
    Ok(())
}

/// Where cgroup v2 is mounted (proc_pid_mountinfo(5): the type follows a lone dash).
fn mount_point(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (fields, kind) = line.split_once(" - ")?;
        kind.starts_with("cgroup2 ").then(|| fields.split(' ').nth(4).map(PathBuf::from))?
    })
}

/// The group of a process, relative to where they are mounted.
fn cgroup_of(pid: &str) -> Option<PathBuf> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(PathBuf::from(own))
}

/// Whether a group was handed over: systemd marks those, and to another user's we could not write.
fn is_delegated(group: &Path) -> bool {
    let marked = [c"user.delegate", c"trusted.delegate"]
        .iter()
        .any(|name| xattr(group, name).as_deref() == Some(b"1"));
    let writable =
        |file: &str| nix::unistd::access(&group.join(file), nix::unistd::AccessFlags::W_OK).is_ok();
    let ours = !nix::unistd::geteuid().is_root();
    (marked || ours) && writable("cgroup.procs") && writable("cgroup.subtree_control")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that looks like a group; the kernel makes the files of a real one.
    fn group(controllers: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cgroup.controllers"), controllers).unwrap();
        fs::write(dir.path().join("cgroup.procs"), "").unwrap();
        dir
    }

    #[test]
    fn limits_are_written_in_the_kernels_words() {
        let dir = group("cpuset cpu memory pids\n");
        let root = CgroupRoot::prepare(dir.path()).unwrap();
        let limits = Limits { memory: Some(300 << 20), cpu: Some(150), pids: Some(20) };
        let (group, held) = root.create_group(7, &limits).unwrap();
        assert_eq!((&held, group.file_name().unwrap().to_str()), (&limits, Some("run-7")));
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
            "it is not in it"
        );
        assert!(root.remove_group(8), "there is none");
    }

    #[test]
    fn a_place_without_controllers_is_none() {
        let dir = group("hugetlb\n");
        assert!(CgroupRoot::prepare(dir.path()).unwrap_err().contains("has no memory"));
    }

    #[test]
    fn processes_make_room_for_groups() {
        let dir = group("memory\n");
        fs::write(dir.path().join("cgroup.procs"), "4711\n").unwrap();
        CgroupRoot::prepare(dir.path()).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("main/cgroup.procs")).unwrap(), "4711");
    }

    #[test]
    fn the_mount_is_found_among_others() {
        let mounts = "24 30 0:22 / /proc rw shared:12 - proc proc rw\n\
                      31 24 0:26 / /sys/fs/cgroup/unified rw,nosuid shared:4 - cgroup2 cgroup2 rw\n";
        assert_eq!(mount_point(mounts), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(mount_point("24 30 0:22 / /x rw - cgroup cgroup rw,memory"), None);
    }
}
