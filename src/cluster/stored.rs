//! What the engine keeps in the keeper's fd store, by name: state, pending calls and held sockets.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use crate::cluster::calls::pending::PendingCalls;
use crate::cluster::memfd_document::MemfdDocument;

pub(super) const STATE_NAME: &str = "cluster/book";
pub(super) const CALLS_NAME: &str = "cluster/calls";
const SOCKET_PREFIX: &str = "cluster/socket/";

/// The name of a socket in the fd store.
pub(super) fn socket_name(id: u64) -> String {
    format!("{SOCKET_PREFIX}{id}")
}

/// What the previous daemon stored.
#[derive(Default)]
pub(super) struct StoredFds {
    pub document: Option<MemfdDocument>,
    pub pending_calls: Option<PendingCalls>,
    /// By socket id.
    pub sockets: BTreeMap<u64, OwnedFd>,
}

impl StoredFds {
    /// Sorts descriptors by their names; others than those of the engine are ignored.
    pub fn from_named(fds: Vec<(String, OwnedFd)>) -> Self {
        let mut stored = Self::default();
        fds.into_iter().for_each(|(name, fd)| stored.add(&name, fd));
        stored
    }

    fn add(&mut self, name: &str, fd: OwnedFd) {
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
