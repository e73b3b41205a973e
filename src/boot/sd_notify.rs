//! State notifications to the service manager: `sd_notify(3)`.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Sends `READY=1`, `STATUS=…` and so on, one per line, to the socket in `NOTIFY_SOCKET`. Does nothing
/// without that variable, and ignores errors: a failed notification is no reason to stop.
pub fn sd_notify(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let path = path.to_string_lossy();
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name.as_bytes()),
        None => SocketAddr::from_pathname(&*path),
    };
    let Ok((address, socket)) = address.and_then(|address| Ok((address, UnixDatagram::unbound()?))) else {
        return;
    };
    let _ = socket.send_to_addr(state.as_bytes(), &address);
}
