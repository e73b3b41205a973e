//! The server: HTTP/1.1 on the Unix socket. A client cannot affect other clients or the daemon.
//!
//! Each connection has its own task. Everything that a client could make endless or unlimited in size has a
//! limit here, with two exceptions: a handler may take any time, and a stream continues until one end closes
//! it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};

use self::body::BodyBudget;
use self::line_body::LineBody;
use super::request::{ApiError, ErrorBody, ErrorCode};
use super::routes::{Request, allowed_methods};
use super::{IDEMPOTENCY_HEADER, MAX_KEY, VERSION_HEADER};
use crate::version::version;

mod body;
mod line_body;
#[cfg(test)]
mod tests;

/// Maximum size of the head of a request, in bytes.
const MAX_HEAD: usize = 64 << 10;
/// Time within which the head must be received; also the idle timeout of a connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum number of clients; further ones get status 503.
const MAX_CLIENTS: usize = 512;
/// Maximum number of connections of one process: it must not use up those of all.
const MAX_CLIENTS_PER_PROCESS: usize = 128;
/// The last connections are for processes that have none, such as `rsm kill`.
const RESERVED_CLIENTS: usize = 64;
/// Maximum number of streams, which have no timeout.
const MAX_STREAMS: usize = MAX_CLIENTS - 2 * RESERVED_CLIENTS;
/// Maximum number of clients that are being rejected; further connections are closed without a response.
const MAX_REJECTIONS: usize = 32;
/// Timeout for sending a rejection.
const REJECTION_TIMEOUT: Duration = Duration::from_secs(5);
/// Delay after `accept` failed because of missing resources, until some are free.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);
/// After the stop, time for pending responses.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// The successful result of a request.
#[derive(Debug)]
pub enum HandlerResponse {
    /// A JSON document.
    Json(Vec<u8>),
    /// A stream of JSON lines; each item is one or more complete lines.
    Stream(mpsc::Receiver<Bytes>),
}

/// Executes requests.
pub trait RequestHandler: Clone + 'static {
    /// Executes a request. It is not cancelled if the client disconnects. `key` is the idempotency key: an
    /// operation with the same key must be executed once.
    fn handle(
        &self,
        request: Request,
        key: Option<String>,
    ) -> impl Future<Output = Result<HandlerResponse, ApiError>>;
}

/// The users who may connect. The permissions of the socket already ensure this, unless they were changed.
#[derive(Clone, Debug)]
pub struct AllowedUids(Vec<u32>);

impl AllowedUids {
    /// The user that this process runs as, and root.
    pub fn own_user() -> Self {
        Self(vec![nix::unistd::geteuid().as_raw(), 0])
    }

    /// Only these users.
    #[cfg(test)]
    pub fn users(uids: impl Into<Vec<u32>>) -> Self {
        Self(uids.into())
    }

    fn allows(&self, stream: &UnixStream) -> bool {
        stream.peer_cred().is_ok_and(|peer| self.0.contains(&peer.uid()))
    }
}

type HttpBody = UnsyncBoxBody<Bytes, Infallible>;

/// The state that all connections share.
struct ServerState<S> {
    handler: S,
    body_budget: BodyBudget,
    closed: watch::Receiver<bool>,
    /// Each stream has a clone.
    streams: Arc<()>,
}

/// The sockets on which clients connect.
pub struct Listeners {
    open: Vec<UnixListener>,
    added: mpsc::UnboundedReceiver<UnixListener>,
}

impl Listeners {
    /// One socket, and those that are added later.
    pub fn new(first: UnixListener, added: mpsc::UnboundedReceiver<UnixListener>) -> Self {
        Self { open: vec![first], added }
    }

    fn poll_accept(&mut self, context: &mut Context<'_>) -> Poll<io::Result<UnixStream>> {
        while let Poll::Ready(Some(listener)) = self.added.poll_recv(context) {
            self.open.push(listener);
        }
        for listener in &self.open {
            if let Poll::Ready(accepted) = listener.poll_accept(context) {
                return Poll::Ready(accepted.map(|(stream, _)| stream));
            }
        }
        Poll::Pending
    }
}

/// As [`serve_all`], on one socket.
#[cfg(test)]
pub async fn serve<S: RequestHandler>(
    listener: UnixListener,
    handler: S,
    allowed: AllowedUids,
    stop: impl Future<Output = ()>,
) {
    let (_, added) = mpsc::unbounded_channel();
    serve_all(Listeners::new(listener, added), handler, allowed, stop).await;
}

