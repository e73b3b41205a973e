//! System calls on sockets.
#![allow(unsafe_code)]

use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, Shutdown, SockFlag, SockProtocol, SockType, SockaddrLike, SockaddrStorage, getpeername,
    getsockname, shutdown, socket,
};

use crate::cluster::address::{Address, Protocol};
use crate::process::bpf::{Instruction, ret};
use crate::process::xattr::xattr;

/// Backlog where the program's own is unknown. The limit of the kernel (`net.core.somaxconn`) applies.
pub(crate) const DEFAULT_BACKLOG: i32 = 4096;

/// Family and protocol of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SocketKind {
    /// `AF_INET6`, else `AF_INET`.
    pub is_v6: bool,
    pub protocol: Protocol,
    /// Multipath TCP: such a group cannot be steered, so a plain TCP socket replaces the socket.
    pub is_multipath: bool,
}

impl SocketKind {
    pub const fn tcp(is_v6: bool) -> Self {
        Self { is_v6, protocol: Protocol::Tcp, is_multipath: false }
    }

    /// Kind of a socket of this process; `None` if it is neither TCP nor UDP.
    pub fn of(fd: BorrowedFd<'_>) -> Option<Self> {
        let option = |name| getsockopt_int(fd, libc::SOL_SOCKET, name).ok();
        let is_v6 = match option(libc::SO_DOMAIN)? {
            libc::AF_INET => false,
            libc::AF_INET6 => true,
            _ => return None,
        };
        let protocol = match (option(libc::SO_TYPE)?, option(libc::SO_PROTOCOL)?) {
            (libc::SOCK_STREAM, libc::IPPROTO_TCP | libc::IPPROTO_MPTCP) => Protocol::Tcp,
            (libc::SOCK_DGRAM, libc::IPPROTO_UDP) => Protocol::Udp,
            _ => return None,
        };
        Some(Self { is_v6, protocol, is_multipath: option(libc::SO_PROTOCOL)? == libc::IPPROTO_MPTCP })
    }

    /// Kind of a socket of another process, without duplicating it: by the protocol name that the kernel shows.
    pub fn of_process(process: i32, fd: i32) -> Option<Self> {
        let name = xattr(format!("/proc/{process}/fd/{fd}").as_ref(), c"system.sockprotoname")?;
        let (is_v6, protocol, is_multipath) = match name.strip_suffix(b"\0").unwrap_or(&name) {
            b"TCP" => (false, Protocol::Tcp, false),
            b"TCPv6" => (true, Protocol::Tcp, false),
            b"MPTCP" => (false, Protocol::Tcp, true),
            b"MPTCPv6" => (true, Protocol::Tcp, true),
            b"UDP" => (false, Protocol::Udp, false),
            b"UDPv6" => (true, Protocol::Udp, false),
            _ => return None,
        };
        Some(Self { is_v6, protocol, is_multipath })
    }
}

/// Whether a program gets capabilities when it is executed.
pub(crate) fn has_file_capabilities(program: &Path) -> bool {
    xattr(program, c"security.capability").is_some()
}

/// A new socket of this kind, but never a multipath one.
///
/// # Errors
/// The system is out of descriptors or memory.
pub(crate) fn new_like(kind: SocketKind) -> nix::Result<OwnedFd> {
    let family = if kind.is_v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let (kind, protocol) = match kind.protocol {
        Protocol::Tcp => (SockType::Stream, SockProtocol::Tcp),
        Protocol::Udp => (SockType::Datagram, SockProtocol::Udp),
    };
    socket(family, kind, SockFlag::SOCK_CLOEXEC, protocol)
}

fn getsockopt_int(fd: BorrowedFd<'_>, level: i32, name: i32) -> nix::Result<i32> {
    getsockopt(fd, level, name)
}

/// `T`: an integer type, of which any bytes are a value.
fn getsockopt<T: Default>(fd: BorrowedFd<'_>, level: i32, name: i32) -> nix::Result<T> {
    let (mut value, mut length) = (T::default(), size_of::<T>() as libc::socklen_t);
    // SAFETY: the kernel writes at most `length` bytes to `value`; each caller reads an integer.
    Errno::result(unsafe {
        libc::getsockopt(fd.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut length)
    })?;
    Ok(value)
}

