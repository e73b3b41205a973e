//! Users to whom files belong.

use crate::spec::Account;

/// The user for whom a file is written: the one an app runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileUser {
    pub uid: u32,
    pub gid: u32,
}

impl FileUser {
    /// The user of this process.
    pub fn own() -> Self {
        Self { uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw() }
    }

    /// The user an app runs as.
    pub fn of(account: Option<&Account>) -> Self {
        account.map_or_else(Self::own, |account| Self { uid: account.uid, gid: account.gid })
    }

    pub(super) fn is_own(self) -> bool {
        self.uid == nix::unistd::geteuid().as_raw()
    }
}

/// Whether it is root or the user of this process.
pub(super) fn is_own(uid: u32) -> bool {
    uid == 0 || uid == nix::unistd::geteuid().as_raw()
}
