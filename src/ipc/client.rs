//! The clients' end: one connection, one request after another.

use std::io;
use std::path::PathBuf;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::message::{ApiError, Request};
use super::route;
use crate::paths::Home;

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no daemon answers at {}", socket.display())]
    NotRunning {
        /// Where.
        socket: PathBuf,
    },
    /// The socket is another user's.
    #[error("no permission to talk to the daemon at {}: it belongs to another user", socket.display())]
    Denied {
        /// Where.
        socket: PathBuf,
    },
    /// The daemon refused.
    #[error(transparent)]
    Refused(#[from] ApiError),
    /// The connection broke before the answer was complete.
    #[error("the daemon went away before it had answered: {0}")]
    Lost(String),
    /// The answer is not what this version expects.
    #[error("the daemon's answer makes no sense to this version of rsm: {0}")]
    Protocol(String),
    /// The system refused.
    #[error("connecting to the daemon: {0}")]
    System(io::Error),
}

/// A connection to a daemon.
#[derive(Debug)]
pub struct Client {
    requests: SendRequest<Full<Bytes>>,
}

impl Client {
    /// Connects to the daemon of this home, if there is one. Creates nothing.
    ///
    /// # Errors
    /// Nobody listens, or it is not for this user.
    pub async fn connect(home: &Home) -> Result<Self, ClientError> {
        let socket = home.socket();
        let stream = UnixStream::connect(&socket).await.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::NotRunning { socket },
            io::ErrorKind::PermissionDenied => ClientError::Denied { socket },
            _ => ClientError::System(error),
        })?;
        let (requests, connection) = handshake(TokioIo::new(stream)).await.map_err(lost)?;
        // Its errors reach whoever waits for an answer.
        tokio::spawn(async move { drop(connection.await) });
        Ok(Self { requests })
    }

    /// Asks, and reads the answer.
    ///
    /// # Errors
    /// The daemon refuses or goes away.
    pub async fn call<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T, ClientError> {
        let bytes = self.bytes(request).await?;
        serde_json::from_slice(&bytes).map_err(|error| ClientError::Protocol(error.to_string()))
    }

    /// Asks, and hands on the answer as it came.
    ///
    /// # Errors
    /// The daemon refuses or goes away.
    pub async fn bytes(&mut self, request: &Request) -> Result<Bytes, ClientError> {
        let body = self.ask(request).await?;
        Ok(body.collect().await.map_err(lost)?.to_bytes())
    }

    /// Asks for a stream.
    ///
    /// # Errors
    /// The daemon refuses or goes away.
    pub async fn stream(&mut self, request: &Request) -> Result<Lines, ClientError> {
        Ok(Lines { body: self.ask(request).await?, rest: BytesMut::new() })
    }

    async fn ask(&mut self, request: &Request) -> Result<Incoming, ClientError> {
        let route::Parts { method, target, body } = route::to_http(request);
        let request = hyper::Request::builder()
            .method(method)
            .uri(target)
            .header(HOST, "rsm")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| ClientError::Protocol(error.to_string()))?;
        self.requests.ready().await.map_err(lost)?;
        let response = self.requests.send_request(request).await.map_err(lost)?;
        let status = response.status();
        if status.is_success() {
            return Ok(response.into_body());
        }
        let body = response.into_body().collect().await.map_err(lost)?.to_bytes();
        Err(match serde_json::from_slice::<Refusal>(&body) {
            Ok(refusal) => ClientError::Refused(refusal.error),
            Err(_) => ClientError::Protocol(format!("status {status} without a reason")),
        })
    }
}

#[derive(serde::Deserialize)]
struct Refusal {
    error: ApiError,
}

fn lost(error: hyper::Error) -> ClientError {
    ClientError::Lost(error.to_string())
}

/// A stream of JSON lines.
#[derive(Debug)]
pub struct Lines {
    body: Incoming,
    rest: BytesMut,
}

impl Lines {
    /// The next line, without its newline; none when the daemon has ended the stream.
    pub async fn next(&mut self) -> Option<Result<Bytes, ClientError>> {
        let mut looked_at = 0;
        loop {
            if let Some(at) = memchr::memchr(b'\n', &self.rest[looked_at..]) {
                let mut line = self.rest.split_to(looked_at + at + 1);
                line.truncate(line.len() - 1);
                return Some(Ok(line.freeze()));
            }
            looked_at = self.rest.len();
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.rest.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => return Some(Err(lost(error))),
                None => return None,
            }
        }
    }
}
