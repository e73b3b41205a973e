//! Looking at what a pipe holds without taking it out.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, tee};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// What pipes are enlarged to where that is needed and allowed. Bytes.
const WIDE_PIPE_SIZE: i32 = 1024 * 1024;

/// What there is in a pipe.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::logs) enum Peeked {
    /// So many bytes at least, now in the buffer.
    Bytes(usize),
    /// Nothing now.
    Empty,
    /// Nothing, and nothing will come.
    Eof,
}

/// A second pipe, into which what the first one holds is copied (`tee` copies no bytes, only
/// references to pages), and from there read.
#[derive(Debug)]
pub(in crate::logs) struct PipePeeker {
    read: OwnedFd,
    write: OwnedFd,
    capacity: usize,
}

impl PipePeeker {
    /// # Errors
    /// The system is out of descriptors or memory.
    pub(in crate::logs) fn new() -> io::Result<Self> {
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let room = enlarge_pipe(&write);
        Ok(Self { read, write, capacity: room })
    }

    /// The most bytes that can be looked at.
    pub(in crate::logs) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Copies what `pipe` holds into `buffer`, up to its length.
    ///
    /// # Errors
    /// It is no pipe.
    pub(in crate::logs) fn peek(&self, pipe: impl AsFd, buffer: &mut [u8]) -> io::Result<Peeked> {
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

/// Makes room in a pipe, as far as the system allows; returns how much there is now.
pub(in crate::logs) fn enlarge_pipe(pipe: impl AsFd) -> usize {
    let fd = pipe.as_fd();
    let size = || fcntl(fd, FcntlArg::F_GETPIPE_SZ).unwrap_or(4096);
    // Half of it may still be allowed where the whole is not.
    let wide = || {
        [WIDE_PIPE_SIZE, WIDE_PIPE_SIZE / 2]
            .into_iter()
            .find_map(|wide| fcntl(fd, FcntlArg::F_SETPIPE_SZ(wide)).ok())
    };
    let now = size();
    usize::try_from(if now >= WIDE_PIPE_SIZE { now } else { wide().unwrap_or(now) }).unwrap_or(4096)
}

/// Whether no writer has a pipe open any more.
pub(in crate::logs) fn has_no_writer(pipe: impl AsFd) -> bool {
    let mut watched = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
    let asked = poll(&mut watched, PollTimeout::ZERO);
    asked.is_ok() && watched[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP))
}

#[cfg(test)]
mod tests {
    use crate::logs::capture::peek::*;

    #[test]
    fn looking_takes_nothing_out() {
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
    fn what_is_no_pipe_is_an_error() {
        let file = tempfile::tempfile().unwrap();
        assert!(PipePeeker::new().unwrap().peek(&file, &mut [0; 8]).is_err());
    }
}
