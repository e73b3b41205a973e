//! `NOTIFY_SOCKET` of a run: receives `READY=1` and `WATCHDOG=1`, as systemd does.
//!
//! The keeper has a copy of the daemon's end, so messages sent while no daemon runs are read by the next one.
//! PM2's `process.send('ready')` arrives on the [`node_channel`](super::node_channel).

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

use nix::cmsg_space;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, UnixCredentials, bind,
    recvmsg, setsockopt, socket, sockopt,
};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::process::fd_channel;

/// Creates the socket; returns it with its name for the environment variable.
///
/// # Errors
/// No more descriptors are available.
pub fn new_notify_socket() -> nix::Result<(OwnedFd, String)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
    // An abstract name, which apps of all users can reach. It cannot be guessed, but others can list it: each message
    // is checked as well.
    let name = format!("rsm-notify-{}", random_name());
    bind(socket.as_raw_fd(), &UnixAddr::new_abstract(name.as_bytes())?)?;
    setsockopt(&socket, sockopt::PassCred, &true)?;
    Ok((socket, format!("@{name}")))
}

/// Receives the messages of one run until it is dropped.
pub struct NotifyListener {
    task: JoinHandle<()>,
    watchdog_pings: Rc<Notify>,
}

impl Drop for NotifyListener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl NotifyListener {
    /// Calls `on_ready` at each `READY=1` of a process of this user, of the user of rsm, or of root.
    pub fn start(socket: OwnedFd, uid: Option<u32>, on_ready: impl Fn() + 'static) -> Self {
        let watchdog_pings = Rc::new(Notify::new());
        let task = tokio::task::spawn_local(receive_messages(socket, uid, on_ready, watchdog_pings.clone()));
        Self { task, watchdog_pings }
    }

    /// Notified at each `WATCHDOG=1`.
    pub fn watchdog_pings(&self) -> Rc<Notify> {
        self.watchdog_pings.clone()
    }
}

async fn receive_messages(
    socket: OwnedFd,
    uid: Option<u32>,
    on_ready: impl Fn(),
    watchdog_pings: Rc<Notify>,
) {
    // A socket of the previous version does not have this option.
    let _ = setsockopt(&socket, sockopt::PassCred, &true);
    let Ok(socket) = fd_channel::async_fd(socket) else { return };
    let trusted = [Some(0), Some(nix::unistd::geteuid().as_raw()), uid];
    let mut packet = [0; 4096];
    loop {
        let Ok(mut readable) = socket.readable().await else { return };
        match receive_with_sender(socket.get_ref(), &mut packet) {
            // A message of a process of another user, who found the name.
            Ok((_, sender)) if !trusted.contains(&sender) => {}
            Ok((length, _)) => {
                if has_field(&packet[..length], b"READY=1") {
                    on_ready();
                }
                if has_field(&packet[..length], b"WATCHDOG=1") {
                    watchdog_pings.notify_one();
                }
            }
            Err(nix::Error::EINTR) => {}
            Err(nix::Error::EAGAIN) => readable.clear_ready(),
            Err(_) => return,
        }
    }
}

/// Receives a message; returns its length and the user of its sender.
fn receive_with_sender(socket: &OwnedFd, packet: &mut [u8]) -> nix::Result<(usize, Option<u32>)> {
    let mut space = cmsg_space!(UnixCredentials);
    let mut parts = [IoSliceMut::new(packet)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    let uid = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::ScmCredentials(sender) => Some(sender.uid()),
        _ => None,
    });
    Ok((message.bytes, uid))
}

/// 128 random bits.
fn random_name() -> String {
    use std::hash::{BuildHasher, Hasher};
    // `RandomState` is seeded with random numbers of the operating system.
    let random = || std::collections::hash_map::RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", random(), random())
}

fn has_field(packet: &[u8], field: &[u8]) -> bool {
    packet.split(|byte| *byte == b'\n').any(|line| line == field)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ready_field_means_ready() {
        let is_ready = |packet: &[u8]| has_field(packet, b"READY=1");
        assert!(is_ready(b"READY=1") && is_ready(b"STATUS=up\nREADY=1\n"));
        for other in ["", "READY=0", "READY=10", "STATUS=READY=1", "WATCHDOG=1"] {
            assert!(!is_ready(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn each_socket_has_its_own_name() {
        let (one, other) = (new_notify_socket().unwrap(), new_notify_socket().unwrap());
        assert!(one.1.len() > 1 && one.1 != other.1);
    }
}
