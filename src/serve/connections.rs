//! Client connections: accept, serve, and close gracefully at shutdown.

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinSet, spawn_blocking};

use super::body::ResponseBody;
use super::config::ServeConfig;
use super::listen::BACKLOG;
use super::respond::{respond, status_page};
use super::write_timeout::WriteTimeout;

/// Timeouts for slow clients.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    /// For the head of a request, including the idle time before it.
    pub(super) header_read: Duration,
    /// For a client that receives nothing of a response.
    pub(super) write_stall: Duration,
    /// At shutdown, for the first request of a new connection.
    pub(super) first_request: Duration,
    /// At shutdown, for all pending responses.
    pub(super) drain: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            header_read: Duration::from_secs(30),
            write_stall: Duration::from_secs(30),
            first_request: Duration::from_millis(500),
            // Practically none: rsm ends the process after the grace period of the app.
            drain: Duration::from_secs(24 * 60 * 60),
        }
    }
}

/// Serves until `shutdown` completes, then closes the listener and finishes pending responses.
pub(super) async fn serve(
    listener: TcpListener,
    config: Arc<ServeConfig>,
    timeouts: Timeouts,
    shutdown: impl Future<Output = ()>,
) {
    let (stop, stopped) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve_connection(stream, Arc::clone(&config), timeouts, stopped.clone()));
                }
                Err(error) => accept_backoff(&error).await,
            },
        }
    }
    // The kernel would reset queued connections, even if other instances listen on the port.
    for stream in drain_backlog(listener) {
        connections.spawn(serve_connection(stream, Arc::clone(&config), timeouts, stopped.clone()));
    }
    drop(stop);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(timeouts.drain, drained).await.is_err() {
        super::log_error(format_args!("shutdown timeout: closed connections with pending responses"));
    }
}

/// Without free descriptors or memory, `accept` fails immediately until a connection is closed. Other errors
/// concern one connection that was closed before it was accepted.
async fn accept_backoff(error: &io::Error) {
    if let Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) = error.raw_os_error() {
        super::log_error(format_args!("cannot accept connections: {error}"));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Closes the listener and returns its queued connections. Calls `accept` of the standard library: tokio only
/// tries when its last poll reported the listener as readable.
fn drain_backlog(listener: TcpListener) -> Vec<TcpStream> {
    let Ok(listener) = listener.into_std() else { return Vec::new() };
    // Not more than the backlog: other processes may use the same socket, and clients continue to connect.
    let accepted = std::iter::from_fn(|| listener.accept().ok()).take(BACKLOG as usize);
    let usable = |(stream, _): (std::net::TcpStream, _)| {
        stream.set_nonblocking(true)?;
        TcpStream::from_std(stream)
    };
    accepted.filter_map(|connection| usable(connection).ok()).collect()
}

/// Serves one connection until it is closed. Errors are ignored: the client disconnected or sent invalid
/// HTTP.
async fn serve_connection(
    stream: TcpStream,
    config: Arc<ServeConfig>,
    timeouts: Timeouts,
    mut stopped: watch::Receiver<()>,
) {
    let _ = stream.set_nodelay(true);
    let stream = WriteTimeout::new(stream, timeouts.write_stall);
    let (has_request, requests) = watch::channel(false);
    let service = service_fn(|request| {
        has_request.send_replace(true);
        handle(Arc::clone(&config), request)
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(timeouts.header_read)
            .serve_connection(TokioIo::new(stream), service)
    );
    tokio::select! {
        _ = connection.as_mut() => return,
        // Returns an error when the sender is dropped; nothing is ever sent.
        _ = stopped.changed() => {}
    }
    if !*requests.borrow() {
        // A new connection is about to send its first request.
        let mut first = requests.clone();
        tokio::select! {
            _ = connection.as_mut() => return,
            _ = first.changed() => {}
            () = tokio::time::sleep(timeouts.first_request) => {}
        }
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}

/// Responds on a thread for blocking operations, so that a slow disk does not delay other connections.
async fn handle(
    config: Arc<ServeConfig>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let (head, _) = request.into_parts();
    let response = spawn_blocking(move || respond(&config, &head)).await;
    Ok(response.unwrap_or_else(|_| status_page(StatusCode::INTERNAL_SERVER_ERROR)))
}
