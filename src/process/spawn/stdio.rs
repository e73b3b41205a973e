//! The pipes that carry an app's output: making them, and finding them again in a running process.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::Mode;
use tokio::io::AsyncWriteExt;

use crate::process::proc::fds;
use crate::process::process_ref::ProcessRef;

/// Room in the pipe of an app's input, in bytes.
const STDIN_PIPE_SIZE: i32 = 4096;

/// A pipe for an app's output: our end to read from, its end to write to.
///
/// Its end is opened for reading too: a pipe without any reader then makes a writer wait instead
/// of killing it, so an app survives the death of all of rsm. And it belongs to the app's user,
/// who may open `/dev/stdout` anew.
///
/// # Errors
/// Out of descriptors or pipes.
pub fn output_pipe(uid: Option<u32>) -> nix::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    if let Some(uid) = uid {
        let _ = nix::unistd::fchown(&theirs, Some(uid.into()), None);
    }
    let path = format!("/proc/self/fd/{}", theirs.as_raw_fd());
    let both = nix::fcntl::open(path.as_str(), OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty());
    fcntl(ours.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((ours, both.unwrap_or(theirs)))
}

/// An app's end of a pipe for its standard input; it is written to through `/proc`, when somebody does.
///
/// It is opened for writing too: an app never comes to the end of its input, whoever dies.
///
/// # Errors
/// Out of descriptors or pipes.
pub fn input_pipe(uid: Option<u32>) -> nix::Result<OwnedFd> {
    let (theirs, _) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    if let Some(uid) = uid {
        let _ = nix::unistd::fchown(&theirs, Some(uid.into()), None);
    }
    // Small: what a user may have of pipes is for output.
    let _ = fcntl(theirs.as_fd(), FcntlArg::F_SETPIPE_SZ(STDIN_PIPE_SIZE));
    let path = format!("/proc/self/fd/{}", theirs.as_raw_fd());
    let both = nix::fcntl::open(path.as_str(), OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty());
    Ok(both.unwrap_or(theirs))
}

/// Writes to the standard input of a process, if that still is the pipe it was given. What of `bytes`
/// has no room yet is waited for.
///
/// # Errors
/// It has another standard input now (`InvalidInput`), or is gone.
pub async fn write_stdin(process: ProcessRef, bytes: &[u8]) -> io::Result<()> {
    let path = format!("/proc/{}/fd/0", process.pid);
    let other = || io::Error::new(io::ErrorKind::InvalidInput, "stdin was replaced");
    if !fds::is_pipe(process.pid, libc::STDIN_FILENO)? {
        return Err(other());
    }
    let mut input = tokio::net::unix::pipe::OpenOptions::new().open_sender(&path)?;
    if !process.is_running() {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    input.write_all(bytes).await
}

/// Our end again of the output pipe that a process has at this number, after all of rsm was gone.
///
/// Only a pipe that is open for both ways can be one of ours: reading any other would take away
/// from the program that reads it.
pub fn reopen_output_pipe(pid: i32, number: i32) -> Option<OwnedFd> {
    let path = format!("/proc/{pid}/fd/{number}");
    if !fds::is_pipe(pid, number).ok()? {
        return None;
    }
    let flags = fds::flags(pid, number).ok()?;
    if flags & libc::O_ACCMODE != libc::O_RDWR {
        return None;
    }
    let mut options = File::options();
    options.read(true).custom_flags(libc::O_NONBLOCK).open(&path).ok().map(OwnedFd::from)
}

/// Whether two descriptors are of the same pipe.
pub fn is_same_file(one: &OwnedFd, other: &OwnedFd) -> bool {
    let id = |fd: &OwnedFd| {
        let meta = File::from(fd.try_clone()?).metadata()?;
        io::Result::Ok((meta.dev(), meta.ino()))
    };
    matches!((id(one), id(other)), (Ok(one), Ok(other)) if one == other)
}

/// The read end of a pipe that nobody writes to any more.
///
/// # Errors
/// Out of descriptors or pipes.
pub fn closed_pipe() -> nix::Result<OwnedFd> {
    nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).map(|(read, _)| read)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn only_our_own_pipes_are_opened_again() {
        let me = std::process::id().cast_signed();
        let (ours, theirs) = output_pipe(None).unwrap();
        File::from(theirs.try_clone().unwrap()).write_all(b"kept").unwrap();
        drop(ours);
        let again = reopen_output_pipe(me, theirs.as_raw_fd()).unwrap();
        assert!(is_same_file(&again, &theirs));
        let mut text = [0; 8];
        assert_eq!(File::from(again).read(&mut text).unwrap(), 4, "what was written meanwhile is there");
        let (read, write) = nix::unistd::pipe().unwrap();
        assert!(reopen_output_pipe(me, write.as_raw_fd()).is_none(), "a pipe of the app's own");
        assert!(!is_same_file(&read, &theirs));
        let file: OwnedFd = File::open("/dev/null").unwrap().into();
        assert!(reopen_output_pipe(me, file.as_raw_fd()).is_none());
        assert_eq!(File::from(closed_pipe().unwrap()).read(&mut text).unwrap(), 0);
    }
}
