//! Migration of the connections that wait in the queue of a member to other members of its group.
//!
//! The kernel resets the connections in the queue of a socket that stops listening, unless the program of the group is
//! one that migrates them. Such a program is attached only for the moment in which a member stops listening.

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::cluster::steering::ebpf::{self, EbpfInstruction, Map, MapKind, ProgramKind, instruction};

/// With more members, some get no migrated connections.
const MAX_TARGETS: usize = 128;

/// The migrating program of a group, attached until the group is steered again.
#[derive(Debug)]
pub(crate) struct Migration {
    targets: Map,
    count: u32,
}

impl Migration {
    /// Makes the group of a socket migrate connections to these members. They also get all new connections.
    ///
    /// # Errors
    /// `EPERM`: missing privileges. `EINVAL`: not supported by the kernel, or no target.
    pub fn attach(fd: BorrowedFd<'_>, targets: &[BorrowedFd<'_>]) -> nix::Result<Self> {
        let targets = &targets[..targets.len().min(MAX_TARGETS)];
        let map = Map::new(MapKind::ReuseportSockets, targets.len() as u32)?;
        let migration = Self { targets: map, count: targets.len() as u32 };
        for (key, target) in (0..).zip(targets) {
            migration.targets.set(key, u64::from(target.as_raw_fd().cast_unsigned()))?;
        }
        let program = program(migration.targets.number(), migration.count);
        ebpf::attach(fd, ProgramKind::SelectOrMigrate, &program)?;
        Ok(migration)
    }
}

impl Drop for Migration {
    fn drop(&mut self) {
        // A socket can be in one such map only. The map itself is freed later, with the program.
        for key in 0..self.count {
            let _ = self.targets.remove(key);
        }
    }
}

/// Chooses one of the sockets in the map by the hash of the connection.
fn program(map: i32, count: u32) -> [EbpfInstruction; 11] {
    /// Offset of `hash` in `struct sk_reuseport_md`.
    const HASH_OFFSET: i16 = 32;
    const FUNC_SK_SELECT_REUSEPORT: i32 = 82;
    const SK_PASS: i32 = 1;
    [
        instruction(0x61, 0, 1, HASH_OFFSET, 0),  // r0 = hash
        instruction(0x94, 0, 0, 0, count as i32), // r0 %= count
        instruction(0x63, 10, 0, -4, 0),          // key on the stack = r0
        instruction(0x18, 2, 1, 0, map),          // r2 = map (pseudo descriptor)
        instruction(0, 0, 0, 0, 0),               // upper half of the 64-bit constant
        instruction(0xbf, 3, 10, 0, 0),           // r3 = frame pointer
        instruction(0x07, 3, 0, 0, -4),           // r3 = address of the key
        instruction(0xb7, 4, 0, 0, 0),            // r4 = no flags
        instruction(0x85, 0, 0, 0, FUNC_SK_SELECT_REUSEPORT),
        // Also if it could not be selected: the kernel chooses by the hash then.
        instruction(0xb7, 0, 0, 0, SK_PASS),
        instruction(0x95, 0, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use super::*;
    use crate::cluster::steering::fixture::{group, need_root};
    use crate::cluster::sys;

    fn queues(group: &[TcpListener]) -> Vec<u32> {
        group.iter().map(|member| sys::accept_queue_length(member.as_fd()).unwrap_or(0)).collect()
    }

    #[test]
    fn queue_of_leaving_member_moves_to_targets() {
        need_root();
        let (group, address) = group(4);
        let fds: Vec<BorrowedFd<'_>> = group.iter().map(AsFd::as_fd).collect();
        sys::attach_cbpf(fds[0], &[crate::process::bpf::ret(0)]).unwrap();
        let mut clients: Vec<_> = (0..40).map(|_| TcpStream::connect(address).unwrap()).collect();
        assert_eq!(queues(&group), [40, 0, 0, 0]);
        for _ in 0..2 {
            // Twice: a socket can be a target again.
            let migration = Migration::attach(fds[0], &[fds[1], fds[3]]).unwrap();
            sys::shutdown_both(fds[0]);
            sys::listen(fds[0], 128).unwrap();
            drop(migration);
        }
        let moved = queues(&group);
        assert!(moved[0] == 0 && moved[2] == 0 && moved[1] + moved[3] == 40, "{moved:?}");
        for client in &mut clients {
            client.write_all(b"request").unwrap();
            client.shutdown(Shutdown::Write).unwrap();
        }
        for member in [&group[1], &group[3]] {
            for _ in 0..sys::accept_queue_length(member.as_fd()).unwrap() {
                let text = std::io::read_to_string(member.accept().unwrap().0).unwrap();
                assert_eq!(text, "request");
            }
        }
    }
}
