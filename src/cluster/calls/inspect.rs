//! Looking at a program's socket: what it is, and how it wants to share its port.

use std::collections::HashMap;
use std::fs::read_to_string;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;

use crate::cluster::address::Protocol;
use crate::cluster::mechanism::Mechanism;
use crate::cluster::sys;
use crate::cluster::sys::SocketKind;
use crate::process::process_ref::pidfd_open;
use crate::process::seccomp::{Caller, SocketFd, pidfd_getfd};

/// Options that were set on a socket which we cannot look into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketOptions {
    /// `IPV6_V6ONLY`, if it was set at all.
    pub v6_only: Option<bool>,
    /// `SO_REUSEPORT`.
    pub reuse_port: bool,
}

/// A program's socket.
#[derive(Debug)]
pub struct InspectedSocket {
    /// What it is.
    pub kind: SocketKind,
    /// Its number in the kernel, and the flags of its descriptor.
    pub fd: SocketFd,
    /// It takes IPv6 alone.
    pub only_v6: bool,
    /// The program asked to share its port itself.
    pub reuse_port: bool,
    /// The socket itself, where we can have it.
    pub duplicate: Option<OwnedFd>,
}

impl InspectedSocket {
    /// At a descriptor of the caller; `None` if it is no TCP or UDP socket.
    ///
    /// # Errors
    /// We may not look there.
    pub fn inspect(
        path: Mechanism,
        caller: &Caller,
        number: i32,
        options: &HashMap<u64, SocketOptions>,
    ) -> nix::Result<Option<Self>> {
        let file = match SocketFd::of(caller.pid, number) {
            // No socket, no such descriptor: the kernel shall say so.
            Err(Errno::ENOTSOCK | Errno::ENOENT | Errno::ESRCH) => return Ok(None),
            other => other?,
        };
        if path == Mechanism::Duplicate {
            return Self::inspect_remote(caller, number, file);
        }
        let Some(kind) = SocketKind::of_process(caller.pid, number) else { return Ok(None) };
        let SocketOptions { v6_only: only_v6, reuse_port } =
            options.get(&file.inode).copied().unwrap_or_default();
        let only_v6 = kind.is_v6 && only_v6.unwrap_or_else(only_v6_by_default);
        Ok(Some(Self { kind, fd: file, only_v6, reuse_port, duplicate: None }))
    }

    fn inspect_remote(caller: &Caller, number: i32, file: SocketFd) -> nix::Result<Option<Self>> {
        let process = pidfd_open(caller.pid)?;
        let taken = pidfd_getfd(process.as_fd(), number)?;
        // One that is bound to a network device is a group of its own, and nobody's default.
        let Some(kind) = SocketKind::of(taken.as_fd()).filter(|_| !sys::is_bound_to_device(taken.as_fd()))
        else {
            return Ok(None);
        };
        let only_v6 = kind.is_v6 && sys::v6_only(taken.as_fd());
        let reuse_port = sys::reuse_port(taken.as_fd());
        Ok(Some(Self { kind, fd: file, only_v6, reuse_port, duplicate: Some(taken) }))
    }

    /// The socket to use: the program's own, or one like it (and true) that must take its place.
    ///
    /// # Errors
    /// The system is out of descriptors or memory.
    pub fn socket_to_bind(&mut self) -> nix::Result<(OwnedFd, bool)> {
        // Multipath sockets cannot be steered.
        if let Some(own) = self.duplicate.take_if(|_| !self.kind.is_multipath) {
            return Ok((own, false));
        }
        Ok((self.new_like()?, true))
    }

    /// A new socket like this one.
    ///
    /// # Errors
    /// The system is out of descriptors or memory.
    pub fn new_like(&self) -> nix::Result<OwnedFd> {
        let new = sys::new_like(self.kind)?;
        if self.kind.is_v6 {
            sys::set_v6_only(new.as_fd(), self.only_v6)?;
        }
        Ok(new)
    }

    /// Whether it carries connections.
    pub fn is_tcp(&self) -> bool {
        self.kind.protocol == Protocol::Tcp
    }
}

fn only_v6_by_default() -> bool {
    read_to_string("/proc/sys/net/ipv6/bindv6only").is_ok_and(|text| text.trim() == "1")
}

/// Below this port only privileged programs may bind.
pub fn first_free_port() -> u16 {
    let text = read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").ok();
    text.and_then(|text| text.trim().parse().ok()).unwrap_or(1024)
}
