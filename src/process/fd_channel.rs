//! SEQPACKET socket pairs that carry small messages with file descriptors, such as those between daemon and
//! keeper.
//!
//! A packet arrives as a whole or not at all, so that messages need no framing.
#![allow(unsafe_code)]

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, getsockopt, recvmsg,
    sendmsg, sockopt,
};
use tokio::io::unix::AsyncFd;

/// Maximum number of descriptors in a packet; the kernel's limit is 253 (`SCM_MAX_FD`).
pub const MAX_FDS: usize = 16;

/// A pair of connected sockets, non-blocking and close-on-exec.
///
/// # Errors
/// Out of descriptors or memory.
pub fn socketpair() -> nix::Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    nix::sys::socket::socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)
}

/// Registers a descriptor with the current runtime.
///
/// # Errors
/// Out of memory or epoll watches.
pub fn async_fd(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` has the same number as long as it lives, and nothing else can close it.
    unsafe { AsyncFd::register(fd) }.map_err(io::Error::from)
}

/// As [`async_fd`], for a descriptor that others use, too.
///
/// # Errors
/// Out of memory or epoll watches.
pub fn async_shared_fd(fd: Arc<OwnedFd>) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    // SAFETY: as above.
    unsafe { AsyncFd::register(fd) }.map_err(io::Error::from)
}

/// Sends one packet.
///
/// # Errors
/// `EAGAIN`: the buffer of the other end is full, or too many descriptors are in flight (`ETOOMANYREFS`).
/// `EPIPE`: the other end is closed.
pub fn send_with_fds(to: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> nix::Result<()> {
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    loop {
        return match sendmsg::<()>(to.as_raw_fd(), &[IoSlice::new(bytes)], control, flags, None) {
            Ok(_) => Ok(()),
            Err(Errno::EINTR) => continue,
            Err(Errno::ETOOMANYREFS) => Err(Errno::EAGAIN),
            Err(error) => Err(error),
        };
    }
}

/// Receives one packet into `buffer`. Returns its length and its descriptors; a length of 0 means that the
/// other end is closed.
///
/// # Errors
/// `EAGAIN`: no packet is queued.
pub fn receive_with_fds(from: BorrowedFd<'_>, buffer: &mut [u8]) -> nix::Result<(usize, Vec<OwnedFd>)> {
    let mut space = cmsg_space!([RawFd; MAX_FDS]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    loop {
        let mut parts = [IoSliceMut::new(buffer)];
        match recvmsg::<()>(from.as_raw_fd(), &mut parts, Some(&mut space), flags) {
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(error),
            Ok(message) => {
                let mut fds = Vec::new();
                for control in message.cmsgs()? {
                    if let ControlMessageOwned::ScmRights(raw) = control {
                        // SAFETY: the kernel just created these descriptors in this process; they have no
                        // other owner.
                        fds.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
                    }
                }
                return Ok((message.bytes, fds));
            }
        }
    }
}

/// Takes ownership of a descriptor that this process inherited, and makes it close-on-exec.
///
/// # Errors
/// The descriptor is not open.
pub fn take_inherited_fd(fd: RawFd) -> nix::Result<OwnedFd> {
    // SAFETY: only reads the flags of a number; for one that is not open it returns EBADF.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
    Errno::result(flags)?;
    // SAFETY: it is open, as just checked, and the parent passed it for this purpose only.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    nix::fcntl::fcntl(&owned, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))?;
    Ok(owned)
}

/// Whether a descriptor is a stream socket.
pub fn is_stream_socket(fd: &OwnedFd) -> bool {
    getsockopt(fd, sockopt::SockType).is_ok_and(|kind| kind == SockType::Stream)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn packet_carries_descriptors() {
        let (a, b) = socketpair().unwrap();
        let (read, write) = nix::unistd::pipe().unwrap();
        send_with_fds(a.as_fd(), b"hello", &[write.as_fd()]).unwrap();
        drop(write);
        let mut buffer = [0; 64];
        let (length, fds) = receive_with_fds(b.as_fd(), &mut buffer).unwrap();
        assert_eq!((&buffer[..length], fds.len()), (&b"hello"[..], 1));
        nix::unistd::write(&fds[0], b"x").unwrap();
        assert_eq!(nix::unistd::read(&read, &mut buffer).unwrap(), 1);
    }

    #[test]
    fn empty_queue_differs_from_closed_end() {
        let (a, b) = socketpair().unwrap();
        let mut buffer = [0; 64];
        assert_eq!(receive_with_fds(b.as_fd(), &mut buffer).unwrap_err(), Errno::EAGAIN);
        drop(a);
        assert_eq!(receive_with_fds(b.as_fd(), &mut buffer).unwrap().0, 0);
    }
}
