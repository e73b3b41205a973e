//! FD store: named descriptors that outlive the daemon, such as listening sockets.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The descriptors, in the order in which they were stored.
#[derive(Debug, Default)]
pub struct FdStore(Vec<(String, OwnedFd)>);

impl FdStore {
    /// Stores `fd` under `name` and closes a previous one. Without a descriptor nothing changes.
    pub fn store(&mut self, name: String, fd: Option<OwnedFd>) {
        if let Some(fd) = fd {
            self.remove(&name);
            self.0.push((name, fd));
        }
    }

    /// Another store with duplicates of the descriptors, except those that cannot be duplicated.
    pub fn try_clone(&self) -> Self {
        let copy = |(name, fd): &(String, OwnedFd)| Some((name.clone(), fd.try_clone().ok()?));
        Self(self.0.iter().filter_map(copy).collect())
    }

    /// Closes the descriptor that is stored under `name`.
    pub fn remove(&mut self, name: &str) {
        self.0.retain(|(stored, _)| stored != name);
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, BorrowedFd<'_>)> {
        self.0.iter().map(|(name, fd)| (name.as_str(), fd.as_fd()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_holds_one_descriptor() {
        let open = || Some(OwnedFd::from(std::fs::File::open("/dev/null").unwrap()));
        let mut store = FdStore::default();
        store.store("a".into(), open());
        store.store("b".into(), open());
        store.store("a".into(), open());
        store.store("a".into(), None);
        assert_eq!(store.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["b", "a"]);
        store.remove("b");
        assert_eq!(store.iter().count(), 1);
    }
}
