//! Telling the service manager that started us how we are: `sd_notify(3)`.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Tells the service manager, if one listens (`NOTIFY_SOCKET`): `READY=1`, `STATUS=…`, each on a line of its
/// own. One that cannot be told is not worth failing for.
pub fn tell(state: &str) {
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
