//! Journal: each line is written exactly once, even if the daemon is killed at any instruction.
//!
//! The keeper stores the journal for the next daemon, as it stores the pipes of the apps. It needs no disk.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, SpliceFFlags, splice, tee};
use nix::sys::stat::Mode;

use crate::logs::capture::peek::{Peeked, enlarge_pipe};
use crate::logs::files::index::{FileId, file_id};
use crate::logs::files::log_file::PendingWrite;
use crate::process::memfd;
use crate::secure_fs::{Access, Location};

/// Bytes of the header of a record: sequence number and length.
const HEADER_SIZE: usize = 16;
/// Maximum length of a record in bytes; a longer one is invalid.
const MAX_RECORD: u64 = 64 * 1024;

/// A [`PendingWrite`] read from a record.
#[derive(Debug, PartialEq, Eq)]
struct PendingRecord {
    path: PathBuf,
    id: FileId,
    size_before: u64,
}

/// The record and the marker of a worker.
///
/// For a moment, a line is both in the pipe of the app and in a file. Each move follows these steps:
///
/// 1. The bytes are peeked, not consumed ([`crate::logs::capture::peek`]).
/// 2. The *record* gets the files about to grow, with their sizes.
/// 3. The files are written.
/// 4. One system call, which no signal can interrupt halfway, moves the bytes from the pipe into the *marker*
///    pipe.
/// 5. The record is cleared, then the marker is emptied.
///
/// After a kill, a record with an empty marker means that the bytes are still in the pipe, and the files are
/// truncated to their sizes before. If the marker contains bytes, the move is complete.
#[derive(Debug)]
pub(crate) struct Journal {
    record: File,
    marker: OwnedFd,
    dev_null: File,
    sequence: u64,
    buffer: Vec<u8>,
}

impl Journal {
    /// Names of the two descriptors of a worker in the fd store.
    pub(crate) fn names(worker: usize) -> [String; 2] {
        ["record", "marker"].map(|part| match worker {
            0 => format!("logs.{part}"),
            worker => format!("logs.{part}.{worker}"),
        })
    }

