//! One file of a log's history, open for reading: plain or compressed, with its index.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use flate2::read::MultiGzDecoder;

use crate::logs::files::index::{FileId, IndexEntry, IndexReader, file_id};
use crate::logs::files::rotation::{GZIP_SUFFIX, is_not_found};
use crate::logs::item::LogPosition;
use crate::logs::read::tail;

/// Bytes read at once.
pub(in crate::logs) const BLOCK_SIZE: usize = 64 * 1024;

/// A file that is open for reading.
#[derive(Debug)]
pub(in crate::logs) struct SegmentReader {
    content: SegmentContent,
    pub(in crate::logs) id: FileId,
    /// What it was called when it was opened.
    pub(in crate::logs) path: PathBuf,
    /// Offset of the next byte to be read, in the uncompressed text.
    pub(in crate::logs) offset: u64,
    /// Read too far, and still to be handed out.
    lookahead: Vec<u8>,
    pub(in crate::logs) entries: Option<IndexReader<File>>,
    /// When its first line was written, if its index says so.
    pub(in crate::logs) created_at: Option<u64>,
    /// Where indexes lie, to look again for one that was not there.
    indexes: PathBuf,
    /// The number of the entry after the current one, and that entry if it was read.
    next_entry: u64,
    next_entry_value: Option<IndexEntry>,
    /// The last entry at or before the line that is next.
    pub(in crate::logs) current: Option<IndexEntry>,
}

#[derive(Debug)]
enum SegmentContent {
    Plain(File),
    Gzip(Box<MultiGzDecoder<File>>),
}

/// Microseconds since the epoch.
pub(in crate::logs) fn micros(time: SystemTime) -> u64 {
    u64::try_from(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros()).unwrap_or(u64::MAX)
}

/// A file at its beginning; `None` if there is none, or it is no plain one.
pub(in crate::logs) fn open(path: &Path, indexes: &Path) -> io::Result<Option<SegmentReader>> {
    // Non-blocking: a named pipe must not hang whoever asks.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if is_not_found(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Ok(None);
    }
    let id = file_id(&meta);
    let packed = path.as_os_str().as_encoded_bytes().ends_with(GZIP_SUFFIX.as_bytes());
    let content = match packed {
        true => SegmentContent::Gzip(Box::new(MultiGzDecoder::new(file))),
        false => SegmentContent::Plain(file),
    };
    let mut part = SegmentReader {
        content,
        id,
        path: path.to_owned(),
        offset: 0,
        lookahead: Vec::new(),
        entries: None,
        created_at: None,
        indexes: indexes.to_owned(),
        next_entry: 0,
        next_entry_value: None,
        current: None,
    };
    part.load_index();
    Ok(Some(part))
}

impl SegmentReader {
    fn file(&self) -> &File {
        match &self.content {
            SegmentContent::Plain(file) => file,
            SegmentContent::Gzip(packed) => packed.get_ref(),
        }
    }

    pub(in crate::logs) fn modified(&self) -> u64 {
        self.file().metadata().and_then(|meta| meta.modified()).map_or(0, micros)
    }

    pub(in crate::logs) fn read(&mut self, block: &mut [u8]) -> io::Result<usize> {
        let count = match &mut self.content {
            _ if !self.lookahead.is_empty() => {
                let count = self.lookahead.len().min(block.len());
                block[..count].copy_from_slice(&self.lookahead[..count]);
                self.lookahead.drain(..count);
                count
            }
            SegmentContent::Plain(file) => {
                file.seek(SeekFrom::Start(self.offset))?;
                file.read(block)?
            }
            SegmentContent::Gzip(packed) => packed.read(block)?,
        };
        self.offset += count as u64;
        self.load_index();
        Ok(count)
    }

    /// Sees what the index says by now.
    fn load_index(&mut self) {
        match &mut self.entries {
            Some(entries) => entries.refresh(),
            empty => *empty = IndexReader::open(&self.indexes, self.id),
        }
        self.created_at = self.created_at.or_else(|| self.first_entry().map(|first| first.at));
    }

    pub(in crate::logs) fn first_entry(&self) -> Option<IndexEntry> {
        self.entries.as_ref().and_then(|entries| entries.get(0))
    }

    /// Whether it was emptied, and maybe written anew. A daemon that takes over from one that was killed
    /// may cut off a block to write it again: that is another thing, and its beginning stays.
    pub(in crate::logs) fn was_truncated(&self) -> io::Result<bool> {
        match &self.content {
            SegmentContent::Plain(file) if file.metadata()?.len() < self.offset => {
                Ok(self.created_at.is_none() || self.created_at != self.first_entry().map(|first| first.at))
            }
            SegmentContent::Plain(_) | SegmentContent::Gzip(_) => Ok(false),
        }
    }

