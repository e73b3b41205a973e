//! Roles of descriptors: what a descriptor that passes between daemon and keeper is for.

use std::os::fd::{BorrowedFd, OwnedFd};

/// What a descriptor is for. The number is its byte in a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FdRole {
    /// The memfd with the launch document.
    Launch,
    /// A run's standard input.
    Stdin,
    /// A run's standard output: for the child its end of the pipe, else the end that rsm reads.
    Stdout,
    /// A run's standard error output, as [`FdRole::Stdout`].
    Stderr,
    /// The socket that `NOTIFY_SOCKET` names.
    NotifySocket,
    /// An end of Node's IPC channel.
    NodeChannel,
    /// The notifier of a run's seccomp filter.
    Notifier,
    /// A listening socket passed by socket activation.
    Activation,
    /// A descriptor of the fd store.
    Stored,
    /// The binary of an upgrade.
    Binary,
}

impl FdRole {
    pub(super) const ALL: [Self; 10] = [
        Self::Launch,
        Self::Stdin,
        Self::Stdout,
        Self::Stderr,
        Self::NotifySocket,
        Self::NodeChannel,
        Self::Notifier,
        Self::Activation,
        Self::Stored,
        Self::Binary,
    ];

    /// The role of a byte; `None` for one that this version does not know.
    pub(super) fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte)).copied()
    }
}

/// A descriptor and its role.
pub type RoleFd = (FdRole, OwnedFd);

/// A borrowed descriptor and its role.
pub type RoleBorrowedFd<'a> = (FdRole, BorrowedFd<'a>);

/// The first descriptor of this role.
pub fn take_fd(fds: Vec<RoleFd>, role: FdRole) -> Option<OwnedFd> {
    fds.into_iter().find_map(|(fd_role, fd)| (fd_role == role).then_some(fd))
}
