//! How processes end: reaping children, reading the status of zombies, and watching processes that are not
//! children of this one.
//!
//! After a keeper has died its apps are children of another process. Their exit status is only available
//! from `/proc` (until the parent reaps them) or, since Linux 6.15, through a pidfd.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::proc::stat::{Stat, open_stat};
use super::proc::status;
use super::process_ref::{ProcessRef, pidfd_open};

/// How long a parent may take to reap an ended process. Kernels that report the exit status through a
/// pidfd do so only after that.
const REAP_TIMEOUT: Duration = Duration::from_millis(300);

/// For the first published size of the structure (Linux 6.13).
const PIDFD_GET_INFO: libc::Ioctl = 0xc040_ff0b_u32 as libc::Ioctl;
/// The exit status (Linux 6.15).
const PIDFD_INFO_EXIT: u64 = 1 << 3;
/// Linux 6.9.
const PIDFD_SIGNAL_PROCESS_GROUP: libc::c_uint = 1 << 2;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitStatus {
    /// Exit code.
    Exited(i32),
    /// Signal number, and whether a core was dumped.
    Signaled(i32, bool),
    /// It has ended, but another process got its status.
    Unknown,
}

impl WaitStatus {
    /// From a status of `waitpid`. Without WUNTRACED and WCONTINUED it is one of exited or signaled.
    fn from_raw(status: i32) -> Self {
        if libc::WIFEXITED(status) {
            Self::Exited(libc::WEXITSTATUS(status))
        } else {
            Self::Signaled(libc::WTERMSIG(status), libc::WCOREDUMP(status))
        }
    }
}

/// Reaps one child that has ended, if there is one.
///
/// Not `nix::sys::wait`: it loses a child that was killed by a real-time signal (it takes the status
/// from the kernel, then fails because it does not know the signal).
pub fn try_wait_any() -> Option<(i32, WaitStatus)> {
    let mut status = 0;
    loop {
        // SAFETY: `status` is valid for the kernel to write to.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
        if pid > 0 {
            return Some((pid, WaitStatus::from_raw(status)));
        }
        if pid == 0 || Errno::last() != Errno::EINTR {
            return None;
        }
    }
}

/// The status, as `waitpid` would return it, of a process that has ended and is not reaped yet. `None` if
/// it cannot be read reliably.
fn zombie_exit_status(process: ProcessRef) -> Option<i32> {
    let mut buffer = [0; 1024];
    let file = open_stat(process.pid).ok()?;
    let length = file.read_at(&mut buffer, 0).ok()?;
    let text = &buffer[..length];
    let stat = Stat::parse(text)?;
    // Without permission to inspect the process the field reads 0, which would be success.
    if stat.start_time != process.start_time || !stat.is_dead() || !can_read_exit_code(process.pid)? {
        return None;
    }
    std::str::from_utf8(text.split(u8::is_ascii_whitespace).rfind(|field| !field.is_empty())?)
        .ok()?
        .parse()
        .ok()
}

/// How a process ended whose parent cannot reap it, because another process traces it and has not reaped it.
pub fn traced_zombie_status(process: ProcessRef) -> Option<WaitStatus> {
    let is_ended = |stat: &Stat| stat.start_time == process.start_time && stat.is_dead();
    Stat::of(process.pid).ok().filter(is_ended)?;
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid)).ok()?;
    let is_traced = status::field(&status, "TracerPid").is_some_and(|tracer| tracer != "0");
    let status = || zombie_exit_status(process).map_or(WaitStatus::Unknown, WaitStatus::from_raw);
    is_traced.then(status)
}

/// Whether the kernel shows the protected fields of this process (`PTRACE_MODE_READ`): all its user and
/// group ids must be those of this process.
fn can_read_exit_code(pid: i32) -> Option<bool> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let ids = |name: &str| {
        status::field(&status, name)?
            .split_whitespace()
            .map(|id| id.parse::<u32>().ok())
            .take(3)
            .collect::<Option<Vec<_>>>()
    };
    let all_equal = |ids: Vec<u32>, own: u32| ids.len() == 3 && ids.iter().all(|id| *id == own);
    let user = nix::unistd::geteuid().as_raw();
    let group = nix::unistd::getegid().as_raw();
    Some(all_equal(ids("Uid")?, user) && all_equal(ids("Gid")?, group))
}

/// `struct pidfd_info`.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    ids: [u32; 11],
    exit: i32,
}

/// A watch on a process that is not a child of this one.
#[derive(Debug)]
pub struct PidfdWatch {
    process: ProcessRef,
    fd: OwnedFd,
    /// When it was first seen to have ended, while its status is unknown.
    zombie_since: Option<Instant>,
}

