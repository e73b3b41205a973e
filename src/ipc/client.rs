//! The clients' end: one connection, one request after another.
//!
//! The keeper holds the listening socket, so a daemon that dies and comes back is, to a client, a
//! connection that breaks and can be made anew at once. What was asked is asked again on a new one;
//! changes bear a key by which a daemon knows that one before it was asked already.

use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Response};
use hyper_util::rt::TokioIo;
use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr, sockopt};
use nix::sys::time::TimeVal;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::Instant;

use super::message::{ApiError, ErrorCode, Request};
use super::route;
use crate::paths::Home;
use crate::version::version;

#[cfg(test)]
mod tests;

/// A request is asked so often at most. One that kills daemon after daemon must come to an end.
const MOST_TRIES: u32 = 8;
/// A connection that was idle for longer is not used again: the server closes it after 10 s, and
/// a request that meets the close is lost.
const FRESH: Duration = Duration::from_secs(5);
/// While no daemon accepts, connections queue at the socket; a full queue is waited for this long.
const QUEUE_TIME: TimeVal = TimeVal::new(10, 0);

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "the daemon is not running (no listener on {}). Start it with `rsm start`, or set RSM_HOME",
        socket.display()
    )]
    NotRunning {
        /// Where.
        socket: PathBuf,
    },
    /// The socket is another user's.
    #[error(
        "permission denied: {}. The daemon belongs to another user; switch to that user or set RSM_HOME",
        socket.display()
    )]
    Denied {
        /// Where.
        socket: PathBuf,
    },
    /// The daemon refused, in its words.
    #[error("{}", in_full(.0))]
    Refused(ApiError),
    /// The connection broke before the answer was complete.
    #[error(
        "connection to the daemon lost before it responded ({0}); the operation may have been executed, see \
        `rsm list`"
    )]
    Lost(String),
    /// The answer is not what this version expects.
    #[error("unexpected response from the daemon ({0}). If rsm was updated, run `rsm upgrade`")]
    Protocol(String),
    /// The system refused.
    #[error("cannot connect to {}: {error}", socket.display())]
    System {
        /// Where.
        socket: PathBuf,
        /// Why.
        error: io::Error,
    },
}

fn in_full(error: &ApiError) -> String {
    match &error.hint {
        Some(hint) => format!("{error}; {hint}"),
        None => error.to_string(),
    }
}

type Requests = SendRequest<Full<Bytes>>;

/// A connection to a daemon, made anew when it breaks.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    /// None after a stream has taken the connection along.
    requests: Option<Requests>,
    used: Instant,
    /// Told once if the daemon is of another version.
    other_version: Option<fn(&str)>,
    /// Called when nobody answers any more.
    revive: Option<Revive>,
}

/// Sees to it that a daemon answers where one should.
pub type Revive = fn(PathBuf) -> Pin<Box<dyn Future<Output = ()> + Send>>;

impl Client {
    /// Connects to the daemon of this home, if there is one. Creates nothing.
    ///
    /// # Errors
    /// Nobody listens, or it is not for this user.
    pub async fn connect(home: &Home) -> Result<Self, ClientError> {
        let socket = home.socket();
        let requests = open(&socket).await?;
        Ok(Self { socket, requests: Some(requests), used: Instant::now(), other_version: None, revive: None })
    }

    /// Has `tell` called, once, with the daemon's version if that is not ours.
    pub fn on_other_version(&mut self, tell: fn(&str)) {
        self.other_version = Some(tell);
    }

    /// Has `revive` called, with the socket's path, when daemon and keeper die while they are asked.
    pub fn on_death(&mut self, revive: Revive) {
        self.revive = Some(revive);
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
        let key = random_key();
        // Two end the daemon that they ask: to lose the connection is what they lead to. The others
        // say something to an app, which no daemon remembers: said twice would be worse than not.
        let once = matches!(
            request,
            Request::Shutdown
                | Request::Upgrade { .. }
                | Request::Input { .. }
                | Request::Message { .. }
                | Request::Trigger(_)
        );
        // Once one was lost nobody knows whether it was carried out, however the others failed.
        let mut lost = None;
        for _ in 0..if once { 1 } else { MOST_TRIES } {
            match (self.try_bytes(request, &key).await, self.revive) {
                (Err(failed @ ClientError::Lost(_)), _) => lost = Some(failed),
                (Err(ClientError::NotRunning { socket }), Some(revive)) => revive(socket).await,
                (Err(failed @ ClientError::NotRunning { .. }), None) => return Err(lost.unwrap_or(failed)),
                (answer, _) => return answer,
            }
        }
        Err(lost.unwrap_or_else(|| ClientError::NotRunning { socket: self.socket.clone() }))
    }

