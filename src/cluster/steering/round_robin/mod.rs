//! Round-robin by eBPF: each eligible slot gets one connection per round, and rounds start at different slots.
//!
//! More even than random choice (2,000 connections to four slots: 500 each instead of 500 ± 19), but the kernel lets
//! only privileged daemons attach an eBPF program with a counter. All others use [`cbpf`](super::cbpf).
//!
//! A slot can skip some of its turns ([`rebalance`](super::rebalance)) for a short time: a slot must not stay without
//! connections when the daemon dies.
#![allow(unsafe_code)]

mod program;

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::time::{ClockId, clock_gettime};

use crate::cluster::steering::round_robin::program::{
    EbpfInstruction, KEY_COUNTER, KEY_SKIP_BASE, KEY_SKIP_UNTIL, program,
};
use crate::cluster::steering::{ProbeRoute, SteeringTarget};

/// Commands of `bpf(2)`, and types of maps and programs, from `linux/bpf.h`.
const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_LOOKUP_ELEM: libc::c_int = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_PROG_TYPE_SOCKET_FILTER: u32 = 1;

/// Socket option, from `asm-generic/socket.h`.
const SO_ATTACH_REUSEPORT_EBPF: libc::c_int = 52;

/// With more slots, or more sockets of a slot, connections are distributed at random.
const MAX_TARGETS: usize = 128;

/// The map of an attached program: counter and skip probabilities.
#[derive(Debug)]
pub(super) struct RoundRobin(OwnedFd);

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
        let map = create_map(KEY_SKIP_BASE + eligible.len() as u32)?;
        let program = load_program(&program(&eligible, routes, map.as_raw_fd()))?;
        let program_fd = program.as_raw_fd();
        let length = size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: the kernel reads one number. The group keeps program and map open, so the program's descriptor may
        // be closed.
        let result = unsafe {
            libc::setsockopt(
                fd.as_raw_fd(),
                libc::SOL_SOCKET,
                SO_ATTACH_REUSEPORT_EBPF,
                (&raw const program_fd).cast(),
                length,
            )
        };
        Errno::result(result).map(|_| Self(map))
    }

    /// Number of turns since the program was attached.
    pub fn dispatched(&self) -> nix::Result<u64> {
        let mut value = 0u64;
        self.map_access(BPF_MAP_LOOKUP_ELEM, KEY_COUNTER, &mut value).map(|()| value)
    }

    /// Makes slots skip turns for a while. `probabilities`: of the eligible slots in their order, in units of 2^-32.
    pub fn set_skip_probabilities(&self, probabilities: &[u64], duration: Duration) -> nix::Result<()> {
        for (key, probability) in (KEY_SKIP_BASE..).zip(probabilities) {
            self.map_access(BPF_MAP_UPDATE_ELEM, key, &mut probability.clone())?;
        }
        let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?);
        let mut skip_until = u64::try_from((now + duration).as_nanos()).unwrap_or(u64::MAX);
        self.map_access(BPF_MAP_UPDATE_ELEM, KEY_SKIP_UNTIL, &mut skip_until)
    }

    fn map_access(&self, command: libc::c_int, key: u32, value: &mut u64) -> nix::Result<()> {
        #[repr(C)]
        struct BpfAttr {
            map_fd: u64,
            key: u64,
            value: u64,
            flags: u64,
        }
        let (map_fd, key) = (u64::from(self.0.as_raw_fd().cast_unsigned()), &raw const key as u64);
        bpf(command, &BpfAttr { map_fd, key, value: &raw mut *value as u64, flags: 0 }).map(drop)
    }
}

fn create_map(entries: u32) -> nix::Result<OwnedFd> {
    #[repr(C)]
    struct BpfAttr {
        map_type: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
        map_flags: u32,
    }
    bpf_new_fd(
        BPF_MAP_CREATE,
        &BpfAttr {
            map_type: BPF_MAP_TYPE_ARRAY,
            key_size: size_of::<u32>() as u32,
            value_size: size_of::<u64>() as u32,
            max_entries: entries,
            map_flags: 0,
        },
    )
}

fn load_program(program: &[EbpfInstruction]) -> nix::Result<OwnedFd> {
    #[repr(C)]
    struct BpfAttr {
        prog_type: u32,
        insn_cnt: u32,
        insns: u64,
        license: u64,
        /// `log_level`, `log_size` and `log_buf`: no log.
        log: [u64; 2],
        kern_version: u32,
        prog_flags: u32,
    }
    bpf_new_fd(
        BPF_PROG_LOAD,
        &BpfAttr {
            prog_type: BPF_PROG_TYPE_SOCKET_FILTER,
            insn_cnt: program.len() as u32,
            insns: program.as_ptr() as u64,
            license: c"MIT".as_ptr() as u64,
            log: [0; 2],
            kern_version: 0,
            prog_flags: 0,
        },
    )
}

fn bpf<T>(command: libc::c_int, attributes: &T) -> nix::Result<libc::c_long> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes, and what they point to outlives the call.
    Errno::result(unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>())
    })
}

fn bpf_new_fd<T>(command: libc::c_int, attributes: &T) -> nix::Result<OwnedFd> {
    let fd = bpf(command, attributes)?;
    let fd = i32::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just created it for this call, with close-on-exec set.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use super::*;
    use crate::cluster::address::Protocol;
    use crate::cluster::sys;
    use crate::cluster::sys::SocketKind;

    fn group(members: usize) -> (Vec<TcpListener>, SocketAddr) {
        let mut address = "127.0.0.1:0".parse().unwrap();
        let group = (0..members).map(|_| {
            let member =
                sys::new_like(SocketKind { is_v6: false, protocol: Protocol::Tcp, is_multipath: false })
                    .unwrap();
            sys::set_reuse_port(member.as_fd(), true).unwrap();
            sys::bind(member.as_fd(), address).unwrap();
            address = sys::local_address(member.as_fd()).unwrap();
            sys::listen(member.as_fd(), 128).unwrap();
            TcpListener::from(member)
        });
        (group.collect(), address)
    }

    fn target(accepting: bool, members: &[u32]) -> SteeringTarget {
        SteeringTarget { accepting, members: members.to_vec() }
    }

    /// Fails instead of passing without a test.
    fn need_root() {
        assert!(nix::unistd::geteuid().is_root(), "this test needs root: run it as root, as in CI");
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
            let client =
                sys::new_like(SocketKind { is_v6: false, protocol: Protocol::Tcp, is_multipath: false })
                    .unwrap();
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
