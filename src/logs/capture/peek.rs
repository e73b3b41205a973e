//! Reading the content of a pipe without consuming it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, tee};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Size of enlarged pipes in bytes, where the system allows it.
const WIDE_PIPE_SIZE: i32 = 1024 * 1024;

/// Result of a peek.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Peeked {
    /// This many bytes are in the buffer; the pipe may contain more.
    Bytes(usize),
    /// The pipe is empty.
    Empty,
    /// The pipe is empty and has no writer.
    Eof,
}

/// A second pipe, to which `tee` duplicates the content of the first one, and from which it is read. `tee`
/// copies only references to pages.
#[derive(Debug)]
pub(super) struct PipePeeker {
    read: OwnedFd,
    write: OwnedFd,
    capacity: usize,
}

impl PipePeeker {
    /// # Errors
    /// Out of file descriptors or memory.
    pub(super) fn new() -> io::Result<Self> {
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let capacity = enlarge_pipe(&write);
        Ok(Self { read, write, capacity })
    }

    /// Maximum number of bytes of one peek.
    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Copies the content of `pipe` into `buffer`, up to its length.
    ///
    /// # Errors
    /// `pipe` is not a pipe.
    pub(super) fn peek(&self, pipe: impl AsFd, buffer: &mut [u8]) -> io::Result<Peeked> {
        let length = match tee(pipe, &self.write, buffer.len(), SpliceFFlags::SPLICE_F_NONBLOCK) {
            Ok(0) => return Ok(Peeked::Eof),
            Ok(length) => length,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(Peeked::Empty),
            Err(errno) => return Err(errno.into()),
        };
        let mut done = 0;
        while done < length {
            match nix::unistd::read(&self.read, &mut buffer[done..length]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => done += count,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(Peeked::Bytes(length))
    }
}

/// Enlarges a pipe as far as the system allows. Returns its size.
pub(super) fn enlarge_pipe(pipe: impl AsFd) -> usize {
    let fd = pipe.as_fd();
    let size = || fcntl(fd, FcntlArg::F_GETPIPE_SZ).unwrap_or(4096);
    // Where the full size exceeds the limits of the system, half of it may be allowed.
    let enlarge = || {
        [WIDE_PIPE_SIZE, WIDE_PIPE_SIZE / 2]
            .into_iter()
            .find_map(|size| fcntl(fd, FcntlArg::F_SETPIPE_SZ(size)).ok())
    };
    let current = size();
    let new = if current >= WIDE_PIPE_SIZE { current } else { enlarge().unwrap_or(current) };
    usize::try_from(new).unwrap_or(4096)
}

/// Whether all writers have closed the pipe.
pub(super) fn has_no_writer(pipe: impl AsFd) -> bool {
    let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
    let result = poll(&mut fds, PollTimeout::ZERO);
    result.is_ok() && fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP))
}

#[cfg(test)]
mod tests {
    use crate::logs::capture::peek::*;

    #[test]
    fn peek_does_not_consume() {
        let peek = PipePeeker::new().unwrap();
        let (read, write) = nix::unistd::pipe2(OFlag::O_NONBLOCK).unwrap();
        let mut buffer = [0; 64];
        assert_eq!(peek.peek(&read, &mut buffer).unwrap(), Peeked::Empty);
        nix::unistd::write(&write, b"hello").unwrap();
        for _ in 0..3 {
            assert_eq!(peek.peek(&read, &mut buffer).unwrap(), Peeked::Bytes(5));
            assert_eq!(&buffer[..5], b"hello");
        }
        assert_eq!(peek.peek(&read, &mut buffer[..2]).unwrap(), Peeked::Bytes(2));
        assert!(!has_no_writer(&read));
        drop(write);
        assert!(has_no_writer(&read));
        assert_eq!(nix::unistd::read(&read, &mut buffer).unwrap(), 5);
        assert_eq!(peek.peek(&read, &mut buffer).unwrap(), Peeked::Eof);
    }

    #[test]
    fn peek_fails_if_not_a_pipe() {
        let file = tempfile::tempfile().unwrap();
        assert!(PipePeeker::new().unwrap().peek(&file, &mut [0; 8]).is_err());
    }
}