    async fn try_bytes(&mut self, request: &Request, key: &str) -> Result<Bytes, ClientError> {
        let (answer, requests) = self.ask(request, key).await?;
        let bytes = whole(answer).await?;
        (self.requests, self.used) = (Some(requests), Instant::now());
        Ok(bytes)
    }

    /// Asks for a stream. It keeps its connection; the client takes another for what follows.
    ///
    /// # Errors
    /// The daemon refuses or goes away.
    pub async fn stream(&mut self, request: &Request) -> Result<Lines, ClientError> {
        let (answer, requests) = self.ask(request, &random_key()).await?;
        Ok(Lines { body: answer.into_body(), rest: BytesMut::new(), over: false, _requests: requests })
    }

    async fn ask(
        &mut self,
        request: &Request,
        key: &str,
    ) -> Result<(Response<Incoming>, Requests), ClientError> {
        let parts = route::to_http(request).map_err(ClientError::Refused)?;
        if parts.body.len() > route::LONGEST_BODY {
            // The server would hang up in the middle, and why would be lost.
            let text = format!("request exceeds {} MiB", route::LONGEST_BODY >> 20);
            return Err(ClientError::Refused(ApiError::new(ErrorCode::TooLarge, text)));
        }
        let request = to_hyper(&parts, key)?;
        let again = request.clone();
        let mut requests = self.connection().await?;
        let answer = match requests.try_send_request(request).await {
            // Not sent, or without effect: ask the next daemon.
            Err(failed) if failed.message().is_some() || harmless(&parts, failed.error()) => {
                requests = open(&self.socket).await?;
                requests.send_request(again).await
            }
            answer => answer.map_err(|failed| failed.into_error()),
        };
        let answer = answer.map_err(lost)?;
        self.look_at_version(&answer);
        Ok((accepted(answer).await?, requests))
    }

    fn look_at_version(&mut self, answer: &Response<Incoming>) {
        let theirs = answer.headers().get(route::VERSION).and_then(|version| version.to_str().ok());
        if let Some(theirs) = theirs.filter(|theirs| *theirs != version())
            && let Some(tell) = self.other_version.take()
        {
            tell(theirs);
        }
    }

    /// The connection, or a new one if there is none that can be trusted.
    async fn connection(&mut self) -> Result<Requests, ClientError> {
        if let Some(mut requests) = self.requests.take()
            && self.used.elapsed() < FRESH
            && requests.ready().await.is_ok()
        {
            return Ok(requests);
        }
        open(&self.socket).await
    }
}

/// Whether asking twice does no harm and may help.
fn harmless(parts: &route::Parts, failure: &hyper::Error) -> bool {
    parts.method == Method::GET && !failure.is_parse()
}

/// A word for a request that no other one has.
fn random_key() -> String {
    use std::hash::{BuildHasher, Hasher};
    // Its keys come from the system's randomness.
    let random = || std::collections::hash_map::RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", random(), random())
}

fn to_hyper(parts: &route::Parts, key: &str) -> Result<hyper::Request<Full<Bytes>>, ClientError> {
    let mut request =
        hyper::Request::builder().method(parts.method.clone()).uri(parts.target.as_str()).header(HOST, "rsm");
    if parts.method != Method::GET {
        request = request.header(route::KEY, key);
    }
    if !parts.body.is_empty() {
        request = request.header(CONTENT_TYPE, "application/json");
    }
    request.body(Full::new(Bytes::copy_from_slice(&parts.body))).map_err(|error| {
        // All is escaped, so only the length can be wrong.
        let text = format!("too many selectors: {error}");
        ClientError::Refused(ApiError::new(ErrorCode::TooLarge, text).hint("select fewer apps at a time"))
    })
}

