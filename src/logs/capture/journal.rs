//! What makes every line count once, even if the daemon is killed at any instruction.
//!
//! A line is in two places for a moment: still in the app's pipe, already in a file. One move
//! follows this order, and whoever comes after a kill can tell from three things (the record,
//! the marker pipe, the files' lengths) how far it came:
//!
//! 1. the bytes are looked at, not taken out ([`crate::logs::capture::peek`]);
//! 2. the *record* says which files are about to grow, and from which length;
//! 3. the files are written;
//! 4. the bytes are moved from the app's pipe into the *marker* pipe, by one system call that no
//!    signal can split;
//! 5. the record is cleared, then the marker is emptied.
//!
//! A record with an empty marker: the bytes are still in the app's pipe, so the files are cut to
//! their former length. With a full marker the move was done. Record and marker are kept by
//! the keeper, as the apps' pipes are, and no disk is asked for them.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, SpliceFFlags, splice, tee};
use nix::sys::stat::Mode;

use crate::logs::capture::peek::{Peeked, enlarge_pipe};
use crate::process::memfd;

/// Bytes of a record's head: which record, how many bytes.
const HEADER_SIZE: usize = 16;
/// No record is longer; a longer one cannot be ours.
const MAX_RECORD: u64 = 64 * 1024;

/// A file about to grow.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::logs) struct PendingWrite<'a> {
    /// Where it is.
    pub(in crate::logs) path: &'a Path,
    /// Which file that is: device and inode.
    pub(in crate::logs) id: (u64, u64),
    /// Its length before.
    pub(in crate::logs) size_before: u64,
}

/// The same as read from a record.
type PendingRecord = (PathBuf, (u64, u64), u64);

/// The record and the marker, in the keeper's hands too.
#[derive(Debug)]
pub(in crate::logs) struct Journal {
    record: File,
    marker: OwnedFd,
    dev_null: File,
    sequence: u64,
    buffer: Vec<u8>,
}

impl Journal {
    /// The names under which the two descriptors of a thread are kept.
    pub(in crate::logs) fn names(room: usize) -> [String; 2] {
        ["record", "marker"].map(|what| match room {
            0 => format!("logs.{what}"),
            room => format!("logs.{what}.{room}"),
        })
    }

    /// Nothing on its way.
    ///
    /// # Errors
    /// The system is out of descriptors or memory.
    pub(in crate::logs) fn new() -> io::Result<Self> {
        let record = memfd::create(c"rsm-log-record")?;
        let (read, _write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        // One descriptor for both ends: the keeper keeps one a name.
        let path = format!("/proc/self/fd/{}", read.as_raw_fd());
        let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let marker = nix::fcntl::open(path.as_str(), flags, Mode::empty())?;
        Self::from_fds(record.into(), marker)
    }

    /// What a former daemon's thread of this number had, taken out of what was kept. It is to be
    /// [recovered](Self::recover) before any pipe is read.
    pub(in crate::logs) fn restore(room: usize, stored: &mut Vec<(String, OwnedFd)>) -> Option<Self> {
        let [record, marker] = Self::names(room).map(|name| {
            let found = stored.iter().position(|(stored, _)| *stored == name)?;
            Some(stored.swap_remove(found).1)
        });
        Self::from_fds(record?, marker?).ok()
    }

    fn from_fds(record: OwnedFd, marker: OwnedFd) -> io::Result<Self> {
        enlarge_pipe(&marker);
        let nowhere = OpenOptions::new().write(true).open("/dev/null")?;
        Ok(Self { record: record.into(), marker, dev_null: nowhere, sequence: 0, buffer: Vec::new() })
    }

    /// Copies of the two descriptors, in the order of [`names`](Self::names).
    ///
    /// # Errors
    /// The system is out of descriptors.
    pub(in crate::logs) fn fds(&self) -> io::Result<[OwnedFd; 2]> {
        Ok([self.record.try_clone()?.into(), self.marker.try_clone()?])
    }

    /// Notes that these files are about to grow.
    pub(in crate::logs) fn begin<'f>(
        &mut self,
        files: impl Iterator<Item = PendingWrite<'f>>,
    ) -> io::Result<()> {
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
        // Said twice: a record that was not written to its end is none.
        self.buffer.extend_from_slice(&self.sequence.to_ne_bytes());
        let length = self.buffer.len() as u64;
        self.buffer[8..HEADER_SIZE].copy_from_slice(&length.to_ne_bytes());
        self.record.write_all_at(&self.buffer, 0)
    }

    /// Takes `count` bytes out of a pipe: they are in the files.
    ///
    /// # Errors
    /// They could not be taken out; the files have to be cut again.
    pub(in crate::logs) fn consume(&mut self, pipe: impl AsFd, count: usize) -> io::Result<()> {
        let flags = SpliceFFlags::SPLICE_F_NONBLOCK | SpliceFFlags::SPLICE_F_MOVE;
        let mut done = 0;
        while done < count {
            match splice(pipe.as_fd(), None, &self.marker, None, count - done, flags) {
                Ok(0) => break,
                Ok(moved) => done += moved,
                Err(Errno::EINTR) => {}
                // Both hold what was looked at, so this is not expected; it must not end in a loop.
                Err(errno) if done == 0 => return Err(errno.into()),
                Err(errno) => {
                    tracing::error!("{} bytes of output duplicated: {errno}", count - done);
                    break;
                }
            }
        }
        self.clear_after(done)
    }

