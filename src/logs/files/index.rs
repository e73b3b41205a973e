//! Indexes of log files: which stream wrote from which offset on, and when.
//!
//! With an index, `--since` finds its offset and lines of several streams are merged in write order, while
//! the log itself stays plain text. An index is named after the device and inode of its file, so it stays
//! valid when the file is renamed.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::fcntl::OFlag;

use crate::logs::item::OutputStream;
use crate::secure_fs::{Location, PRIVATE_ACCESS};

/// Bytes of an entry: four words.
const ENTRY_SIZE: u64 = 32;
/// While one stream writes alone, it gets no new entry within this time, in microseconds.
const MIN_ENTRY_DISTANCE: u64 = 20_000;

/// About as much as is written within that time.
const MAX_UNINDEXED: u64 = 16 << 20;

pub(crate) use crate::secure_fs::FileId;

pub(crate) fn file_id(meta: &std::fs::Metadata) -> FileId {
    (meta.dev(), meta.ino())
}

/// Start of the bytes of one stream, which end at the next entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IndexEntry {
    /// Time of the write, in microseconds since the epoch; unique.
    pub(crate) at: u64,
    pub(crate) offset: u64,
    pub(crate) stream: StreamId,
    /// Number of lines before this offset, including all files before this one.
    pub(crate) lines: u64,
}

/// One stream of one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StreamId {
    /// Number of the run: the id of its instance in the upper half.
    pub(crate) run: u64,
    pub(crate) stream: OutputStream,
}

impl StreamId {
    /// Id of the instance.
    pub(crate) fn instance(self) -> u32 {
        (self.run >> 32) as u32
    }
}

impl IndexEntry {
    fn encode(self) -> [u8; ENTRY_SIZE as usize] {
        let stream = u64::from(self.stream.stream == OutputStream::Err);
        let words = [self.at << 1 | stream, self.offset, self.stream.run, self.lines];
        let mut bytes = [0; ENTRY_SIZE as usize];
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(words) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    fn decode(bytes: [u8; ENTRY_SIZE as usize]) -> Self {
        let mut words = [0; 4];
        for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = chunk.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        }
        let [at, offset, run, lines] = words;
        let stream = if at & 1 == 1 { OutputStream::Err } else { OutputStream::Out };
        Self { at: at >> 1, offset, stream: StreamId { run, stream }, lines }
    }
}

/// Path of the index of a file.
pub(crate) fn index_path(dir: &Path, id: FileId) -> PathBuf {
    dir.join(format!("{}-{}", id.0, id.1))
}

/// Mode of the index of a file that is written.
const ACTIVE_MODE: u32 = 0o600;
/// Mode of the index of a rotated file, which is not written any more.
const ROTATED_MODE: u32 = 0o400;

/// Records in the index of a file that the file was rotated.
pub(crate) fn mark_rotated(dir: &Path, id: FileId) {
    // Without the mark, the file is recognized by the date in its name.
    let _ = std::fs::set_permissions(index_path(dir, id), Permissions::from_mode(ROTATED_MODE));
}

/// Whether a file has an index.
pub(crate) fn has_index(dir: &Path, id: FileId) -> bool {
    locate(dir, id).is_ok_and(|index| index.id().is_ok())
}

/// Whether the index of a file records that it was rotated.
pub(crate) fn is_rotated_index(dir: &Path, id: FileId) -> bool {
    let mode = || open_index(dir, id)?.metadata().map(|meta| meta.mode() & 0o777);
    mode().is_ok_and(|mode| mode == ROTATED_MODE)
}

/// The index of a file. The home of rsm may lie in a directory of another user, who could replace it.
fn locate(dir: &Path, id: FileId) -> io::Result<Location> {
    let location = Location::find(&index_path(dir, id))?;
    location.check_private()?;
    Ok(location)
}

fn open_index(dir: &Path, id: FileId) -> io::Result<File> {
    locate(dir, id)?.open(OFlag::O_RDONLY, PRIVATE_ACCESS)
}

/// The index of a file that is open for appending.
#[derive(Debug)]
pub(crate) struct IndexWriter {
    /// `None` if it cannot be written: logs are written without an index then.
    file: Option<File>,
    last: Option<IndexEntry>,
}