/// Serves until `stop` completes, then ends the streams and waits for pending responses. Must run in a
/// `LocalSet`.
pub async fn serve_all<S: RequestHandler>(
    mut listeners: Listeners,
    handler: S,
    allowed: AllowedUids,
    stop: impl Future<Output = ()>,
) {
    let (closing, closed) = watch::channel(false);
    let shared =
        Rc::new(ServerState { handler, body_budget: BodyBudget::default(), closed, streams: Arc::default() });
    let connections = Connections::default();
    let (mut clients, mut rejected) = (JoinSet::new(), JoinSet::new());
    let mut stop = pin!(stop);
    loop {
        let stream = tokio::select! {
            () = &mut stop => break,
            Some(result) = clients.join_next() => { log_panic(result); continue }
            Some(result) = rejected.join_next() => { log_panic(result); continue }
            stream = accept(&mut listeners) => stream,
        };
        if !allowed.allows(&stream) {
            let text = "permission denied: the daemon belongs to another user";
            let error = ApiError::new(ErrorCode::Forbidden, text);
            reject(&mut rejected, stream, error.hint("switch to that user or root"));
        } else {
            match connections.admit(&stream, clients.len()) {
                Ok(slot) => drop(clients.spawn_local(serve_connection(stream, shared.clone(), slot))),
                Err(error) => reject(&mut rejected, stream, error),
            }
        }
    }
    drop(listeners);
    let _ = closing.send(true);
    let drained = async { while clients.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, drained).await;
}

/// The number of connections of each process.
#[derive(Clone, Default)]
struct Connections(Rc<RefCell<HashMap<i32, usize>>>);

/// A connection of a process; counted until it is dropped.
struct ConnectionSlot {
    connections: Connections,
    process: i32,
}

impl Connections {
    /// Counts a connection, unless there are too many.
    fn admit(&self, stream: &UnixStream, clients: usize) -> Result<ConnectionSlot, ApiError> {
        let process = stream.peer_cred().ok().and_then(|peer| peer.pid()).unwrap_or(0);
        let mut counts = self.0.borrow_mut();
        let own = counts.get(&process).copied().unwrap_or(0);
        let text = match own {
            _ if clients >= MAX_CLIENTS => format!("too many connections ({MAX_CLIENTS})"),
            own if own >= MAX_CLIENTS_PER_PROCESS => {
                format!("too many connections of process {process} ({MAX_CLIENTS_PER_PROCESS})")
            }
            own if own > 0 && clients >= MAX_CLIENTS - RESERVED_CLIENTS => {
                format!("too many connections ({MAX_CLIENTS}, of which {RESERVED_CLIENTS} are reserved)")
            }
            _ => {
                *counts.entry(process).or_default() += 1;
                return Ok(ConnectionSlot { connections: self.clone(), process });
            }
        };
        Err(ApiError::new(ErrorCode::Unavailable, text).hint("close other connections, or try again later"))
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let mut counts = self.connections.0.borrow_mut();
        if let Some(count) = counts.get_mut(&self.process) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.process);
            }
        }
    }
}

/// Accepts the next client. Errors are temporary: the client disconnected, or there are no free descriptors.
async fn accept(listeners: &mut Listeners) -> UnixStream {
    loop {
        match poll_fn(|context| listeners.poll_accept(context)).await {
            Ok(stream) => return stream,
            Err(error) => {
                tracing::warn!("cannot accept a connection: {error}");
                // Without free descriptors, the next accept would fail immediately.
                tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
            }
        }
    }
}

/// A panic in one connection, which is a bug, must not affect the others.
fn log_panic(result: Result<(), JoinError>) {
    if let Err(error) = result {
        tracing::error!("connection handler failed: {error}");
    }
}

fn http() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(MAX_HEAD);
    builder
}

/// Responds to each request of a client with this error, and closes the connection.
fn reject(rejected: &mut JoinSet<()>, stream: UnixStream, error: ApiError) {
    if rejected.len() >= MAX_REJECTIONS {
        return;
    }
    rejected.spawn_local(async move {
        let service = service_fn(|_| {
            let response = error_response(&error, "");
            async move { Ok::<_, Infallible>(with_close(response)) }
        });
        let connection = http().serve_connection(TokioIo::new(stream), service);
        let _ = tokio::time::timeout(REJECTION_TIMEOUT, connection).await;
    });
}

