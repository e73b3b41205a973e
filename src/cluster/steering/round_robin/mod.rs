//! Connections in rounds: each open slot gets one in each round, which begins at another slot each time.
//!
//! More even than chance (of 2,000 connections to four slots chance gives each 500, give or take 19), but the
//! kernel lets only privileged daemons count: it takes an eBPF program with a counter. Everybody else
//! has [`steer`](super::steer).
//!
//! A slot may be told to pass some of its turns on to others (see [`even`](super::even)), until a moment
//! that comes soon: a daemon that dies must not leave a slot without connections.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::time::{ClockId, clock_gettime};

use crate::cluster::steering::round_robin::program::{
    EbpfInstruction, KEY_COUNTER, KEY_SKIP_BASE, KEY_SKIP_UNTIL, program,
};

use crate::cluster::steering::{ProbeRoute, SteeringTarget};

mod program;

/// Commands of `bpf(2)`, and types of maps and programs.
const MAP_CREATE: libc::c_int = 0;
const MAP_LOOKUP: libc::c_int = 1;
const MAP_UPDATE: libc::c_int = 2;
const PROG_LOAD: libc::c_int = 5;
const MAP_TYPE_ARRAY: u32 = 2;
const PROG_TYPE_SOCKET_FILTER: u32 = 1;

/// `SO_ATTACH_REUSEPORT_EBPF`.
const SO_ATTACH_REUSEPORT_EBPF: libc::c_int = 52;

/// More slots, or more sockets of a slot, than this are left to chance.
const MAX_TARGETS: usize = 128;

/// The turns of a group, while its program is the one that was attached with them.
#[derive(Debug)]
pub struct RoundRobin(OwnedFd);

impl RoundRobin {
    /// Has the group of this socket serve the open ones of `targets` in turn.
    ///
    /// # Errors
    /// `EPERM`: we may not. `E2BIG`: too many. The group's former program stays.
    pub fn attach(fd: BorrowedFd<'_>, targets: &[SteeringTarget], doors: &[ProbeRoute]) -> nix::Result<Self> {
        let open: Vec<&SteeringTarget> = targets.iter().filter(|target| target.is_eligible()).collect();
        if open.is_empty()
            || open.len() > MAX_TARGETS
            || doors.len() > MAX_TARGETS
            || open.iter().any(|target| target.members.len() > MAX_TARGETS)
        {
            return Err(Errno::E2BIG);
        }
        let map = create_map(KEY_SKIP_BASE + open.len() as u32)?;
        let program = load_program(&program(&open, doors, map.as_raw_fd()))?;
        let number = program.as_raw_fd();
        let length = size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: the kernel reads one number; the group keeps program and map, ours may be closed.
        let done = unsafe {
            libc::setsockopt(
                fd.as_raw_fd(),
                libc::SOL_SOCKET,
                SO_ATTACH_REUSEPORT_EBPF,
                (&raw const number).cast(),
                length,
            )
        };
        Errno::result(done).map(|_| Self(map))
    }

    /// How many turns there were.
    ///
    /// # Errors
    /// None that is known.
    pub fn dispatched(&self) -> nix::Result<u64> {
        let mut value = 0u64;
        self.map_access(MAP_LOOKUP, KEY_COUNTER, &mut value).map(|()| value)
    }

    /// For so long each slot passes some of its turns on to others: `chances` of the open ones, in their order,
    /// in parts of 2^32.
    ///
    /// # Errors
    /// None that is known.
    pub fn set_skip_probabilities(&self, chances: &[u64], time: Duration) -> nix::Result<()> {
        for (place, chance) in (KEY_SKIP_BASE..).zip(chances) {
            self.map_access(MAP_UPDATE, place, &mut chance.clone())?;
        }
        let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?);
        self.map_access(
            MAP_UPDATE,
            KEY_SKIP_UNTIL,
            &mut u64::try_from((now + time).as_nanos()).unwrap_or(u64::MAX),
        )
    }

    fn map_access(&self, command: libc::c_int, place: u32, value: &mut u64) -> nix::Result<()> {
        #[repr(C)]
        struct Attributes {
            map: u64,
            key: u64,
            value: u64,
            flags: u64,
        }
        let (map, key) = (u64::from(self.0.as_raw_fd().cast_unsigned()), &raw const place as u64);
        bpf(command, &Attributes { map, key, value: &raw mut *value as u64, flags: 0 }).map(drop)
    }
}

fn create_map(numbers: u32) -> nix::Result<OwnedFd> {
    /// Type, size of a key, size of a value, entries, flags.
    #[repr(C)]
    struct Attributes([u32; 5]);
    bpf_new_fd(MAP_CREATE, &Attributes([MAP_TYPE_ARRAY, 4, 8, numbers, 0]))
}

