//! `InspectedSocket`: kind and options of a program's socket, before it is bound.

use std::collections::HashMap;
use std::fs::read_to_string;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;

use crate::cluster::address::Protocol;
use crate::cluster::calls::call::SetSockOptArgs;
use crate::cluster::mechanism::Mechanism;
use crate::cluster::sys::{self, SocketKind};
use crate::process::process_ref::pidfd_open;
use crate::process::seccomp::{Caller, SocketFd, pidfd_getfd};

/// Options of at most this many sockets are recorded: they are needed only between `setsockopt` and `bind`.
const MAX_SOCKETS: usize = 1024;

/// Options that were set on a socket which cannot be duplicated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct SocketOptions {
    /// `None`: never set.
    v6_only: Option<bool>,
    reuse_port: bool,
    /// It is bound to a network device, or may be bound to an address of another machine: a socket of rsm in its place
    /// would listen elsewhere.
    irreplaceable: bool,
}

/// Recorded options by inode.
#[derive(Debug, Default)]
pub(crate) struct RecordedOptions(HashMap<u64, SocketOptions>);

impl RecordedOptions {
    /// Records the option that a call sets.
    pub fn record(&mut self, inode: u64, call: &SetSockOptArgs, value: bool) {
        if self.0.len() >= MAX_SOCKETS {
            self.0.clear();
        }
        let options = self.0.entry(inode).or_default();
        match (call.level, call.option) {
            (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY) => options.v6_only = Some(value),
            (libc::SOL_SOCKET, libc::SO_REUSEPORT) => options.reuse_port = value,
            _ => options.irreplaceable |= value,
        }
    }
}

/// A program's socket.
#[derive(Debug)]
pub(crate) struct InspectedSocket {
    pub kind: SocketKind,
    /// Inode, and flags of the descriptor.
    pub fd: SocketFd,
    pub v6_only: bool,
    /// Whether the program itself has set `SO_REUSEPORT`.
    pub reuse_port: bool,
    /// With [`Mechanism::Duplicate`].
    duplicate: Option<OwnedFd>,
}

/// The socket that rsm binds.
pub(crate) enum SocketToBind {
    /// The socket of the program.
    Own(OwnedFd),
    /// A new socket that must replace the one of the program.
    Replacement(OwnedFd),
}

impl InspectedSocket {
    /// Inspects the socket behind a descriptor of the caller; `None` if it is not a TCP or UDP socket that can share its
    /// port.
    ///
    /// # Errors
    /// `EPERM` or `EACCES`: rsm may not inspect the process.
    pub fn inspect(
        mechanism: Mechanism,
        caller: &Caller,
        number: i32,
        options: &RecordedOptions,
    ) -> nix::Result<Option<Self>> {
        let fd = match SocketFd::of(caller.pid, number) {
            // Not a socket, or not open: the kernel reports the error.
            Err(Errno::ENOTSOCK | Errno::ENOENT | Errno::ESRCH) => return Ok(None),
            other => other?,
        };
        if mechanism == Mechanism::Duplicate {
            return Self::inspect_duplicate(caller, number, fd);
        }
        let Some(kind) = SocketKind::of_process(caller.pid, number) else { return Ok(None) };
        let options = options.0.get(&fd.inode).copied().unwrap_or_default();
        let SocketOptions { v6_only, reuse_port, irreplaceable } = options;
        if irreplaceable {
            return Ok(None);
        }
        let v6_only = kind.is_v6 && v6_only.unwrap_or_else(default_v6_only);
        Ok(Some(Self { kind, fd, v6_only, reuse_port, duplicate: None }))
    }

    fn inspect_duplicate(caller: &Caller, number: i32, fd: SocketFd) -> nix::Result<Option<Self>> {
        let process = pidfd_open(caller.pid)?;
        let duplicate = pidfd_getfd(process.as_fd(), number)?;
        let socket = duplicate.as_fd();
        // The kernel groups sockets that are bound to a network device apart from others. A socket of another network
        // namespace is bound there, where the rights of rsm may be greater than those of the caller.
        let is_shareable = || !sys::is_bound_to_device(socket) && sys::is_in_own_netns(socket);
        let Some(kind) = SocketKind::of(socket).filter(|_| is_shareable()) else { return Ok(None) };
        let v6_only = kind.is_v6 && sys::v6_only(socket);
        let reuse_port = sys::reuse_port(socket);
        Ok(Some(Self { kind, fd, v6_only, reuse_port, duplicate: Some(duplicate) }))
    }

    /// The socket to bind.
    ///
    /// # Errors
    /// The system is out of descriptors or memory.
    pub fn socket_to_bind(&mut self) -> nix::Result<SocketToBind> {
        // A group of multipath sockets cannot be steered.
        match self.duplicate.take_if(|_| !self.kind.is_multipath) {
            Some(own) => Ok(SocketToBind::Own(own)),
            None => self.new_like().map(SocketToBind::Replacement),
        }
    }

    /// A new socket of the same kind.
    ///
    /// # Errors
    /// The system is out of descriptors or memory.
    pub fn new_like(&self) -> nix::Result<OwnedFd> {
        let socket = sys::new_like(self.kind)?;
        if self.kind.is_v6 {
            sys::set_v6_only(socket.as_fd(), self.v6_only)?;
        }
        Ok(socket)
    }

    pub fn is_tcp(&self) -> bool {
        self.kind.protocol == Protocol::Tcp
    }
}

fn default_v6_only() -> bool {
    read_to_string("/proc/sys/net/ipv6/bindv6only").is_ok_and(|text| text.trim() == "1")
}

/// The lowest port that unprivileged programs may bind.
pub(crate) fn first_unprivileged_port() -> u16 {
    let text = read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").ok();
    text.and_then(|text| text.trim().parse().ok()).unwrap_or(1024)
}
