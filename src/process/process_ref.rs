//! References to processes that never confuse a process with another one that got the same pid.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{UnixAddr, getpeername, getsockname, getsockopt, sockopt};

use super::fd_channel;
use super::proc::stat::{Stat, is_process_gone};

/// How often to check for the exit of a process on kernels without pidfd.
const RECHECK_INTERVAL: Duration = Duration::from_millis(50);

/// A process, identified by pid and start time, because pids are reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessRef {
    pub pid: i32,
    /// Start time in clock ticks since boot.
    pub start_time: u64,
}

impl ProcessRef {
    /// The process that currently has this pid.
    pub fn of(pid: i32) -> Option<Self> {
        Stat::of(pid).ok().map(|stat| Self { pid, start_time: stat.start_time })
    }

    /// Whether it is running; a zombie is not.
    pub fn is_running(self) -> bool {
        Stat::of(self.pid).is_ok_and(|stat| stat.start_time == self.start_time && !stat.is_dead())
    }

    /// Whether it has exited, or is about to: the kernel releases its memory, and with it `exe`, before it closes
    /// its descriptors.
    pub fn is_exiting(self) -> bool {
        !self.is_running() || std::fs::read_link(format!("/proc/{}/exe", self.pid)).is_err()
    }

    /// Waits until it has exited; it need not be a child of this process.
    pub async fn wait_exit(self) {
        if let Ok(fd) = pidfd_open(self.pid).map_err(io::Error::from).and_then(fd_channel::async_fd) {
            // The pidfd is opened before the check: it always refers to the same process.
            if self.is_running() {
                let _ = fd.readable().await;
            }
            return;
        }
        // Linux before 5.3, or out of descriptors.
        while self.is_running() {
            tokio::time::sleep(RECHECK_INTERVAL).await;
        }
    }

    /// Sends a signal; succeeds if the process does not exist any more.
    ///
    /// # Errors
    /// Not permitted, an invalid signal, or `/proc` cannot be read (too many open files), so that the process
    /// cannot be identified.
    pub fn signal(self, number: i32) -> nix::Result<()> {
        let fd = match pidfd_open(self.pid) {
            Ok(fd) => Some(fd),
            // It does not exist, or the number now belongs to a thread.
            Err(Errno::ESRCH | Errno::EINVAL | Errno::ENOENT) => return Ok(()),
            // Linux before 5.3, or the seccomp filter of a container: the call itself never returns EPERM.
            // The pid could then be reused between check and signal.
            Err(Errno::ENOSYS | Errno::EPERM) => None,
            Err(errno) => return Err(errno),
        };
        // Checked after the pidfd is opened: it always refers to the same process.
        match Stat::of(self.pid) {
            Ok(stat) if stat.start_time == self.start_time => {}
            Ok(_) => return Ok(()),
            Err(error) if is_process_gone(&error) => return Ok(()),
            Err(error) => return Err(error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)),
        }
        let sent = match fd {
            // SAFETY: an open pidfd and a null info; the kernel checks the number.
            Some(fd) => unsafe {
                libc::syscall(libc::SYS_pidfd_send_signal, fd.as_raw_fd(), number, std::ptr::null::<u8>(), 0)
            },
            // SAFETY: plain `kill`.
            None => i64::from(unsafe { libc::kill(self.pid, number) }),
        };
        match Errno::result(sent) {
            Ok(_) | Err(Errno::ESRCH) => Ok(()),
            Err(errno) => Err(errno),
        }
    }
}

/// A duplicate of descriptor `number` of a process, if it is an end of a socket pair (stream) that another
/// process has created.
pub fn duplicate_socketpair_end(process: ProcessRef, number: RawFd) -> Option<OwnedFd> {
    let pidfd = pidfd_open(process.pid).ok().filter(|_| process.is_running())?;
    // SAFETY: takes numbers only; the kernel checks the permission.
    let duplicate = unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), number, 0) };
    let duplicate = RawFd::try_from(Errno::result(duplicate).ok()?).ok()?;
    // SAFETY: the kernel just created this descriptor in this process; it has no other owner.
    let duplicate = unsafe { OwnedFd::from_raw_fd(duplicate) };
    let unnamed = |address: nix::Result<UnixAddr>| {
        address.is_ok_and(|address| address.path().is_none() && address.as_abstract().is_none())
    };
    let fd = duplicate.as_raw_fd();
    let is_pair = unnamed(getsockname(fd)) && unnamed(getpeername(fd));
    let creator = getsockopt(&duplicate, sockopt::PeerCredentials).ok()?.pid();
    (is_pair && fd_channel::is_stream_socket(&duplicate) && creator != process.pid).then_some(duplicate)
}

/// Opens a descriptor that refers to the process that currently has this pid.
///
/// # Errors
/// `ESRCH`: it does not exist. `ENOSYS`: Linux before 5.3.
pub fn pidfd_open(pid: i32) -> nix::Result<OwnedFd> {
    // SAFETY: takes two numbers and returns a new descriptor.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    let fd = i32::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel just created it; a pidfd is always close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::*;
    use crate::process::fixture::{Fixture, wait_until};

    #[test]
    fn signal_does_not_reach_reused_pid() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let process = ProcessRef::of(child.id().cast_signed()).unwrap();
        let other = ProcessRef { start_time: process.start_time + 1, ..process };
        assert!(process.is_running() && !other.is_running());
        assert_eq!(other.signal(libc::SIGKILL), Ok(()));
        assert!(process.is_running(), "a process with another start time was signaled");
        assert_eq!(process.signal(libc::SIGTERM), Ok(()));
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
        assert!(!process.is_running());
        assert_eq!(process.signal(libc::SIGTERM), Ok(()));
    }

    #[test]
    fn process_without_main_thread_is_running() {
        let mut app = Fixture::python(
            "import ctypes, threading, time\n\
             threading.Thread(target=time.sleep, args=(1000,)).start()\n\
             print('x', flush=True)\n\
             ctypes.CDLL(None).pthread_exit(None)",
        );
        app.line();
        wait_until(|| Stat::of(app.leader().pid).unwrap().state == b'Z');
        assert!(app.leader().is_running());
        assert_eq!(app.leader().signal(libc::SIGTERM), Ok(()));
        assert_eq!(app.wait().signal(), Some(libc::SIGTERM));
    }

    #[test]
    fn signal_ignores_process_groups() {
        for pid in [0, -1] {
            assert_eq!(ProcessRef { pid, start_time: 0 }.signal(libc::SIGTERM), Ok(()));
        }
    }
}
