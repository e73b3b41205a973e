//! The client: one connection, and one request after another.
//!
//! The keeper holds the listening socket, so when a daemon exits and another starts, a client sees a broken
//! connection that it can open again at once. It sends the request again; changes carry an idempotency key,
//! by which a daemon recognizes a request that the previous one received.
//!
//! ```no_run
//! use rsm::ipc::client::Client;
//! use rsm::ipc::request::{LogQuery, StartRequest};
//! use rsm::ipc::response::LogItem;
//! use rsm::paths::Home;
//! use rsm::spec::AppSpec;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let mut client = Client::connect(&Home::from_env()?).await?;
//! let api = AppSpec { instances: 2, ..AppSpec::new("api", "/srv/api/run", "/srv/api") };
//! let report = client.start_apps(StartRequest::from_current_env([api])).await?;
//! for outcome in report.instances {
//!     println!("{} (id {}): {:?}", outcome.name, outcome.id, outcome.problem);
//! }
//! for instance in client.list().await? {
//!     println!("{} is {}", instance.name, instance.status.as_str());
//! }
//! let query = LogQuery { select: vec!["api".into()], follow: true, ..LogQuery::default() };
//! let mut logs = client.logs(query).await?;
//! while let Some(item) = logs.next_json::<LogItem>().await {
//!     if let LogItem::Line { name, line, .. } = item? {
//!         println!("{name}: {line}");
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Instances are selected as on the command line: by id, name, namespace, `/regex/` or `all`. The result of
//! a change lists each instance; one with an error failed.

use std::fmt;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::Response;
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper_util::rt::TokioIo;
use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr, sockopt};
use nix::sys::time::TimeVal;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokio::net::UnixStream;
use tokio::time::Instant;

use super::request::*;
use super::response::*;
use super::routes::{HttpRequest, MAX_BODY, Request, Retry, with_routes};
use super::{IDEMPOTENCY_HEADER, VERSION_HEADER};
use crate::paths::{Home, UnsafeHome};
use crate::spec::EnvVars;
use crate::version::version;

#[cfg(test)]
mod tests;

/// Maximum number of attempts per request, so that one that crashes every daemon is not sent forever.
const MAX_ATTEMPTS: u32 = 8;
/// A connection that was idle for longer is not reused: the server closes it after 10 s, and a request that
/// is sent at the same time is lost.
const REUSE_WITHIN: Duration = Duration::from_secs(5);
/// While no daemon accepts, connections wait in the backlog of the socket; this is the timeout if it is full.
const CONNECT_TIMEOUT: TimeVal = TimeVal::new(10, 0);

/// How often to check whether the keeper is there, while waiting for a response.
const KEEPER_CHECK_INTERVAL: Duration = Duration::from_millis(500);
/// Number of checks in a row that find no keeper, after which no daemon is expected to respond.
const MAX_KEEPER_CHECKS: u32 = 6;

/// Why a request failed.
#[derive(Debug)]
pub enum ClientError {
    /// No process accepts connections on the socket.
    NotRunning {
        /// Path of the socket.
        socket: PathBuf,
    },
    /// The socket belongs to another user.
    PermissionDenied {
        /// Path of the socket.
        socket: PathBuf,
    },
    /// Another user can change the home.
    UnsafeHome(UnsafeHome),
    /// The daemon rejected the request.
    Rejected(ApiError),
    /// The connection was lost before the response was complete.
    ConnectionLost(String),
    /// This version does not understand the response.
    Protocol(String),
    /// The connection failed for another reason.
    Connect {
        /// Path of the socket.
        socket: PathBuf,
        /// The system error.
        error: io::Error,
    },
}

