//! The notifier: receives supervised system calls and sends the responses.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;

use super::filter::CallKind;

/// A call that waits for its response: `struct seccomp_notif`.
///
/// May be stored in memory that outlives the process: any process with the notifier can respond to a received
/// call by its id.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notification {
    /// Identifies the call among those of this filter; 0 is none.
    pub id: u64,
    /// The calling thread, in the PID namespace of this process.
    pub tid: i32,
    flags: u32,
    syscall: i32,
    arch: u32,
    instruction_pointer: u64,
    /// The arguments, as register values.
    pub args: [u64; 6],
}

const _: () = assert!(size_of::<Notification>() == size_of::<libc::seccomp_notif>());

impl Notification {
    /// The system call; `None` for one that the filter does not supervise.
    pub fn kind(&self) -> Option<CallKind> {
        CallKind::of(self.arch, self.syscall)
    }

    /// An argument of type `int`.
    pub fn arg_i32(&self, index: usize) -> i32 {
        (self.args[index] as u32).cast_signed()
    }
}

/// The descriptor that receives the calls of all processes under the filter.
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
    /// Receives the next call; waits if there is none.
    ///
    /// # Errors
    /// `ENOENT`: the caller was interrupted or killed in the meantime.
    pub fn receive(&self, into: &mut Notification) -> nix::Result<()> {
        // The kernel rejects a structure that is not zeroed.
        *into = Notification::default();
        self.ioctl(libc::SECCOMP_IOCTL_NOTIF_RECV, std::ptr::from_mut(into).cast())
    }

    /// Whether a call still waits. If so after its thread was inspected, it was really that thread, and not
    /// another one that got the same id.
    pub fn is_valid(&self, id: u64) -> bool {
        let mut id = id;
        self.ioctl(libc::SECCOMP_IOCTL_NOTIF_ID_VALID, (&raw mut id).cast()).is_ok()
    }

    /// Lets the kernel execute the call. Not suitable as a security check: the program may have changed the
    /// memory that the arguments point to.
    ///
    /// # Errors
    /// `ENOENT`: the call does not wait any more.
    pub fn continue_syscall(&self, id: u64) -> nix::Result<()> {
        self.send_response(id, 0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32)
    }

    /// Completes the call without executing it: with success, or with an error.
    ///
    /// # Errors
    /// `ENOENT`: the call does not wait any more.
    pub fn respond(&self, id: u64, result: nix::Result<()>) -> nix::Result<()> {
        self.send_response(id, result.map_or_else(|errno| -(errno as i32), |()| 0), 0)
    }

    fn send_response(&self, id: u64, error: i32, flags: u32) -> nix::Result<()> {
        let mut response = libc::seccomp_notif_resp { id, val: 0, error, flags };
        self.ioctl(libc::SECCOMP_IOCTL_NOTIF_SEND, (&raw mut response).cast())
    }

    /// Duplicates `fd` to descriptor `number` of the calling process, which is closed first.
    ///
    /// # Errors
    /// `ENOENT`: the call does not wait any more. `EBADF`: `number` exceeds its limit of open files.
    pub fn add_fd(&self, id: u64, fd: BorrowedFd<'_>, number: i32, close_on_exec: bool) -> nix::Result<()> {
        let mut request = libc::seccomp_notif_addfd {
            id,
            flags: libc::SECCOMP_ADDFD_FLAG_SETFD as u32,
            srcfd: fd.as_raw_fd().cast_unsigned(),
            newfd: number.cast_unsigned(),
            newfd_flags: if close_on_exec { libc::O_CLOEXEC.cast_unsigned() } else { 0 },
        };
        self.ioctl(libc::SECCOMP_IOCTL_NOTIF_ADDFD, (&raw mut request).cast())
    }

    fn ioctl(&self, command: libc::Ioctl, argument: *mut libc::c_void) -> nix::Result<()> {
        loop {
            // SAFETY: each caller passes a valid structure with the layout of its command.
            match Errno::result(unsafe { libc::ioctl(self.0.as_raw_fd(), command, argument) }) {
                Err(Errno::EINTR) => {}
                // SECCOMP_IOCTL_NOTIF_ADDFD returns the number of the new descriptor.
                other => return other.map(drop),
            }
        }
    }
}
