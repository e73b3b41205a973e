//! Memory that outlives the daemon: files without a name, whose descriptors the keeper keeps.
//!
//! Two of them. A [`MemfdDocument`] holds one document; replacing it is one aligned 8-byte write, so that a
//! process killed at any instruction leaves the old one or the new one. [`PendingCalls`] is shared memory that
//! the kernel writes notifications into: one that was heard of is never lost between kernel and us.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::num::NonZero;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use crate::process::memfd;
use crate::process::seccomp::Notification;

/// One document.
#[derive(Debug)]
pub struct MemfdDocument(File);

/// Where documents start: after the word that says where the valid one is.
const HEADER_SIZE: u64 = 8;

impl MemfdDocument {
    /// An empty one.
    ///
    /// # Errors
    /// The system is out of descriptors or memory.
    pub fn new() -> io::Result<Self> {
        let file = memfd::create(c"rsm-cluster")?;
        file.write_all_at(&0u64.to_ne_bytes(), 0)?;
        Ok(Self(file))
    }

    /// Replaces the document.
    ///
    /// # Errors
    /// Out of memory; the old one stays then.
    pub fn write(&self, document: &[u8]) -> io::Result<()> {
        let length = document.len() as u64;
        let (start, old) = self.current_slot()?;
        let before_old = old > 0 && HEADER_SIZE + length <= start;
        let at = if before_old { HEADER_SIZE } else { (start + old).max(HEADER_SIZE) };
        self.0.write_all_at(document, at)?;
        let word = u32::try_from(at).ok().zip(u32::try_from(length).ok());
        let (at, length) = word.ok_or(io::ErrorKind::FileTooLarge)?;
        self.0.write_all_at(&(u64::from(at) << 32 | u64::from(length)).to_ne_bytes(), 0)
    }

    /// The document.
    ///
    /// # Errors
    /// This is no such file.
    pub fn read(&self) -> io::Result<Vec<u8>> {
        let (start, length) = self.current_slot()?;
        let size = self.0.metadata()?.len();
        if start + length > size {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut document = vec![0; usize::try_from(length).unwrap_or(0)];
        self.0.read_exact_at(&mut document, start)?;
        Ok(document)
    }

    /// Start and length of the valid document.
    fn current_slot(&self) -> io::Result<(u64, u64)> {
        let mut word = [0; 8];
        self.0.read_exact_at(&mut word, 0)?;
        let word = u64::from_ne_bytes(word);
        Ok((word >> 32, word & u64::from(u32::MAX)))
    }
}

impl AsFd for MemfdDocument {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for MemfdDocument {
    fn from(fd: OwnedFd) -> Self {
        Self(fd.into())
    }
}

/// A call that was heard of and not answered, and the run that it is of.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PendingCall {
    /// The run.
    pub run: u64,
    /// The call; without id: none.
    pub call: Notification,
}

/// Bytes of the shared memory: one page of the smallest kind.
const TABLE_SIZE: usize = 4096;
/// How many calls may be left unanswered, one by each daemon that died in the middle of one.
const TABLE_SLOTS: usize = TABLE_SIZE / size_of::<PendingCall>();

/// SupervisedCalls in hand, in shared memory.
#[derive(Debug)]
pub struct PendingCalls {
    fd: OwnedFd,
    slots: NonNull<PendingCall>,
}

// SAFETY: the memory belongs to this value alone; within a process nothing else points there.
unsafe impl Send for PendingCalls {}

impl PendingCalls {
    /// With nothing in hand.
    ///
    /// # Errors
    /// The system is out of descriptors or memory.
    pub fn new() -> io::Result<Self> {
        let fd = memfd::create(c"rsm-calls")?;
        nix::unistd::ftruncate(&fd, TABLE_SIZE as i64)?;
        Self::open(fd.into())
    }

