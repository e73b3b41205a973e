//! `MemfdDocument`: a document in a file without a name that outlives the daemon in the keeper's fd store.
//!
//! Replacing it ends with one aligned 8-byte write: a process killed at any instruction leaves either the old or the
//! new document.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use crate::process::memfd;

/// One document in an unlinked file.
#[derive(Debug)]
pub(crate) struct MemfdDocument(File);

/// Size of the header: one word with offset and length of the valid document.
const HEADER_SIZE: u64 = 8;

impl MemfdDocument {
    /// Creates an empty document.
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
    /// Out of memory; the old document stays valid.
    pub fn write(&self, document: &[u8]) -> io::Result<()> {
        let length = document.len() as u64;
        let (start, old) = self.current_slot()?;
        // Never over the old document, which stays valid until the header changes.
        let fits_before_old = old > 0 && HEADER_SIZE + length <= start;
        let offset = if fits_before_old { HEADER_SIZE } else { (start + old).max(HEADER_SIZE) };
        self.0.write_all_at(document, offset)?;
        let header = u32::try_from(offset).ok().zip(u32::try_from(length).ok());
        let (offset, length) = header.ok_or(io::ErrorKind::FileTooLarge)?;
        self.0.write_all_at(&(u64::from(offset) << 32 | u64::from(length)).to_ne_bytes(), 0)
    }

    /// Reads the document.
    ///
    /// # Errors
    /// The file has another format.
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

    /// Offset and length of the valid document.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_last_document_of_any_length() {
        let document = MemfdDocument::new().unwrap();
        assert_eq!(document.read().unwrap(), b"");
        for length in [10, 5, 3000, 1, 0, 4, 70_000, 20] {
            let bytes = vec![length as u8; length];
            document.write(&bytes).unwrap();
            assert_eq!(document.read().unwrap(), bytes);
            let other = MemfdDocument::from(document.as_fd().try_clone_to_owned().unwrap());
            assert_eq!(other.read().unwrap(), bytes, "as another process sees it");
        }
        assert!(document.0.metadata().unwrap().len() < 300_000, "space is reused");
    }

    #[test]
    fn old_document_is_valid_until_header_changes() {
        let document = MemfdDocument::new().unwrap();
        document.write(b"old").unwrap();
        let (start, length) = document.current_slot().unwrap();
        // As `write` does it, killed before its last step.
        document.0.write_all_at(b"new", start + length).unwrap();
        assert_eq!(document.read().unwrap(), b"old");
    }
}
