//! Groups of listening sockets for the tests of steering.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;

use crate::cluster::sys::{self, SocketKind};

/// A reuseport group of listening sockets, and its address.
pub(super) fn group(members: usize) -> (Vec<TcpListener>, SocketAddr) {
    let mut address = "127.0.0.1:0".parse().unwrap();
    let group = (0..members).map(|_| {
        let member = sys::new_like(SocketKind::tcp(false)).unwrap();
        sys::set_reuse_port(member.as_fd(), true).unwrap();
        sys::bind(member.as_fd(), address).unwrap();
        address = sys::local_address(member.as_fd()).unwrap();
        sys::listen(member.as_fd(), 128).unwrap();
        TcpListener::from(member)
    });
    (group.collect(), address)
}

/// Fails instead of passing without a test.
pub(super) fn need_root() {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root: run it as root, as in CI");
}