/// Serves a client until it disconnects or the server stops.
async fn serve_connection<S: RequestHandler>(
    stream: UnixStream,
    shared: Rc<ServerState<S>>,
    _slot: ConnectionSlot,
) {
    let mut closed = shared.closed.clone();
    let service = service_fn(move |request| {
        let shared = shared.clone();
        async move { Ok::<_, Infallible>(respond(&shared, request).await) }
    });
    // Without `half_close`: an end of file is the only sign that a follower has disconnected.
    let mut connection = pin!(http().serve_connection(TokioIo::new(stream), service));
    let stopped = async { drop(closed.wait_for(|closed| *closed).await) };
    tokio::select! {
        _ = &mut connection => return, // errors are ignored: the client disconnected or sent invalid HTTP
        () = stopped => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}

async fn respond<S: RequestHandler>(
    shared: &ServerState<S>,
    request: hyper::Request<Incoming>,
) -> Response<HttpBody> {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    if head_size(&head) > MAX_HEAD {
        let text = format!("request head exceeds {} KiB", MAX_HEAD >> 10);
        let mut response = with_close(error_response(&ApiError::new(ErrorCode::TooLarge, text), ""));
        *response.status_mut() = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        return response;
    }
    let (body, _permit) = match body::read_body(body, &shared.body_budget).await {
        Ok(read) => read,
        // The rest of the body could be read as the next request.
        Err(error) => return with_close(error_response(&error, "")),
    };
    let query = head.uri.query().unwrap_or_default();
    let result = match Request::decode(&head.method, path, query, &body) {
        Ok(request) => match idempotency_key(&head.headers) {
            Ok(key) => handle(shared.handler.clone(), request, key).await,
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    };
    match result {
        Ok(HandlerResponse::Json(bytes)) => {
            response(StatusCode::OK, "application/json", Full::new(bytes.into()).boxed_unsync())
        }
        Ok(HandlerResponse::Stream(lines)) => {
            if Arc::strong_count(&shared.streams) > MAX_STREAMS {
                let text = format!("too many streams ({MAX_STREAMS})");
                let error = ApiError::new(ErrorCode::Unavailable, text);
                return error_response(&error.hint("close other streams, or try again later"), path);
            }
            let lines = LineBody::new(lines, shared.closed.clone(), shared.streams.clone());
            response(StatusCode::OK, "application/x-ndjson", lines.boxed_unsync())
        }
        Err(error) => error_response(&error, path),
    }
}

/// The size of a head, as on the wire. The HTTP library limits only its buffer.
fn head_size(head: &hyper::http::request::Parts) -> usize {
    let target = head.uri.path_and_query().map_or(0, |target| target.as_str().len());
    let headers = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
    head.method.as_str().len() + target + headers.sum::<usize>()
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get(IDEMPOTENCY_HEADER) else { return Ok(None) };
    match value.to_str() {
        Ok(key) if (1..=MAX_KEY).contains(&key.len()) => Ok(Some(key.to_owned())),
        _ => {
            let text = format!(
                "invalid {} header: expected 1 to {} printable characters",
                IDEMPOTENCY_HEADER, MAX_KEY
            );
            Err(ApiError::new(ErrorCode::Invalid, text).hint("use a random value per request"))
        }
    }
}

/// Handles a request in its own task, which continues if the client disconnects: a stop or a shutdown must
/// not be interrupted.
async fn handle<S: RequestHandler>(
    handler: S,
    request: Request,
    key: Option<String>,
) -> Result<HandlerResponse, ApiError> {
    let task = tokio::task::spawn_local(async move { handler.handle(request, key).await });
    task.await.unwrap_or_else(|error| {
        tracing::error!("request handler failed: {error}");
        Err(ApiError::new(ErrorCode::Internal, "internal error").hint("this is a bug in rsm; see rsm.log"))
    })
}

fn error_response(error: &ApiError, path: &str) -> Response<HttpBody> {
    let status = StatusCode::from_u16(error.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let bytes = serde_json::to_vec(&ErrorBody { error: error.clone() }).unwrap_or_default();
    let mut response = response(status, "application/json", Full::new(bytes.into()).boxed_unsync());
    if error.code == ErrorCode::MethodNotAllowed
        && let Ok(methods) = HeaderValue::from_str(&allowed_methods(path))
    {
        response.headers_mut().insert(ALLOW, methods);
    }
    response
}

fn response(status: StatusCode, kind: &'static str, body: HttpBody) -> Response<HttpBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(VERSION_HEADER, HeaderValue::from_static(version()));
    response
}

fn with_close(mut response: Response<HttpBody>) -> Response<HttpBody> {
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}
