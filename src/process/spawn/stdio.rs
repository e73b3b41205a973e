//! The pipes of an app's standard streams: creating them, and reopening them from a running process.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::time::Instant;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;

use crate::process::proc::fds;
use crate::process::process_ref::ProcessRef;
use crate::process::tree;

/// Size of the pipe of an app's standard input, in bytes.
const STDIN_PIPE_SIZE: i32 = 4096;

/// A pipe for an app's output: the read end for rsm, and the write end for the app.
///
/// The write end is also opened for reading: without any other reader, a write then blocks instead of failing
/// with SIGPIPE, so an app survives the death of all rsm processes. It is owned by the app's user, so that
/// the app can open `/dev/stdout`.
///
/// # Errors
/// Out of descriptors or pipes.
pub fn output_pipe(uid: Option<u32>) -> nix::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    if let Some(uid) = uid {
        let _ = nix::unistd::fchown(&write, Some(uid.into()), None);
    }
    fcntl(read.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((read, reopen_read_write(write)))
}

/// The read end of a pipe for an app's standard input; rsm writes to it through `/proc`.
///
/// It is also opened for writing: an app never reaches the end of its input, even if rsm dies.
///
/// # Errors
/// Out of descriptors or pipes.
pub fn input_pipe(uid: Option<u32>) -> nix::Result<OwnedFd> {
    let (read, _) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    if let Some(uid) = uid {
        let _ = nix::unistd::fchown(&read, Some(uid.into()), None);
    }
    // Small, because the total size of the pipes of a user is limited (`/proc/sys/fs/pipe-user-pages-soft`).
    let _ = fcntl(read.as_fd(), FcntlArg::F_SETPIPE_SZ(STDIN_PIPE_SIZE));
    Ok(reopen_read_write(read))
}

/// Opens an end of a pipe for reading and writing; the end itself if that fails.
fn reopen_read_write(end: OwnedFd) -> OwnedFd {
    let path = format!("/proc/self/fd/{}", end.as_raw_fd());
    let both = nix::fcntl::open(path.as_str(), OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty());
    both.unwrap_or(end)
}

/// Writes to the standard input of a process, if that is still a pipe. While the pipe is full, waits until the
/// deadline. The process can block this call: run it [detached](crate::process::detached).
///
/// # Errors
/// Its standard input was replaced (`InvalidInput`), the pipe stayed full (`WouldBlock`), or the process does not
/// exist any more.
pub fn write_stdin(process: ProcessRef, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
    let path = format!("/proc/{}/fd/0", process.pid);
    if !fds::is_pipe(process.pid, libc::STDIN_FILENO)? {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "stdin was replaced"));
    }
    let mut input = File::options().write(true).custom_flags(libc::O_NONBLOCK).open(&path)?;
    if !process.is_running() {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    while !bytes.is_empty() {
        match input.write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                let left = deadline.saturating_duration_since(Instant::now()).as_millis() + 1;
                let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
                let _ = poll(&mut [PollFd::new(input.as_fd(), PollFlags::POLLOUT)], timeout);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reopens the read ends of the output pipes of a process. A pipe that the leader closed or replaced may still be open
/// in a descendant. The process can block this call.
pub fn reopen_output_pipes(leader: ProcessRef) -> [Option<OwnedFd>; 2] {
    let members = tree::tree_members(leader);
    let find = |number| members.iter().find_map(|member| reopen_output_pipe(member.process.pid, number));
    let (out, mut err) = (find(libc::STDOUT_FILENO), find(libc::STDERR_FILENO));
    if out.as_ref().zip(err.as_ref()).is_some_and(|(out, err)| is_same_file(out, err)) {
        err = None; // `2>&1`
    }
    [out, err]
}

/// Reopens the read end of the output pipe at descriptor `number` of a process, after all rsm processes have
/// died.
///
/// Only a pipe that is open for reading and writing can be one of rsm: reading from another one would take
/// data from its reader.
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

/// Whether two descriptors refer to the same file, such as a pipe.
pub fn is_same_file(a: &OwnedFd, b: &OwnedFd) -> bool {
    let id = |fd: &OwnedFd| {
        let meta = File::from(fd.try_clone()?).metadata()?;
        io::Result::Ok((meta.dev(), meta.ino()))
    };
    matches!((id(a), id(b)), (Ok(a), Ok(b)) if a == b)
}

/// The read end of a pipe whose write end is closed.
///
/// # Errors
/// Out of descriptors or pipes.
pub fn closed_pipe() -> nix::Result<OwnedFd> {
    nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).map(|(read, _)| read)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn reopens_only_output_pipes_of_rsm() {
        let me = std::process::id().cast_signed();
        let (read_end, write_end) = output_pipe(None).unwrap();
        File::from(write_end.try_clone().unwrap()).write_all(b"kept").unwrap();
        drop(read_end);
        let reopened = reopen_output_pipe(me, write_end.as_raw_fd()).unwrap();
        assert!(is_same_file(&reopened, &write_end));
        let mut text = [0; 8];
        assert_eq!(File::from(reopened).read(&mut text).unwrap(), 4, "data written in the meantime is kept");
        let (read, write) = nix::unistd::pipe().unwrap();
        assert!(reopen_output_pipe(me, write.as_raw_fd()).is_none(), "a pipe of the app");
        assert!(!is_same_file(&read, &write_end));
        let file: OwnedFd = File::open("/dev/null").unwrap().into();
        assert!(reopen_output_pipe(me, file.as_raw_fd()).is_none());
        assert_eq!(File::from(closed_pipe().unwrap()).read(&mut text).unwrap(), 0);
    }
}