    /// Whether this is the file that a former reader was in.
    pub(in crate::logs) fn is_at(&self, place: &LogPosition) -> bool {
        match (self.created_at, place.created_at) {
            (Some(ours), Some(theirs)) => ours == theirs,
            _ => Some(self.id) == place.file && !matches!(self.content, SegmentContent::Gzip(_)),
        }
    }

    /// Whether it was begun after the file that a former reader was in, which is gone.
    pub(in crate::logs) fn is_after(&self, place: &LogPosition) -> bool {
        match (self.first_entry(), place.line, place.created_at) {
            (Some(first), Some(line), _) => first.lines >= line,
            (Some(first), None, Some(began)) => first.at > began,
            // Nothing is known of one of them: what may have been read is not told again.
            _ => false,
        }
    }

    /// Reads over so many bytes of its text.
    pub(in crate::logs) fn skip_bytes(&mut self, bytes: u64) -> io::Result<()> {
        if matches!(self.content, SegmentContent::Plain(_)) {
            self.offset = bytes;
            return Ok(());
        }
        let mut block = vec![0; BLOCK_SIZE];
        while self.offset < bytes {
            let most = usize::try_from(bytes - self.offset).unwrap_or(BLOCK_SIZE).min(BLOCK_SIZE);
            if self.read(&mut block[..most])? == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Goes to the last `count` lines, at the beginning; returns how many there are from here.
    pub(in crate::logs) fn skip_to_last(&mut self, count: usize) -> io::Result<usize> {
        match &mut self.content {
            SegmentContent::Plain(file) => {
                let end = file.metadata()?.len();
                let (start, lines) = tail::last_lines(file, end, count)?;
                self.offset = start;
                Ok(lines)
            }
            SegmentContent::Gzip(_) => {
                let all = self.count_lines()?;
                let again = File::open(&self.path)?;
                self.content = SegmentContent::Gzip(Box::new(MultiGzDecoder::new(again)));
                self.offset = 0;
                self.skip_lines(all.saturating_sub(count))?;
                Ok(all.min(count))
            }
        }
    }

    fn count_lines(&mut self) -> io::Result<usize> {
        let (mut block, mut lines) = (vec![0; BLOCK_SIZE], 0);
        loop {
            match self.read(&mut block)? {
                0 => return Ok(lines),
                count => lines += memchr::memchr_iter(b'\n', &block[..count]).count(),
            }
        }
    }

    /// Reads over so many lines.
    fn skip_lines(&mut self, mut lines: usize) -> io::Result<()> {
        let mut block = vec![0; BLOCK_SIZE];
        while lines > 0 {
            let count = self.read(&mut block)?;
            if count == 0 {
                return Ok(());
            }
            match memchr::memchr_iter(b'\n', &block[..count]).nth(lines - 1) {
                Some(at) => {
                    self.lookahead = block[at + 1..count].to_vec();
                    self.offset -= self.lookahead.len() as u64;
                    return Ok(());
                }
                None => lines -= memchr::memchr_iter(b'\n', &block[..count]).count(),
            }
        }
        Ok(())
    }

    /// Goes to the beginning of a file that was emptied.
    pub(in crate::logs) fn rewind(&mut self) {
        (self.offset, self.created_at) = (0, None);
        (self.current, self.next_entry, self.next_entry_value) = (None, 0, None);
    }

    /// Finds the entry of the present offset.
    pub(in crate::logs) fn find_entry(&mut self) {
        let Some(entries) = &self.entries else { return };
        let offset = self.offset;
        self.next_entry_value = None;
        self.next_entry = entries.partition_point(|entry| entry.offset <= offset);
        self.current = self.next_entry.checked_sub(1).and_then(|last| entries.get(last));
    }

    /// Goes on to the entry of a later offset.
    pub(in crate::logs) fn advance(&mut self, offset: u64) {
        let Some(entries) = &self.entries else { return };
        if self.current.is_some_and(|entry| entry.offset > offset) {
            (self.current, self.next_entry, self.next_entry_value) = (None, 0, None); // it was emptied and begins anew
        }
        loop {
            // An entry is read once, not for each line before it.
            self.next_entry_value = self.next_entry_value.take().or_else(|| entries.get(self.next_entry));
            let Some(entry) = self.next_entry_value.take_if(|entry| entry.offset <= offset) else { return };
            self.current = Some(entry);
            self.next_entry += 1;
        }
    }
}