    /// An empty journal.
    ///
    /// # Errors
    /// Out of file descriptors or memory.
    pub(crate) fn new() -> io::Result<Self> {
        let record = memfd::create(c"rsm-log-record")?;
        let (read, _write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        // One descriptor for both ends, because the fd store keeps one for each name.
        let path = format!("/proc/self/fd/{}", read.as_raw_fd());
        let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let marker = nix::fcntl::open(path.as_str(), flags, Mode::empty())?;
        Self::from_fds(record.into(), marker)
    }

    /// Takes the journal of this worker of a previous daemon out of the stored descriptors. It must be
    /// [recovered](Self::recover) before any pipe is read.
    pub(crate) fn restore(worker: usize, stored: &mut Vec<(String, OwnedFd)>) -> Option<Self> {
        let [record, marker] = Self::names(worker).map(|name| {
            let index = stored.iter().position(|(stored, _)| *stored == name)?;
            Some(stored.swap_remove(index).1)
        });
        Self::from_fds(record?, marker?).ok()
    }

    fn from_fds(record: OwnedFd, marker: OwnedFd) -> io::Result<Self> {
        let dev_null = OpenOptions::new().write(true).open("/dev/null")?;
        Ok(Self { record: record.into(), marker, dev_null, sequence: 0, buffer: Vec::new() })
    }

    /// Copies of the two descriptors, in the order of [`names`](Self::names).
    ///
    /// # Errors
    /// Out of file descriptors.
    pub(crate) fn fds(&self) -> io::Result<[OwnedFd; 2]> {
        Ok([self.record.try_clone()?.into(), self.marker.try_clone()?])
    }

    /// Records that these files are about to grow.
    pub(crate) fn begin<'f>(&mut self, files: impl Iterator<Item = PendingWrite<'f>>) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        self.buffer.clear();
        self.buffer.extend_from_slice(&self.sequence.to_ne_bytes());
        self.buffer.extend_from_slice(&[0; 8]);
        for file in files {
            let path = file.path.as_os_str().as_bytes();
            for word in [file.id.0, file.id.1, file.size_before, path.len() as u64] {
                self.buffer.extend_from_slice(&word.to_ne_bytes());
            }
            self.buffer.extend_from_slice(path);
        }
        // The sequence number is repeated at the end, so that an incomplete record is recognized.
        self.buffer.extend_from_slice(&self.sequence.to_ne_bytes());
        let length = self.buffer.len() as u64;
        self.buffer[8..HEADER_SIZE].copy_from_slice(&length.to_ne_bytes());
        self.record.write_all_at(&self.buffer, 0)
    }

    /// Consumes `count` bytes of a pipe after they were written to the files.
    ///
    /// # Errors
    /// Nothing was consumed; the write must be undone.
    pub(crate) fn consume(&mut self, pipe: impl AsFd, count: usize) -> io::Result<()> {
        let flags = SpliceFFlags::SPLICE_F_NONBLOCK | SpliceFFlags::SPLICE_F_MOVE;
        let mut consumed = 0;
        while consumed < count {
            match splice(pipe.as_fd(), None, &self.marker, None, count - consumed, flags) {
                Ok(0) => break,
                Ok(moved) => consumed += moved,
                Err(Errno::EINTR) => {}
                // Unexpected, because both pipes hold the peeked bytes. It must not cause an endless loop.
                Err(errno) if consumed == 0 => return Err(errno.into()),
                Err(errno) => {
                    tracing::error!("{} bytes of output duplicated: {errno}", count - consumed);
                    break;
                }
            }
        }
        self.clear_after(consumed)
    }

    /// Clears the record; the files are consistent with the pipe.
    pub(crate) fn clear(&mut self) -> io::Result<()> {
        self.clear_after(usize::MAX)
    }

    /// Like [`clear`](Self::clear), with at most `left` bytes in the marker.
    fn clear_after(&mut self, mut left: usize) -> io::Result<()> {
        self.record.write_all_at(&[0; 8], 0)?;
        let flags = SpliceFFlags::SPLICE_F_NONBLOCK;
        while left > 0 {
            match splice(&self.marker, None, &self.dev_null, None, left.min(1 << 30), flags) {
                Ok(0) | Err(_) => break,
                Ok(count) => left -= count,
            }
        }
        Ok(())
    }

    /// The files that a previous daemon was writing to when it was killed.
    pub(crate) fn pending_files(&self) -> Vec<PathBuf> {
        self.pending().into_iter().map(|file| file.path).collect()
    }

    /// Undoes a write in which a previous daemon was killed, unless its bytes were consumed.
    pub(crate) fn recover(&mut self) {
        enlarge_pipe(&self.marker);
        let files = self.pending();
        if !files.is_empty() && self.peek_marker() == Peeked::Empty {
            for file in files {
                if let Err(error) = truncate_to(&file.path, file.id, file.size_before) {
                    tracing::error!("{}: duplicate lines: {error}", file.path.display());
                }
            }
        }
        if let Err(error) = self.clear() {
            tracing::error!("cannot write the log journal: {error}");
        }
    }

    fn peek_marker(&self) -> Peeked {
        let Ok((_read, write)) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK) else {
            return Peeked::Empty;
        };
        match tee(&self.marker, &write, 1, SpliceFFlags::SPLICE_F_NONBLOCK) {
            Ok(count) if count > 0 => Peeked::Bytes(count),
            _ => Peeked::Empty,
        }
    }

    /// The files of a record that was not cleared.
    fn pending(&self) -> Vec<PendingRecord> {
        let length = self.record.metadata().map_or(0, |meta| meta.len());
        let mut text = vec![0; usize::try_from(length.min(MAX_RECORD)).unwrap_or_default()];
        if self.record.read_exact_at(&mut text, 0).is_err() {
            return Vec::new();
        }
        parse_record(&text).unwrap_or_default()
    }
}

/// The files of a record; `None` if it was cleared or is incomplete.
fn parse_record(text: &[u8]) -> Option<Vec<PendingRecord>> {
    let word = |at: usize| Some(u64::from_ne_bytes(text.get(at..at + 8)?.try_into().ok()?));
    let (sequence, length) = (word(0)?, usize::try_from(word(8)?).ok()?);
    let end = length.checked_sub(8)?;
    if sequence == 0 || word(end)? != sequence {
        return None;
    }
    let (mut files, mut at) = (Vec::new(), HEADER_SIZE);
    while at < end {
        let path = at + 32;
        let path_end = path.checked_add(usize::try_from(word(at + 24)?).ok()?)?;
        let name = text.get(path..path_end)?;
        files.push(PendingRecord {
            path: OsString::from_vec(name.to_vec()).into(),
            id: (word(at)?, word(at + 8)?),
            size_before: word(at + 16)?,
        });
        at = path_end;
    }
    Some(files)
}

