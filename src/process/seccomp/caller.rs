//! The process that made a supervised system call: its credentials, memory and descriptors.
#![allow(unsafe_code)]

use std::fs::read_link;
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;

use crate::process::proc::{fds, status};

/// From `linux/capability.h`.
const CAP_NET_BIND_SERVICE: u32 = 10;

/// The process of the calling thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The pid: a notification has the id of a thread, but pidfds only exist for processes.
    pub pid: i32,
    /// Effective user id.
    pub uid: u32,
    /// Whether it may bind privileged ports. The capabilities of a process in another user namespace are valid only
    /// there, although `/proc` shows them in the same way.
    pub can_bind_privileged: bool,
    /// Whether it is in the network namespace of this process. In another one (a container) its ports are
    /// separate.
    pub same_netns: bool,
}

impl Caller {
    /// The process of a thread.
    ///
    /// # Errors
    /// `ESRCH`: the thread does not exist. `EACCES`, `EPERM`: it may not be inspected.
    pub fn of_thread(thread: i32) -> nix::Result<Self> {
        let text = std::fs::read_to_string(format!("/proc/{thread}/status")).map_err(|_| Errno::ESRCH)?;
        let caller = Self::parse(&text).ok_or(Errno::ESRCH)?;
        Ok(Self {
            can_bind_privileged: caller.can_bind_privileged && shares_namespace(thread, "user")?,
            same_netns: shares_namespace(thread, "net")?,
            ..caller
        })
    }

    fn parse(text: &str) -> Option<Self> {
        let capabilities = status::effective_capabilities(text)?;
        Some(Self {
            pid: status::field(text, "Tgid")?.parse().ok()?,
            // Real, effective, saved, file system.
            uid: status::field(text, "Uid")?.split_ascii_whitespace().nth(1)?.parse().ok()?,
            can_bind_privileged: capabilities & (1 << CAP_NET_BIND_SERVICE) != 0,
            same_netns: true,
        })
    }
}

/// Whether a thread is in the same namespace as this process. A kernel without namespaces of this kind has no link.
fn shares_namespace(thread: i32, kind: &str) -> nix::Result<bool> {
    let to_errno = |error: std::io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
    let Ok(own) = read_link(format!("/proc/self/ns/{kind}")) else { return Ok(true) };
    Ok(read_link(format!("/proc/{thread}/ns/{kind}")).map_err(to_errno)? == own)
}

/// Copies `length` bytes at `address` of a thread's memory.
///
/// # Errors
/// `EFAULT`: a part is not mapped. `EPERM`: not permitted.
pub fn read_memory(thread: i32, address: u64, length: usize) -> nix::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let base = usize::try_from(address).map_err(|_| Errno::EFAULT)?;
    let remote = [RemoteIoVec { base, len: length }];
    let read = process_vm_readv(Pid::from_raw(thread), &mut [IoSliceMut::new(&mut bytes)], &remote)?;
    if read == length { Ok(bytes) } else { Err(Errno::EFAULT) }
}

/// Duplicates descriptor `number` of a process.
///
/// # Errors
/// `EBADF`: it is not open. `EPERM`: not permitted. `ESRCH`: the process does not exist.
pub fn pidfd_getfd(process: BorrowedFd<'_>, number: i32) -> nix::Result<OwnedFd> {
    // SAFETY: takes three numbers and returns a new descriptor.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) })?;
    let fd = i32::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel just created it; it is always close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A socket of another process, as `/proc` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketFd {
    /// Inode number of the socket.
    pub inode: u64,
    /// `O_NONBLOCK`.
    pub non_blocking: bool,
    /// `FD_CLOEXEC`.
    pub close_on_exec: bool,
}

impl SocketFd {
    /// The socket at descriptor `number`.
    ///
    /// # Errors
    /// `ENOTSOCK`: it is not a socket. `ENOENT`: it is not open. `EPERM`, `EACCES`: not permitted.
    pub fn of(process: i32, number: i32) -> nix::Result<Self> {
        let to_errno = |error: std::io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
        let inode = fds::socket_inode(process, number).map_err(to_errno)?.ok_or(Errno::ENOTSOCK)?;
        let flags = fds::flags(process, number).map_err(to_errno)?;
        let has = |flag| flags & flag != 0;
        Ok(Self { inode, non_blocking: has(libc::O_NONBLOCK), close_on_exec: has(libc::O_CLOEXEC) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;

    fn me() -> i32 {
        std::process::id().cast_signed()
    }

    #[test]
    fn finds_process_of_thread() {
        let of_thread =
            std::thread::spawn(|| Caller::of_thread(nix::unistd::gettid().as_raw())).join().unwrap().unwrap();
        assert_eq!(of_thread.pid, me());
        assert!(of_thread.same_netns);
        assert_eq!(of_thread.uid, nix::unistd::geteuid().as_raw());
        assert_eq!(
            Caller::parse("Tgid:\t5\nUid:\t1\t2\t3\t4\nCapEff:\t0000000000000400\n"),
            Some(Caller { pid: 5, uid: 2, can_bind_privileged: true, same_netns: true })
        );
        assert_eq!(Caller::of_thread(-1), Err(Errno::ESRCH));
    }

    #[test]
    fn reads_inode_and_flags_of_socket() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let number = socket.as_raw_fd();
        let inode = std::fs::metadata(format!("/proc/self/fd/{number}")).unwrap().ino();
        let file = SocketFd { inode, non_blocking: false, close_on_exec: true };
        assert_eq!(SocketFd::of(me(), number), Ok(file));
        socket.set_nonblocking(true).unwrap();
        assert_eq!(SocketFd::of(me(), number), Ok(SocketFd { non_blocking: true, ..file }));
        let plain = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(SocketFd::of(me(), plain.as_raw_fd()), Err(Errno::ENOTSOCK));
    }

    #[test]
    fn reads_memory_and_duplicates_descriptors() {
        let text = *b"some bytes";
        assert_eq!(read_memory(me(), text.as_ptr() as u64, text.len()).unwrap(), text);
        assert_eq!(read_memory(me(), 8, 4), Err(Errno::EFAULT));
        let process = crate::process::process_ref::pidfd_open(me()).unwrap();
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let duplicate = pidfd_getfd(process.as_fd(), socket.as_raw_fd()).unwrap();
        assert_eq!(TcpListener::from(duplicate).local_addr().unwrap(), socket.local_addr().unwrap());
        assert_eq!(pidfd_getfd(process.as_fd(), 1 << 20).unwrap_err(), Errno::EBADF);
    }
}
