//! Descriptors of protocol version 1, which sends no roles: they are identified by their position and, where
//! that is not enough, by what the kernel says they are. Needed for the first upgrade from that version.

use std::os::fd::{AsRawFd, OwnedFd};

use super::protocol::{FdRole, KeeperNotice, KeeperRequest, RoleFd};
use crate::process::fd_channel;

/// The roles of a request's descriptors. The keeper passes those of a child on as they are, so their roles
/// are not needed.
pub(super) fn of_request(request: &KeeperRequest, fds: Vec<OwnedFd>) -> Vec<RoleFd> {
    match request {
        KeeperRequest::Spawn { child_fds, .. } => {
            let launch = usize::try_from(*child_fds).unwrap_or(usize::MAX).saturating_add(1).min(fds.len());
            let mut fds = fds;
            let kept = fds.split_off(launch);
            all(FdRole::Launch, fds).into_iter().chain(of_run(kept)).collect()
        }
        KeeperRequest::Adopt { .. } => of_run(fds),
        KeeperRequest::Upgrade => all(FdRole::Binary, fds),
        _ => all(FdRole::Stored, fds),
    }
}

/// The roles of a notice's descriptors.
pub(super) fn of_notice(notice: &KeeperNotice, fds: Vec<OwnedFd>) -> Vec<RoleFd> {
    match notice {
        KeeperNotice::Run { .. } => of_run(fds),
        KeeperNotice::Spawned { .. } => all(FdRole::Notifier, fds),
        _ => all(FdRole::Stored, fds),
    }
}

/// The roles of the descriptors that are kept with a run.
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

fn all(role: FdRole, fds: Vec<OwnedFd>) -> Vec<RoleFd> {
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
    fn descriptors_of_a_run_are_identified() {
        let (node, _) = std::os::unix::net::UnixStream::pair().unwrap();
        let (notify, _) = std::os::unix::net::UnixDatagram::pair().unwrap();
        let fds = of_run(vec![null(), null(), node.into(), notify.into()]);
        assert_eq!(roles(&fds), [FdRole::Stdout, FdRole::Stderr, FdRole::NodeChannel, FdRole::NotifySocket]);
        let spawn = KeeperRequest::Spawn { run: 1, child_fds: 1 };
        let fds = of_request(&spawn, vec![null(), null(), null(), null()]);
        assert_eq!(roles(&fds), [FdRole::Launch, FdRole::Launch, FdRole::Stdout, FdRole::Stderr]);
    }
}
