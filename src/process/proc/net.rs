//! Established TCP connections and listening sockets of processes (`proc_net_tcp(5)`).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;

use super::fds;

/// `TCP_ESTABLISHED` in the kernel's tables.
const ESTABLISHED: &str = "01";

/// `TCP_LISTEN` in the kernel's tables.
const LISTEN: &str = "0A";

/// `__SO_ACCEPTCON`, in the flags of Unix sockets.
const ACCEPTS_CONNECTIONS: u64 = 1 << 16;

/// Inodes of all listening TCP and Unix sockets in the network namespace of a process.
pub fn listening_inodes(pid: i32) -> HashSet<u64> {
    let table = |name: &str| fs::read_to_string(format!("/proc/{pid}/net/{name}")).unwrap_or_default();
    let tcp = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        (words.nth(3)? == LISTEN).then_some(())?;
        words.nth(5)?.parse::<u64>().ok()
    };
    let unix = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let flags = u64::from_str_radix(words.nth(3)?, 16).ok()?;
        (flags & ACCEPTS_CONNECTIONS != 0).then_some(())?;
        words.nth(2)?.parse::<u64>().ok()
    };
    let mut inodes: HashSet<u64> = table("unix").lines().filter_map(unix).collect();
    for name in ["tcp", "tcp6"] {
        inodes.extend(table(name).lines().filter_map(tcp));
    }
    inodes
}

/// Counts the established connections of each group of processes on its ports. Processes that may not be
/// inspected are not counted.
pub fn count_established(groups: &BTreeMap<u32, (Vec<i32>, BTreeSet<u16>)>) -> BTreeMap<u32, u64> {
    let ports: BTreeSet<u16> = groups.values().flat_map(|(_, ports)| ports).copied().collect();
    let mut sockets = HashMap::new();
    for file in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let table = fs::read_to_string(file).unwrap_or_default(); // no IPv6: no such file
        sockets.extend(table.lines().filter_map(parse_established).filter(|(_, port)| ports.contains(port)));
    }
    let count = |(pids, ports): &(Vec<i32>, BTreeSet<u16>)| {
        let inodes: BTreeSet<u64> = match sockets.is_empty() {
            true => BTreeSet::new(),
            false => {
                pids.iter().flat_map(|pid| fds::sockets(*pid)).flatten().map(|(_, inode)| inode).collect()
            }
        };
        let own = inodes.iter().filter(|inode| sockets.get(inode).is_some_and(|port| ports.contains(port)));
        own.count() as u64
    };
    groups.iter().map(|(id, group)| (*id, count(group))).collect()
}

/// Whether any program listens on a TCP port.
pub fn is_listening(port: u16) -> bool {
    !inodes_at(port).is_empty()
}

/// The processes that listen on a TCP port. Those that may not be inspected are missing.
pub fn listeners(port: u16) -> Vec<i32> {
    let inodes = inodes_at(port);
    if inodes.is_empty() {
        return Vec::new();
    }
    let has_one =
        |pid: &i32| fds::sockets(*pid).into_iter().flatten().any(|(_, inode)| inodes.contains(&inode));
    super::stat::all_pids().into_iter().filter(has_one).collect()
}

/// The inodes of the sockets that listen on a TCP port.
fn inodes_at(port: u16) -> BTreeSet<u64> {
    let mut inodes = BTreeSet::new();
    for file in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let table = fs::read_to_string(file).unwrap_or_default();
        let listening = table.lines().filter_map(|line| parse_socket(line, LISTEN));
        inodes.extend(listening.filter(|(_, other)| *other == port).map(|(inode, _)| inode));
    }
    inodes
}

/// Inode and local port of an established connection; `None` for other lines.
fn parse_established(line: &str) -> Option<(u64, u16)> {
    parse_socket(line, ESTABLISHED)
}

/// Inode and local port of a socket in this state; `None` for other lines.
fn parse_socket(line: &str, state: &str) -> Option<(u64, u16)> {
    let mut words = line.split_ascii_whitespace();
    let (_, port) = words.nth(1)?.rsplit_once(':')?;
    (words.nth(1)? == state).then_some(())?;
    Some((words.nth(5)?.parse().ok()?, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn counts_connections_on_port() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let me = std::process::id().cast_signed();
        let count = || {
            count_established(&BTreeMap::from([
                (7, (vec![me], BTreeSet::from([port]))),
                (8, (vec![], [port].into())),
            ]))
        };
        assert_eq!(count(), [(7, 0), (8, 0)].into());
        let clients =
            [(); 3].map(|()| (TcpStream::connect(("127.0.0.1", port)).unwrap(), listener.accept().unwrap()));
        // The clients' ends have other ports.
        assert_eq!(count(), [(7, 3), (8, 0)].into());
        drop(clients);
    }

    #[test]
    fn finds_listening_sockets() {
        use std::os::fd::AsFd;
        let dir = tempfile::tempdir().unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(tcp.local_addr().unwrap()).unwrap();
        let unix = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
        let inode = |fd: std::os::fd::BorrowedFd<'_>| nix::sys::stat::fstat(fd).unwrap().st_ino;
        let listening = listening_inodes(std::process::id().cast_signed());
        assert!(listening.contains(&inode(tcp.as_fd())) && listening.contains(&inode(unix.as_fd())));
        assert!(!listening.contains(&inode(client.as_fd())));
    }

    #[test]
    fn ignores_other_lines() {
        let line =
            "   1: 0100007F:1F90 0100007F:D2F4 01 00000000:00000000 00:00000000 00000000  1000 0 4242 1 x";
        assert_eq!(parse_established(line), Some((4242, 8080)));
        assert_eq!(parse_established(&line.replace(" 01 ", " 0A ")), None);
        assert_eq!(parse_established("  sl  local_address rem_address   st tx_queue"), None);
    }
}