fn setsockopt<T>(fd: BorrowedFd<'_>, level: i32, name: i32, value: &T) -> nix::Result<()> {
    let length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel reads `length` bytes at `value`; each caller passes the type that the option requires.
    let result =
        unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), length) };
    Errno::result(result).map(drop)
}

/// No network device has this index.
const NO_DEVICE: i32 = i32::MAX;

/// Whether the program has bound it to a network device.
pub(crate) fn is_bound_to_device(fd: BorrowedFd<'_>) -> bool {
    let device = getsockopt_int(fd, libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX);
    device.is_ok_and(|device| device != 0 && device != NO_DEVICE)
}

/// Hides a socket from clients, whose packets then reach sockets of other addresses, or shows it again: a socket gets
/// packets only from the device that it is bound to.
///
/// # Errors
/// `EPERM`: only with `CAP_NET_RAW` a socket that was hidden can be shown.
pub(crate) fn set_hidden(fd: BorrowedFd<'_>, hidden: bool) -> nix::Result<()> {
    let device = if hidden { NO_DEVICE } else { 0 };
    if getsockopt_int(fd, libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX) == Ok(device) {
        return Ok(());
    }
    setsockopt(fd, libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX, &device)
}

/// Whether this process can hide sockets and show them again.
pub(crate) fn can_hide() -> bool {
    let hide_and_show = || {
        let socket = new_like(SocketKind::tcp(false))?;
        set_hidden(socket.as_fd(), true)?;
        set_hidden(socket.as_fd(), false)
    };
    hide_and_show().is_ok()
}

/// Whether a socket is in the network namespace of this process: a program may have received it from another one.
/// Before Linux 5.14 the kernel does not tell.
pub(crate) fn is_in_own_netns(fd: BorrowedFd<'_>) -> bool {
    let Some(namespace) = netns_cookie(fd) else { return true };
    new_like(SocketKind::tcp(false)).is_ok_and(|own| netns_cookie(own.as_fd()) == Some(namespace))
}

fn netns_cookie(fd: BorrowedFd<'_>) -> Option<u64> {
    /// From `asm-generic/socket.h`.
    const SO_NETNS_COOKIE: i32 = 71;
    getsockopt::<u64>(fd, libc::SOL_SOCKET, SO_NETNS_COOKIE).ok()
}

pub(crate) fn v6_only(fd: BorrowedFd<'_>) -> bool {
    getsockopt_int(fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY).is_ok_and(|value| value != 0)
}

pub(crate) fn set_v6_only(fd: BorrowedFd<'_>, v6_only: bool) -> nix::Result<()> {
    setsockopt(fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, &i32::from(v6_only))
}

pub(crate) fn reuse_port(fd: BorrowedFd<'_>) -> bool {
    getsockopt_int(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT).is_ok_and(|value| value != 0)
}

/// Whether the socket shares its port with sockets of the same user that do, too.
pub(crate) fn set_reuse_port(fd: BorrowedFd<'_>, reuse: bool) -> nix::Result<()> {
    setsockopt(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, &i32::from(reuse))
}

/// Allows binding a port that closed connections (`TIME_WAIT`) still have.
pub(crate) fn set_reuse_address(fd: BorrowedFd<'_>) -> nix::Result<()> {
    setsockopt(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, &1i32)
}

pub(crate) fn bind(fd: BorrowedFd<'_>, address: SocketAddr) -> nix::Result<()> {
    nix::sys::socket::bind(fd.as_raw_fd(), &SockaddrStorage::from(address))
}

/// Who has a port, and whether the program wants to share it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PortUse {
    /// rsm holds the port for the same user, or has released it a moment ago.
    pub is_own: bool,
    /// The program itself has set `SO_REUSEPORT`.
    pub reuse_port: bool,
}

