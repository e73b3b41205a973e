//! The daemon's end: HTTP/1.1 on the Unix socket. Whatever a client does, it harms itself alone.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Frame, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, watch};

use super::message::{ApiError, ErrorCode, Request};
use super::route;

/// A body may be so long: ten thousand apps with their environments.
const LONGEST_BODY: usize = 32 << 20;
/// And the head of a request.
const LONGEST_HEAD: usize = 64 << 10;
/// A client must have said its head within this time; an idle connection is closed after it.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// And its body within this.
const BODY_TIME: Duration = Duration::from_secs(30);
/// More clients than these wait their turn in the socket's queue.
const MOST_CONNECTIONS: usize = 512;
/// After the stop, answers that are on their way have this long.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What a request is answered with.
pub enum Answer {
    /// A JSON document.
    Json(Vec<u8>),
    /// JSON lines, each item one or more whole lines, for as long as both ends like.
    Stream(mpsc::Receiver<Bytes>),
}

/// Who answers.
pub trait Service: Clone + 'static {
    /// Answers one request.
    fn answer(&self, request: Request) -> impl Future<Output = Result<Answer, ApiError>>;
}

/// Who may ask.
#[derive(Clone, Copy, Debug)]
pub struct Allowed(u32);

impl Allowed {
    /// The user that this process runs as, and root.
    pub fn own_user() -> Self {
        Self(nix::unistd::geteuid().as_raw())
    }

    fn allows(self, stream: &UnixStream) -> bool {
        stream.peer_cred().is_ok_and(|peer| peer.uid() == self.0 || peer.uid() == 0)
    }
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Serves until `stop` resolves, then lets answers that are on their way arrive. Must run in a
/// `LocalSet`.
pub async fn serve<S: Service>(
    listener: UnixListener,
    service: S,
    allowed: Allowed,
    stop: impl Future<Output = ()>,
) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let (closing, closed) = watch::channel(false);
    let mut stop = pin!(stop);
    loop {
        let accepted = async { (places.clone().acquire_owned().await, listener.accept().await) };
        let (place, stream) = tokio::select! {
            (place, accepted) = accepted => match accepted {
                Ok((stream, _)) => (place, stream),
                Err(error) => {
                    // Out of descriptors: others must close theirs first.
                    tracing::warn!("accepting a client: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            () = &mut stop => break,
        };
        let (service, closed) = (service.clone(), closed.clone());
        tokio::task::spawn_local(async move {
            let _place = place;
            let allowed = allowed.allows(&stream);
            converse(stream, service, allowed, closed).await;
        });
    }
    let _ = closing.send(true);
    drop(closed);
    let _ = tokio::time::timeout(LAST_WORDS, closing.closed()).await;
}

/// Speaks with one client until it goes, or the server closes.
async fn converse<S: Service>(
    stream: UnixStream,
    service: S,
    allowed: bool,
    mut closed: watch::Receiver<bool>,
) {
    let answer = service_fn(move |request| {
        let service = service.clone();
        async move { Ok::<_, Infallible>(respond(&service, allowed, request).await) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).max_buf_size(LONGEST_HEAD);
    // A client may say what it has to say, close its side, and still listen.
    builder.half_close(true);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), answer));
    let closes = async { closed.wait_for(|closed| *closed).await.is_ok() };
    tokio::select! {
        _ = &mut connection => return, // a client that talks nonsense or hangs up is its own affair
        _ = closes => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}

async fn respond<S: Service>(
    service: &S,
    allowed: bool,
    request: hyper::Request<Incoming>,
) -> Response<Body> {
    let methods = methods(request.uri().path());
    let answer = match understand(allowed, request).await {
        Ok(request) => service.answer(request).await,
        Err(error) => Err(error),
    };
    match answer {
        Ok(Answer::Json(bytes)) => {
            response(StatusCode::OK, "application/json", Full::new(bytes.into()).boxed_unsync())
        }
        Ok(Answer::Stream(lines)) => {
            response(StatusCode::OK, "application/x-ndjson", StreamOf(lines).boxed_unsync())
        }
        Err(error) => refusal(&error, methods),
    }
}

async fn understand(allowed: bool, request: hyper::Request<Incoming>) -> Result<Request, ApiError> {
    if !allowed {
        return Err(ApiError::new(ErrorCode::Forbidden, "this daemon belongs to another user"));
    }
    let (head, body) = request.into_parts();
    let body = tokio::time::timeout(BODY_TIME, Limited::new(body, LONGEST_BODY).collect()).await;
    let body = match body {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            return Err(ApiError::new(
                ErrorCode::TooLarge,
                format!("the body is longer than {LONGEST_BODY} bytes"),
            ));
        }
        Ok(Err(error)) => return Err(ApiError::new(ErrorCode::Invalid, format!("the body: {error}"))),
        Err(_) => return Err(ApiError::new(ErrorCode::Invalid, "the body took too long")),
    };
    route::from_http(&head.method, head.uri.path(), head.uri.query().unwrap_or_default(), &body)
}

fn methods(path: &str) -> &'static str {
    let segments: Vec<&str> = path.split('/').skip(2).collect();
    route::allowed(&segments)
}

fn refusal(error: &ApiError, methods: &'static str) -> Response<Body> {
    let status = StatusCode::from_u16(error.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let bytes = serde_json::to_vec(&serde_json::json!({ "error": error })).unwrap_or_default();
    let mut response = response(status, "application/json", Full::new(bytes.into()).boxed_unsync());
    if error.code == ErrorCode::MethodNotAllowed {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    }
    response
}

fn response(status: StatusCode, kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// Lines as they come.
struct StreamOf(mpsc::Receiver<Bytes>);

impl hyper::body::Body for StreamOf {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|line| line.map(|line| Ok(Frame::data(line))))
    }
}