    /// Takes up what another daemon left.
    ///
    /// # Errors
    /// This is no such file, or there is no memory.
    pub fn open(fd: OwnedFd) -> io::Result<Self> {
        let size = NonZero::new(TABLE_SIZE).ok_or(io::ErrorKind::InvalidInput)?;
        if nix::sys::stat::fstat(&fd)?.st_size != TABLE_SIZE as i64 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at a place of the kernel's choice.
        let at = unsafe { mmap(None, size, protection, MapFlags::MAP_SHARED, &fd, 0) }?;
        Ok(Self { fd, slots: at.cast() })
    }

    /// All of them, the empty ones too.
    pub fn all(&mut self) -> &mut [PendingCall] {
        // SAFETY: `HANDS` of them fit into the mapping, which is aligned to a page and lives as long as
        // `self`; any bits are a valid `PendingCall`.
        unsafe { std::slice::from_raw_parts_mut(self.slots.as_ptr(), TABLE_SLOTS) }
    }

    /// The calls of a run that wait for their answer.
    pub fn of_run(&mut self, run: u64) -> Vec<Notification> {
        self.all().iter().filter(|hand| hand.call.id != 0 && hand.run == run).map(|hand| hand.call).collect()
    }

    /// A place for the next call of a run.
    pub fn acquire(&mut self, run: u64) -> Option<&mut Notification> {
        let hand = self.all().iter_mut().find(|hand| hand.call.id == 0)?;
        hand.run = run;
        Some(&mut hand.call)
    }

    /// Lets go of a run's call: it is answered.
    pub fn complete(&mut self, run: u64, id: u64) {
        for hand in self.all().iter_mut().filter(|hand| hand.run == run && hand.call.id == id) {
            *hand = PendingCall::default();
        }
    }

    /// Lets go of all calls of a run: nobody is left to hear the answer.
    pub fn clear_run(&mut self, run: u64) {
        for hand in self.all().iter_mut().filter(|hand| hand.run == run) {
            *hand = PendingCall::default();
        }
    }
}

impl Drop for PendingCalls {
    fn drop(&mut self) {
        // SAFETY: mapped by us, with this size, and used by nobody after `self`.
        let _ = unsafe { munmap(self.slots.cast(), TABLE_SIZE) };
    }
}

impl AsFd for PendingCalls {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use crate::cluster::memfd_document::*;

    #[test]
    fn a_record_holds_the_last_document_whatever_their_lengths() {
        let record = MemfdDocument::new().unwrap();
        assert_eq!(record.read().unwrap(), b"");
        for length in [10, 5, 3000, 1, 0, 4, 70_000, 20] {
            let document = vec![length as u8; length];
            record.write(&document).unwrap();
            assert_eq!(record.read().unwrap(), document);
            let other = MemfdDocument::from(record.as_fd().try_clone_to_owned().unwrap());
            assert_eq!(other.read().unwrap(), document, "as another process sees it");
        }
        assert!(record.0.metadata().unwrap().len() < 300_000, "places are used again");
    }

    #[test]
    fn the_old_document_is_whole_until_the_new_one_is() {
        let record = MemfdDocument::new().unwrap();
        record.write(b"old").unwrap();
        let (start, length) = record.current_slot().unwrap();
        // As `write` does it, killed before its last step.
        record.0.write_all_at(b"new", start + length).unwrap();
        assert_eq!(record.read().unwrap(), b"old");
    }

    #[test]
    fn what_is_in_hand_is_seen_by_the_next_one() {
        let mut hands = PendingCalls::new().unwrap();
        let mut next = PendingCalls::open(hands.as_fd().try_clone_to_owned().unwrap()).unwrap();
        hands.acquire(7).unwrap().id = 42;
        hands.acquire(8).unwrap().id = 42;
        assert_eq!(next.of_run(7).len(), 1);
        next.complete(7, 42);
        assert_eq!((hands.of_run(7).len(), hands.of_run(8).len()), (0, 1));
        hands.clear_run(8);
        assert!(next.all().iter().all(|hand| hand.call.id == 0));
        assert!(
            PendingCalls::open(MemfdDocument::new().unwrap().as_fd().try_clone_to_owned().unwrap()).is_err()
        );
    }
}