/// Binds a socket so that other slots can bind the address, too, and only if no other program has it. `new_like`
/// creates a socket of the same kind.
pub(crate) fn bind_reuseport(
    fd: BorrowedFd<'_>,
    address: Address,
    port: PortUse,
    new_like: impl Fn() -> nix::Result<OwnedFd>,
) -> nix::Result<()> {
    set_reuse_address(fd)?;
    if address.protocol == Protocol::Udp {
        // A UDP socket joins its group when it is bound, so SO_REUSEPORT must be set before. Another socket tests
        // whether another program has the port.
        if !port.is_own {
            bind(new_like()?.as_fd(), address.socket)?;
        }
        set_reuse_port(fd, true)?;
        return bind(fd, address.socket);
    }
    set_reuse_port(fd, false)?;
    let mut bound = bind(fd, address.socket);
    if bound == Err(Errno::EADDRINUSE) && port.is_own {
        set_reuse_port(fd, true)?;
        bound = bind(fd, address.socket);
    }
    // The previous daemon has bound it and died before it answered the call.
    if bound == Err(Errno::EINVAL) && local_address(fd) == Some(address.socket) {
        bound = Ok(());
    }
    set_reuse_port(fd, bound.is_ok() || port.reuse_port)?;
    bound
}

/// The address that a socket is bound to.
pub(crate) fn local_address(fd: BorrowedFd<'_>) -> Option<SocketAddr> {
    let storage: SockaddrStorage = getsockname(fd.as_raw_fd()).ok()?;
    match storage.family()? {
        AddressFamily::Inet => storage.as_sockaddr_in().map(|v4| SocketAddr::V4((*v4).into())),
        AddressFamily::Inet6 => storage.as_sockaddr_in6().map(|v6| SocketAddr::V6((*v6).into())),
        _ => None,
    }
}

/// Starts listening. On a socket that listens, changes the backlog.
pub(crate) fn listen(fd: BorrowedFd<'_>, backlog: i32) -> nix::Result<()> {
    // SAFETY: takes two numbers.
    Errno::result(unsafe { libc::listen(fd.as_raw_fd(), backlog) }).map(drop)
}

/// Whether it listens: a program may have shut it down.
pub(crate) fn is_listening(fd: BorrowedFd<'_>) -> bool {
    getsockopt_int(fd, libc::SOL_SOCKET, libc::SO_ACCEPTCONN).is_ok_and(|value| value != 0)
}

/// Stops listening at once, although other processes have duplicates. Connections in the queue are reset.
pub(crate) fn shutdown_both(fd: BorrowedFd<'_>) {
    // Fails for a UDP socket that is not connected: there is nothing to shut down.
    let _ = shutdown(fd.as_raw_fd(), Shutdown::Both);
}

/// Whether it has a peer: then it is the socket of a client that was bound before it connected.
pub(crate) fn is_connected(fd: BorrowedFd<'_>) -> bool {
    getpeername::<SockaddrStorage>(fd.as_raw_fd()).is_ok()
}

/// Attaches a steering program to the group of this socket.
pub(crate) fn attach_cbpf(fd: BorrowedFd<'_>, program: &[Instruction]) -> nix::Result<()> {
    let len = u16::try_from(program.len()).map_err(|_| Errno::EINVAL)?;
    // The kernel only reads the program, and copies it during the call.
    let filter = program.as_ptr().cast::<libc::sock_filter>().cast_mut();
    setsockopt(fd, libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_CBPF, &libc::sock_fprog { len, filter })
}

/// Makes a listening socket drop all packets, or accept them again. Clients get no answer and retry after a second.
pub(crate) fn set_drop_filter(fd: BorrowedFd<'_>, drop_packets: bool) -> nix::Result<()> {
    let drop_all = [ret(0)];
    // The kernel only reads the program, and copies it during the call.
    let filter = drop_all.as_ptr().cast::<libc::sock_filter>().cast_mut();
    if drop_packets {
        setsockopt(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &libc::sock_fprog { len: 1, filter })
    } else {
        setsockopt(fd, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, &0)
    }
}

