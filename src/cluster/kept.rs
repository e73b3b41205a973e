//! What is held, and kept by the keeper for the next daemon: taken up, saved, let go.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use super::address::{Address, Protocol};
use super::book::{ClusterState, HeldSocket, PortSettings};
use super::engine::Engine;
use super::event::{ClusterHost, FdStoreOp};
use super::memory::{MemfdDocument, PendingCalls};
use super::open::TreeContext;
use super::socket;
use crate::spec::Balance;

/// Names of what the keeper keeps for us.
const BOOK: &str = "cluster/book";
const CALLS: &str = "cluster/calls";
const SOCKET: &str = "cluster/socket/";

/// The name of a socket with the keeper.
pub(super) fn name_of(socket: u64) -> String {
    format!("{SOCKET}{socket}")
}

/// After a socket was let go the keeper may still have it for a moment.
const LETTING_GO: Duration = Duration::from_secs(10);

/// What a former daemon had stored, told apart by name.
#[derive(Default)]
struct StoredFds {
    record: Option<MemfdDocument>,
    hands: Option<PendingCalls>,
    sockets: BTreeMap<u64, OwnedFd>,
}

impl StoredFds {
    fn take_up(&mut self, name: &str, fd: OwnedFd) {
        match name {
            BOOK => self.record = Some(MemfdDocument::from(fd)),
            CALLS => self.hands = PendingCalls::open(fd).ok(),
            name => {
                let id = name.strip_prefix(SOCKET).and_then(|id| id.parse().ok());
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
        stored.into_iter().for_each(|(name, fd)| kept.take_up(&name, fd));
        let saved = kept.record.as_ref().and_then(|record| ClusterState::read(&record.read().ok()?));
        let bookless = saved.is_none();
        let mut book = saved.unwrap_or_default();
        let (held, unknown): (BTreeMap<_, _>, BTreeMap<_, _>) =
            kept.sockets.into_iter().partition(|(id, _)| book.sockets.contains_key(id));
        for id in unknown.into_keys() {
            outside.keep(FdStoreOp::Drop(name_of(id)));
        }
        // Shut down while nobody was there to see it: it has left its group.
        for (id, fd) in &held {
            let tcp = book.sockets.get(id).is_some_and(|socket| socket.address.protocol == Protocol::Tcp);
            if tcp && !socket::is_listening(fd.as_fd()) {
                book.leave(*id);
            }
        }
        // Nobody's, and not kept either: gone with the daemon.
        let gone = |id: &u64, socket: &HeldSocket| !held.contains_key(id) && socket.claims.is_empty();
        let gone: Vec<u64> =
            book.sockets.iter().filter(|(id, socket)| gone(id, socket)).map(|(id, _)| *id).collect();
        gone.into_iter().for_each(|id| book.remove(id));
        let mut keep = |name: &str, fd: BorrowedFd<'_>| -> io::Result<()> {
            outside.keep(FdStoreOp::Store(name.to_owned(), fd.try_clone_to_owned()?));
            Ok(())
        };
        let record = kept.record.map_or_else(MemfdDocument::new, Ok)?;
        let hands = kept.hands.map_or_else(PendingCalls::new, Ok)?;
        keep(BOOK, record.as_fd())?;
        keep(CALLS, hands.as_fd())?;
        Ok(Self {
            outside,
            family,
            book,
            held,
            live: BTreeMap::new(),
            sweeps: BTreeSet::new(),
            let_go_at: HashMap::new(),
            record,
            hands,
            drains: Vec::new(),
            no_turns: false,
            bookless,
            rounds: BTreeMap::new(),
        })
    }

    /// Holds a socket, and has the keeper hold it.
    pub(super) fn hold(&mut self, id: u64, fd: OwnedFd) {
        match fd.try_clone() {
            Ok(copy) => self.outside.keep(FdStoreOp::Store(name_of(id), copy)),
            Err(error) => tracing::warn!("cannot store a listening socket with the keeper: {error}"),
        }
        self.held.insert(id, fd);
    }

    /// Writes the book to where the next daemon finds it.
    pub(super) fn save(&mut self) {
        let document = serde_json::to_vec(&self.book).map_err(io::Error::from);
        if let Err(error) = document.and_then(|document| self.record.write(&document)) {
            tracing::error!("cannot save the cluster state: {error}");
        }
    }

    /// Lets go of the sockets of an app that no run has and none is coming for.
    pub(super) fn let_go_unclaimed(&mut self, app: &str) {
        let of_app = self.book.sockets.iter().filter(|(_, socket)| socket.app == app);
        let unclaimed = of_app.filter(|(_, socket)| !self.book.is_claimed(socket));
        let useless = unclaimed.filter(|(_, socket)| {
            !socket.listening || self.is_abandoned(app, socket.slot) || self.book.is_replaced(socket)
        });
        let ids: Vec<u64> = useless.map(|(id, _)| *id).collect();
        ids.into_iter().for_each(|id| self.let_go(id));
    }

    fn is_abandoned(&self, app: &str, place: u32) -> bool {
        let Some(PortSettings { balance, slots, .. }) = self.book.apps.get(app) else { return true };
        let gone = |slot: u32| self.book.abandoned.contains(&(app.to_owned(), slot));
        if *balance == Balance::Shared {
            // Also those of slots, from before all had one queue.
            return place != 0 || slots.iter().all(|slot| gone(*slot));
        }
        gone(place) || !slots.contains(&place)
    }

    /// Closes a held socket. New connections are steered elsewhere first; those in its queue are reset.
    pub(super) fn let_go(&mut self, id: u64) {
        let Some(socket) = self.book.sockets.get(&id) else { return };
        let (address, listening, uid) = (socket.address, socket.listening, socket.uid);
        let bystanders = self.book.bystanders(address, id);
        if let Some(fd) = self.held.get(&id).filter(|_| listening) {
            self.set_deaf(&bystanders, true);
            if self.book.members(address).len() > 1 {
                // On failure the kernel's choice, or the former program's, is as good as any.
                let _ = socket::steer(fd.as_fd(), &self.book.steering(address, Some(id)).program());
            }
            // Duplicates, the keeper's above all, would keep it in the group until they are closed.
            socket::shut(fd.as_fd());
        }
        self.book.remove(id);
        if self.held.remove(&id).is_some() {
            self.outside.keep(FdStoreOp::Drop(name_of(id)));
            self.let_go_at.retain(|_, at| at.elapsed() < LETTING_GO);
            self.let_go_at.insert((address.protocol, address.port(), uid), Instant::now());
        }
        if listening {
            self.steer(address);
            self.set_deaf(&bystanders, false);
        }
    }

    fn set_deaf(&self, ids: &[u64], deaf: bool) {
        for fd in ids.iter().filter_map(|id| self.held.get(id)) {
            // On failure a client may come to one that goes: that is all this is for.
            let _ = socket::set_deaf(fd.as_fd(), deaf);
        }
    }

    /// Whether a port is ours, or was a moment ago.
    pub(super) fn is_ours(&self, address: Address, uid: u32) -> bool {
        let key = (address.protocol, address.port(), uid);
        let same = |other: &Address, owner| (other.protocol, other.port(), owner) == key;
        self.book.sockets.values().any(|socket| same(&socket.address, socket.uid))
            || self.let_go_at.get(&key).is_some_and(|at| at.elapsed() < LETTING_GO)
    }
}