impl IndexWriter {
    /// Opens the index of a file of `size` bytes. Entries beyond that size belong to an earlier content of
    /// the file, or to an earlier file with this inode, and are removed.
    pub(crate) fn open(dir: &Path, id: FileId, size: u64) -> Self {
        let flags = OFlag::O_RDWR | OFlag::O_APPEND;
        let open = || locate(dir, id)?.open_or_create(flags, ACTIVE_MODE, PRIVATE_ACCESS);
        let file = open().or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                return Err(error);
            }
            std::fs::create_dir_all(dir)?;
            open()
        });
        let file = file.map(|(file, _)| file);
        // The inode may be one of a rotated file that another program removed.
        if let Ok(file) = &file
            && file.metadata().is_ok_and(|meta| meta.mode() & 0o777 != ACTIVE_MODE)
        {
            let _ = file.set_permissions(Permissions::from_mode(ACTIVE_MODE));
        }
        let mut index = Self { file: file.ok(), last: None };
        index.truncate(size);
        index
    }

    /// Removes the entries at or beyond `size`.
    pub(crate) fn truncate(&mut self, size: u64) {
        let Some(file) = &self.file else { return };
        let Ok(entries) = IndexReader::from_file(file) else { return };
        let mut count = entries.len();
        while count > 0 && entries.get(count - 1).is_none_or(|entry| entry.offset >= size) {
            count -= 1;
        }
        if count < entries.len() {
            let _ = file.set_len(count * ENTRY_SIZE);
        }
        self.last = count.checked_sub(1).and_then(|last| entries.get(last));
    }

    pub(crate) fn last(&self) -> Option<IndexEntry> {
        self.last
    }

    /// Adds an entry, unless it follows from the last one. `alone`: no other file was written since the last
    /// write to this one.
    pub(crate) fn append(&mut self, entry: IndexEntry, alone: bool) {
        let is_redundant = self.last.is_some_and(|last| {
            alone && last.stream == entry.stream && entry.at.saturating_sub(last.at) < MIN_ENTRY_DISTANCE
        });
        if is_redundant {
            return;
        }
        let Some(file) = &self.file else { return };
        if (&mut &*file).write_all(&entry.encode()).is_err() {
            self.file = None;
        }
        self.last = Some(entry);
    }
}

/// The index of a file that is open for reading.
#[derive(Debug)]
pub(crate) struct IndexReader<F> {
    file: F,
    count: u64,
}

impl IndexReader<File> {
    /// `None` if the file has no index.
    pub(crate) fn open(dir: &Path, id: FileId) -> Option<Self> {
        let file = open_index(dir, id).ok()?;
        let count = file.metadata().ok()?.len() / ENTRY_SIZE;
        Some(Self { file, count })
    }

    /// The file had at most about this size when it was written.
    pub(crate) fn max_size(&self) -> u64 {
        let last = self.count.checked_sub(1).and_then(|last| self.get(last));
        last.map_or(0, |last| last.offset) + MAX_UNINDEXED
    }

    /// Time of the last entry.
    pub(crate) fn modified(&self) -> Option<SystemTime> {
        self.file.metadata().and_then(|meta| meta.modified()).ok()
    }

    /// Updates the number of entries.
    pub(crate) fn refresh(&mut self) {
        self.count = self.file.metadata().map_or(self.count, |meta| meta.len() / ENTRY_SIZE);
    }
}

impl<'f> IndexReader<&'f File> {
    fn from_file(file: &'f File) -> io::Result<Self> {
        Ok(Self { file, count: file.metadata()?.len() / ENTRY_SIZE })
    }
}

impl<F: std::borrow::Borrow<File>> IndexReader<F> {
    pub(crate) fn len(&self) -> u64 {
        self.count
    }

    pub(crate) fn get(&self, number: u64) -> Option<IndexEntry> {
        let mut bytes = [0; ENTRY_SIZE as usize];
        let read =
            (number < self.count).then(|| self.file.borrow().read_exact_at(&mut bytes, number * ENTRY_SIZE));
        read?.ok().map(|()| IndexEntry::decode(bytes))
    }

    /// Number of leading entries for which `before` holds; the entries are sorted.
    pub(crate) fn partition_point(&self, before: impl Fn(&IndexEntry) -> bool) -> u64 {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.get(middle).is_some_and(|entry| before(&entry)) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}

#[cfg(test)]
mod tests {
    use crate::logs::files::index::*;

    const STREAM: StreamId = StreamId { run: 5 << 32 | 1, stream: OutputStream::Err };

    fn entry(at: u64, offset: u64) -> IndexEntry {
        IndexEntry { at, offset, stream: STREAM, lines: offset / 10 }
    }

    #[test]
    fn entries_round_trip() {
        let entry = IndexEntry { at: u64::MAX >> 1, offset: 7, stream: STREAM, lines: 9 };
        assert_eq!(IndexEntry::decode(entry.encode()), entry);
        assert_eq!(entry.stream.instance(), 5);
    }

    #[test]
    fn continuous_writes_need_no_entry() {
        let dir = tempfile::tempdir().unwrap();
        let mut index = IndexWriter::open(&dir.path().join("new"), (1, 2), 0);
        for (at, offset, alone) in
            [(1, 0, true), (2, 10, true), (3, 20, false), (3 + MIN_ENTRY_DISTANCE, 30, true)]
        {
            index.append(entry(at, offset), alone);
        }
        let entries = IndexReader::open(&dir.path().join("new"), (1, 2)).unwrap();
        let offsets: Vec<_> = (0..entries.len()).map(|n| entries.get(n).unwrap().offset).collect();
        assert_eq!(offsets, [0, 20, 30]);
        assert_eq!(entries.partition_point(|entry| entry.offset < 30), 2);
        assert!(entries.get(3).is_none());
    }

    #[test]
    fn open_removes_entries_of_previous_content() {
        let dir = tempfile::tempdir().unwrap();
        let mut index = IndexWriter::open(dir.path(), (1, 2), 0);
        for n in 0..5 {
            index.append(entry(n, n * 10), false);
        }
        drop(index);
        assert_eq!(IndexWriter::open(dir.path(), (1, 2), 25).last(), Some(entry(2, 20)));
        assert_eq!(IndexWriter::open(dir.path(), (1, 2), 0).last(), None);
    }
}
