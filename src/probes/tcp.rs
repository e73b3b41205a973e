//! TCP connections, for the probes `tcp` and `http`.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::{TcpSocket, TcpStream, lookup_host};

/// Connects to the first address that accepts; with a `source` address, only to IPv4 addresses.
///
/// # Errors
/// No address accepts the connection; the error is text.
pub(super) async fn connect(host: &str, port: u16, source: Option<Ipv4Addr>) -> Result<TcpStream, String> {
    let found = lookup_host((host, port)).await.map_err(|error| format!("{host}: {error}"))?;
    let usable = found.filter(|address| source.is_none() || address.is_ipv4());
    let mut last_error = format!("{host} has no usable address");
    for address in usable {
        match connect_to(address, source).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last_error = error.to_string(),
        }
    }
    Err(last_error)
}

/// The address in `[::1]`.
pub(super) fn strip_brackets(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

async fn connect_to(address: SocketAddr, source: Option<Ipv4Addr>) -> std::io::Result<TcpStream> {
    let Some(source) = source else { return TcpStream::connect(address).await };
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((source, 0)))?;
    socket.connect(address).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connects_from_source_address() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let source = Ipv4Addr::new(127, 82, 0, 9);
        for host in ["127.0.0.1", "localhost"] {
            let _client = connect(host, port, Some(source)).await.unwrap();
            assert_eq!(listener.accept().await.unwrap().1.ip(), source);
        }
        drop(listener);
        assert!(connect("127.0.0.1", port, None).await.unwrap_err().contains("refused"));
    }
}
