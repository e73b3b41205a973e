//! The system calls on sockets that clustering needs.
#![allow(unsafe_code)]

use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, Shutdown, SockFlag, SockProtocol, SockType, SockaddrLike, SockaddrStorage, getsockname,
    shutdown, socket,
};

use crate::cluster::address::Protocol;
use crate::process::bpf::{Instruction, ret};
use crate::process::xattr::xattr;

/// What sort of socket it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketKind {
    /// `AF_INET6`, else `AF_INET`.
    pub is_v6: bool,
    /// What travels over it.
    pub protocol: Protocol,
    /// Multipath TCP: cannot be steered, a plain TCP socket must take its place.
    pub is_multipath: bool,
}

impl SocketKind {
    /// Of a socket of ours; `None` if it is neither TCP nor UDP.
    pub fn of(fd: BorrowedFd<'_>) -> Option<Self> {
        let option = |name| getsockopt_int(fd, libc::SOL_SOCKET, name).ok();
        let v6 = match option(libc::SO_DOMAIN)? {
            libc::AF_INET => false,
            libc::AF_INET6 => true,
            _ => return None,
        };
        let protocol = match (option(libc::SO_TYPE)?, option(libc::SO_PROTOCOL)?) {
            (libc::SOCK_STREAM, libc::IPPROTO_TCP | libc::IPPROTO_MPTCP) => Protocol::Tcp,
            (libc::SOCK_DGRAM, libc::IPPROTO_UDP) => Protocol::Udp,
            _ => return None,
        };
        Some(Self { is_v6: v6, protocol, is_multipath: option(libc::SO_PROTOCOL)? == libc::IPPROTO_MPTCP })
    }

    /// Of a process's socket, without having it: the kernel shows its protocol's name.
    pub fn of_process(process: i32, number: i32) -> Option<Self> {
        let name = xattr(format!("/proc/{process}/fd/{number}").as_ref(), c"system.sockprotoname")?;
        let (v6, protocol, multipath) = match name.strip_suffix(b"\0").unwrap_or(&name) {
            b"TCP" => (false, Protocol::Tcp, false),
            b"TCPv6" => (true, Protocol::Tcp, false),
            b"MPTCP" => (false, Protocol::Tcp, true),
            b"MPTCPv6" => (true, Protocol::Tcp, true),
            b"UDP" => (false, Protocol::Udp, false),
            b"UDPv6" => (true, Protocol::Udp, false),
            _ => return None,
        };
        Some(Self { is_v6: v6, protocol, is_multipath: multipath })
    }
}

/// Whether executing this file gives capabilities.
pub fn has_file_capabilities(program: &std::path::Path) -> bool {
    xattr(program, c"security.capability").is_some()
}

/// A new socket like one of this kind, but never a multipath one.
///
/// # Errors
/// The system is out of descriptors or memory.
pub fn new_like(kind: SocketKind) -> nix::Result<OwnedFd> {
    let family = if kind.is_v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let (kind, protocol) = match kind.protocol {
        Protocol::Tcp => (SockType::Stream, SockProtocol::Tcp),
        Protocol::Udp => (SockType::Datagram, SockProtocol::Udp),
    };
    socket(family, kind, SockFlag::SOCK_CLOEXEC, protocol)
}

fn getsockopt_int(fd: BorrowedFd<'_>, level: i32, name: i32) -> nix::Result<i32> {
    let (mut value, mut length) = (0i32, size_of::<i32>() as libc::socklen_t);
    // SAFETY: the kernel writes no more than `length` bytes to `value`.
    Errno::result(unsafe {
        libc::getsockopt(fd.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut length)
    })?;
    Ok(value)
}

fn setsockopt<T>(fd: BorrowedFd<'_>, level: i32, name: i32, value: &T) -> nix::Result<()> {
    let length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel reads `length` bytes at `value`, as the option wants.
    let done =
        unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), length) };
    Errno::result(done).map(drop)
}

/// Whether it is bound to one network device.
pub fn is_bound_to_device(fd: BorrowedFd<'_>) -> bool {
    getsockopt_int(fd, libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX).is_ok_and(|device| device != 0)
}

/// Whether it takes IPv6 alone.
pub fn v6_only(fd: BorrowedFd<'_>) -> bool {
    getsockopt_int(fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY).is_ok_and(|value| value != 0)
}

