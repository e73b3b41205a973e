//! Descriptors of protocol version 1, which sends no roles: they are identified by their position and, where
//! that is not enough, by what the kernel says they are. Needed for the first upgrade from that version.

use std::os::fd::{AsRawFd, OwnedFd};

use super::fd_role::{FdRole, RoleFd};
use crate::process::fd_channel;

/// The descriptors of a spawn request. The keeper passes those of the child on without reading their roles.
pub(super) fn of_spawn(child_fds: u64, mut fds: Vec<OwnedFd>) -> Vec<RoleFd> {
    let kept_from = usize::try_from(child_fds).unwrap_or(usize::MAX).saturating_add(1).min(fds.len());
    let kept = fds.split_off(kept_from);
    all(FdRole::Launch, fds).into_iter().chain(of_run(kept)).collect()
}

/// The descriptors that are kept with a run.
pub(super) fn of_run(fds: Vec<OwnedFd>) -> Vec<RoleFd> {
    let role = |position: usize, fd: &OwnedFd| match position {
        0 => FdRole::Stdout,
        1 => FdRole::Stderr,
        _ if fd_channel::is_stream_socket(fd) => FdRole::NodeChannel,
        _ if is_notifier(fd) => FdRole::Notifier,
        _ => FdRole::NotifySocket,
    };
    fds.into_iter().enumerate().map(|(position, fd)| (role(position, &fd), fd)).collect()
}

/// Descriptors that all have the same role.
pub(super) fn all(role: FdRole, fds: Vec<OwnedFd>) -> Vec<RoleFd> {
    fds.into_iter().map(|fd| (role, fd)).collect()
}

/// Whether a descriptor is the notifier of a seccomp filter.
fn is_notifier(fd: &OwnedFd) -> bool {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    link.is_ok_and(|link| link.as_os_str().as_encoded_bytes().ends_with(b"seccomp notify"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn null() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    fn roles(fds: &[RoleFd]) -> Vec<FdRole> {
        fds.iter().map(|(role, _)| *role).collect()
    }

    #[test]
    fn identifies_descriptors_of_run() {
        let (node, _) = std::os::unix::net::UnixStream::pair().unwrap();
        let (notify, _) = std::os::unix::net::UnixDatagram::pair().unwrap();
        let fds = of_run(vec![null(), null(), node.into(), notify.into()]);
        assert_eq!(roles(&fds), [FdRole::Stdout, FdRole::Stderr, FdRole::NodeChannel, FdRole::NotifySocket]);
        let fds = of_spawn(1, vec![null(), null(), null(), null()]);
        assert_eq!(roles(&fds), [FdRole::Launch, FdRole::Launch, FdRole::Stdout, FdRole::Stderr]);
    }
}
