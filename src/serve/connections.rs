//! Connections: accepted, served, and on shutdown brought to a decent end.

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

use super::args::Settings;
use super::body::ResponseBody;
use super::listen::BACKLOG;
use super::respond::{notice, respond};
use super::stall::Impatient;

/// How long slow clients are waited for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// For the head of a request, idle time before it included.
    pub(super) head: Duration,
    /// For a client that takes nothing of what is sent.
    pub(super) stalled: Duration,
    /// At shutdown, for the first request of a connection that was just made.
    pub(super) newcomer: Duration,
    /// At shutdown, for all that was begun.
    pub(super) drain: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(30),
            stalled: Duration::from_secs(30),
            newcomer: Duration::from_millis(500),
            // Less than the grace an app is given by default, so that nothing is killed half sent.
            drain: Duration::from_secs(5),
        }
    }
}

/// Serves until `shutdown` completes, then closes the listener and finishes what was begun.
pub(super) async fn serve(
    listener: TcpListener,
    settings: Arc<Settings>,
    patience: Patience,
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
                    connections.spawn(converse(stream, Arc::clone(&settings), patience, stopped.clone()));
                }
                Err(error) => rest(&error).await,
            },
        }
    }
    // Connections in the queue are ours, even if other instances listen: the kernel would reset them.
    for stream in queued(listener) {
        connections.spawn(converse(stream, Arc::clone(&settings), patience, stopped.clone()));
    }
    drop(stop);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(patience.drain, drained).await.is_err() {
        super::complain(format_args!("stopped with responses half sent: clients too slow"));
    }
}

/// Without file descriptors or memory, `accept` fails at once again and again until a connection
/// ends; other errors are those of one connection, gone before it was accepted.
async fn rest(error: &io::Error) {
    if let Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) = error.raw_os_error() {
        super::complain(format_args!("cannot accept connections: {error}"));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Closes the listener and gives the connections that waited there. The kernel is asked itself: tokio
/// knows only what it was told when it last slept.
fn queued(listener: TcpListener) -> Vec<TcpStream> {
    let Ok(listener) = listener.into_std() else { return Vec::new() };
    // No more than can have waited: others may listen on the same socket, and go on.
    let accepted = std::iter::from_fn(|| listener.accept().ok()).take(BACKLOG as usize);
    let usable = |(stream, _): (std::net::TcpStream, _)| {
        stream.set_nonblocking(true)?;
        TcpStream::from_std(stream)
    };
    accepted.filter_map(|connection| usable(connection).ok()).collect()
}

/// One connection, to its end. Its errors are the client's: it went away, or sent what is no HTTP.
async fn converse(
    stream: TcpStream,
    settings: Arc<Settings>,
    patience: Patience,
    mut stopped: watch::Receiver<()>,
) {
    let _ = stream.set_nodelay(true);
    let stream = Impatient::new(stream, patience.stalled);
    let (asked, requests) = watch::channel(false);
    let service = service_fn(|request| {
        asked.send_replace(true);
        answer(Arc::clone(&settings), request)
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(patience.head)
            .serve_connection(TokioIo::new(stream), service)
    );
    tokio::select! {
        _ = connection.as_mut() => return,
        // It errs, as nothing is ever sent: the sender is dropped.
        _ = stopped.changed() => {}
    }
    if !*requests.borrow() {
        // Who has just connected is about to ask.
        let mut first = requests.clone();
        tokio::select! {
            _ = connection.as_mut() => return,
            _ = first.changed() => {}
            () = tokio::time::sleep(patience.newcomer) => {}
        }
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}

/// Looks up on a thread of its own kind, so that a slow disk holds up no other connection.
async fn answer(
    settings: Arc<Settings>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let (head, _) = request.into_parts();
    let answered = spawn_blocking(move || respond(&settings, &head)).await;
    Ok(answered.unwrap_or_else(|_| notice(StatusCode::INTERNAL_SERVER_ERROR)))
}