/// Lets it take IPv6 alone, or not.
pub fn set_v6_only(fd: BorrowedFd<'_>, only: bool) -> nix::Result<()> {
    setsockopt(fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, &i32::from(only))
}

/// Whether it may share its port.
pub fn reuse_port(fd: BorrowedFd<'_>) -> bool {
    getsockopt_int(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT).is_ok_and(|value| value != 0)
}

/// Lets it share its port with others of the same user that do.
pub fn set_reuse_port(fd: BorrowedFd<'_>, reuse: bool) -> nix::Result<()> {
    setsockopt(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, &i32::from(reuse))
}

/// Lets it take a port that connections of the past still have.
pub fn set_reuse_address(fd: BorrowedFd<'_>) -> nix::Result<()> {
    setsockopt(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, &1i32)
}

/// Binds it.
pub fn bind(fd: BorrowedFd<'_>, address: SocketAddr) -> nix::Result<()> {
    nix::sys::socket::bind(fd.as_raw_fd(), &SockaddrStorage::from(address))
}

/// What it is bound to.
pub fn local_address(fd: BorrowedFd<'_>) -> Option<SocketAddr> {
    let storage: SockaddrStorage = getsockname(fd.as_raw_fd()).ok()?;
    match storage.family()? {
        AddressFamily::Inet => storage.as_sockaddr_in().map(|v4| SocketAddr::V4((*v4).into())),
        AddressFamily::Inet6 => storage.as_sockaddr_in6().map(|v6| SocketAddr::V6((*v6).into())),
        _ => None,
    }
}

/// Lets connections come. Again on one that listens: changes the length of its queue.
pub fn listen(fd: BorrowedFd<'_>, backlog: i32) -> nix::Result<()> {
    // SAFETY: two numbers.
    Errno::result(unsafe { libc::listen(fd.as_raw_fd(), backlog) }).map(drop)
}

/// Whether connections may come: someone may have shut it down.
pub fn is_listening(fd: BorrowedFd<'_>) -> bool {
    getsockopt_int(fd, libc::SOL_SOCKET, libc::SO_ACCEPTCONN).is_ok_and(|value| value != 0)
}

/// Ends its listening at once, whoever else has it open; connections in its queue are reset.
pub fn shutdown_both(fd: BorrowedFd<'_>) {
    // A UDP socket that is not connected has nothing to shut.
    let _ = shutdown(fd.as_raw_fd(), Shutdown::Both);
}

/// Whether it has a peer: then it is no server's, only bound to a port before it connected.
pub fn is_connected(fd: BorrowedFd<'_>) -> bool {
    nix::sys::socket::getpeername::<SockaddrStorage>(fd.as_raw_fd()).is_ok()
}

/// Attaches a program to the group of this socket: it chooses from now on.
pub fn attach_cbpf(fd: BorrowedFd<'_>, program: &[Instruction]) -> nix::Result<()> {
    let len = u16::try_from(program.len()).map_err(|_| Errno::EINVAL)?;
    let filter = program.as_ptr().cast::<libc::sock_filter>().cast_mut();
    // Only read, and gone after the call: the kernel takes a copy.
    setsockopt(fd, libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_CBPF, &libc::sock_fprog { len, filter })
}

/// Has a listening socket take no notice of clients, or take notice again. They get no answer, and try again
/// after a second.
pub fn set_drop_filter(fd: BorrowedFd<'_>, deaf: bool) -> nix::Result<()> {
    let nothing = [ret(0)];
    let filter = nothing.as_ptr().cast::<libc::sock_filter>().cast_mut();
    if deaf {
        // Only read, as above.
        setsockopt(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &libc::sock_fprog { len: 1, filter })
    } else {
        setsockopt(fd, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, &0)
    }
}

/// How many connections wait to be accepted.
///
/// # Errors
/// `EINVAL` and the like: no TCP socket.
pub fn accept_queue_length(fd: BorrowedFd<'_>) -> nix::Result<u32> {
    /// `tcpi_unacked` in `struct tcp_info`: of a listening socket the length of its accept queue.
    const UNACKED: usize = 24;
    let mut info = [0u8; 104];
    let mut length = info.len() as libc::socklen_t;
    // SAFETY: the kernel writes no more than `length` bytes to `info`.
    Errno::result(unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    })?;
    let mut word = [0; 4];
    word.copy_from_slice(&info[UNACKED..UNACKED + 4]);
    Ok(u32::from_ne_bytes(word))
}

