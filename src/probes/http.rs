//! Asking over HTTP.

use std::net::Ipv4Addr;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;

use super::{bare, net};

/// Asks for the head of an answer. One of 200 to 399 is that of an app that is well.
///
/// # Errors
/// It is another, or none; in words.
pub(super) async fn ask(uri: &Uri, from: Option<Ipv4Addr>) -> Result<(), String> {
    let (host, port) = (uri.host().unwrap_or_default(), uri.port_u16().unwrap_or(80));
    let stream = net::connect(bare(host), port, from).await?;
    let shaken = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut requests, connection) = shaken.map_err(|error| error.to_string())?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let request = Request::get(path)
        .header(HOST, authority)
        .header(USER_AGENT, "rsm-check")
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let mut answer = std::pin::pin!(requests.send_request(request));
    let answer = tokio::select! {
        answer = &mut answer => answer,
        // Its end settles the answer, which may have come just before.
        _ = connection => answer.await,
    };
    let status = answer.map_err(|error| error.to_string())?.status();
    match status.as_u16() {
        200..=399 => Ok(()),
        _ => Err(format!("status {status}")),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// What comes of an answer that looks like this.
    async fn answered(text: &'static str) -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri: Uri = format!("http://{}/health?a=b", listener.local_addr().unwrap()).parse().unwrap();
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let read = stream.read(&mut request).await.unwrap();
            assert!(request[..read].starts_with(b"GET /health?a=b HTTP/1.1\r\n"));
            stream.write_all(text.as_bytes()).await.unwrap();
        };
        tokio::join!(ask(&uri, None), server).0
    }

    #[tokio::test]
    async fn the_status_counts() {
        assert_eq!(answered("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nnot all").await, Ok(()));
        assert_eq!(answered("HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\n").await, Ok(()));
        assert!(answered("HTTP/1.1 503 Service Unavailable\r\n\r\n").await.unwrap_err().contains("503"));
        assert!(answered("HTTP/1.1 404 Not Found\r\n\r\n").await.unwrap_err().contains("404"));
        assert!(answered("").await.is_err() && answered("hello\r\n\r\n").await.is_err());
    }
}
