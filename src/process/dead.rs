//! How a process ended that is not our child: what `/proc` tells until its parent collects it.

use std::os::unix::fs::FileExt;

use super::pidfd::ProcessRef;
use super::proc_fs::{Stat, open};

/// The status, as `waitpid` would give it, of a process that has ended and was not collected yet. None if
/// that cannot be told for sure.
pub fn exit_status(process: ProcessRef) -> Option<i32> {
    let mut buffer = [0; 1024];
    let file = open(process.pid).ok()?;
    let length = file.read_at(&mut buffer, 0).ok()?;
    let text = &buffer[..length];
    let stat = Stat::parse(text)?;
    // To whom it is not permitted to look into the process the field reads 0, which would be success.
    if stat.start_time != process.start_time || !stat.is_dead() || !may_look_into(process.pid)? {
        return None;
    }
    std::str::from_utf8(text.split(u8::is_ascii_whitespace).rfind(|field| !field.is_empty())?)
        .ok()?
        .parse()
        .ok()
}

/// Whether the kernel lets us see what it hides of others' processes (`PTRACE_MODE_READ`): they must
/// be of our user and group, whatever they have changed those to.
fn may_look_into(pid: i32) -> Option<bool> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let ids = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().map(|id| id.parse::<u32>().ok()).take(3).collect::<Option<Vec<_>>>()
    };
    let ours = |ids: Vec<u32>, own: u32| ids.len() == 3 && ids.iter().all(|id| *id == own);
    let user = nix::unistd::geteuid().as_raw();
    let group = nix::unistd::getegid().as_raw();
    Some(ours(ids("Uid:")?, user) && ours(ids("Gid:")?, group))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_of_a_zombie_can_be_read() {
        let mut child = std::process::Command::new("sh").args(["-c", "exit 7"]).spawn().unwrap();
        let process = ProcessRef::of(child.id().cast_signed()).unwrap();
        crate::process::fixture::wait_until(|| !process.runs());
        assert_eq!(exit_status(process), Some(7 << 8));
        assert_eq!(exit_status(ProcessRef { start_time: process.start_time + 1, ..process }), None);
        child.wait().unwrap();
        let me = ProcessRef::of(std::process::id().cast_signed()).unwrap();
        assert_eq!(exit_status(me), None, "it lives");
    }
}
