//! Whether whoever is at the other end of standard input or output has gone.

use std::io;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::oneshot;

/// Tells when a terminal or pipe hangs up. A thread, which ends with the process: it waits for good where that
/// is a file.
///
/// # Errors
/// The system gives no thread.
pub(super) fn hangup(of: impl AsFd + Send + 'static) -> io::Result<oneshot::Receiver<()>> {
    let (tell, told) = oneshot::channel();
    let watch = move || {
        // No event is asked for: errors and hang-ups are always reported.
        let mut watched = [PollFd::new(of.as_fd(), PollFlags::empty())];
        while let Ok(0) | Err(Errno::EINTR) = poll(&mut watched, PollTimeout::NONE) {}
        let _ = tell.send(()); // nobody may wait any more
    };
    std::thread::Builder::new().name("hangup".into()).spawn(watch)?;
    Ok(told)
}
