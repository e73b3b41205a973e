//! `NOTIFY_SOCKET` of a run: receives `READY=1` and `WATCHDOG=1`, as systemd does.
//!
//! The keeper has a copy of the daemon's end, so messages sent while no daemon runs are read by the next one.
//! PM2's `process.send('ready')` arrives on the [`node_channel`](super::node_channel).

use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, bind, getsockname, recv, socket,
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
    // The kernel chooses a free abstract name, which apps of all users can reach.
    bind(socket.as_raw_fd(), &UnixAddr::new_unnamed())?;
    let address: UnixAddr = getsockname(socket.as_raw_fd())?;
    let name = address.as_abstract().map(String::from_utf8_lossy).unwrap_or_default();
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
    /// Calls `on_ready` at each `READY=1`.
    pub fn start(socket: OwnedFd, on_ready: impl Fn() + 'static) -> Self {
        let watchdog_pings = Rc::new(Notify::new());
        let task = tokio::task::spawn_local(receive_messages(socket, on_ready, watchdog_pings.clone()));
        Self { task, watchdog_pings }
    }

    /// Notified at each `WATCHDOG=1`.
    pub fn watchdog_pings(&self) -> Rc<Notify> {
        self.watchdog_pings.clone()
    }
}

async fn receive_messages(socket: OwnedFd, on_ready: impl Fn(), watchdog_pings: Rc<Notify>) {
    let Ok(socket) = fd_channel::async_fd(socket) else { return };
    let mut packet = [0; 4096];
    loop {
        let Ok(mut readable) = socket.readable().await else { return };
        match recv(socket.as_raw_fd(), &mut packet, MsgFlags::MSG_DONTWAIT) {
            Ok(length) => {
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
