//! HTTP GET requests, for the probe `http` and for `reload --verify`.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;

use super::tcp::{self, strip_brackets};

/// Which responses count as a success.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// The accepted status codes.
    pub status: RangeInclusive<u16>,
    /// How much of the response must arrive.
    pub extent: Extent,
}

/// A part of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Status line and headers; the body is not read.
    Head,
    /// Headers and the complete body.
    Whole,
}

/// Sends a GET request over a new connection, from the address `source` if it is given.
///
/// # Errors
/// The connection fails, or the response is not accepted; the error is text.
pub async fn get(uri: &Uri, source: Option<Ipv4Addr>, accepted: &Accepted) -> Result<(), String> {
    let (host, port) = (uri.host().unwrap_or_default(), uri.port_u16().unwrap_or(80));
    let stream = tcp::connect(strip_brackets(host), port, source).await?;
    let connected = handshake(TokioIo::new(stream)).await;
    let (sender, connection) = connected.map_err(|error| error.to_string())?;
    let mut exchange = std::pin::pin!(exchange(sender, request(uri)?, accepted));
    tokio::select! {
        result = &mut exchange => result,
        // The end of the connection completes the exchange, whose response may have arrived just before.
        _ = connection => exchange.await,
    }
}

fn request(uri: &Uri) -> Result<Request<Empty<Bytes>>, String> {
    let request = Request::get(uri.path_and_query().map_or("/", |path| path.as_str()))
        .header(HOST, uri.authority().map_or("", |authority| authority.as_str()))
        .header(USER_AGENT, "rsm-check")
        .header(CONNECTION, "close");
    request.body(Empty::new()).map_err(|error| error.to_string())
}

async fn exchange(
    mut sender: SendRequest<Empty<Bytes>>,
    request: Request<Empty<Bytes>>,
    accepted: &Accepted,
) -> Result<(), String> {
    let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
    let status = response.status();
    if accepted.extent == Extent::Whole {
        response.into_body().collect().await.map_err(|error| error.to_string())?;
    }
    if accepted.status.contains(&status.as_u16()) { Ok(()) } else { Err(format!("status {status}")) }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// The result for this response.
    async fn get_response(
        text: &'static str,
        status: RangeInclusive<u16>,
        extent: Extent,
    ) -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri: Uri = format!("http://{}/health?a=b", listener.local_addr().unwrap()).parse().unwrap();
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let read = stream.read(&mut request).await.unwrap();
            assert!(request[..read].starts_with(b"GET /health?a=b HTTP/1.1\r\n"));
            stream.write_all(text.as_bytes()).await.unwrap();
        };
        let accepted = Accepted { status, extent };
        tokio::join!(get(&uri, None, &accepted), server).0
    }

    #[tokio::test]
    async fn head_must_have_accepted_status() {
        let head = |text| get_response(text, 200..=399, Extent::Head);
        assert_eq!(head("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nnot all").await, Ok(()));
        assert_eq!(head("HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\n").await, Ok(()));
        assert!(head("HTTP/1.1 503 Service Unavailable\r\n\r\n").await.unwrap_err().contains("503"));
        assert!(head("HTTP/1.1 404 Not Found\r\n\r\n").await.unwrap_err().contains("404"));
        assert!(head("").await.is_err() && head("hello\r\n\r\n").await.is_err());
    }

    #[tokio::test]
    async fn whole_response_must_arrive() {
        let whole = |text| get_response(text, 100..=499, Extent::Whole);
        assert_eq!(whole("HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nall").await, Ok(()));
        assert_eq!(whole("HTTP/1.1 200 OK\r\n\r\nup to the end").await, Ok(()));
        assert!(whole("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nnot all").await.is_err());
        assert!(whole("HTTP/1.1 500 Error\r\nContent-Length: 0\r\n\r\n").await.unwrap_err().contains("500"));
    }
}
