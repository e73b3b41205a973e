//! Beside each log file, elsewhere, a list of what was written to it when and by whom: that
//! gives `--since` its places and both streams their true order, and leaves the logs plain text.
//!
//! An index bears its file's inode as its name, so it stays with a file that is renamed.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::logs::item::OutputStream;

/// Bytes of an entry: four words.
const ENTRY_SIZE: u64 = 32;
/// A stream that writes on into a file gets no new entry within this time. Microseconds.
const MIN_ENTRY_DISTANCE: u64 = 20_000;

/// Which file: device and inode.
pub type FileId = (u64, u64);

/// The identity of an open file.
pub(in crate::logs) fn file_id(meta: &std::fs::Metadata) -> FileId {
    (meta.dev(), meta.ino())
}

/// From here on it is this stream's, until the next entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// When it was written, microseconds since the epoch; no two entries have the same.
    pub at: u64,
    /// Where in the file.
    pub offset: u64,
    /// Who wrote it.
    pub stream: StreamId,
    /// How many lines the file and all before it had until here.
    pub lines: u64,
}

/// One stream of one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamId {
    /// The run's number: its instance in the upper half.
    pub run: u64,
    /// Which of its two streams.
    pub stream: OutputStream,
}

impl StreamId {
    /// The instance's id.
    pub fn instance(self) -> u32 {
        (self.run >> 32) as u32
    }
}

impl IndexEntry {
    fn encode(self) -> [u8; ENTRY_SIZE as usize] {
        let stream = u64::from(self.stream.stream == OutputStream::Err);
        let words = [self.at << 1 | stream, self.offset, self.stream.run, self.lines];
        let mut bytes = [0; ENTRY_SIZE as usize];
        for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    fn decode(bytes: [u8; ENTRY_SIZE as usize]) -> Self {
        let mut words = [0; 4];
        for (word, place) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = place.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        }
        let [at, offset, run, lines] = words;
        let stream = if at & 1 == 1 { OutputStream::Err } else { OutputStream::Out };
        Self { at: at >> 1, offset, stream: StreamId { run, stream }, lines }
    }
}

/// Where the index of a file lies.
pub(in crate::logs) fn index_path(dir: &Path, id: FileId) -> PathBuf {
    dir.join(format!("{}-{}", id.0, id.1))
}

/// The index of the file that is written.
#[derive(Debug)]
pub(in crate::logs) struct IndexWriter {
    /// None if it cannot be written: the logs are worth more than their index.
    file: Option<File>,
    last: Option<IndexEntry>,
}

impl IndexWriter {
    /// The index of a file that is `size` bytes long now. What it says about more than those is
    /// about a file of the past, and forgotten.
    pub(in crate::logs) fn open(dir: &Path, id: FileId, size: u64) -> Self {
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true).mode(0o600);
        let path = index_path(dir, id);
        let file = options.open(&path).or_else(|error| {
            std::fs::create_dir_all(dir)?;
            if error.kind() == io::ErrorKind::NotFound { options.open(&path) } else { Err(error) }
        });
        let mut index = Self { file: file.ok(), last: None };
        index.truncate(size);
        index
    }

    /// Forgets what lies at or beyond `size`.
    pub(in crate::logs) fn truncate(&mut self, size: u64) {
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

    /// What was noted last.
    pub(in crate::logs) fn last(&self) -> Option<IndexEntry> {
        self.last
    }

    /// Notes who writes from here on, unless that is clear. `alone`: nothing else was written
    /// anywhere since the last time.
    pub(in crate::logs) fn append(&mut self, entry: IndexEntry, alone: bool) {
        let clear = self.last.is_some_and(|last| {
            alone && last.stream == entry.stream && entry.at.saturating_sub(last.at) < MIN_ENTRY_DISTANCE
        });
        if clear {
            return;
        }
        let Some(file) = &self.file else { return };
        if (&mut &*file).write_all(&entry.encode()).is_err() {
            self.file = None;
        }
        self.last = Some(entry);
    }
}

/// The entries of an index, to be read.
#[derive(Debug)]
pub(in crate::logs) struct IndexReader<F> {
    file: F,
    count: u64,
}

impl IndexReader<File> {
    /// The index of a file; `None` if it has none.
    pub(in crate::logs) fn open(dir: &Path, id: FileId) -> Option<Self> {
        let file = File::open(index_path(dir, id)).ok()?;
        let count = file.metadata().ok()?.len() / ENTRY_SIZE;
        Some(Self { file, count })
    }

    /// Looks again how many there are.
    pub(in crate::logs) fn refresh(&mut self) {
        self.count = self.file.metadata().map_or(self.count, |meta| meta.len() / ENTRY_SIZE);
    }
}

impl<'f> IndexReader<&'f File> {
    fn from_file(file: &'f File) -> io::Result<Self> {
        Ok(Self { file, count: file.metadata()?.len() / ENTRY_SIZE })
    }
}

impl<F: std::borrow::Borrow<File>> IndexReader<F> {
    /// How many there are.
    pub(in crate::logs) fn len(&self) -> u64 {
        self.count
    }

    /// One of them.
    pub(in crate::logs) fn get(&self, number: u64) -> Option<IndexEntry> {
        let mut bytes = [0; ENTRY_SIZE as usize];
        let read =
            (number < self.count).then(|| self.file.borrow().read_exact_at(&mut bytes, number * ENTRY_SIZE));
        read?.ok().map(|()| IndexEntry::decode(bytes))
    }

    /// How many there are before the first one that is not `before`; they are in order.
    pub(in crate::logs) fn partition_point(&self, before: impl Fn(&IndexEntry) -> bool) -> u64 {
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

    const OWNER: StreamId = StreamId { run: 5 << 32 | 1, stream: OutputStream::Err };

    fn entry(at: u64, offset: u64) -> IndexEntry {
        IndexEntry { at, offset, stream: OWNER, lines: offset / 10 }
    }

    #[test]
    fn entries_survive_the_way() {
        let entry = IndexEntry { at: u64::MAX >> 1, offset: 7, stream: OWNER, lines: 9 };
        assert_eq!(IndexEntry::decode(entry.encode()), entry);
        assert_eq!(entry.stream.instance(), 5);
    }

    #[test]
    fn a_stream_that_writes_on_needs_no_entry() {
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
    fn what_is_said_of_a_former_file_is_forgotten() {
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
