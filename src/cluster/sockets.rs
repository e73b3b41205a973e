//! What is held, and kept by the keeper for the next daemon: taken up, saved, let go.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::cluster::address::{Address, Protocol};
use crate::cluster::engine::Engine;
use crate::cluster::event::{ClusterHost, FdStoreOp};
use crate::cluster::memfd_document::{MemfdDocument, PendingCalls};
use crate::cluster::open_sockets::TreeContext;
use crate::cluster::state::{ClusterState, HeldSocket, PortSettings};
use crate::cluster::sys;
use crate::spec::Balance;

/// Names of what the keeper keeps for us.
const STATE_NAME: &str = "cluster/book";
const CALLS_NAME: &str = "cluster/calls";
const SOCKET_PREFIX: &str = "cluster/socket/";

/// The name of a socket with the keeper.
pub(super) fn fd_store_name(socket: u64) -> String {
    format!("{SOCKET_PREFIX}{socket}")
}

/// After a socket was let go the keeper may still have it for a moment.
const RELEASE_GRACE: Duration = Duration::from_secs(10);

/// What a former daemon had stored, told apart by name.
#[derive(Default)]
struct StoredFds {
    document: Option<MemfdDocument>,
    pending_calls: Option<PendingCalls>,
    sockets: BTreeMap<u64, OwnedFd>,
}

impl StoredFds {
    fn classify(&mut self, name: &str, fd: OwnedFd) {
        match name {
            STATE_NAME => self.document = Some(MemfdDocument::from(fd)),
            CALLS_NAME => self.pending_calls = PendingCalls::open(fd).ok(),
            name => {
                let id = name.strip_prefix(SOCKET_PREFIX).and_then(|id| id.parse().ok());
                self.sockets.extend(id.map(|id| (id, fd)));
            }
        }
    }
}

