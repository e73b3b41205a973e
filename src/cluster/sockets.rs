//! `SocketStore`: duplicates of the sockets of apps. The keeper has another duplicate of each.
//!
//! A held socket keeps its queue while its app restarts. All descriptors of sockets are held, released, restored and
//! adopted here. The order of steps in each method matters: a daemon may be killed between any two of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::resource::{Resource, getrlimit};

use crate::cluster::address::{Address, Protocol};
use crate::cluster::event::{ClusterHost, FdStoreOp};
use crate::cluster::state::{ClusterState, HeldSocket, PortOwner};
use crate::cluster::steering::migrate::Migration;
use crate::cluster::stored::socket_name;
use crate::cluster::sys::{self, DEFAULT_BACKLOG, SocketKind};
use crate::process::proc::fds;
use crate::process::process_ref::{ProcessRef, pidfd_open};
use crate::process::seccomp::pidfd_getfd;
use crate::process::tree;

/// The keeper may still have a socket this long after it was released.
const RELEASE_GRACE: Duration = Duration::from_secs(10);

/// Sockets of one app: at most this many, and at most this share of the descriptors that the daemon may open. The rest
/// of the daemon and the other apps need descriptors, too.
const MAX_SOCKETS_PER_APP: usize = 1024;
const MAX_SHARE_PER_APP: usize = 8;
/// Sockets of all apps together: at most this share.
const MAX_SHARE: usize = 2;

/// Held sockets by socket id.
#[derive(Debug)]
pub(crate) struct SocketStore {
    held: BTreeMap<u64, OwnedFd>,
    released_at: HashMap<PortOwner, Instant>,
    /// Number of descriptors that the daemon may open.
    max_fds: usize,
    /// Whether sockets can be hidden from clients.
    can_hide: bool,
    /// Reports watched sockets that a program shuts down.
    shutdowns: Epoll,
}

/// A member that has left its group, and the members that accept no clients until the group is steered again.
pub(crate) struct ReleasedMember {
    pub address: Address,
    paused: Vec<u64>,
}

impl SocketStore {
    /// Restores the sockets that the previous daemon held, and corrects the state where it is outdated.
    pub fn restore(
        stored: BTreeMap<u64, OwnedFd>,
        state: &mut ClusterState,
        host: &mut dyn ClusterHost,
    ) -> nix::Result<Self> {
        let shutdowns = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let (held, unknown): (BTreeMap<_, _>, BTreeMap<_, _>) =
            stored.into_iter().partition(|(id, _)| state.socket(*id).is_some());
        for id in unknown.into_keys() {
            host.store_fd(FdStoreOp::Remove(socket_name(id)));
        }
        // A socket that was shut down while no daemon ran has left its group.
        for (id, fd) in &held {
            let is_tcp = state.socket(*id).is_some_and(|socket| socket.address.protocol == Protocol::Tcp);
            if is_tcp && !sys::is_listening(fd.as_fd()) {
                state.leave_group(*id);
            }
        }
        // A socket that no run has and that the keeper does not have was closed with the daemon.
        let closed: Vec<u64> = state
            .sockets()
            .filter(|(id, socket)| !held.contains_key(id) && socket.claims.is_empty())
            .map(|(id, _)| id)
            .collect();
        closed.into_iter().for_each(|id| state.remove(id));
        let max_fds = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
        let max_fds = usize::try_from(max_fds).unwrap_or(usize::MAX);
        Ok(Self { held, released_at: HashMap::new(), max_fds, can_hide: sys::can_hide(), shutdowns })
    }

    /// Watches a socket that several runs accept connections from: one of them may shut it down for all.
    pub fn watch_shutdown(&self, id: u64) {
        if let Some(fd) = self.fd(id) {
            // Fails if it is watched already. No event for connections: `EPOLLHUP` is always reported.
            let _ = self.shutdowns.add(fd, EpollEvent::new(EpollFlags::EPOLLET, id));
        }
    }

    /// The watched sockets that were shut down.
    pub fn shut_down(&self) -> Vec<u64> {
        let mut events = [EpollEvent::empty(); 16];
        let count = self.shutdowns.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
        events[..count].iter().map(EpollEvent::data).collect()
    }

    /// Becomes readable when a watched socket is shut down.
    pub fn shutdowns(&self) -> &Epoll {
        &self.shutdowns
    }

    /// Closes the descriptor of a socket here and in the keeper. False if it is not held.
    fn drop_fd(&mut self, id: u64, host: &mut dyn ClusterHost) -> bool {
        let Some(fd) = self.held.remove(&id) else { return false };
        // Closing does not remove it: there are other duplicates. Fails if it is not watched.
        let _ = self.shutdowns.delete(fd);
        host.store_fd(FdStoreOp::Remove(socket_name(id)));
        true
    }

