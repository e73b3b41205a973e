//! Hearing that a run says it is ready by `READY=1` on `NOTIFY_SOCKET`, or that it still works by
//! `WATCHDOG=1`, as systemd has it. What PM2's apps say by `process.send('ready')` is heard in
//! [`node`](super::node).
//!
//! Our end is kept with the keeper: what is said while no daemon is there is read by the next.

use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, bind, getsockname, recv, socket,
};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::process::fd_channel;

/// The socket that a run says it by, and how its environment names it.
///
/// # Errors
/// Out of descriptors.
pub fn new_notify_socket() -> nix::Result<(OwnedFd, String)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
    // The kernel chooses a free name that is in no directory: apps of any user can reach it.
    bind(socket.as_raw_fd(), &UnixAddr::new_unnamed())?;
    let address: UnixAddr = getsockname(socket.as_raw_fd())?;
    let name = address.as_abstract().map(String::from_utf8_lossy).unwrap_or_default();
    Ok((socket, format!("@{name}")))
}

/// A run that is heard.
pub struct NotifyListener {
    /// To be aborted with the run's end.
    pub task: JoinHandle<()>,
    /// It has said that it works.
    pub watchdog_pings: Rc<Notify>,
}

/// Hears a run until the task is aborted; calls `ready` whenever it says so.
pub fn listen(socket: OwnedFd, ready: impl Fn() + 'static) -> NotifyListener {
    let beats = Rc::new(Notify::new());
    let heard = beats.clone();
    let task = tokio::task::spawn_local(async move {
        let Ok(socket) = fd_channel::async_fd(socket) else { return };
        let mut packet = [0; 4096];
        loop {
            let Ok(mut readable) = socket.readable().await else { return };
            match recv(socket.as_raw_fd(), &mut packet, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => {
                    if has_field(&packet[..length], b"READY=1") {
                        ready();
                    }
                    if has_field(&packet[..length], b"WATCHDOG=1") {
                        heard.notify_one();
                    }
                }
                Err(nix::Error::EINTR) => {}
                Err(nix::Error::EAGAIN) => readable.clear_ready(),
                Err(_) => return,
            }
        }
    });
    NotifyListener { task, watchdog_pings: beats }
}

fn has_field(packet: &[u8], wanted: &[u8]) -> bool {
    packet.split(|byte| *byte == b'\n').any(|word| word == wanted)
}

#[cfg(test)]
mod tests {
    use crate::daemon::world::notify_socket::*;

    #[test]
    fn nothing_else_is_taken_for_ready() {
        let says_ready = |packet: &[u8]| has_field(packet, b"READY=1");
        assert!(says_ready(b"READY=1") && says_ready(b"STATUS=up\nREADY=1\n"));
        for other in ["", "READY=0", "READY=10", "STATUS=READY=1", "WATCHDOG=1"] {
            assert!(!says_ready(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn the_socket_has_a_name_of_its_own() {
        let (one, other) = (new_notify_socket().unwrap(), new_notify_socket().unwrap());
        assert!(one.1.len() > 1 && one.1 != other.1);
    }
}
