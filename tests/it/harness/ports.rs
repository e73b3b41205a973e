//! Ports for the programs of tests, each given to one test only.
//!
//! A port that was bound to port 0 and released again may be taken by anybody before the program of the
//! test binds it. These ports lie outside the range from which the kernel takes ports by itself, and an
//! abstract Unix socket marks each as taken by this process, in the same network namespace, until it ends.

use std::fs;
use std::net::{Ipv6Addr, TcpListener, UdpSocket};
use std::ops::Range;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::Mutex;

/// Ports below this need a capability.
const UNPRIVILEGED: u16 = 1024;

/// The marks of this process.
static OWNED: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());

/// A port that nothing listens on and that no other test gets.
pub fn free_port() -> u16 {
    free_ports(1)
}

/// The first of `count` consecutive ports.
pub fn free_ports(count: u16) -> u16 {
    reserve(unassigned(), count)
}

/// A port that only privileged processes may bind.
pub fn privileged_port() -> u16 {
    reserve(600..UNPRIVILEGED, 1)
}

fn reserve(range: Range<u16>, count: u16) -> u16 {
    let mut owned = OWNED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    // By chance: connections to the ports of a process before this one may still linger.
    for first in std::iter::repeat_with(|| fastrand::u16(range.start..range.end - count)).take(10_000) {
        if let Some(marks) = (first..first + count).map(mark).collect::<Option<Vec<_>>>() {
            owned.extend(marks);
            return first;
        }
    }
    panic!("no {count} free ports in {range:?}");
}

/// Takes a port for this process, if nobody has it.
fn mark(port: u16) -> Option<UnixListener> {
    let name = SocketAddr::from_abstract_name(format!("rsm-test-port-{port}")).unwrap();
    let mark = UnixListener::bind_addr(&name).ok()?;
    let any = (Ipv6Addr::UNSPECIFIED, port);
    (TcpListener::bind(any).is_ok() && UdpSocket::bind(any).is_ok()).then_some(mark)
}

/// Ports that the kernel does not give to clients and to who binds port 0.
fn unassigned() -> Range<u16> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut words = text.split_whitespace().filter_map(|word| word.parse::<u16>().ok());
    let (low, high) = (words.next().unwrap_or(32_768), words.next().unwrap_or(60_999));
    match (low, high) {
        (12_000.., _) => 10_000..low,
        (_, ..64_000) => high + 1..u16::MAX,
        _ => 10_000..u16::MAX,
    }
}

#[test]
fn free_ports_are_given_once() {
    let mut ports: Vec<u16> = (0..20).map(|_| free_port()).collect();
    let first = free_ports(3);
    ports.extend(first..first + 3);
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 23);
    assert!(mark(ports[0]).is_none());
}
