//! The body of a streamed response.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use tokio::sync::{mpsc, watch};

/// Lines from a channel, until the sender is dropped or the server stops.
pub(super) struct LineBody {
    lines: mpsc::Receiver<Bytes>,
    closed: Pin<Box<dyn Future<Output = ()> + Send>>,
    _slot: Arc<()>,
}

impl LineBody {
    /// `slot` counts the stream as long as it exists.
    pub(super) fn new(
        lines: mpsc::Receiver<Bytes>,
        mut closed: watch::Receiver<bool>,
        slot: Arc<()>,
    ) -> Self {
        let closed = Box::pin(async move { drop(closed.wait_for(|closed| *closed).await) });
        Self { lines, closed, _slot: slot }
    }
}

impl Body for LineBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        // Lines that were sent before the stop are still delivered.
        if let Poll::Ready(lines) = self.lines.poll_recv(context) {
            return Poll::Ready(lines.map(|lines| Ok(Frame::data(lines))));
        }
        ready!(self.closed.as_mut().poll(context));
        Poll::Ready(None) // a complete response: the client sees an end, not an error
    }
}
