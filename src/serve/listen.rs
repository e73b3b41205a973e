//! The listening socket: inherited by socket activation, or a new one that instances can share.

use std::io;
use std::net::SocketAddr;

use listenfd::ListenFd;
use tokio::net::{TcpListener, TcpSocket, lookup_host};

/// Maximum number of connections that wait for `accept`.
pub(super) const BACKLOG: u32 = 1024;

/// Takes the first socket passed by socket activation (`LISTEN_FDS`, and `LISTEN_PID` if it is set), or binds
/// `host` and `port`.
///
/// # Errors
/// The host has no address, or none of its addresses can be bound.
pub(super) async fn listen(host: &str, port: u16) -> io::Result<TcpListener> {
    if let Some(listener) = ListenFd::from_env().take_tcp_listener(0)? {
        listener.set_nonblocking(true)?;
        return TcpListener::from_std(listener);
    }
    let failed = |error| with_advice(host, port, error);
    // An IPv6 address may have brackets, as in a URL.
    let name = host.trim_start_matches('[').trim_end_matches(']');
    let mut last_error = io::ErrorKind::AddrNotAvailable.into();
    for address in lookup_host((name, port)).await.map_err(failed)? {
        match bind(address) {
            Ok(listener) => return Ok(listener),
            Err(error) => last_error = error,
        }
    }
    Err(failed(last_error))
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // Bind despite connections in TIME_WAIT, and next to other instances.
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn with_advice(host: &str, port: u16, error: io::Error) -> io::Error {
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse => ". Stop the other program, or choose another port",
        io::ErrorKind::PermissionDenied => {
            ". Choose a port from 1024 up, or allow lower ones: sysctl net.ipv4.ip_unprivileged_port_start=0"
        }
        io::ErrorKind::AddrNotAvailable => ". Choose an address of this machine",
        _ => "",
    };
    io::Error::new(error.kind(), format!("cannot listen on {host}, port {port}: {error}{advice}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_on<T>(task: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(task)
    }

    #[test]
    fn instances_share_port() {
        block_on(async {
            let first = listen("127.0.0.1", 0).await.unwrap();
            let port = first.local_addr().unwrap().port();
            let second = listen("127.0.0.1", port).await.unwrap();
            assert_eq!(first.local_addr().unwrap(), second.local_addr().unwrap());
        });
    }

    #[test]
    fn reports_port_in_use() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = block_on(listen("127.0.0.1", port)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        let message = error.to_string();
        assert!(message.contains(&port.to_string()) && message.contains("another port"), "{message}");
    }
}
