//! Named file descriptors that outlive the daemon: listening sockets and the like.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The descriptors, in the order they were stored.
#[derive(Debug, Default)]
pub struct Vault(Vec<(String, OwnedFd)>);

impl Vault {
    /// Keeps `fd` under `name`, closing a former one. Without a descriptor nothing changes.
    pub fn store(&mut self, name: String, fd: Option<OwnedFd>) {
        if let Some(fd) = fd {
            self.drop(&name);
            self.0.push((name, fd));
        }
    }

    /// Another vault with the same descriptors; what cannot be copied is left out.
    pub fn copy(&self) -> Self {
        let copy = |(name, fd): &(String, OwnedFd)| Some((name.clone(), fd.try_clone().ok()?));
        Self(self.0.iter().filter_map(copy).collect())
    }

    /// Closes what is kept under `name`.
    pub fn drop(&mut self, name: &str) {
        self.0.retain(|(kept, _)| kept != name);
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, BorrowedFd<'_>)> {
        self.0.iter().map(|(name, fd)| (name.as_str(), fd.as_fd()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_holds_one_descriptor() {
        let open = || Some(OwnedFd::from(std::fs::File::open("/dev/null").unwrap()));
        let mut vault = Vault::default();
        vault.store("a".into(), open());
        vault.store("b".into(), open());
        vault.store("a".into(), open());
        vault.store("a".into(), None);
        assert_eq!(vault.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["b", "a"]);
        vault.drop("b");
        assert_eq!(vault.iter().count(), 1);
    }
}
