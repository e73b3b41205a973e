//! Who calls, and looking into its memory and files.
#![allow(unsafe_code)]

use std::fs::read_link;
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;

/// `CAP_NET_BIND_SERVICE`.
const BIND_LOW_PORTS: u32 = 10;

/// The process that a calling thread belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The process: a notification names a thread, and only its process can be referred to.
    pub process: i32,
    /// Its effective user.
    pub uid: u32,
    /// Whether the kernel lets it bind privileged ports.
    pub may_bind_low: bool,
}

impl Caller {
    /// The process of a thread.
    ///
    /// # Errors
    /// It is gone.
    pub fn of(thread: i32) -> nix::Result<Self> {
        let text = std::fs::read_to_string(format!("/proc/{thread}/status")).map_err(|_| Errno::ESRCH)?;
        Self::parse(&text).ok_or(Errno::ESRCH)
    }

    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
        let capabilities = u64::from_str_radix(field("CapEff:")?.trim(), 16).ok()?;
        Some(Self {
            process: field("Tgid:")?.trim().parse().ok()?,
            // Real, effective, saved, file system.
            uid: field("Uid:")?.split_ascii_whitespace().nth(1)?.parse().ok()?,
            may_bind_low: capabilities & (1 << BIND_LOW_PORTS) != 0,
        })
    }
}

/// Copies `length` bytes at `address` of a thread's memory.
///
/// # Errors
/// `EFAULT`: not all of it is there. `EPERM`: we may not.
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
/// `EBADF`: it has no such one. `EPERM`: we may not. `ESRCH`: it is gone.
pub fn take_descriptor(process: BorrowedFd<'_>, number: i32) -> nix::Result<OwnedFd> {
    // SAFETY: takes three numbers and returns a new descriptor.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) })?;
    let fd = i32::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: just made for us, close-on-exec by definition.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What `/proc` tells of a process's socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketFile {
    /// The kernel's number for the socket.
    pub inode: u64,
    /// `O_NONBLOCK`.
    pub non_blocking: bool,
    /// `FD_CLOEXEC`.
    pub close_on_exec: bool,
}

impl SocketFile {
    /// Of descriptor `number`.
    ///
    /// # Errors
    /// `ENOTSOCK`: it is none, or not open. `EPERM`, `EACCES`: we may not look.
    pub fn of(process: i32, number: i32) -> nix::Result<Self> {
        let failed = |error: std::io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
        let inode = socket_inode(process, number).map_err(failed)?.ok_or(Errno::ENOTSOCK)?;
        let text = std::fs::read_to_string(format!("/proc/{process}/fdinfo/{number}")).map_err(failed)?;
        let flags = text.lines().find_map(|line| line.strip_prefix("flags:")).unwrap_or("0");
        let flags = i32::from_str_radix(flags.trim(), 8).unwrap_or(0);
        let has = |flag| flags & flag != 0;
        Ok(Self { inode, non_blocking: has(libc::O_NONBLOCK), close_on_exec: has(libc::O_CLOEXEC) })
    }
}

fn socket_inode(process: i32, number: i32) -> std::io::Result<Option<u64>> {
    let target = read_link(format!("/proc/{process}/fd/{number}"))?;
    let inode = |target: &str| target.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok();
    Ok(target.to_str().and_then(inode))
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
    fn a_thread_leads_to_its_process() {
        let of_thread =
            std::thread::spawn(|| Caller::of(nix::unistd::gettid().as_raw())).join().unwrap().unwrap();
        assert_eq!(of_thread.process, me());
        assert_eq!(of_thread.uid, nix::unistd::geteuid().as_raw());
        assert_eq!(
            Caller::parse("Tgid:\t5\nUid:\t1\t2\t3\t4\nCapEff:\t0000000000000400\n"),
            Some(Caller { process: 5, uid: 2, may_bind_low: true })
        );
        assert_eq!(Caller::of(-1), Err(Errno::ESRCH));
    }

    #[test]
    fn sockets_are_known_by_inode_and_flags() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let number = socket.as_raw_fd();
        let inode = std::fs::metadata(format!("/proc/self/fd/{number}")).unwrap().ino();
        let file = SocketFile { inode, non_blocking: false, close_on_exec: true };
        assert_eq!(SocketFile::of(me(), number), Ok(file));
        socket.set_nonblocking(true).unwrap();
        assert_eq!(SocketFile::of(me(), number), Ok(SocketFile { non_blocking: true, ..file }));
        let plain = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(SocketFile::of(me(), plain.as_raw_fd()), Err(Errno::ENOTSOCK));
    }

    #[test]
    fn memory_and_descriptors_of_a_process_can_be_had() {
        let text = *b"some bytes";
        assert_eq!(read_memory(me(), text.as_ptr() as u64, text.len()).unwrap(), text);
        assert_eq!(read_memory(me(), 8, 4), Err(Errno::EFAULT));
        let process = crate::process::pidfd::open(me()).unwrap();
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = take_descriptor(process.as_fd(), socket.as_raw_fd()).unwrap();
        assert_eq!(TcpListener::from(taken).local_addr().unwrap(), socket.local_addr().unwrap());
        assert_eq!(take_descriptor(process.as_fd(), 1 << 20).unwrap_err(), Errno::EBADF);
    }
}
