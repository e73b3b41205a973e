//! Round-robin by eBPF: each eligible slot gets one connection per round, and rounds start at different slots.
//!
//! More even than random choice (2,000 connections to four slots: 500 each instead of 500 ± 19), but the kernel lets
//! only privileged daemons attach an eBPF program with a counter. All others use [`cbpf`](super::cbpf).
//!
//! A slot can skip some of its turns ([`rebalance`](super::rebalance)) for a short time: a slot must not stay without
//! connections when the daemon dies.
#![allow(unsafe_code)]

mod program;

use std::os::fd::BorrowedFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::time::{ClockId, clock_gettime};

use crate::cluster::steering::ebpf::{self, Map, MapKind, ProgramKind};
use crate::cluster::steering::round_robin::program::{KEY_COUNTER, KEY_SKIP_BASE, KEY_SKIP_UNTIL, program};
use crate::cluster::steering::{ProbeRoute, SteeringTarget};

/// With more slots, or more sockets of a slot, connections are distributed at random.
const MAX_TARGETS: usize = 128;

/// The map of an attached program: counter and skip probabilities.
#[derive(Debug)]
pub(super) struct RoundRobin(Map);

impl RoundRobin {
    /// Attaches a program that serves the eligible targets in turn to the group of this socket.
    ///
    /// # Errors
    /// `EPERM`: missing privileges. `E2BIG`: no eligible target, or too many. The previous program stays attached.
    pub fn attach(
        fd: BorrowedFd<'_>,
        targets: &[SteeringTarget],
        routes: &[ProbeRoute],
    ) -> nix::Result<Self> {
        let eligible: Vec<&SteeringTarget> = targets.iter().filter(|target| target.is_eligible()).collect();
        if eligible.is_empty()
            || eligible.len() > MAX_TARGETS
            || routes.len() > MAX_TARGETS
            || eligible.iter().any(|target| target.members.len() > MAX_TARGETS)
        {
            return Err(Errno::E2BIG);
        }
        let map = Map::new(MapKind::Array, KEY_SKIP_BASE + eligible.len() as u32)?;
        ebpf::attach(fd, ProgramKind::SocketFilter, &program(&eligible, routes, map.number()))?;
        Ok(Self(map))
    }

    /// Number of turns since the program was attached.
    pub fn dispatched(&self) -> nix::Result<u64> {
        self.0.get(KEY_COUNTER)
    }

    /// Makes slots skip turns for a while. `probabilities`: of the eligible slots in their order, in units of 2^-32.
    pub fn set_skip_probabilities(&self, probabilities: &[u64], duration: Duration) -> nix::Result<()> {
        for (key, probability) in (KEY_SKIP_BASE..).zip(probabilities) {
            self.0.set(key, *probability)?;
        }
        let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?);
        self.0.set(KEY_SKIP_UNTIL, u64::try_from((now + duration).as_nanos()).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::os::fd::{AsFd, AsRawFd};

    use super::*;
    use crate::cluster::steering::fixture::{group, need_root};
    use crate::cluster::sys;
    use crate::cluster::sys::SocketKind;

    fn target(accepting: bool, members: &[u32]) -> SteeringTarget {
        SteeringTarget { accepting, members: members.to_vec(), key: 0 }
    }

    #[test]
    fn attaching_needs_privileges() {
        // The bare system call: unlike the function of libc, it changes only this thread.
        let unprivileged = std::thread::spawn(|| {
            // SAFETY: it takes three numbers. It fails for other users than root, which are unprivileged anyway.
            let _ = unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) };
            let (group, _) = group(1);
            RoundRobin::attach(group[0].as_fd(), &[target(true, &[0])], &[]).map(drop)
        });
        // Succeeds where the kernel allows unprivileged users.
        assert!(matches!(unprivileged.join().unwrap(), Err(Errno::EPERM) | Ok(())));
    }

    #[test]
    fn serves_eligible_slots_in_turn() {
        let (group, address) = group(6);
        let targets = [
            target(true, &[0]),
            target(false, &[1]),
            target(true, &[2, 3]),
            target(true, &[4]),
            target(true, &[5]),
        ];
        need_root();
        RoundRobin::attach(group[0].as_fd(), &targets, &[]).unwrap();
        let _clients: Vec<_> = (0..80).map(|_| TcpStream::connect(address).unwrap()).collect();
        let counts: Vec<u32> =
            group.iter().map(|member| sys::accept_queue_length(member.as_fd()).unwrap()).collect();
        assert_eq!(counts, [20, 0, 10, 10, 20, 20]);
    }

    #[test]
    fn skips_turns_until_deadline() {
        need_root();
        let (group, address) = group(3);
        let targets = [target(true, &[0]), target(true, &[1]), target(true, &[2])];
        let program = RoundRobin::attach(group[0].as_fd(), &targets, &[]).unwrap();
        let connect =
            |count: u64| -> Vec<_> { (0..count).map(|_| TcpStream::connect(address).unwrap()).collect() };
        let queues = || -> Vec<u32> {
            group.iter().map(|member| sys::accept_queue_length(member.as_fd()).unwrap()).collect()
        };
        program.set_skip_probabilities(&[1 << 32, 0, 1 << 32], Duration::from_secs(3600)).unwrap();
        let _first = connect(60);
        // After three skips, a connection stays where it is.
        let before = queues();
        assert!(before[1] > 20 + 40 / 2, "{before:?}");
        program.set_skip_probabilities(&[1 << 32, 0, 1 << 32], Duration::ZERO).unwrap();
        let _second = connect(30);
        let gained: Vec<u32> = queues().iter().zip(&before).map(|(now, before)| now - before).collect();
        assert_eq!(gained, [10, 10, 10]);
        assert_eq!(program.dispatched().unwrap(), 90);
    }

    #[test]
    fn probe_routes_bypass_turns() {
        need_root();
        let (group, address) = group(3);
        let targets = [target(true, &[0]), target(true, &[1]), target(false, &[2])];
        let routes =
            [0, 1, 2].map(|index| ProbeRoute { source: ProbeRoute::address(700 + u64::from(index)), index });
        RoundRobin::attach(group[0].as_fd(), &targets, &routes).unwrap();
        let from = |source: std::net::Ipv4Addr| {
            let client = sys::new_like(SocketKind::tcp(false)).unwrap();
            sys::bind(client.as_fd(), (source, 0).into()).unwrap();
            let to: nix::sys::socket::SockaddrStorage = address.into();
            nix::sys::socket::connect(client.as_raw_fd(), &to).unwrap();
            client
        };
        let _clients: Vec<_> =
            (0..4).map(|_| from(routes[2].source)).chain([from(routes[0].source)]).collect();
        let counts: Vec<u32> =
            group.iter().map(|member| sys::accept_queue_length(member.as_fd()).unwrap()).collect();
        assert_eq!(counts, [1, 0, 4]);
        let _others: Vec<_> = (0..20).map(|_| TcpStream::connect(address).unwrap()).collect();
        let counts: Vec<u32> =
            group.iter().map(|member| sys::accept_queue_length(member.as_fd()).unwrap()).collect();
        assert_eq!(counts, [11, 10, 4]);
    }

    #[test]
    fn rejects_no_target_and_too_many() {
        let (group, _) = group(1);
        let none = [target(false, &[0])];
        assert_eq!(RoundRobin::attach(group[0].as_fd(), &none, &[]).err(), Some(Errno::E2BIG));
        let many: Vec<u32> = (0..1000).collect();
        let many = [target(true, &many)];
        assert_eq!(RoundRobin::attach(group[0].as_fd(), &many, &[]).err(), Some(Errno::E2BIG));
    }
}
