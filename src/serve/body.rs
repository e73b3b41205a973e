//! A part of a file as the body of a response: read piece by piece, off the thread that talks.

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

/// Bytes read at once. What is no larger is read before the response begins.
const PIECE: u64 = 128 * 1024;

/// The body of a response.
pub(super) type ResponseBody = Either<Full<Bytes>, FileBody>;

/// The body that gives `part` of `file`. Blocks for the first piece when that is all.
///
/// # Errors
/// When a small file cannot be read, or has become shorter than `part`.
pub(super) fn of_file(file: File, part: Range<u64>) -> io::Result<ResponseBody> {
    if part.end - part.start <= PIECE {
        return read(&file, part).map(|bytes| Either::Left(Full::new(bytes)));
    }
    Ok(Either::Right(FileBody { file: Arc::new(file), left: part, reading: None }))
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

/// A large file on its way: one piece is being sent while the next is read.
#[derive(Debug)]
pub(super) struct FileBody {
    file: Arc<File>,
    /// What no read has been asked for yet.
    left: Range<u64>,
    reading: Option<Reading>,
}

/// A read and the number of bytes it will bring.
#[derive(Debug)]
struct Reading {
    size: u64,
    task: JoinHandle<io::Result<Bytes>>,
}

impl FileBody {
    fn read_on(&mut self) -> Option<Reading> {
        let end = self.left.end.min(self.left.start + PIECE);
        let part = self.left.start..end;
        self.left.start = end;
        let (file, size) = (Arc::clone(&self.file), part.end - part.start);
        (size > 0).then(|| Reading { size, task: spawn_blocking(move || read(&file, part)) })
    }
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.reading.is_none() {
            self.reading = self.read_on();
        }
        let Some(reading) = &mut self.reading else { return Poll::Ready(None) };
        let bytes =
            ready!(Pin::new(&mut reading.task).poll(cx)).unwrap_or_else(|error| Err(io::Error::other(error)));
        self.reading = if bytes.is_ok() { self.read_on() } else { None };
        if bytes.is_err() {
            // An error ends the body, and the connection: its length has been promised.
            self.left.start = self.left.end;
        }
        Poll::Ready(Some(bytes.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.reading.is_none() && self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        let reading = self.reading.as_ref().map_or(0, |reading| reading.size);
        SizeHint::with_exact(reading + self.left.end - self.left.start)
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
    fn a_part_of_a_large_file_comes_in_pieces() {
        let (file, bytes) = file_of(400_000);
        let body = of_file(file, 1000..399_000).unwrap();
        assert!(matches!(body, Either::Right(_)));
        assert_eq!(body.size_hint().exact(), Some(398_000));
        assert_eq!(collect(body).unwrap(), bytes[1000..399_000]);
    }

    #[test]
    fn small_and_empty_parts() {
        let (file, bytes) = file_of(100);
        assert_eq!(collect(of_file(file.try_clone().unwrap(), 10..20).unwrap()).unwrap(), bytes[10..20]);
        assert_eq!(collect(of_file(file, 100..100).unwrap()).unwrap(), "");
    }

    #[test]
    fn a_file_that_shrinks_breaks_off() {
        let (file, _) = file_of(100);
        assert!(of_file(file.try_clone().unwrap(), 0..200).is_err());
        assert!(collect(of_file(file, 0..1_000_000).unwrap()).is_err());
    }
}
