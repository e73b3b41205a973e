//! The open descriptors of a process: `/proc/PID/fd` and `/proc/PID/fdinfo` (`proc_pid_fd(5)`).

use std::fs;
use std::io;
use std::os::fd::RawFd;
use std::path::Path;

/// The sockets that a process has open: their descriptors and inodes.
///
/// # Errors
/// The process has ended, or may not be inspected.
pub fn sockets(pid: i32) -> io::Result<impl Iterator<Item = (RawFd, u64)>> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd"))?.flatten();
    Ok(entries.filter_map(|entry| {
        let inode = parse_socket_link(&fs::read_link(entry.path()).ok()?)?;
        Some((entry.file_name().to_str()?.parse().ok()?, inode))
    }))
}

/// The inode of the socket at descriptor `number`; `None` if it is not a socket.
///
/// # Errors
/// It is not open, or the process may not be inspected.
pub fn socket_inode(pid: i32, number: RawFd) -> io::Result<Option<u64>> {
    fs::read_link(format!("/proc/{pid}/fd/{number}")).map(|target| parse_socket_link(&target))
}

/// Whether descriptor `number` of two processes is open and refers to the same file.
pub fn is_same_file(first: i32, second: i32, number: RawFd) -> bool {
    let target = |pid: i32| fs::read_link(format!("/proc/{pid}/fd/{number}")).ok();
    target(first).is_some_and(|file| target(second) == Some(file))
}

/// Whether descriptor `number` is a pipe.
///
/// # Errors
/// It is not open, or the process may not be inspected.
pub fn is_pipe(pid: i32, number: RawFd) -> io::Result<bool> {
    let target = fs::read_link(format!("/proc/{pid}/fd/{number}"))?;
    Ok(target.as_os_str().as_encoded_bytes().starts_with(b"pipe:"))
}

/// The flags of descriptor `number`: those of `open(2)`, with `O_CLOEXEC` for `FD_CLOEXEC`.
///
/// # Errors
/// It is not open, or the process may not be inspected.
pub fn flags(pid: i32, number: RawFd) -> io::Result<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}"))?;
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
    flags
        .and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok())
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn parse_socket_link(target: &Path) -> Option<u64> {
    target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}