impl ClientError {
    /// What failed.
    pub fn message(&self) -> String {
        match self {
            Self::NotRunning { socket } => {
                format!("the daemon is not running (no listener on {})", socket.display())
            }
            Self::PermissionDenied { socket } => format!("permission denied: {}", socket.display()),
            Self::UnsafeHome(error) => error.to_string(),
            Self::Rejected(error) => error.message.clone(),
            Self::ConnectionLost(reason) => {
                format!("connection to the daemon lost before it responded ({reason})")
            }
            Self::Protocol(reason) => format!("unexpected response from the daemon ({reason})"),
            Self::Connect { socket, error } => format!("cannot connect to {}: {error}", socket.display()),
        }
    }

    /// What to do about it.
    pub fn help(&self) -> Option<String> {
        let help = match self {
            Self::NotRunning { .. } => "`rsm start` and `rsm resurrect` start it",
            Self::PermissionDenied { .. } => {
                "the daemon belongs to another user; switch to that user or set RSM_HOME"
            }
            Self::UnsafeHome(error) => return Some(error.help()),
            Self::Rejected(error) => return error.hint.clone(),
            Self::ConnectionLost(_) => "the operation may have been executed, see `rsm list`",
            Self::Protocol(_) => "if rsm was updated, run `rsm upgrade`",
            Self::Connect { .. } => return None,
        };
        Some(help.into())
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.help() {
            Some(help) => write!(out, "{}; {help}", self.message()),
            None => out.write_str(&self.message()),
        }
    }
}

impl std::error::Error for ClientError {}

type HttpSender = SendRequest<Full<Bytes>>;

/// A connection to a daemon, reopened when it is lost.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    /// `None` after the connection was passed to a stream.
    sender: Option<HttpSender>,
    last_used: Instant,
    /// Called once if the daemon has another version.
    version_mismatch: Option<fn(&str)>,
    /// Called when no daemon listens any more.
    reconnect: Option<Reconnect>,
}

/// Starts a daemon for the socket at this path, if none is running.
pub type Reconnect = fn(PathBuf) -> Pin<Box<dyn Future<Output = ()> + Send>>;

impl Client {
    /// Connects to the daemon of this home. Does not create files.
    ///
    /// # Errors
    /// No daemon listens, or it or the home belongs to another user.
    pub async fn connect(home: &Home) -> Result<Self, ClientError> {
        home.check_owner().map_err(ClientError::UnsafeHome)?;
        let socket = home.socket();
        let sender = handshake_with(&socket).await?;
        Ok(Self {
            socket,
            sender: Some(sender),
            last_used: Instant::now(),
            version_mismatch: None,
            reconnect: None,
        })
    }

    /// Calls `callback` once with the version of the daemon if it differs from this one.
    pub fn on_version_mismatch(&mut self, callback: fn(&str)) {
        self.version_mismatch = Some(callback);
    }

    /// Calls `reconnect` with the path of the socket if daemon and keeper die during a request.
    pub fn on_disconnect(&mut self, reconnect: Reconnect) {
        self.reconnect = Some(reconnect);
    }

    /// Sends a request, and decodes the response.
    ///
    /// # Errors
    /// The daemon rejects the request, the connection is lost, or the response is invalid.
    pub async fn call<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T, ClientError> {
        let bytes = self.call_raw(request).await?;
        serde_json::from_slice(&bytes).map_err(|error| ClientError::Protocol(error.to_string()))
    }

    /// Sends a request, and returns the body of the response.
    ///
    /// # Errors
    /// The daemon rejects the request, or the connection is lost.
    pub async fn call_raw(&mut self, request: &Request) -> Result<Bytes, ClientError> {
        let key = new_idempotency_key();
        let attempts = if request.retry() == Retry::Never { 1 } else { MAX_ATTEMPTS };
        // After a lost connection it is unknown whether the request was executed, however later attempts
        // fail.
        let mut lost = None;
        for _ in 0..attempts {
            match (self.try_call(request, &key).await, self.reconnect) {
                (Err(failed @ ClientError::ConnectionLost(_)), _) => lost = Some(failed),
                (Err(ClientError::NotRunning { socket }), Some(reconnect)) => reconnect(socket).await,
                (Err(failed @ ClientError::NotRunning { .. }), None) => return Err(lost.unwrap_or(failed)),
                (result, _) => return result,
            }
        }
        Err(lost.unwrap_or_else(|| ClientError::NotRunning { socket: self.socket.clone() }))
    }