    /// Whether sockets can be hidden from clients.
    pub fn can_hide(&self) -> bool {
        self.can_hide
    }

    /// Hides the sockets at addresses whose clients must still reach another run of the app, and shows all others.
    pub fn update_visibility(&self, address: Address, state: &ClusterState) {
        if !self.can_hide || address.protocol == Protocol::Udp {
            return;
        }
        let overlapping = state.overlapping(address).map(|(_, socket)| socket.address);
        for address in BTreeSet::from_iter(overlapping.chain([address])) {
            let hidden = state.superseded_address(address, None).is_some();
            for fd in state.members(address).iter().filter_map(|id| self.fd(*id)) {
                // On failure, clients reach a run that is not ready: as without rsm.
                let _ = sys::set_hidden(fd, hidden);
            }
        }
    }

    /// The maximum number of sockets of an app, if it may have no other one.
    pub fn limit_reached(&self, state: &ClusterState, app: &str) -> Option<usize> {
        let limit = MAX_SOCKETS_PER_APP.min(self.max_fds / MAX_SHARE_PER_APP);
        let is_reached =
            state.sockets_of_app(app).count() >= limit || state.sockets().count() >= self.max_fds / MAX_SHARE;
        is_reached.then_some(limit)
    }

    /// The descriptor of a held socket.
    pub fn fd(&self, id: u64) -> Option<BorrowedFd<'_>> {
        self.held.get(&id).map(AsFd::as_fd)
    }

    /// Number of connections that wait to be accepted; `None` for UDP and sockets that are not held.
    pub fn accept_queue_length(&self, id: u64) -> Option<u32> {
        sys::accept_queue_length(self.fd(id)?).ok()
    }

    /// Holds a socket, here and in the keeper.
    pub fn hold(&mut self, id: u64, fd: OwnedFd, host: &mut dyn ClusterHost) {
        match fd.try_clone() {
            Ok(duplicate) => host.store_fd(FdStoreOp::Store(socket_name(id), duplicate)),
            Err(error) => tracing::warn!("cannot store a listening socket with the keeper: {error}"),
        }
        self.held.insert(id, fd);
    }

    /// Closes a socket. New connections are steered to other members first. Those in its queue are handed over to ready
    /// members, if the daemon has the privileges for that; otherwise they are reset. If it was a member of a group, the caller must steer the group and then call [`resume_accept`](Self::resume_accept).
    pub fn release(
        &mut self,
        id: u64,
        state: &mut ClusterState,
        host: &mut dyn ClusterHost,
    ) -> Option<ReleasedMember> {
        let socket = state.socket(id)?;
        let (address, listening, owner) = (socket.address, socket.listening, socket.port_owner());
        let mut paused = Vec::new();
        if let Some(fd) = self.fd(id).filter(|_| listening) {
            let migration = self.migrate_to(fd, &state.ready_alternatives(id));
            if migration.is_none() {
                paused = state.unmoved_members(address, id);
                self.set_drop_filters(&paused, true);
                if state.members(address).len() > 1 {
                    // On failure, the choice of the kernel or of the previous program is as good.
                    let _ = sys::attach_cbpf(fd, &state.steering(address, Some(id)).program());
                }
            }
            // Closing is not enough: the socket would stay in the group until all duplicates are closed, among them
            // that of the keeper.
            sys::shutdown_both(fd);
        }
        state.remove(id);
        if self.drop_fd(id, host) {
            self.released_at.retain(|_, released_at| released_at.elapsed() < RELEASE_GRACE);
            self.released_at.insert(owner, Instant::now());
        }
        listening.then_some(ReleasedMember { address, paused })
    }

    /// Hands the connections that wait in the queue of a socket over to other members of its group. The socket listens on;
    /// it joins the group again, which the caller must steer. False if nothing was done.
    pub fn hand_over_queue(&self, id: u64, targets: &[u64], state: &mut ClusterState) -> bool {
        let (Some(fd), Some(socket)) = (self.fd(id), state.socket(id)) else { return false };
        let is_idle = self.accept_queue_length(id).is_none_or(|queued| queued == 0);
        if is_idle || !socket.listening || !sys::is_listening(fd) {
            return false;
        }
        let Some(_migration) = self.migrate_to(fd, targets) else { return false };
        // The program does not notice: the socket listens again before it can look.
        sys::shutdown_both(fd);
        match sys::listen(fd, socket.backlog) {
            Ok(()) => state.join_group(id),
            Err(_) => state.leave_group(id),
        }
        true
    }

    /// Makes the group of a socket hand over connections to these members, if there are any.
    fn migrate_to(&self, fd: BorrowedFd<'_>, targets: &[u64]) -> Option<Migration> {
        let targets: Vec<BorrowedFd<'_>> = targets.iter().filter_map(|id| self.fd(*id)).collect();
        if targets.is_empty() {
            return None;
        }
        let attached = Migration::attach(fd, &targets);
        attached.inspect_err(|errno| tracing::debug!("cannot hand over connections: {errno}")).ok()
    }

    /// Lets the members accept clients again that [`release`](Self::release) paused.
    pub fn resume_accept(&self, released: &ReleasedMember) {
        self.set_drop_filters(&released.paused, false);
    }

    fn set_drop_filters(&self, ids: &[u64], drop: bool) {
        for fd in ids.iter().filter_map(|id| self.fd(*id)) {
            // On failure, a client may reach a draining run: the filters only prevent that.
            let _ = sys::set_drop_filter(fd, drop);
        }
    }

    /// Releases the sockets of a run that cannot be steered away from, without shutting them down: the programs alone
    /// decide how long they stay open. Connections held in their queues after the run ends would not be accepted.
    pub fn release_unsteerable(&mut self, run: u64, state: &ClusterState, host: &mut dyn ClusterHost) {
        let unsteerable = state
            .sockets_of_run(run)
            .filter(|(_, socket)| socket.claims.len() == 1 && !state.is_order_known(socket.address));
        for (id, _) in unsteerable {
            self.drop_fd(id, host);
        }
    }

    /// Whether rsm holds a port, or has released it a moment ago.
    pub fn owns_port(&self, state: &ClusterState, owner: PortOwner) -> bool {
        let released_at = self.released_at.get(&owner);
        state.has_port(owner) || released_at.is_some_and(|instant| instant.elapsed() < RELEASE_GRACE)
    }

    /// Holds a listening socket of a run that is not in the state. The order of its group is unknown, so the
    /// group must not be steered. `None` if the socket is known.
    pub fn adopt(
        &mut self,
        run: u64,
        fd: OwnedFd,
        state: &mut ClusterState,
        host: &mut dyn ClusterHost,
    ) -> Option<Address> {
        let entry = state.run(run)?;
        let (app, slot) = (entry.app.clone(), state.slot_key(entry));
        let inode = sys::inode(fd.as_fd()).ok()?;
        // Several workers, or several runs with one queue for all, have the same socket.
        if let Some(id) = state.by_inode(&app, slot, inode) {
            state.claim(id, run);
            return None;
        }
        let uid = nix::sys::stat::fstat(&fd).ok()?.st_uid;
        let address = Address::new(Protocol::Tcp, sys::local_address(fd.as_fd())?, sys::v6_only(fd.as_fd()));
        let id = state.add(HeldSocket {
            app,
            slot,
            address,
            inode,
            uid,
            listening: false,
            // What the program requested is unknown; the limit of the kernel applies.
            backlog: DEFAULT_BACKLOG,
            claims: BTreeSet::from([run]),
        });
        state.join_group(id);
        self.hold(id, fd, host);
        state.mark_order_unknown(address);
        Some(address)
    }
}

/// Duplicates of the listening TCP sockets with `SO_REUSEPORT` of a process tree.
pub(super) fn shared_listeners(leader: ProcessRef) -> Vec<OwnedFd> {
    let members = tree::tree_members(leader).into_iter();
    members.flat_map(|member| shared_listeners_of_process(member.process.pid)).collect()
}

fn shared_listeners_of_process(pid: i32) -> Vec<OwnedFd> {
    let (Ok(process), Ok(sockets)) = (pidfd_open(pid), fds::sockets(pid)) else {
        return Vec::new();
    };
    let duplicates = sockets.filter_map(|(number, _)| pidfd_getfd(process.as_fd(), number).ok());
    duplicates.filter(is_shared_listener).collect()
}

/// Sockets whose `bind` rsm answered have `SO_REUSEPORT`; those that the program bound without rsm do not.
fn is_shared_listener(fd: &OwnedFd) -> bool {
    let fd = fd.as_fd();
    let is_tcp = SocketKind::of(fd).is_some_and(|kind| kind.protocol == Protocol::Tcp && !kind.is_multipath);
    is_tcp && sys::is_listening(fd) && sys::reuse_port(fd) && !sys::is_bound_to_device(fd)
}