/// The kernel's number for it.
pub fn inode(fd: BorrowedFd<'_>) -> nix::Result<u64> {
    Ok(nix::sys::stat::fstat(fd)?.st_ino)
}

/// Lets calls on it wait, or not; so for all who have it.
pub fn set_non_blocking(fd: BorrowedFd<'_>, non_blocking: bool) -> nix::Result<()> {
    let before = OFlag::from_bits_retain(fcntl(fd.as_fd(), FcntlArg::F_GETFL)?);
    let mut flags = before;
    flags.set(OFlag::O_NONBLOCK, non_blocking);
    if flags != before {
        fcntl(fd.as_fd(), FcntlArg::F_SETFL(flags))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::cluster::sys::*;
    use std::net::{TcpListener, TcpStream, UdpSocket};

    const TCP: SocketKind = SocketKind { is_v6: false, protocol: Protocol::Tcp, is_multipath: false };

    #[test]
    fn kinds_are_seen_from_inside_and_outside() {
        let me = std::process::id().cast_signed();
        for v6 in [false, true] {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let kind = SocketKind { is_v6: v6, protocol, is_multipath: false };
                let socket = new_like(kind).unwrap();
                assert_eq!(SocketKind::of(socket.as_fd()), Some(kind));
                assert_eq!(SocketKind::of_process(me, socket.as_raw_fd()), Some(kind));
            }
        }
        let (local, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(SocketKind::of(local.as_fd()), None);
        assert_eq!(SocketKind::of_process(me, local.as_raw_fd()), None);
        assert_eq!(SocketKind::of_process(me, -1), None);
    }

    #[test]
    fn a_port_is_shared_only_with_those_who_share() {
        let (first, second) = (new_like(TCP).unwrap(), new_like(TCP).unwrap());
        bind(first.as_fd(), "127.0.0.1:0".parse().unwrap()).unwrap();
        let address = local_address(first.as_fd()).unwrap();
        assert_eq!(bind(second.as_fd(), address), Err(Errno::EADDRINUSE));
        // Allowed later, it counts all the same: so a first socket can be bound without sharing.
        set_reuse_port(first.as_fd(), true).unwrap();
        set_reuse_port(second.as_fd(), true).unwrap();
        assert_eq!(bind(second.as_fd(), address), Ok(()));
        assert!(reuse_port(second.as_fd()));
    }

    #[test]
    fn the_program_chooses_and_the_queue_is_counted() {
        let group: Vec<OwnedFd> = (0..2).map(|_| new_like(TCP).unwrap()).collect();
        let mut address = "127.0.0.1:0".parse().unwrap();
        for member in &group {
            set_reuse_port(member.as_fd(), true).unwrap();
            bind(member.as_fd(), address).unwrap();
            address = local_address(member.as_fd()).unwrap();
            listen(member.as_fd(), 16).unwrap();
        }
        attach_cbpf(group[0].as_fd(), &[ret(1)]).unwrap();
        let _clients: Vec<_> = (0..5).map(|_| TcpStream::connect(address).unwrap()).collect();
        assert_eq!(
            (accept_queue_length(group[0].as_fd()), accept_queue_length(group[1].as_fd())),
            (Ok(0), Ok(5))
        );
        // The last member moves into the hole.
        shutdown_both(group[0].as_fd());
        assert!(!is_listening(group[0].as_fd()) && is_listening(group[1].as_fd()));
        attach_cbpf(group[1].as_fd(), &[ret(0)]).unwrap();
        let _client = TcpStream::connect(address).unwrap();
        assert_eq!(accept_queue_length(group[1].as_fd()), Ok(6));
    }

    #[test]
    fn flags_and_peers() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        set_non_blocking(listener.as_fd(), true).unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(is_connected(client.as_fd()) && !is_connected(listener.as_fd()));
        assert!(accept_queue_length(UdpSocket::bind("127.0.0.1:0").unwrap().as_fd()).is_err());
    }
}