/// Number of connections that wait to be accepted.
///
/// # Errors
/// `EINVAL` or `EOPNOTSUPP`: not a TCP socket.
pub(crate) fn accept_queue_length(fd: BorrowedFd<'_>) -> nix::Result<u32> {
    /// Offset of `tcpi_unacked` in `struct tcp_info`: for a listening socket, the length of its accept queue.
    const TCPI_UNACKED: usize = 24;
    let mut info = [0u8; 104];
    let mut length = info.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `info`.
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
    word.copy_from_slice(&info[TCPI_UNACKED..TCPI_UNACKED + 4]);
    Ok(u32::from_ne_bytes(word))
}

/// Inode number of a socket.
pub(crate) fn inode(fd: BorrowedFd<'_>) -> nix::Result<u64> {
    Ok(nix::sys::stat::fstat(fd)?.st_ino)
}

/// Sets `O_NONBLOCK`, for all processes that have the socket.
pub(crate) fn set_non_blocking(fd: BorrowedFd<'_>, non_blocking: bool) -> nix::Result<()> {
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
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    const TCP: SocketKind = SocketKind::tcp(false);

    #[test]
    fn kind_of_own_and_remote_socket_agree() {
        let me = std::process::id().cast_signed();
        for is_v6 in [false, true] {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let kind = SocketKind { is_v6, protocol, is_multipath: false };
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
    fn port_is_shared_with_reuse_port_only() {
        let (first, second) = (new_like(TCP).unwrap(), new_like(TCP).unwrap());
        bind(first.as_fd(), "127.0.0.1:0".parse().unwrap()).unwrap();
        let address = local_address(first.as_fd()).unwrap();
        assert_eq!(bind(second.as_fd(), address), Err(Errno::EADDRINUSE));
        // Set after `bind`, SO_REUSEPORT has the same effect: so a first socket can be bound without sharing.
        set_reuse_port(first.as_fd(), true).unwrap();
        set_reuse_port(second.as_fd(), true).unwrap();
        assert_eq!(bind(second.as_fd(), address), Ok(()));
        assert!(reuse_port(second.as_fd()));
    }

    #[test]
    fn steering_program_chooses_member() {
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
        // The last member fills the gap.
        shutdown_both(group[0].as_fd());
        assert!(!is_listening(group[0].as_fd()) && is_listening(group[1].as_fd()));
        attach_cbpf(group[1].as_fd(), &[ret(0)]).unwrap();
        let _client = TcpStream::connect(address).unwrap();
        assert_eq!(accept_queue_length(group[1].as_fd()), Ok(6));
    }

    #[test]
    fn hidden_socket_gets_no_connections() {
        assert!(nix::unistd::geteuid().is_root(), "this test needs root: run it as root, as in CI");
        assert!(can_hide());
        let bound = |address: SocketAddr| {
            let socket = new_like(TCP).unwrap();
            set_reuse_port(socket.as_fd(), true).unwrap();
            bind(socket.as_fd(), address).unwrap();
            socket
        };
        let all = bound("0.0.0.0:0".parse().unwrap());
        listen(all.as_fd(), 16).unwrap();
        let port = local_address(all.as_fd()).unwrap().port();
        let local = SocketAddr::from(([127, 0, 0, 1], port));
        let specific = bound(local);
        set_hidden(specific.as_fd(), true).unwrap();
        assert!(!is_bound_to_device(specific.as_fd()));
        listen(specific.as_fd(), 16).unwrap();
        let queues = || [&all, &specific].map(|socket| accept_queue_length(socket.as_fd()).unwrap());
        let _first = TcpStream::connect(local).unwrap();
        assert_eq!(queues(), [1, 0]);
        set_hidden(specific.as_fd(), false).unwrap();
        let _second = TcpStream::connect(local).unwrap();
        assert_eq!(queues(), [1, 1]);
    }

    #[test]
    fn reports_flags_and_peers() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        set_non_blocking(listener.as_fd(), true).unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(is_connected(client.as_fd()) && !is_connected(listener.as_fd()));
        assert!(accept_queue_length(UdpSocket::bind("127.0.0.1:0").unwrap().as_fd()).is_err());
    }
}
