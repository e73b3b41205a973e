//! `PendingCalls`: supervised calls that were received and are not answered yet.
//!
//! The kernel writes notifications directly into this shared memory, which outlives the daemon in the keeper's fd
//! store: a call cannot be lost between kernel and daemon.
#![allow(unsafe_code)]

use std::io;
use std::num::NonZero;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use crate::process::memfd;
use crate::process::seccomp::Notification;

/// A pending call and its run.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct PendingCall {
    run: u64,
    /// With id 0: this entry is free.
    call: Notification,
}

/// Size of the shared memory: one page of the smallest size.
const TABLE_SIZE: usize = 4096;
/// Number of entries. One more is occupied by each daemon that dies while it answers a call.
const TABLE_SLOTS: usize = TABLE_SIZE / size_of::<PendingCall>();

/// Table of pending calls in shared memory.
#[derive(Debug)]
pub(crate) struct PendingCalls {
    fd: OwnedFd,
    slots: NonNull<PendingCall>,
}

// SAFETY: only this value points to the mapping within this process.
unsafe impl Send for PendingCalls {}

impl PendingCalls {
    /// Creates an empty table.
    ///
    /// # Errors
    /// The system is out of descriptors or memory.
    pub fn new() -> io::Result<Self> {
        let fd = memfd::create(c"rsm-calls")?;
        nix::unistd::ftruncate(&fd, TABLE_SIZE as i64)?;
        Self::open(fd.into())
    }

    /// Opens the table of the previous daemon.
    ///
    /// # Errors
    /// The file has another format, or the system is out of memory.
    pub fn open(fd: OwnedFd) -> io::Result<Self> {
        let size = NonZero::new(TABLE_SIZE).ok_or(io::ErrorKind::InvalidInput)?;
        if nix::sys::stat::fstat(&fd)?.st_size != TABLE_SIZE as i64 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses.
        let mapping = unsafe { mmap(None, size, protection, MapFlags::MAP_SHARED, &fd, 0) }?;
        Ok(Self { fd, slots: mapping.cast() })
    }

    fn slots(&mut self) -> &mut [PendingCall] {
        // SAFETY: `TABLE_SLOTS` entries fit into the mapping, which is aligned to a page and lives as long as `self`;
        // all bit patterns are a valid `PendingCall`.
        unsafe { std::slice::from_raw_parts_mut(self.slots.as_ptr(), TABLE_SLOTS) }
    }

    /// The pending calls of a run.
    pub fn of_run(&mut self, run: u64) -> Vec<Notification> {
        let pending = self.slots().iter().filter(|slot| slot.call.id != 0 && slot.run == run);
        pending.map(|slot| slot.call).collect()
    }

    /// A free entry, to receive the next call of a run into.
    pub fn acquire(&mut self, run: u64) -> Option<&mut Notification> {
        let slot = self.slots().iter_mut().find(|slot| slot.call.id == 0)?;
        slot.run = run;
        Some(&mut slot.call)
    }

    /// Removes a call that was answered.
    pub fn complete(&mut self, run: u64, id: u64) {
        for slot in self.slots().iter_mut().filter(|slot| slot.run == run && slot.call.id == id) {
            *slot = PendingCall::default();
        }
    }

    /// Removes all calls of a run that has ended.
    pub fn clear_run(&mut self, run: u64) {
        for slot in self.slots().iter_mut().filter(|slot| slot.run == run) {
            *slot = PendingCall::default();
        }
    }
}

impl Drop for PendingCalls {
    fn drop(&mut self) {
        // SAFETY: `open` mapped it with this size, and nothing uses it after `self`.
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
    use super::*;

    #[test]
    fn pending_calls_survive_restart() {
        let mut calls = PendingCalls::new().unwrap();
        let mut reopened = PendingCalls::open(calls.as_fd().try_clone_to_owned().unwrap()).unwrap();
        calls.acquire(7).unwrap().id = 42;
        calls.acquire(8).unwrap().id = 42;
        assert_eq!(reopened.of_run(7).len(), 1);
        reopened.complete(7, 42);
        assert_eq!((calls.of_run(7).len(), calls.of_run(8).len()), (0, 1));
        calls.clear_run(8);
        assert!(reopened.slots().iter().all(|slot| slot.call.id == 0));
        let other_format = memfd::create(c"rsm-test").unwrap();
        assert!(PendingCalls::open(other_format.into()).is_err());
    }
}