    async fn try_call(&mut self, request: &Request, key: &str) -> Result<Bytes, ClientError> {
        let (response, sender) = self.send(request, key).await?;
        let bytes = read_body(response).await?;
        (self.sender, self.last_used) = (Some(sender), Instant::now());
        Ok(bytes)
    }

    /// Opens a stream. The stream keeps the connection; the client opens another one for later requests.
    ///
    /// # Errors
    /// The daemon rejects the request, or the connection is lost.
    pub async fn stream(&mut self, request: &Request) -> Result<LineStream, ClientError> {
        let (response, sender) = self.send(request, &new_idempotency_key()).await?;
        let body = response.into_body();
        Ok(LineStream { body, buffer: BytesMut::new(), is_finished: false, _sender: sender })
    }

    async fn send(
        &mut self,
        request: &Request,
        key: &str,
    ) -> Result<(Response<Incoming>, HttpSender), ClientError> {
        let parts = request.encode().map_err(ClientError::Rejected)?;
        if parts.body.len() > MAX_BODY {
            // The server would close the connection before its error could be read.
            let text = format!("request exceeds {} MiB", MAX_BODY >> 20);
            return Err(ClientError::Rejected(ApiError::new(ErrorCode::TooLarge, text)));
        }
        let request = to_hyper(&parts, key)?;
        let socket = self.socket.clone();
        tokio::select! {
            biased;
            sent = self.exchange(request, &parts) => sent,
            () = wait_for_lost_keeper(&socket) => Err(ClientError::NotRunning { socket: socket.clone() }),
        }
    }

    async fn exchange(
        &mut self,
        request: hyper::Request<Full<Bytes>>,
        parts: &HttpRequest,
    ) -> Result<(Response<Incoming>, HttpSender), ClientError> {
        let repeated = request.clone();
        let mut sender = self.ready_sender().await?;
        let response = match sender.try_send_request(request).await {
            // Not sent, or without side effects: send it to the next daemon.
            Err(failed) if failed.message().is_some() || is_safe_to_retry(parts, failed.error()) => {
                sender = handshake_with(&self.socket).await?;
                sender.send_request(repeated).await
            }
            result => result.map_err(|failed| failed.into_error()),
        };
        let response = response.map_err(connection_lost)?;
        self.check_version(&response);
        Ok((check_status(response).await?, sender))
    }

    fn check_version(&mut self, response: &Response<Incoming>) {
        let header = response.headers().get(VERSION_HEADER).and_then(|value| value.to_str().ok());
        if let Some(daemon_version) = header.filter(|daemon_version| *daemon_version != version())
            && let Some(callback) = self.version_mismatch.take()
        {
            callback(daemon_version);
        }
    }

    /// The current connection, or a new one if it is closed or was idle for too long.
    async fn ready_sender(&mut self) -> Result<HttpSender, ClientError> {
        if let Some(mut sender) = self.sender.take()
            && self.last_used.elapsed() < REUSE_WITHIN
            && sender.ready().await.is_ok()
        {
            return Ok(sender);
        }
        handshake_with(&self.socket).await
    }
}

/// Resolves when there has been no keeper for some time. A daemon that a thread in the kernel keeps from exiting keeps
/// its socket open: connections to it are accepted by nobody.
async fn wait_for_lost_keeper(socket: &Path) {
    let mut missing = 0;
    while missing < MAX_KEEPER_CHECKS {
        tokio::time::sleep(KEEPER_CHECK_INTERVAL).await;
        missing = if is_keeper_lost(socket) { missing + 1 } else { 0 };
    }
}

