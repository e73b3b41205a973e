//! Taking up listening sockets that runs have and no book tells of: daemon and keeper died at the same time,
//! and what they held with them. The runs serve on; without this no other could ever have their ports.
//!
//! In which order the members of such a group joined nobody knows, so it is not steered: the kernel spreads
//! connections by its own hash, until the app was down.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};

use super::address::{Address, Protocol};
use super::engine::{Engine, LiveRun};
use super::event::FdStoreOp;
use crate::cluster::mechanism::Mechanism;
use crate::cluster::sockets::fd_store_name;
use crate::cluster::state::HeldSocket;
use crate::cluster::sys;
use crate::cluster::sys::SocketKind;
use crate::process::proc::fds;
use crate::process::process_ref::pidfd_open;
use crate::process::seccomp::pidfd_getfd;
use crate::process::tree;

/// The backlog of a socket whose program's own nobody knows: the kernel's limit holds anyway.
const DEFAULT_BACKLOG: i32 = 4096;

impl Engine {
    /// Takes up the sockets of all runs that go on. Only where our own can be taken from a program: copies
    /// of ours in their place cannot be told from others.
    pub(super) fn adopt_listeners(&mut self) {
        let live = self.runs.iter().filter(|(_, live)| live.mechanism == Mechanism::Duplicate);
        let found: Vec<(u64, OwnedFd)> =
            live.flat_map(|(run, live)| shared_listeners(live).into_iter().map(|fd| (*run, fd))).collect();
        for (run, fd) in found {
            if let Some(address) = self.adopt_one(run, fd) {
                self.state.mark_order_unknown(address);
                self.steer(address);
                self.republish(run);
            }
        }
        self.save();
    }

    fn adopt_one(&mut self, run: u64, fd: OwnedFd) -> Option<Address> {
        let entry = self.state.runs.get(&run)?;
        let (app, slot) = (entry.app.clone(), self.state.slot_key(entry));
        let inode = sys::inode(fd.as_fd()).ok()?;
        // Of workers that share it, or of several runs with one queue for all.
        if let Some(id) = self.state.by_inode(&app, slot, inode) {
            self.state.sockets.get_mut(&id)?.claims.insert(run);
            return None;
        }
        let uid = nix::sys::stat::fstat(&fd).ok()?.st_uid;
        let address = Address::new(Protocol::Tcp, sys::local_address(fd.as_fd())?, sys::v6_only(fd.as_fd()));
        let claims = BTreeSet::from([run]);
        let backlog = DEFAULT_BACKLOG;
        let id =
            self.state.add(HeldSocket { app, slot, address, inode, uid, listening: false, backlog, claims });
        self.state.join_group(id);
        self.hold(id, fd);
        Some(address)
    }

    /// Lets the programs alone decide how long a run's sockets are there that cannot be steered away from:
    /// who is held in their queues when the run goes would wait for nobody.
    pub(super) fn release_unsteerable(&mut self, run: u64) {
        let own = self.state.sockets.iter().filter(|(_, socket)| socket.claims.contains(&run));
        let own =
            own.filter(|(_, socket)| socket.claims.len() == 1 && !self.state.is_order_known(socket.address));
        let ids: Vec<u64> = own.map(|(id, _)| *id).collect();
        for id in ids {
            if self.held.remove(&id).is_some() {
                self.host.store_fd(FdStoreOp::Remove(fd_store_name(id)));
            }
        }
    }
}

/// The shared listening TCP sockets of a run's processes.
fn shared_listeners(live: &LiveRun) -> Vec<OwnedFd> {
    let members = tree::tree_members(live.leader).into_iter();
    members.flat_map(|member| shared_listeners_of(member.process.pid)).collect()
}

fn shared_listeners_of(pid: i32) -> Vec<OwnedFd> {
    let (Ok(process), Ok(sockets)) = (pidfd_open(pid), fds::sockets(pid)) else {
        return Vec::new();
    };
    let taken = sockets.filter_map(|(number, _)| pidfd_getfd(process.as_fd(), number).ok());
    taken.filter(is_shared_listener).collect()
}

/// Sockets that we let a program bind may all be shared; those that it bound unseen are not.
fn is_shared_listener(fd: &OwnedFd) -> bool {
    let fd = fd.as_fd();
    let is_tcp = SocketKind::of(fd).is_some_and(|kind| kind.protocol == Protocol::Tcp && !kind.is_multipath);
    is_tcp && sys::is_listening(fd) && sys::reuse_port(fd) && !sys::is_bound_to_device(fd)
}
