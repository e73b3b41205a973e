//! Which sockets the processes of runs have open.

use std::collections::HashSet;

use crate::process::proc::fds;
use crate::process::process_ref::ProcessRef;
use crate::process::tree::{self, EndedRun, OrphanScope, RunMarker};

/// Where runs' processes are to be found.
#[derive(Clone, Debug)]
pub struct TreeContext {
    /// The parent of the runs that it began, and of those of their processes whose own parent died.
    pub keeper: i32,
    /// Where such processes are; anywhere if another keeper began some run.
    pub orphans: OrphanScope,
    /// What all processes of a run bear in their environment.
    pub marker: RunMarker,
}

/// A run and its first process.
#[derive(Clone, Copy, Debug)]
pub struct RunLeader {
    /// The run.
    pub run: u64,
    /// Its first process.
    pub process: ProcessRef,
}

/// Inodes of open sockets.
#[derive(Debug, Default)]
pub struct OpenSockets {
    /// Those seen.
    pub inodes: HashSet<u64>,
    /// Some process could not be looked into: it may have others.
    pub incomplete: bool,
}

impl OpenSockets {
    /// Looks at all processes of these runs. `others` are the first processes of other ones.
    pub fn of_runs(family: &TreeContext, runs: &[RunLeader], others: &HashSet<i32>) -> Self {
        let orphans = family.orphans;
        let left = |leader: &RunLeader| EndedRun { run: leader.run, leader: leader.process, orphans };
        let left: Vec<EndedRun> = runs.iter().map(left).collect();
        let mut open = Self::default();
        for process in
            tree::find_remaining(family.keeper, &left, &family.marker, others).into_values().flatten()
        {
            open.add_process(process.pid);
        }
        open
    }

    /// Looks at a run's tree, and at a process that belongs to it wherever it is.
    pub fn of_tree(leader: ProcessRef, process: i32) -> Self {
        let mut open = Self::default();
        tree::tree_members(leader).into_iter().for_each(|member| open.add_process(member.process.pid));
        open.add_process(process);
        open
    }

    fn add_process(&mut self, process: i32) {
        match fds::sockets(process) {
            Ok(sockets) => self.inodes.extend(sockets.map(|(_, inode)| inode)),
            // A process that is gone has nothing open.
            Err(error) => self.incomplete |= error.kind() == std::io::ErrorKind::PermissionDenied,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::cluster::open_sockets::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_socket_is_seen_while_it_is_open() {
        let me = ProcessRef::of(std::process::id().cast_signed()).unwrap();
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let inode = crate::cluster::sys::inode(socket.as_fd()).unwrap();
        let open = OpenSockets::of_tree(me, me.pid);
        assert!(open.inodes.contains(&inode) && !open.incomplete);
        drop(socket);
        assert!(!OpenSockets::of_tree(me, me.pid).inodes.contains(&inode));
    }
}
