//! Connections to ask over.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::{TcpSocket, TcpStream, lookup_host};

/// Connects; to IPv4 alone if it shall come `from` somewhere.
///
/// # Errors
/// Nobody takes it; in words.
pub(super) async fn connect(host: &str, port: u16, from: Option<Ipv4Addr>) -> Result<TcpStream, String> {
    let found = lookup_host((host, port)).await.map_err(|error| format!("{host}: {error}"))?;
    let usable = found.filter(|address| from.is_none() || address.is_ipv4());
    let mut last = format!("{host} has no usable address");
    for address in usable {
        match connect_to(address, from).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error.to_string(),
        }
    }
    Err(last)
}

async fn connect_to(address: SocketAddr, from: Option<Ipv4Addr>) -> std::io::Result<TcpStream> {
    let Some(from) = from else { return TcpStream::connect(address).await };
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((from, 0)))?;
    socket.connect(address).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_comes_from_where_it_shall() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let from = Ipv4Addr::new(127, 82, 0, 9);
        for host in ["127.0.0.1", "localhost"] {
            let _client = connect(host, port, Some(from)).await.unwrap();
            assert_eq!(listener.accept().await.unwrap().1.ip(), from);
        }
        drop(listener);
        assert!(connect("127.0.0.1", port, None).await.unwrap_err().contains("refused"));
    }
}
