//! The daemon's end: HTTP/1.1 on the Unix socket. Whatever a client does, it harms itself alone.
//!
//! Every connection is a task of its own, and each thing that a client could make last for ever or
//! grow without end has a limit here. Two things have none: an answer takes as long as the service
//! needs, and a stream goes on while both ends like.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
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

/// Longest head of a request, in bytes.
const LONGEST_HEAD: usize = 64 << 10;
/// A client must have said its head within this time; an idle connection is closed after it.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// That many clients are served at once; the next are told to come back.
const MOST_CLIENTS: usize = 512;
/// That many are told so at once; the next are just hung up on.
const MOST_REFUSALS: usize = 32;
/// A client that is to be refused has this long to listen.
const REFUSAL_TIME: Duration = Duration::from_secs(5);
/// The pause after a failed accept: someone must close descriptors first.
const BREATH: Duration = Duration::from_millis(100);
/// After the stop, answers that are on their way have this long.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What a request is answered with.
#[derive(Debug)]
pub enum HandlerResponse {
    /// A JSON document.
    Json(Vec<u8>),
    /// JSON lines, each item one or more whole lines, for as long as both ends like.
    Stream(mpsc::Receiver<Bytes>),
}

/// Who answers.
pub trait RequestHandler: Clone + 'static {
    /// Answers one request. Once begun it is not cancelled, even if the client goes away.
    /// `key` is the client's word for it: a change asked for again by the same word was asked for once.
    fn answer(
        &self,
        request: Request,
        key: Option<String>,
    ) -> impl Future<Output = Result<HandlerResponse, ApiError>>;
}

/// Who may ask. File permissions guard the socket already; this holds where they were loosened.
#[derive(Clone, Debug)]
pub struct AllowedUids(Vec<u32>);

impl AllowedUids {
    /// The user that this process runs as, and root.
    pub fn own_user() -> Self {
        Self(vec![nix::unistd::geteuid().as_raw(), 0])
    }

    /// Just these.
    pub fn users(uids: impl Into<Vec<u32>>) -> Self {
        Self(uids.into())
    }

    fn allows(&self, stream: &UnixStream) -> bool {
        stream.peer_cred().is_ok_and(|peer| self.0.contains(&peer.uid()))
    }
}

type HttpBody = UnsyncBoxBody<Bytes, Infallible>;

/// What all connections share.
struct ServerState<S> {
    service: S,
    body_budget: BodyBudget,
    closed: watch::Receiver<bool>,
}

/// Serves until `stop` resolves, then ends the streams and lets answers that are on their way
/// arrive. Must run in a `LocalSet`.
pub async fn serve<S: RequestHandler>(
    listener: UnixListener,
    service: S,
    allowed: AllowedUids,
    stop: impl Future<Output = ()>,
) {
    let (closing, closed) = watch::channel(false);
    let shared = Rc::new(ServerState { service, body_budget: BodyBudget::default(), closed });
    let (mut clients, mut refused) = (JoinSet::new(), JoinSet::new());
    let mut stop = pin!(stop);
    loop {
        let stream = tokio::select! {
            () = &mut stop => break,
            Some(ended) = clients.join_next() => { note(ended); continue }
            Some(ended) = refused.join_next() => { note(ended); continue }
            stream = accept(&listener) => stream,
        };
        if !allowed.allows(&stream) {
            let error = ApiError::new(
                ErrorCode::Forbidden,
                "permission denied: the daemon belongs to \
                another user",
            );
            turn_away(&mut refused, stream, error.hint("switch to that user or root"));
        } else if clients.len() >= MOST_CLIENTS {
            let text = format!("too many connections ({MOST_CLIENTS})");
            let error = ApiError::new(ErrorCode::Unavailable, text);
            turn_away(&mut refused, stream, error.hint("try again later"));
        } else {
            clients.spawn_local(converse(stream, shared.clone()));
        }
    }
    drop(listener);
    let _ = closing.send(true);
    let all_gone = async { while clients.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(LAST_WORDS, all_gone).await;
}

/// The next client. Failures pass: the client was gone already, or descriptors ran out.
async fn accept(listener: &UnixListener) -> UnixStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => {
                tracing::warn!("cannot accept a connection: {error}");
                // An accept that fails for want of descriptors would fail at once again.
                tokio::time::sleep(BREATH).await;
            }
        }
    }
}

/// A connection's task only ends otherwise by a bug of ours, which shall not take the rest along.
fn note(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!("connection handler failed: {error}");
    }
}

fn http() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).max_buf_size(LONGEST_HEAD);
    builder
}

/// Tells a client why it is not served, if it listens.
fn turn_away(refused: &mut JoinSet<()>, stream: UnixStream, error: ApiError) {
    if refused.len() >= MOST_REFUSALS {
        return;
    }
    refused.spawn_local(async move {
        let answer = service_fn(|_| {
            let response = refusal(&error, "");
            async move { Ok::<_, Infallible>(hang_up_after(response)) }
        });
        let connection = http().serve_connection(TokioIo::new(stream), answer);
        let _ = tokio::time::timeout(REFUSAL_TIME, connection).await;
    });
}

/// Speaks with one client until it goes, or the server closes.
async fn converse<S: RequestHandler>(stream: UnixStream, shared: Rc<ServerState<S>>) {
    let mut closed = shared.closed.clone();
    let answer = service_fn(move |request| {
        let shared = shared.clone();
        async move { Ok::<_, Infallible>(respond(&shared, request).await) }
    });
    // No half-closed connections: a follower that went away is only known by its end of file.
    let mut connection = pin!(http().serve_connection(TokioIo::new(stream), answer));
    let closes = async { drop(closed.wait_for(|closed| *closed).await) };
    tokio::select! {
        _ = &mut connection => return, // a client that talks nonsense or hangs up is its own affair
        () = closes => {}
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
    let (body, _taken) = match body::read_body(body, &shared.body_budget).await {
        Ok(read) => read,
        // What is left of the body could be taken for the next request.
        Err(error) => return hang_up_after(refusal(&error, "")),
    };
    let query = head.uri.query().unwrap_or_default();
    let answer = match Request::decode(&head.method, path, query, &body) {
        Ok(request) => match key(&head.headers) {
            Ok(key) => finish(shared.service.clone(), request, key).await,
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    };
    match answer {
        Ok(HandlerResponse::Json(bytes)) => {
            response(StatusCode::OK, "application/json", Full::new(bytes.into()).boxed_unsync())
        }
        Ok(HandlerResponse::Stream(lines)) => {
            let lines = LineBody::new(lines, shared.closed.clone());
            response(StatusCode::OK, "application/x-ndjson", lines.boxed_unsync())
        }
        Err(error) => refusal(&error, path),
    }
}

/// The client's word for its request.
fn key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
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

/// Answers in a task of its own: a client that hangs up must not leave a stop or a shutdown half
/// done.
async fn finish<S: RequestHandler>(
    service: S,
    request: Request,
    key: Option<String>,
) -> Result<HandlerResponse, ApiError> {
    let task = tokio::task::spawn_local(async move { service.answer(request, key).await });
    task.await.unwrap_or_else(|error| {
        tracing::error!("request handler failed: {error}");
        Err(ApiError::new(ErrorCode::Internal, "internal error").hint("this is a bug in rsm; see rsm.log"))
    })
}

fn refusal(error: &ApiError, path: &str) -> Response<HttpBody> {
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

fn hang_up_after(mut response: Response<HttpBody>) -> Response<HttpBody> {
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}
