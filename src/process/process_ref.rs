//! Signals to a process that cannot hit another one of the same pid.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{UnixAddr, getpeername, getsockname, getsockopt, sockopt};

use super::fd_channel;
use super::proc::stat::{Stat, is_process_gone};

/// Where the kernel cannot tell of an end it is looked for so often.
const RECHECK_INTERVAL: Duration = Duration::from_millis(50);

/// A process: its pid alone could be someone else's tomorrow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessRef {
    /// The pid.
    pub pid: i32,
    /// Start time in clock ticks since boot.
    pub start_time: u64,
}

impl ProcessRef {
    /// The process that has this pid now.
    pub fn of(pid: i32) -> Option<Self> {
        Stat::of(pid).ok().map(|stat| Self { pid, start_time: stat.start_time })
    }

    /// Whether it still is_running. A zombie does not.
    pub fn is_running(self) -> bool {
        Stat::of(self.pid).is_ok_and(|stat| stat.start_time == self.start_time && !stat.is_dead())
    }

    /// Resolves once it has ended, whosever child it is.
    pub async fn wait_exit(self) {
        if let Ok(fd) = pidfd_open(self.pid).map_err(io::Error::from).and_then(fd_channel::async_fd) {
            // Opened first, looked at then: what the descriptor means cannot change any more.
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

    /// Sends a signal. One that is gone needs none.
    ///
    /// # Errors
    /// Not permitted, no such signal, or `/proc` cannot be read (too many open files), so that
    /// nobody knows whether it is the one that is meant.
    pub fn signal(self, number: i32) -> nix::Result<()> {
        let fd = match pidfd_open(self.pid) {
            Ok(fd) => Some(fd),
            // None, or a thread has the number now, which is no process.
            Err(Errno::ESRCH | Errno::EINVAL | Errno::ENOENT) => return Ok(()),
            // Linux before 5.3, or a container's filter, which may say EPERM where the call itself
            // never does: the time between look and signal remains.
            Err(Errno::ENOSYS | Errno::EPERM) => None,
            Err(errno) => return Err(errno),
        };
        // Looked at after it was opened: what the descriptor means cannot change any more.
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

/// A copy of the descriptor that a process has at this number, if that is one end of a pair of stream
/// sockets which another process had made for it.
pub fn duplicate_socketpair_end(process: ProcessRef, number: RawFd) -> Option<OwnedFd> {
    let pidfd = pidfd_open(process.pid).ok().filter(|_| process.is_running())?;
    // SAFETY: only asks the kernel about numbers; it checks whether we may.
    let copy = unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), number, 0) };
    let copy = RawFd::try_from(Errno::result(copy).ok()?).ok()?;
    // SAFETY: the kernel just made this descriptor for us; nobody else owns it.
    let copy = unsafe { OwnedFd::from_raw_fd(copy) };
    let unnamed = |address: nix::Result<UnixAddr>| {
        address.is_ok_and(|address| address.path().is_none() && address.as_abstract().is_none())
    };
    let pair = unnamed(getsockname(copy.as_raw_fd())) && unnamed(getpeername(copy.as_raw_fd()));
    let maker = getsockopt(&copy, sockopt::PeerCredentials).ok()?.pid();
    (pair && fd_channel::is_stream_socket(&copy) && maker != process.pid).then_some(copy)
}

/// A descriptor that means this process for ever.
///
/// # Errors
/// `ESRCH` if there is none, `ENOSYS` before Linux 5.3.
pub fn pidfd_open(pid: i32) -> nix::Result<OwnedFd> {
    // SAFETY: takes two numbers and returns a new descriptor.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    let fd = i32::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: just made for us, close-on-exec by definition.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::*;
    use crate::process::fixture::{Fixture, wait_until};

    #[test]
    fn a_signal_reaches_the_one_that_is_meant_and_no_other() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let process = ProcessRef::of(child.id().cast_signed()).unwrap();
        let other = ProcessRef { start_time: process.start_time + 1, ..process };
        assert!(process.is_running() && !other.is_running());
        assert_eq!(other.signal(libc::SIGKILL), Ok(()));
        assert!(process.is_running(), "one of another start time was hit");
        assert_eq!(process.signal(libc::SIGTERM), Ok(()));
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
        assert!(!process.is_running());
        assert_eq!(process.signal(libc::SIGTERM), Ok(()));
    }

    #[test]
    fn a_process_whose_first_thread_has_ended_is_alive() {
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
    fn groups_are_no_processes() {
        for pid in [0, -1] {
            assert_eq!(ProcessRef { pid, start_time: 0 }.signal(libc::SIGTERM), Ok(()));
        }
    }
}
