//! Start report: a child reports the progress of its start to its parent, through a socket pair that closes
//! on exec.
//!
//! If it closes without a message, the program runs. Before that the child may send the notifier of its
//! seccomp filter. A failed step is the last message.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

use crate::exit::StartStep;
use crate::process::fd_channel;

/// The packet that carries the notifier; a failed step is longer.
const NOTIFIER_TAG: [u8; 1] = [1];

/// The child's end.
#[derive(Debug)]
pub struct StartReporter(OwnedFd);

/// The parent's end. Readable when there is a message.
#[derive(Debug)]
pub struct StartReport(OwnedFd);

/// A message of the child.
#[derive(Debug)]
pub enum StartMessage {
    /// No message yet.
    Pending,
    /// The notifier of its seccomp filter; another message follows.
    Notifier(OwnedFd),
    /// This step failed with this error number: there is no program.
    Failed(StartStep, i32),
    /// The program was executed, or the child was killed before.
    Execed,
}

/// Both ends.
///
/// # Errors
/// Out of descriptors or memory.
pub fn start_report_pair() -> nix::Result<(StartReport, StartReporter)> {
    let (report, reporter) = fd_channel::socketpair()?;
    Ok((StartReport(report), StartReporter(reporter)))
}

impl StartReporter {
    /// Moves to a descriptor that is not below `number`.
    pub fn dup_above(&mut self, number: RawFd) -> nix::Result<()> {
        if self.0.as_raw_fd() < number {
            let moved = fcntl(&self.0, FcntlArg::F_DUPFD_CLOEXEC(number))?;
            self.0 = fd_channel::take_inherited_fd(moved)?;
        }
        Ok(())
    }

    /// Sends the notifier of the seccomp filter.
    pub fn send_notifier(&self, notifier: BorrowedFd<'_>) -> nix::Result<()> {
        fd_channel::send_with_fds(self.0.as_fd(), &NOTIFIER_TAG, &[notifier])
    }

    /// Sends the failed step; the parent may have died, or not read it.
    pub fn send_failure(&self, step: StartStep, errno: Errno) {
        let mut packet = [0; 8];
        packet[..4].copy_from_slice(&(step as u32).to_ne_bytes());
        packet[4..].copy_from_slice(&(errno as i32).to_ne_bytes());
        let _ = fd_channel::send_with_fds(self.0.as_fd(), &packet, &[]);
    }
}

impl AsFd for StartReport {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl StartReport {
    /// The parent's end, inherited from another process.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// The next message.
    pub fn receive(&self) -> StartMessage {
        let mut packet = [0; 8];
        match fd_channel::receive_with_fds(self.0.as_fd(), &mut packet) {
            Err(Errno::EAGAIN) => StartMessage::Pending,
            Ok((length, mut fds)) => match (&packet[..length], fds.pop()) {
                (packet, Some(notifier)) if packet == NOTIFIER_TAG => StartMessage::Notifier(notifier),
                (packet, _) => parse_failure(packet)
                    .map_or(StartMessage::Execed, |(step, errno)| StartMessage::Failed(step, errno)),
            },
            Err(_) => StartMessage::Execed,
        }
    }
}

/// The step and error number in a packet; `None` if it is not a failure.
fn parse_failure(packet: &[u8]) -> Option<(StartStep, i32)> {
    let step = u32::from_ne_bytes(packet.get(..4)?.try_into().ok()?);
    let errno = i32::from_ne_bytes(packet.get(4..8)?.try_into().ok()?);
    Some((*StartStep::ALL.get(step as usize)?, errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_in_order() {
        let (report, mut reporter) = start_report_pair().unwrap();
        assert!(matches!(report.receive(), StartMessage::Pending));
        let (read, _write) = nix::unistd::pipe().unwrap();
        reporter.send_notifier(read.as_fd()).unwrap();
        reporter.dup_above(100).unwrap();
        assert!(reporter.0.as_raw_fd() >= 100);
        reporter.send_failure(StartStep::Chdir, Errno::ENOENT);
        drop(reporter);
        assert!(matches!(report.receive(), StartMessage::Notifier(_)));
        assert!(matches!(report.receive(), StartMessage::Failed(StartStep::Chdir, libc::ENOENT)));
        assert!(matches!(report.receive(), StartMessage::Execed));
    }

    #[test]
    fn truncated_failure_is_ignored() {
        assert_eq!(parse_failure(&[0; 7]), None);
        assert_eq!(parse_failure(&[0xff; 8]), None);
    }

    #[test]
    fn step_numbers_match_their_index() {
        for (number, step) in StartStep::ALL.into_iter().enumerate() {
            assert_eq!(step as usize, number);
        }
    }
}