impl PidfdWatch {
    /// Watches exactly this process.
    ///
    /// # Errors
    /// `ESRCH` if it has ended; otherwise why the kernel cannot watch it.
    pub fn new(process: ProcessRef) -> nix::Result<Self> {
        let fd = pidfd_open(process.pid)?;
        // The pidfd is opened before the check: from then on it refers to one process only.
        match ProcessRef::of(process.pid) {
            Some(found) if found == process => Ok(Self { process, fd, zombie_since: None }),
            _ => Err(Errno::ESRCH),
        }
    }

    /// The descriptor and flags to poll. The pidfd of an ended process stays readable; from then on only
    /// the hang-up when it is reaped is of interest.
    pub fn poll_target(&self) -> (BorrowedFd<'_>, PollFlags) {
        let flags = if self.zombie_since.is_some() { PollFlags::empty() } else { PollFlags::POLLIN };
        (self.fd.as_fd(), flags)
    }

    /// When to call [`Self::try_wait`] even if poll reports nothing.
    pub fn next_check(&self) -> Option<Instant> {
        Some(self.zombie_since? + REAP_TIMEOUT)
    }

    /// How it ended; `None` while it runs, and while its status may still become available.
    pub fn try_wait(&mut self) -> Option<WaitStatus> {
        let mut targets = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
        if poll(&mut targets, PollTimeout::ZERO) != Ok(1) {
            return None;
        }
        let now = Instant::now();
        let since = *self.zombie_since.get_or_insert(now);
        let exit_status = self.pidfd_exit_status();
        if let Some(status) = exit_status.ok().flatten().or_else(|| zombie_exit_status(self.process)) {
            return Some(WaitStatus::from_raw(status));
        }
        (exit_status.is_err() || now >= since + REAP_TIMEOUT).then_some(WaitStatus::Unknown)
    }

    /// Its status as `waitpid` would return it; `None` before its parent has reaped it.
    ///
    /// # Errors
    /// The kernel does not report it.
    fn pidfd_exit_status(&self) -> nix::Result<Option<i32>> {
        let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..PidfdInfo::default() };
        // SAFETY: the structure has the size that is encoded in the request.
        let result = unsafe { libc::ioctl(self.fd.as_raw_fd(), PIDFD_GET_INFO, &raw mut info) };
        match Errno::result(result) {
            Ok(_) => Ok((info.mask & PIDFD_INFO_EXIT != 0).then_some(info.exit)),
            // Before 6.15: it is reaped, and its status is lost.
            Err(errno) => Err(errno),
        }
    }

    /// Sends a signal to it, or to the process group that it leads.
    pub fn signal(&self, number: i32, group: bool) {
        // SAFETY: an open pidfd and a null info; the kernel checks number and flags.
        let send = |flags: libc::c_uint| unsafe {
            let info = std::ptr::null::<u8>();
            libc::syscall(libc::SYS_pidfd_send_signal, self.fd.as_raw_fd(), number, info, flags)
        };
        if group
            && send(PIDFD_SIGNAL_PROCESS_GROUP) == -1
            && Errno::last() == Errno::EINVAL
            && self.process.is_running()
        {
            // SAFETY: plain `kill`. While the leader lives no other process group can have its number.
            unsafe { libc::kill(-self.process.pid, number) };
        } else if !group {
            send(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::fixture::{Fixture, wait_until};

    #[test]
    fn zombie_exit_status_is_read_from_proc() {
        let mut child = std::process::Command::new("sh").args(["-c", "exit 7"]).spawn().unwrap();
        let process = ProcessRef::of(child.id().cast_signed()).unwrap();
        wait_until(|| !process.is_running());
        assert_eq!(zombie_exit_status(process), Some(7 << 8));
        assert_eq!(zombie_exit_status(ProcessRef { start_time: process.start_time + 1, ..process }), None);
        child.wait().unwrap();
        let me = ProcessRef::of(std::process::id().cast_signed()).unwrap();
        assert_eq!(zombie_exit_status(me), None, "it lives");
    }

    #[test]
    fn watch_rejects_reused_pid() {
        let app = Fixture::sh("read _");
        let other = ProcessRef { start_time: app.leader().start_time + 1, ..app.leader() };
        assert_eq!(PidfdWatch::new(other).unwrap_err(), Errno::ESRCH);
    }

    #[test]
    fn watch_reports_exit_of_another_process_child() {
        let mut app = Fixture::sh("sleep 1000 & echo $!; wait; echo reaped; read _");
        let child = app.process();
        let mut watch = PidfdWatch::new(child).unwrap();
        assert_eq!(watch.try_wait(), None);
        watch.signal(libc::SIGTERM, false);
        app.line();
        let status = watch.try_wait().unwrap();
        assert!(
            matches!(status, WaitStatus::Signaled(libc::SIGTERM, false) | WaitStatus::Unknown),
            "{status:?}"
        );
    }
}