async fn accepted(answer: Response<Incoming>) -> Result<Response<Incoming>, ClientError> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    Err(match serde_json::from_slice::<route::Refusal>(&whole(answer).await?) {
        Ok(refusal) => ClientError::Refused(refusal.error),
        Err(_) => ClientError::Protocol(format!("HTTP status {status} without an error message")),
    })
}

async fn whole(answer: Response<Incoming>) -> Result<Bytes, ClientError> {
    Ok(answer.into_body().collect().await.map_err(lost)?.to_bytes())
}

fn lost(error: hyper::Error) -> ClientError {
    if error.is_parse() {
        return ClientError::Protocol(error.to_string());
    }
    ClientError::Lost(error.to_string())
}

async fn open(socket: &Path) -> Result<Requests, ClientError> {
    let failed = |error| ClientError::System { socket: socket.to_path_buf(), error };
    let stream = dial(socket).map_err(|errno| match errno {
        Errno::ENOENT | Errno::ENOTDIR | Errno::ECONNREFUSED => {
            ClientError::NotRunning { socket: socket.to_path_buf() }
        }
        Errno::EACCES | Errno::EPERM => ClientError::Denied { socket: socket.to_path_buf() },
        Errno::EAGAIN => failed(io::Error::new(
            io::ErrorKind::TimedOut,
            "the daemon does not accept \
            connections",
        )),
        Errno::ENAMETOOLONG => failed(io::Error::new(
            io::ErrorKind::InvalidInput,
            "socket path exceeds 107 bytes; set RSM_HOME to a shorter path",
        )),
        errno => failed(errno.into()),
    })?;
    let stream = UnixStream::from_std(stream).map_err(failed)?;
    let (requests, connection) = handshake(TokioIo::new(stream)).await.map_err(lost)?;
    // Its errors reach whoever waits for an answer.
    tokio::spawn(async move { drop(connection.await) });
    Ok(requests)
}

/// Connects. Blocks while the queue at the socket is full: a connect that does not block fails
/// there at once (`unix(7)`, EAGAIN), and nothing tells when to try again.
fn dial(path: &Path) -> nix::Result<std::os::unix::net::UnixStream> {
    let kind = SockType::Stream;
    let fd = socket::socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None)?;
    socket::setsockopt(&fd, sockopt::SendTimeout, &QUEUE_TIME)?;
    let address = UnixAddr::new(path)?;
    while let Err(errno) = socket::connect(fd.as_raw_fd(), &address) {
        if errno != Errno::EINTR {
            return Err(errno);
        }
    }
    // Requests carry environments: they are not for a stranger who lies in wait at our path.
    let (peer, me) = (socket::getsockopt(&fd, sockopt::PeerCredentials)?.uid(), nix::unistd::geteuid());
    if peer != me.as_raw() && peer != 0 && !me.is_root() {
        return Err(Errno::EACCES);
    }
    let stream = std::os::unix::net::UnixStream::from(fd);
    stream
        .set_nonblocking(true)
        .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or_default()))?;
    Ok(stream)
}

/// A stream of JSON lines.
#[derive(Debug)]
pub struct Lines {
    body: Incoming,
    rest: BytesMut,
    over: bool,
    /// The connection closes when this is dropped.
    _requests: Requests,
}

impl Lines {
    /// The next line, without its newline; none when the daemon has ended the stream. May be
    /// dropped while it waits: nothing is lost.
    pub async fn next(&mut self) -> Option<Result<Bytes, ClientError>> {
        let mut looked_at = 0;
        loop {
            if let Some(at) = memchr::memchr(b'\n', &self.rest[looked_at..]) {
                let mut line = self.rest.split_to(looked_at + at + 1);
                line.truncate(looked_at + at);
                return Some(Ok(line.freeze()));
            }
            looked_at = self.rest.len();
            if self.over {
                return None;
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.rest.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => {
                    self.over = true;
                    return Some(Err(lost(error)));
                }
                None => self.over = true,
            }
        }
    }
}
