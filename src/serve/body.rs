//! A part of a file as a response body. Reads chunks on a thread for blocking operations.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::{Body, Frame, SizeHint};
use tokio::task::{JoinHandle, spawn_blocking};

/// Bytes per read. A body that is not larger is read before the response starts.
const CHUNK_SIZE: u64 = 128 * 1024;

/// The body of a response.
pub(super) type ResponseBody = Either<Full<Bytes>, FileBody>;

/// The body with the bytes `part` of `file`. Blocks to read a small part.
///
/// # Errors
/// A small part cannot be read, or the file is now shorter.
pub(super) fn of_file(file: File, part: Range<u64>) -> io::Result<ResponseBody> {
    if part.end - part.start <= CHUNK_SIZE {
        return read(&file, part).map(|bytes| Either::Left(Full::new(bytes)));
    }
    Ok(Either::Right(FileBody { file: Arc::new(file), unread: part, pending: None }))
}

/// A body in memory.
pub(super) fn of_bytes(bytes: impl Into<Bytes>) -> ResponseBody {
    Either::Left(Full::new(bytes.into()))
}

fn read(file: &File, part: Range<u64>) -> io::Result<Bytes> {
    let mut bytes = vec![0; usize::try_from(part.end - part.start).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, part.start)?;
    Ok(bytes.into())
}

/// The body of a large file: one chunk is sent while the next one is read.
#[derive(Debug)]
pub(super) struct FileBody {
    file: Arc<File>,
    /// The bytes for which no read was started.
    unread: Range<u64>,
    pending: Option<PendingRead>,
}

/// A started read and its size in bytes.
#[derive(Debug)]
struct PendingRead {
    size: u64,
    task: JoinHandle<io::Result<Bytes>>,
}

impl FileBody {
    fn start_read(&mut self) -> Option<PendingRead> {
        let end = self.unread.end.min(self.unread.start + CHUNK_SIZE);
        let part = self.unread.start..end;
        self.unread.start = end;
        let (file, size) = (Arc::clone(&self.file), part.end - part.start);
        (size > 0).then(|| PendingRead { size, task: spawn_blocking(move || read(&file, part)) })
    }
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.pending.is_none() {
            self.pending = self.start_read();
        }
        let Some(pending) = &mut self.pending else { return Poll::Ready(None) };
        let bytes =
            ready!(Pin::new(&mut pending.task).poll(cx)).unwrap_or_else(|error| Err(io::Error::other(error)));
        self.pending = if bytes.is_ok() { self.start_read() } else { None };
        if bytes.is_err() {
            // An error ends the body and closes the connection: the Content-Length was already sent.
            self.unread.start = self.unread.end;
        }
        Poll::Ready(Some(bytes.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.pending.is_none() && self.unread.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        let pending = self.pending.as_ref().map_or(0, |pending| pending.size);
        SizeHint::with_exact(pending + self.unread.end - self.unread.start)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    fn file_of(size: usize) -> (File, Vec<u8>) {
        let bytes: Vec<u8> = (0..size).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&bytes, 0).unwrap();
        (file, bytes)
    }

    fn collect(body: ResponseBody) -> Result<Bytes, Box<dyn std::error::Error + Send + Sync>> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async { body.collect().await.map(http_body_util::Collected::to_bytes) })
    }

    #[test]
    fn sends_large_part_in_chunks() {
        let (file, bytes) = file_of(400_000);
        let body = of_file(file, 1000..399_000).unwrap();
        assert!(matches!(body, Either::Right(_)));
        assert_eq!(body.size_hint().exact(), Some(398_000));
        assert_eq!(collect(body).unwrap(), bytes[1000..399_000]);
    }

    #[test]
    fn sends_small_and_empty_parts() {
        let (file, bytes) = file_of(100);
        assert_eq!(collect(of_file(file.try_clone().unwrap(), 10..20).unwrap()).unwrap(), bytes[10..20]);
        assert_eq!(collect(of_file(file, 100..100).unwrap()).unwrap(), "");
    }

    #[test]
    fn truncated_file_is_an_error() {
        let (file, _) = file_of(100);
        assert!(of_file(file.try_clone().unwrap(), 0..200).is_err());
        assert!(collect(of_file(file, 0..1_000_000).unwrap()).is_err());
    }
}