/// Whether no keeper holds the lock of the home. While a daemon becomes the keeper, that is so for a moment.
pub(super) fn is_keeper_lost(socket: &Path) -> bool {
    let lock = socket.parent().map(|home| Home::new(home).keeper_lock());
    lock.and_then(|path| std::fs::File::open(path).ok()).is_some_and(|lock| lock.try_lock_shared().is_ok())
}

/// Whether the request has no side effects, and another attempt may succeed.
fn is_safe_to_retry(parts: &HttpRequest, failure: &hyper::Error) -> bool {
    parts.retry == Retry::Safe && !failure.is_parse()
}

/// A random key.
fn new_idempotency_key() -> String {
    use std::hash::{BuildHasher, Hasher};
    // `RandomState` is seeded with random numbers of the operating system.
    let random = || std::collections::hash_map::RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", random(), random())
}

fn to_hyper(parts: &HttpRequest, key: &str) -> Result<hyper::Request<Full<Bytes>>, ClientError> {
    let mut request =
        hyper::Request::builder().method(parts.method.clone()).uri(parts.target.as_str()).header(HOST, "rsm");
    if parts.retry != Retry::Safe {
        request = request.header(IDEMPOTENCY_HEADER, key);
    }
    if !parts.body.is_empty() {
        request = request.header(CONTENT_TYPE, "application/json");
    }
    request.body(Full::new(Bytes::copy_from_slice(&parts.body))).map_err(|error| {
        // All values are percent-encoded, so only the length can be invalid.
        let text = format!("too many selectors: {error}");
        ClientError::Rejected(ApiError::new(ErrorCode::TooLarge, text).hint("select fewer apps at a time"))
    })
}

async fn check_status(response: Response<Incoming>) -> Result<Response<Incoming>, ClientError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    Err(match serde_json::from_slice::<ErrorBody>(&read_body(response).await?) {
        Ok(body) => ClientError::Rejected(body.error),
        Err(_) => ClientError::Protocol(format!("HTTP status {status} without an error message")),
    })
}

async fn read_body(response: Response<Incoming>) -> Result<Bytes, ClientError> {
    Ok(response.into_body().collect().await.map_err(connection_lost)?.to_bytes())
}

fn connection_lost(error: hyper::Error) -> ClientError {
    if error.is_parse() {
        return ClientError::Protocol(error.to_string());
    }
    ClientError::ConnectionLost(error.to_string())
}

async fn handshake_with(socket: &Path) -> Result<HttpSender, ClientError> {
    let failed = |error| ClientError::Connect { socket: socket.to_path_buf(), error };
    let stream = connect_socket(socket).map_err(|errno| match errno {
        Errno::ENOENT | Errno::ENOTDIR | Errno::ECONNREFUSED => {
            ClientError::NotRunning { socket: socket.to_path_buf() }
        }
        Errno::EACCES | Errno::EPERM => ClientError::PermissionDenied { socket: socket.to_path_buf() },
        Errno::EAGAIN => {
            failed(io::Error::new(io::ErrorKind::TimedOut, "the daemon does not accept connections"))
        }
        Errno::ENAMETOOLONG => failed(io::Error::new(
            io::ErrorKind::InvalidInput,
            "socket path exceeds 107 bytes; set RSM_HOME to a shorter path",
        )),
        errno => failed(errno.into()),
    })?;
    let stream = UnixStream::from_std(stream).map_err(failed)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(connection_lost)?;
    // Errors of the connection are also returned by the pending request.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

/// Connects. Blocks while the backlog of the socket is full: a non-blocking `connect` fails immediately
/// (`unix(7)`, EAGAIN), and there is no event for the next attempt.
fn connect_socket(path: &Path) -> nix::Result<std::os::unix::net::UnixStream> {
    let kind = SockType::Stream;
    let fd = socket::socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None)?;
    socket::setsockopt(&fd, sockopt::SendTimeout, &CONNECT_TIMEOUT)?;
    let address = UnixAddr::new(path)?;
    while let Err(errno) = socket::connect(fd.as_raw_fd(), &address) {
        if errno != Errno::EINTR {
            return Err(errno);
        }
    }
    // Requests contain environments, which a process of another user at this path must not receive.
    let (peer, me) = (socket::getsockopt(&fd, sockopt::PeerCredentials)?.uid(), nix::unistd::geteuid());
    if peer != me.as_raw() && peer != 0 {
        return Err(Errno::EACCES);
    }
    let stream = std::os::unix::net::UnixStream::from(fd);
    stream
        .set_nonblocking(true)
        .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or_default()))?;
    Ok(stream)
}