    /// Forgets the record: the files are as they should be.
    pub(in crate::logs) fn clear(&mut self) -> io::Result<()> {
        self.clear_after(usize::MAX)
    }

    /// The same, when so many bytes at most are in the marker.
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

    /// The files that a former daemon was about to write to when it was killed.
    pub(in crate::logs) fn pending_files(&self) -> Vec<PathBuf> {
        self.pending().into_iter().map(|(path, ..)| path).collect()
    }

    /// Sets right what a former daemon was killed in.
    pub(in crate::logs) fn recover(&mut self) {
        let files = self.pending();
        if !files.is_empty() && self.peek_marker() == Peeked::Empty {
            for (path, id, from) in files {
                if let Err(error) = truncate_to(&path, id, from) {
                    tracing::error!("{}: duplicate lines: {error}", path.display());
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
        read(&text).unwrap_or_default()
    }
}

/// The files of a record; `None` if it is cleared or was not written to its end.
fn read(text: &[u8]) -> Option<Vec<PendingRecord>> {
    let word = |at: usize| Some(u64::from_ne_bytes(text.get(at..at + 8)?.try_into().ok()?));
    let (turn, length) = (word(0)?, usize::try_from(word(8)?).ok()?);
    let end = length.checked_sub(8)?;
    if turn == 0 || word(end)? != turn {
        return None;
    }
    let (mut files, mut at) = (Vec::new(), HEADER_SIZE);
    while at < end {
        let path = at + 32;
        let after = path.checked_add(usize::try_from(word(at + 24)?).ok()?)?;
        let name = text.get(path..after)?;
        files.push((
            PathBuf::from(std::ffi::OsString::from_vec(name.to_vec())),
            (word(at)?, word(at + 8)?),
            word(at + 16)?,
        ));
        at = after;
    }
    Some(files)
}

fn truncate_to(path: &Path, id: (u64, u64), from: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    let meta = file.metadata()?;
    if (meta.dev(), meta.ino()) == id && meta.len() > from { file.set_len(from) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use crate::logs::capture::journal::*;
    use std::io::Write;

    /// A pipe that holds `line`, and a file that has `old` in it.
    struct Scene {
        _dir: tempfile::TempDir,
        path: PathBuf,
        pipe: OwnedFd,
        journal: Journal,
    }

    impl Scene {
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
            let growth =
                PendingWrite { path: &self.path, id: (meta.dev(), meta.ino()), size_before: meta.len() };
            self.journal.begin(std::iter::once(growth)).unwrap();
        }

        fn write(&self, text: &str) {
            let mut file = OpenOptions::new().append(true).open(&self.path).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        }

        /// What another daemon finds.
        fn killed(&mut self) -> (String, String) {
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
    fn killed_before_the_write() {
        let mut scene = Scene::new();
        scene.begin();
        assert_eq!(scene.killed(), text("old\n", "line\nrest"));
    }

    #[test]
    fn killed_within_or_after_the_write() {
        for written in ["li", "line\n"] {
            let mut scene = Scene::new();
            scene.begin();
            scene.write(written);
            assert_eq!(scene.killed(), text("old\n", "line\nrest"));
        }
    }

    #[test]
    fn killed_after_the_bytes_were_taken_out() {
        let mut scene = Scene::new();
        scene.begin();
        scene.write("line\n");
        splice(&scene.pipe, None, &scene.journal.marker, None, 5, SpliceFFlags::empty()).unwrap();
        assert_eq!(scene.killed(), text("old\nline\n", "rest"));
    }

    #[test]
    fn killed_before_the_marker_was_emptied() {
        let mut scene = Scene::new();
        scene.begin();
        scene.write("line\n");
        splice(&scene.pipe, None, &scene.journal.marker, None, 5, SpliceFFlags::empty()).unwrap();
        scene.journal.record.write_all_at(&[0; 8], 0).unwrap();
        assert_eq!(scene.killed(), text("old\nline\n", "rest"));
    }

    #[test]
    fn a_whole_move_leaves_nothing_behind() {
        let mut scene = Scene::new();
        scene.begin();
        scene.write("line\n");
        scene.journal.consume(&scene.pipe, 5).unwrap();
        assert_eq!(scene.killed(), text("old\nline\n", "rest"));
    }

    #[test]
    fn another_file_at_the_path_is_left_alone() {
        let mut scene = Scene::new();
        scene.begin();
        std::fs::rename(&scene.path, scene.path.with_extension("1")).unwrap();
        std::fs::write(&scene.path, "another, longer").unwrap();
        assert_eq!(scene.killed().0, "another, longer");
    }

    #[test]
    fn a_torn_record_is_none() {
        let mut scene = Scene::new();
        scene.begin();
        let whole = scene.journal.buffer.clone();
        assert_eq!(read(&whole).unwrap().len(), 1);
        for length in 0..whole.len() {
            assert_eq!(read(&whole[..length]), None, "{length}");
        }
    }
}