/// Truncates the file at `path` if it is still the same and longer than `size`.
fn truncate_to(path: &Path, id: FileId, size: u64) -> io::Result<()> {
    // The file is the one that was written if its identity is the same, whoever owns it.
    let access = Access { users: &[], is_known: &|_| true };
    let location = Location::find(path)?;
    if location.id()? != id {
        return Ok(());
    }
    let file = location.open(OFlag::O_WRONLY, access)?;
    let meta = file.metadata()?;
    if file_id(&meta) == id && meta.len() > size { file.set_len(size) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use crate::logs::capture::journal::*;
    use std::io::Write;

    /// A pipe that contains `line`, and a file that contains `old`.
    struct Fixture {
        _dir: tempfile::TempDir,
        path: PathBuf,
        pipe: OwnedFd,
        journal: Journal,
    }

    impl Fixture {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a.log");
            std::fs::write(&path, "old\n").unwrap();
            let (pipe, write) = nix::unistd::pipe2(OFlag::O_NONBLOCK).unwrap();
            nix::unistd::write(&write, b"line\nrest").unwrap();
            Self { _dir: dir, path, pipe, journal: Journal::new().unwrap() }
        }

        fn begin(&mut self) {
            let meta = std::fs::metadata(&self.path).unwrap();
            let write = PendingWrite { path: &self.path, id: file_id(&meta), size_before: meta.len() };
            self.journal.begin(std::iter::once(write)).unwrap();
        }

        fn write(&self, text: &str) {
            let mut file = OpenOptions::new().append(true).open(&self.path).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        }

        /// File and pipe after recovery by another daemon.
        fn recovered(&mut self) -> (String, String) {
            let [record, marker] = self.journal.fds().unwrap();
            let names = Journal::names(3);
            let mut stored: Vec<_> = names.into_iter().zip([record, marker]).collect();
            assert!(Journal::restore(0, &mut stored).is_none());
            self.journal = Journal::restore(3, &mut stored).unwrap();
            self.journal.recover();
            assert!(self.journal.pending().is_empty());
            assert_eq!(self.journal.peek_marker(), Peeked::Empty);
            let mut rest = [0; 64];
            let count = nix::unistd::read(&self.pipe, &mut rest).unwrap_or(0);
            let rest = String::from_utf8_lossy(&rest[..count]).into_owned();
            (std::fs::read_to_string(&self.path).unwrap(), rest)
        }
    }

    fn text(file: &str, pipe: &str) -> (String, String) {
        (file.to_owned(), pipe.to_owned())
    }

    #[test]
    fn kill_before_write_changes_nothing() {
        let mut fixture = Fixture::new();
        fixture.begin();
        assert_eq!(fixture.recovered(), text("old\n", "line\nrest"));
    }

    #[test]
    fn kill_before_consume_undoes_write() {
        for written in ["li", "line\n"] {
            let mut fixture = Fixture::new();
            fixture.begin();
            fixture.write(written);
            assert_eq!(fixture.recovered(), text("old\n", "line\nrest"));
        }
    }

    #[test]
    fn kill_after_consume_keeps_write() {
        let mut fixture = Fixture::new();
        fixture.begin();
        fixture.write("line\n");
        splice(&fixture.pipe, None, &fixture.journal.marker, None, 5, SpliceFFlags::empty()).unwrap();
        assert_eq!(fixture.recovered(), text("old\nline\n", "rest"));
    }

    #[test]
    fn kill_before_marker_is_emptied_keeps_write() {
        let mut fixture = Fixture::new();
        fixture.begin();
        fixture.write("line\n");
        splice(&fixture.pipe, None, &fixture.journal.marker, None, 5, SpliceFFlags::empty()).unwrap();
        fixture.journal.record.write_all_at(&[0; 8], 0).unwrap();
        assert_eq!(fixture.recovered(), text("old\nline\n", "rest"));
    }

    #[test]
    fn complete_move_leaves_journal_empty() {
        let mut fixture = Fixture::new();
        fixture.begin();
        fixture.write("line\n");
        fixture.journal.consume(&fixture.pipe, 5).unwrap();
        assert_eq!(fixture.recovered(), text("old\nline\n", "rest"));
    }

    #[test]
    fn recovery_skips_replaced_file() {
        let mut fixture = Fixture::new();
        fixture.begin();
        std::fs::rename(&fixture.path, fixture.path.with_extension("1")).unwrap();
        std::fs::write(&fixture.path, "another, longer").unwrap();
        assert_eq!(fixture.recovered().0, "another, longer");
    }

    #[test]
    fn incomplete_record_is_ignored() {
        let mut fixture = Fixture::new();
        fixture.begin();
        let record = fixture.journal.buffer.clone();
        assert_eq!(parse_record(&record).unwrap().len(), 1);
        for length in 0..record.len() {
            assert_eq!(parse_record(&record[..length]), None, "{length}");
        }
    }
}
