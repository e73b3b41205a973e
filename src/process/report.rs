//! How a child tells its parent how its start went: a socket pair that closes when it executes.
//!
//! Closing without a word means that the program runs. Before that the child may hand over the
//! notifier of its filter; a failed step is the last that is heard of it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

use super::channel;
use crate::exit::StartStep;

/// The packet that a notifier comes with; a failed step is longer.
const NOTIFIER: [u8; 1] = [1];

/// The child's end.
#[derive(Debug)]
pub struct Teller(OwnedFd);

/// The parent's end. Readable when there is something to hear.
#[derive(Debug)]
pub struct Report(OwnedFd);

/// What a child has told.
#[derive(Debug)]
pub enum Told {
    /// Nothing yet.
    Nothing,
    /// The notifier of its filter; more is to come.
    Notifier(OwnedFd),
    /// This step failed with this error number: there is no program.
    Failed(StartStep, i32),
    /// The program runs, or the child was killed on the way.
    Started,
}

/// Both ends.
///
/// # Errors
/// The system is out of descriptors or memory.
pub fn pair() -> nix::Result<(Report, Teller)> {
    let (report, teller) = channel::pair()?;
    Ok((Report(report), Teller(teller)))
}

impl Teller {
    /// Gives way: moves to a number not below this one.
    pub fn move_above(&mut self, number: RawFd) -> nix::Result<()> {
        if self.0.as_raw_fd() < number {
            let moved = fcntl(&self.0, FcntlArg::F_DUPFD_CLOEXEC(number))?;
            self.0 = channel::inherited(moved)?;
        }
        Ok(())
    }

    /// Hands the notifier over.
    pub fn notifier(&self, notifier: BorrowedFd<'_>) -> nix::Result<()> {
        channel::send(self.0.as_fd(), &NOTIFIER, &[notifier])
    }

    /// Tells what failed; the parent may have gone, or not care.
    pub fn failed(&self, step: StartStep, errno: Errno) {
        let mut word = [0; 8];
        word[..4].copy_from_slice(&(step as u32).to_ne_bytes());
        word[4..].copy_from_slice(&(errno as i32).to_ne_bytes());
        let _ = channel::send(self.0.as_fd(), &word, &[]);
    }
}

impl AsFd for Report {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Report {
    /// The parent's end as another process had it.
    pub fn of(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// The next thing that was told.
    pub fn read(&self) -> Told {
        let mut packet = [0; 8];
        match channel::receive(self.0.as_fd(), &mut packet) {
            Err(Errno::EAGAIN) => Told::Nothing,
            Ok((length, mut fds)) => match (&packet[..length], fds.pop()) {
                (packet, Some(notifier)) if packet == NOTIFIER => Told::Notifier(notifier),
                (packet, _) => {
                    failed_step(packet).map_or(Told::Started, |(step, errno)| Told::Failed(step, errno))
                }
            },
            Err(_) => Told::Started,
        }
    }
}

/// The step and error number in a packet; `None` if that is not such a one.
fn failed_step(packet: &[u8]) -> Option<(StartStep, i32)> {
    let step = u32::from_ne_bytes(packet.get(..4)?.try_into().ok()?);
    let errno = i32::from_ne_bytes(packet.get(4..8)?.try_into().ok()?);
    Some((*StartStep::ALL.get(step as usize)?, errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_heard_in_order() {
        let (report, mut teller) = pair().unwrap();
        assert!(matches!(report.read(), Told::Nothing));
        let (read, _write) = nix::unistd::pipe().unwrap();
        teller.notifier(read.as_fd()).unwrap();
        teller.move_above(100).unwrap();
        assert!(teller.0.as_raw_fd() >= 100);
        teller.failed(StartStep::Directory, Errno::ENOENT);
        drop(teller);
        assert!(matches!(report.read(), Told::Notifier(_)));
        assert!(matches!(report.read(), Told::Failed(StartStep::Directory, libc::ENOENT)));
        assert!(matches!(report.read(), Told::Started));
    }

    #[test]
    fn only_a_whole_report_is_one() {
        assert_eq!(failed_step(&[0; 7]), None);
        assert_eq!(failed_step(&[0xff; 8]), None);
    }

    #[test]
    fn every_step_is_listed_at_its_own_number() {
        for (number, step) in StartStep::ALL.into_iter().enumerate() {
            assert_eq!(step as usize, number);
        }
    }
}
