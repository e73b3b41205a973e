//! Collecting children that have ended.
#![allow(unsafe_code)]

/// How a child ended, as the kernel tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Exit code.
    Code(i32),
    /// Signal number, and whether a core was dumped.
    Signal(i32, bool),
    /// It is gone, and how it ended was told to someone else.
    Unseen,
}

impl Ended {
    /// From a status as `waitpid` gives it. Without WUNTRACED and WCONTINUED only ends are told:
    /// exited or signalled.
    pub(super) fn from_status(status: i32) -> Self {
        if libc::WIFEXITED(status) {
            Self::Code(libc::WEXITSTATUS(status))
        } else {
            Self::Signal(libc::WTERMSIG(status), libc::WCOREDUMP(status))
        }
    }
}

/// Collects one child that has ended, if there is one.
///
/// Not `nix::sys::wait`: it loses a child that a real-time signal killed (the status is taken
/// from the kernel, then refused for its unknown signal).
pub fn reap_one() -> Option<(i32, Ended)> {
    let mut status = 0;
    loop {
        // SAFETY: `status` is a valid place for the kernel to write to.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
        if pid > 0 {
            return Some((pid, Ended::from_status(status)));
        }
        if pid == 0 || nix::errno::Errno::last() != nix::errno::Errno::EINTR {
            return None;
        }
    }
}
