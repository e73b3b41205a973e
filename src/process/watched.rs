//! Watching a process that is no child of ours: after a keeper has died, its apps are children of
//! whoever took them in, and only descriptors of the processes are left to go by.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::dead;
use super::pidfd::{self, ProcessRef};
use super::reap::Ended;

/// How long its parent may take to collect an ended process. Only then do kernels that tell others
/// how it ended do so.
const COLLECTED: Duration = Duration::from_millis(300);

/// `PIDFD_GET_INFO` for the first published size of the structure (Linux 6.13).
const GET_INFO: libc::Ioctl = 0xc040_ff0b_u32 as libc::Ioctl;
/// `PIDFD_INFO_EXIT`: how it ended (Linux 6.15).
const INFO_EXIT: u64 = 1 << 3;
/// `PIDFD_SIGNAL_PROCESS_GROUP` (Linux 6.9).
const PROCESS_GROUP: libc::c_uint = 1 << 2;

/// `struct pidfd_info`.
#[repr(C)]
#[derive(Default)]
struct Info {
    mask: u64,
    cgroup: u64,
    ids: [u32; 11],
    exit: i32,
}

/// A process that is no child of ours.
#[derive(Debug)]
pub struct Watched {
    process: ProcessRef,
    fd: OwnedFd,
    /// Since when it is known to have ended, while how is not.
    dead_since: Option<Instant>,
}

impl Watched {
    /// Watches this very process.
    ///
    /// # Errors
    /// `ESRCH` if it is gone; what keeps the kernel from watching otherwise.
    pub fn new(process: ProcessRef) -> nix::Result<Self> {
        let fd = pidfd::open(process.pid)?;
        // Opened first, looked at then: what the descriptor means cannot change any more.
        match ProcessRef::of(process.pid) {
            Some(found) if found == process => Ok(Self { process, fd, dead_since: None }),
            _ => Err(Errno::ESRCH),
        }
    }

    /// What to wait for on which descriptor. A process that has ended is readable for good; from
    /// then on only the hang-up at its collection is news.
    pub fn wait_for(&self) -> (BorrowedFd<'_>, PollFlags) {
        let flags = if self.dead_since.is_some() { PollFlags::empty() } else { PollFlags::POLLIN };
        (self.fd.as_fd(), flags)
    }

    /// When to look again even if nothing is told.
    pub fn look_at(&self) -> Option<Instant> {
        Some(self.dead_since? + COLLECTED)
    }

    /// How it ended; none while it runs, or while that may yet be learned.
    pub fn ended(&mut self) -> Option<Ended> {
        let mut asked = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
        if poll(&mut asked, PollTimeout::ZERO) != Ok(1) {
            return None;
        }
        let now = Instant::now();
        let since = *self.dead_since.get_or_insert(now);
        let told = self.exit_status();
        if let Some(status) = told.ok().flatten().or_else(|| dead::exit_status(self.process)) {
            return Some(Ended::from_status(status));
        }
        (told.is_err() || now >= since + COLLECTED).then_some(Ended::Unseen)
    }

    /// Its status as `waitpid` would give it; none before its parent has collected it.
    ///
    /// # Errors
    /// The kernel does not tell.
    fn exit_status(&self) -> nix::Result<Option<i32>> {
        let mut info = Info { mask: INFO_EXIT, ..Info::default() };
        // SAFETY: the structure has the size that the number of the call says.
        let asked = unsafe { libc::ioctl(self.fd.as_raw_fd(), GET_INFO, &raw mut info) };
        match Errno::result(asked) {
            Ok(_) => Ok((info.mask & INFO_EXIT != 0).then_some(info.exit)),
            // Before 6.15: it is collected, and there is no more to learn.
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
        if group && send(PROCESS_GROUP) == -1 && Errno::last() == Errno::EINVAL && self.process.runs() {
            // SAFETY: plain `kill`. While the leader lives nobody else can have the group's number.
            unsafe { libc::kill(-self.process.pid, number) };
        } else if !group {
            send(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::fixture::Fixture;

    #[test]
    fn another_process_of_that_pid_is_not_watched() {
        let app = Fixture::sh("read _");
        let other = ProcessRef { start_time: app.leader().start_time + 1, ..app.leader() };
        assert_eq!(Watched::new(other).unwrap_err(), Errno::ESRCH);
    }

    #[test]
    fn the_end_of_anothers_child_is_seen_and_never_invented() {
        let mut app = Fixture::sh("sleep 1000 & echo $!; wait; echo collected; read _");
        let child = app.process();
        let mut watched = Watched::new(child).unwrap();
        assert_eq!(watched.ended(), None);
        watched.signal(libc::SIGTERM, false);
        app.line();
        let ended = watched.ended().unwrap();
        assert!(matches!(ended, Ended::Signal(libc::SIGTERM, false) | Ended::Unseen), "{ended:?}");
    }
}