fn load_program(program: &[EbpfInstruction]) -> nix::Result<OwnedFd> {
    #[repr(C)]
    struct Attributes {
        kind: u32,
        count: u32,
        program: u64,
        license: u64,
        log: [u64; 2],
        version: u32,
        flags: u32,
    }
    bpf_new_fd(
        PROG_LOAD,
        &Attributes {
            kind: PROG_TYPE_SOCKET_FILTER,
            count: program.len() as u32,
            program: program.as_ptr() as u64,
            license: c"MIT".as_ptr() as u64,
            log: [0; 2],
            version: 0,
            flags: 0,
        },
    )
}

fn bpf<T>(command: libc::c_int, attributes: &T) -> nix::Result<libc::c_long> {
    // SAFETY: the kernel reads as many bytes as it is told, and what they point to lives on.
    Errno::result(unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>())
    })
}

fn bpf_new_fd<T>(command: libc::c_int, attributes: &T) -> nix::Result<OwnedFd> {
    let fd = bpf(command, attributes)?;
    let fd = i32::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: just made for us; close-on-exec by definition.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use crate::cluster::address::Protocol;
    use crate::cluster::steering::round_robin::*;
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

    fn target(open: bool, members: &[u32]) -> SteeringTarget {
        SteeringTarget { accepting: open, members: members.to_vec() }
    }

    /// A test that cannot run never passes.
    fn need_root() {
        assert!(nix::unistd::geteuid().is_root(), "this test needs root: run it as root, as in CI");
    }

    #[test]
    fn attaching_turns_needs_privileges() {
        // The system call itself: unlike that of libc, it changes only this thread.
        let unprivileged = std::thread::spawn(|| {
            // SAFETY: it takes three numbers. Who is not root may set what it is already.
            let _ = unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) };
            let (group, _) = group(1);
            RoundRobin::attach(group[0].as_fd(), &[target(true, &[0])], &[]).map(drop)
        });
        // Unless the machine allows everybody.
        assert!(matches!(unprivileged.join().unwrap(), Err(Errno::EPERM) | Ok(())));
    }

    #[test]
    fn each_slot_gets_its_turn() {
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
    fn turns_are_passed_on_for_a_while() {
        need_root();
        let (group, address) = group(3);
        let targets = [target(true, &[0]), target(true, &[1]), target(true, &[2])];
        let turns = RoundRobin::attach(group[0].as_fd(), &targets, &[]).unwrap();
        let connect =
            |count: u64| -> Vec<_> { (0..count).map(|_| TcpStream::connect(address).unwrap()).collect() };
        let waiting = || -> Vec<u32> {
            group.iter().map(|member| sys::accept_queue_length(member.as_fd()).unwrap()).collect()
        };
        turns.set_skip_probabilities(&[1 << 32, 0, 1 << 32], Duration::from_secs(3600)).unwrap();
        let _some = connect(60);
        // What is passed on three times to those that pass on stays there.
        let before = waiting();
        assert!(before[1] > 20 + 40 / 2, "{before:?}");
        turns.set_skip_probabilities(&[1 << 32, 0, 1 << 32], Duration::ZERO).unwrap();
        let _more = connect(30);
        let gained: Vec<u32> = waiting().iter().zip(&before).map(|(now, before)| now - before).collect();
        assert_eq!(gained, [10, 10, 10]);
        assert_eq!(turns.dispatched().unwrap(), 90);
    }

    #[test]
    fn a_door_leads_past_the_turns() {
        need_root();
        let (group, address) = group(3);
        let targets = [target(true, &[0]), target(true, &[1]), target(false, &[2])];
        let doors =
            [0, 1, 2].map(|index| ProbeRoute { source: ProbeRoute::address(700 + u64::from(index)), index });
        RoundRobin::attach(group[0].as_fd(), &targets, &doors).unwrap();
        let from = |source: std::net::Ipv4Addr| {
            let client =
                sys::new_like(SocketKind { is_v6: false, protocol: Protocol::Tcp, is_multipath: false })
                    .unwrap();
            sys::bind(client.as_fd(), (source, 0).into()).unwrap();
            let to: nix::sys::socket::SockaddrStorage = address.into();
            nix::sys::socket::connect(client.as_raw_fd(), &to).unwrap();
            client
        };
        let _clients: Vec<_> = (0..4).map(|_| from(doors[2].source)).chain([from(doors[0].source)]).collect();
        let counts: Vec<u32> =
            group.iter().map(|member| sys::accept_queue_length(member.as_fd()).unwrap()).collect();
        assert_eq!(counts, [1, 0, 4]);
        let _others: Vec<_> = (0..20).map(|_| TcpStream::connect(address).unwrap()).collect();
        let counts: Vec<u32> =
            group.iter().map(|member| sys::accept_queue_length(member.as_fd()).unwrap()).collect();
        assert_eq!(counts, [11, 10, 4]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let (group, _) = group(1);
        let none = [target(false, &[0])];
        assert_eq!(RoundRobin::attach(group[0].as_fd(), &none, &[]).err(), Some(Errno::E2BIG));
        let many: Vec<u32> = (0..1000).collect();
        let many = [target(true, &many)];
        assert_eq!(RoundRobin::attach(group[0].as_fd(), &many, &[]).err(), Some(Errno::E2BIG));
    }
}
