//! The body of a streamed answer.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use tokio::sync::{mpsc, watch};

/// LineBody as they come, until their source ends or the server closes.
pub(super) struct LineBody {
    from: mpsc::Receiver<Bytes>,
    closed: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl LineBody {
    pub(super) fn new(from: mpsc::Receiver<Bytes>, mut closed: watch::Receiver<bool>) -> Self {
        Self { from, closed: Box::pin(async move { drop(closed.wait_for(|closed| *closed).await) }) }
    }
}

impl Body for LineBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        // What was said before the close still goes out.
        if let Poll::Ready(lines) = self.from.poll_recv(context) {
            return Poll::Ready(lines.map(|lines| Ok(Frame::data(lines))));
        }
        ready!(self.closed.as_mut().poll(context));
        Poll::Ready(None) // ended properly: the client learns of an end, not of a breakdown
    }
}