/// Declares one method per route.
macro_rules! declare_methods {
    ($(
        $(#[doc = $doc:literal])+
        $variant:ident $(($($field:ident: $source:ident $type:ty),+))?:
            $method:ident $path:literal $(example $example:literal)? as $name:ident
            => $kind:ident $response:ty, $retry:ident;
    )+) => {
        /// One method per route. Each fails as [`Client::call`] does.
        #[allow(clippy::missing_errors_doc, reason = "documented once, above")]
        impl Client {
            $(
                $(#[doc = $doc])+
                pub async fn $name(
                    &mut self
                    $(, $($field: $type),+)?
                ) -> Result<declare_methods!(@returns $kind $response), ClientError> {
                    let request = Request::$variant $(($($field),+))?;
                    declare_methods!(@send self $kind request)
                }
            )+
        }
    };
    (@returns json $response:ty) => { $response };
    (@returns lines $response:ty) => { LineStream };
    (@send $client:ident json $request:ident) => { $client.call(&$request).await };
    (@send $client:ident lines $request:ident) => { $client.stream(&$request).await };
}

with_routes!(declare_methods);

/// Shorter forms of [`Client::act`]. Each fails as [`Client::call`] does.
#[allow(clippy::missing_errors_doc, reason = "documented once, above")]
impl Client {
    /// Stops instances, and keeps them in the list.
    pub async fn stop(&mut self, select: Selectors) -> Result<ActionReport, ClientError> {
        self.act(Action::Stop, ActionRequest { select, ..ActionRequest::default() }).await
    }

    /// Restarts instances.
    pub async fn restart(&mut self, select: Selectors) -> Result<ActionReport, ClientError> {
        self.act(Action::Restart, ActionRequest { select, ..ActionRequest::default() }).await
    }

    /// Stops instances, and removes them from the list.
    pub async fn delete(&mut self, select: Selectors) -> Result<ActionReport, ClientError> {
        self.act(Action::Delete, ActionRequest { select, ..ActionRequest::default() }).await
    }
}

/// A stream of JSON lines.
#[derive(Debug)]
pub struct LineStream {
    body: Incoming,
    buffer: BytesMut,
    is_finished: bool,
    /// The connection closes when this is dropped.
    _sender: HttpSender,
}

impl LineStream {
    /// The next line, parsed.
    ///
    /// # Errors
    /// The connection broke, or the line is not of this type.
    pub async fn next_json<T: DeserializeOwned>(&mut self) -> Option<Result<T, ClientError>> {
        let line = self.next().await?;
        Some(line.and_then(|line| {
            serde_json::from_slice(&line).map_err(|error| ClientError::Protocol(error.to_string()))
        }))
    }

    /// The next line, without its newline; `None` at the end of the stream. Cancel-safe: no line is lost if
    /// the future is dropped.
    pub async fn next(&mut self) -> Option<Result<Bytes, ClientError>> {
        let mut searched = 0;
        loop {
            if let Some(index) = memchr::memchr(b'\n', &self.buffer[searched..]) {
                let mut line = self.buffer.split_to(searched + index + 1);
                line.truncate(searched + index);
                return Some(Ok(line.freeze()));
            }
            searched = self.buffer.len();
            if self.is_finished {
                return None;
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => {
                    self.is_finished = true;
                    return Some(Err(connection_lost(error)));
                }
                None => self.is_finished = true,
            }
        }
    }
}
