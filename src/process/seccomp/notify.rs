//! The supervisor's side: hearing of calls and answering them.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;

use super::filter::CallKind;

/// A call that waits for its answer: `struct seccomp_notif`.
///
/// May lie in memory that outlives the process: a call that was heard of but not answered can be answered
/// by another process that knows its id.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notification {
    /// Names the call among those of this filter; 0 is none.
    pub id: u64,
    /// The calling thread, as we see it.
    pub tid: i32,
    flags: u32,
    syscall: i32,
    arch: u32,
    instruction_pointer: u64,
    /// The call's args, as registers.
    pub args: [u64; 6],
}

const _: () = assert!(size_of::<Notification>() == size_of::<libc::seccomp_notif>());

impl Notification {
    /// Which call; `None` for one that our filters do not tell.
    pub fn kind(&self) -> Option<CallKind> {
        CallKind::of(self.arch, self.syscall)
    }

    /// An argument that is an `int`.
    pub fn arg_i32(&self, place: usize) -> i32 {
        (self.args[place] as u32).cast_signed()
    }
}

/// The descriptor that calls are heard of and answered through. All processes under the filter share it.
#[derive(Debug)]
pub struct Notifier(OwnedFd);

impl From<OwnedFd> for Notifier {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl AsFd for Notifier {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Notifier {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Notifier {
    /// Hears of the next call; waits if there is none.
    ///
    /// # Errors
    /// `ENOENT`: the caller was interrupted, or killed, before we came.
    pub fn receive(&self, into: &mut Notification) -> nix::Result<()> {
        // The kernel refuses a place that is not all zero.
        *into = Notification::default();
        self.ioctl(libc::SECCOMP_IOCTL_NOTIF_RECV, std::ptr::from_mut(into).cast())
    }

    /// Whether a call still waits: after its thread's memory or files were looked at, this says that
    /// it was that thread's, and not another one's that got its number.
    pub fn is_valid(&self, id: u64) -> bool {
        let mut id = id;
        self.ioctl(libc::SECCOMP_IOCTL_NOTIF_ID_VALID, (&raw mut id).cast()).is_ok()
    }

    /// Lets the kernel carry the call out as if nobody had asked. Not for calls that must not happen: by
    /// then the program may have changed what its args point to.
    ///
    /// # Errors
    /// `ENOENT`: nobody waits any more.
    pub fn continue_syscall(&self, id: u64) -> nix::Result<()> {
        self.send_response(id, 0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32)
    }

    /// Gives the call a result: success, or the errno that it fails with.
    ///
    /// # Errors
    /// `ENOENT`: nobody waits any more.
    pub fn respond(&self, id: u64, result: nix::Result<()>) -> nix::Result<()> {
        self.send_response(id, result.map_or_else(|errno| -(errno as i32), |()| 0), 0)
    }

    fn send_response(&self, id: u64, error: i32, flags: u32) -> nix::Result<()> {
        let mut response = libc::seccomp_notif_resp { id, val: 0, error, flags };
        self.ioctl(libc::SECCOMP_IOCTL_NOTIF_SEND, (&raw mut response).cast())
    }

    /// Puts a duplicate of `fd` at `number` in the calling process, closing what is there.
    ///
    /// # Errors
    /// `ENOENT`: nobody waits any more. `EBADF`: beyond its limit of open files.
    pub fn add_fd(&self, id: u64, fd: BorrowedFd<'_>, number: i32, close_on_exec: bool) -> nix::Result<()> {
        let mut place = libc::seccomp_notif_addfd {
            id,
            flags: libc::SECCOMP_ADDFD_FLAG_SETFD as u32,
            srcfd: fd.as_raw_fd().cast_unsigned(),
            newfd: number.cast_unsigned(),
            newfd_flags: if close_on_exec { libc::O_CLOEXEC.cast_unsigned() } else { 0 },
        };
        self.ioctl(libc::SECCOMP_IOCTL_NOTIF_ADDFD, (&raw mut place).cast())
    }

    fn ioctl(&self, request: libc::Ioctl, argument: *mut libc::c_void) -> nix::Result<()> {
        loop {
            // SAFETY: each caller passes a live struct of the layout that its request wants.
            match Errno::result(unsafe { libc::ioctl(self.0.as_raw_fd(), request, argument) }) {
                Err(Errno::EINTR) => {}
                // Placing returns the number that the duplicate got.
                other => return other.map(drop),
            }
        }
    }
}