impl Engine {
    /// Takes up what a former daemon had stored; begins anew where there is nothing, or nothing that
    /// can be read.
    pub(super) fn restore(
        mut outside: Box<dyn ClusterHost>,
        family: TreeContext,
        stored: Vec<(String, OwnedFd)>,
    ) -> io::Result<Self> {
        let mut kept = StoredFds::default();
        stored.into_iter().for_each(|(name, fd)| kept.classify(&name, fd));
        let saved = kept.document.as_ref().and_then(|record| ClusterState::decode(&record.read().ok()?));
        let bookless = saved.is_none();
        let mut book = saved.unwrap_or_default();
        let (held, unknown): (BTreeMap<_, _>, BTreeMap<_, _>) =
            kept.sockets.into_iter().partition(|(id, _)| book.sockets.contains_key(id));
        for id in unknown.into_keys() {
            outside.store_fd(FdStoreOp::Remove(fd_store_name(id)));
        }
        // Shut down while nobody was there to see it: it has left its group.
        for (id, fd) in &held {
            let tcp = book.sockets.get(id).is_some_and(|socket| socket.address.protocol == Protocol::Tcp);
            if tcp && !sys::is_listening(fd.as_fd()) {
                book.leave_group(*id);
            }
        }
        // Nobody's, and not kept either: gone with the daemon.
        let gone = |id: &u64, socket: &HeldSocket| !held.contains_key(id) && socket.claims.is_empty();
        let gone: Vec<u64> =
            book.sockets.iter().filter(|(id, socket)| gone(id, socket)).map(|(id, _)| *id).collect();
        gone.into_iter().for_each(|id| book.remove(id));
        let mut keep = |name: &str, fd: BorrowedFd<'_>| -> io::Result<()> {
            outside.store_fd(FdStoreOp::Store(name.to_owned(), fd.try_clone_to_owned()?));
            Ok(())
        };
        let record = kept.document.map_or_else(MemfdDocument::new, Ok)?;
        let hands = kept.pending_calls.map_or_else(PendingCalls::new, Ok)?;
        keep(STATE_NAME, record.as_fd())?;
        keep(CALLS_NAME, hands.as_fd())?;
        Ok(Self {
            host: outside,
            tree_context: family,
            state: book,
            held,
            runs: BTreeMap::new(),
            gc_schedule: BTreeSet::new(),
            released_at: HashMap::new(),
            document: record,
            pending_calls: hands,
            drains: Vec::new(),
            round_robin_unavailable: false,
            state_lost: bookless,
            round_robin: BTreeMap::new(),
        })
    }

    /// Holds a socket, and has the keeper hold it.
    pub(super) fn hold(&mut self, id: u64, fd: OwnedFd) {
        match fd.try_clone() {
            Ok(copy) => self.host.store_fd(FdStoreOp::Store(fd_store_name(id), copy)),
            Err(error) => tracing::warn!("cannot store a listening socket with the keeper: {error}"),
        }
        self.held.insert(id, fd);
    }

    /// Writes the book to where the next daemon finds it.
    pub(super) fn save(&mut self) {
        let document = serde_json::to_vec(&self.state).map_err(io::Error::from);
        if let Err(error) = document.and_then(|document| self.document.write(&document)) {
            tracing::error!("cannot save the cluster state: {error}");
        }
    }

    /// Lets go of the sockets of an app that no run has and none is coming for.
    pub(super) fn release_unclaimed(&mut self, app: &str) {
        let of_app = self.state.sockets.iter().filter(|(_, socket)| socket.app == app);
        let unclaimed = of_app.filter(|(_, socket)| !self.state.is_claimed(socket));
        let useless = unclaimed.filter(|(_, socket)| {
            !socket.listening
                || self.is_slot_retired(app, socket.slot)
                || self.state.has_ready_replacement(socket)
        });
        let ids: Vec<u64> = useless.map(|(id, _)| *id).collect();
        ids.into_iter().for_each(|id| self.release(id));
    }

    fn is_slot_retired(&self, app: &str, place: u32) -> bool {
        let Some(PortSettings { balance, slots, .. }) = self.state.apps.get(app) else { return true };
        let gone = |slot: u32| self.state.retired_slots.contains(&(app.to_owned(), slot));
        if *balance == Balance::Shared {
            // Also those of slots, from before all had one queue.
            return place != 0 || slots.iter().all(|slot| gone(*slot));
        }
        gone(place) || !slots.contains(&place)
    }

    /// Closes a held socket. New connections are steered elsewhere first; those in its queue are reset.
    pub(super) fn release(&mut self, id: u64) {
        let Some(socket) = self.state.sockets.get(&id) else { return };
        let (address, listening, uid) = (socket.address, socket.listening, socket.uid);
        let bystanders = self.state.unmoved_members(address, id);
        if let Some(fd) = self.held.get(&id).filter(|_| listening) {
            self.pause_accept(&bystanders, true);
            if self.state.members(address).len() > 1 {
                // On failure the kernel's choice, or the former program's, is as good as any.
                let _ = sys::attach_cbpf(fd.as_fd(), &self.state.steering(address, Some(id)).program());
            }
            // Duplicates, the keeper's above all, would keep it in the group until they are closed.
            sys::shutdown_both(fd.as_fd());
        }
        self.state.remove(id);
        if self.held.remove(&id).is_some() {
            self.host.store_fd(FdStoreOp::Remove(fd_store_name(id)));
            self.released_at.retain(|_, at| at.elapsed() < RELEASE_GRACE);
            self.released_at.insert((address.protocol, address.port(), uid), Instant::now());
        }
        if listening {
            self.steer(address);
            self.pause_accept(&bystanders, false);
        }
    }

    fn pause_accept(&self, ids: &[u64], deaf: bool) {
        for fd in ids.iter().filter_map(|id| self.held.get(id)) {
            // On failure a client may come to one that goes: that is all this is for.
            let _ = sys::set_drop_filter(fd.as_fd(), deaf);
        }
    }

    /// Whether a port is ours, or was a moment ago.
    pub(super) fn owns_port(&self, address: Address, uid: u32) -> bool {
        let key = (address.protocol, address.port(), uid);
        let same = |other: &Address, owner| (other.protocol, other.port(), owner) == key;
        self.state.sockets.values().any(|socket| same(&socket.address, socket.uid))
            || self.released_at.get(&key).is_some_and(|at| at.elapsed() < RELEASE_GRACE)
    }
}
