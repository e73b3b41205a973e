//! Reader of one file of a log, current or rotated, plain or compressed, with its index.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use flate2::read::MultiGzDecoder;

use crate::logs::files::access::{LogAccess, LogHome};
use crate::logs::files::index::{FileId, IndexEntry, IndexReader, file_id};
use crate::logs::files::rotated_name::is_gzip_path;
use crate::logs::files::rotation::is_not_found;
use crate::logs::item::LogPosition;
use crate::logs::read::tail;

pub(super) const BLOCK_SIZE: usize = 64 * 1024;

#[derive(Debug)]
pub(super) struct SegmentReader {
    content: SegmentContent,
    pub(super) id: FileId,
    /// Path at which it was opened; it may be renamed since.
    pub(super) path: PathBuf,
    /// Offset of the next byte to read, in the uncompressed text.
    pub(super) offset: u64,
    /// Bytes read too far, to be returned by the next read.
    lookahead: Vec<u8>,
    pub(super) entries: Option<IndexReader<File>>,
    /// Time of its first line, from its index.
    pub(super) created_at: Option<u64>,
    /// To look for an index that did not exist yet.
    home: Arc<LogHome>,
    /// Number of the entry after the current one.
    next_entry: u64,
    /// That entry, if it was read.
    next_entry_value: Option<IndexEntry>,
    /// The last entry at or before the next line.
    pub(super) current: Option<IndexEntry>,
}

#[derive(Debug)]
enum SegmentContent {
    Plain(File),
    Gzip(Box<MultiGzDecoder<File>>),
}

/// Microseconds since the epoch.
pub(super) fn micros(time: SystemTime) -> u64 {
    u64::try_from(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros()).unwrap_or(u64::MAX)
}

/// Opens a file at its start; `None` if it does not exist or is not a regular file.
pub(super) fn open(path: &Path, access: &LogAccess) -> io::Result<Option<SegmentReader>> {
    let file = match access.open_read(path) {
        Ok(file) => file,
        Err(error) if is_not_found(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Ok(None);
    }
    let id = file_id(&meta);
    let content = if is_gzip_path(path) {
        SegmentContent::Gzip(Box::new(MultiGzDecoder::new(file)))
    } else {
        SegmentContent::Plain(file)
    };
    let mut segment = SegmentReader {
        content,
        id,
        path: path.to_owned(),
        offset: 0,
        lookahead: Vec::new(),
        entries: None,
        created_at: None,
        home: Arc::clone(&access.home),
        next_entry: 0,
        next_entry_value: None,
        current: None,
    };
    segment.load_index();
    Ok(Some(segment))
}

impl SegmentReader {
    fn file(&self) -> &File {
        match &self.content {
            SegmentContent::Plain(file) => file,
            SegmentContent::Gzip(decoder) => decoder.get_ref(),
        }
    }

    /// Microseconds since the epoch.
    pub(super) fn modified(&self) -> u64 {
        self.file().metadata().and_then(|meta| meta.modified()).map_or(0, micros)
    }

    pub(super) fn read(&mut self, block: &mut [u8]) -> io::Result<usize> {
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
            SegmentContent::Gzip(decoder) => decoder.read(block)?,
        };
        self.offset += count as u64;
        self.load_index();
        Ok(count)
    }

    /// Opens the index, or updates the number of its entries.
    fn load_index(&mut self) {
        match &mut self.entries {
            Some(entries) => entries.refresh(),
            empty => *empty = IndexReader::open(&self.home.indexes, self.id),
        }
        self.created_at = self.created_at.or_else(|| self.first_entry().map(|first| first.at));
    }

    pub(super) fn first_entry(&self) -> Option<IndexEntry> {
        self.entries.as_ref().and_then(|entries| entries.get(0))
    }

    /// Whether the file was truncated to zero, and possibly written since. A daemon that recovers from a kill
    /// may also truncate a file, to write the last block again; its first line stays then.
    pub(super) fn was_truncated(&self) -> io::Result<bool> {
        match &self.content {
            SegmentContent::Plain(file) if file.metadata()?.len() < self.offset => {
                Ok(self.created_at.is_none() || self.created_at != self.first_entry().map(|first| first.at))
            }
            SegmentContent::Plain(_) | SegmentContent::Gzip(_) => Ok(false),
        }
    }

    /// Whether this is the file of a position.
    pub(super) fn is_at(&self, position: &LogPosition) -> bool {
        match (self.created_at, position.created_at) {
            (Some(created_at), Some(expected)) => created_at == expected,
            _ => Some(self.id) == position.file && !matches!(self.content, SegmentContent::Gzip(_)),
        }
    }

    /// Whether this file is newer than the file of a position, which was removed.
    pub(super) fn is_after(&self, position: &LogPosition) -> bool {
        match (self.first_entry(), position.line, position.created_at) {
            (Some(first), Some(line), _) => first.lines >= line,
            (Some(first), None, Some(created_at)) => first.at > created_at,
            // Without an index, assume that the lines were read already.
            _ => false,
        }
    }

    /// Moves to an offset in the text.
    pub(super) fn seek_to(&mut self, offset: u64) -> io::Result<()> {
        if matches!(self.content, SegmentContent::Plain(_)) {
            self.offset = offset;
            return Ok(());
        }
        let mut block = vec![0; BLOCK_SIZE];
        while self.offset < offset {
            let count = usize::try_from(offset - self.offset).unwrap_or(BLOCK_SIZE).min(BLOCK_SIZE);
            if self.read(&mut block[..count])? == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Moves from the start to the last `count` lines. Returns how many there are.
    pub(super) fn skip_to_last(&mut self, count: usize) -> io::Result<usize> {
        match &mut self.content {
            SegmentContent::Plain(file) => {
                let end = file.metadata()?.len();
                let (start, lines) = tail::last_lines(file, end, count)?;
                self.offset = start;
                Ok(lines)
            }
            SegmentContent::Gzip(_) => {
                let total = self.count_lines()?;
                let SegmentContent::Gzip(decoder) = &self.content else { return Ok(total) };
                let mut file = decoder.get_ref().try_clone()?;
                file.seek(SeekFrom::Start(0))?;
                self.content = SegmentContent::Gzip(Box::new(MultiGzDecoder::new(file)));
                self.offset = 0;
                self.skip_lines(total.saturating_sub(count))?;
                Ok(total.min(count))
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

    fn skip_lines(&mut self, mut lines: usize) -> io::Result<()> {
        let mut block = vec![0; BLOCK_SIZE];
        while lines > 0 {
            let count = self.read(&mut block)?;
            if count == 0 {
                return Ok(());
            }
            match memchr::memchr_iter(b'\n', &block[..count]).nth(lines - 1) {
                Some(newline) => {
                    self.lookahead = block[newline + 1..count].to_vec();
                    self.offset -= self.lookahead.len() as u64;
                    return Ok(());
                }
                None => lines -= memchr::memchr_iter(b'\n', &block[..count]).count(),
            }
        }
        Ok(())
    }

    /// Moves to the start of a file that was truncated.
    pub(super) fn rewind(&mut self) {
        (self.offset, self.created_at) = (0, None);
        (self.current, self.next_entry, self.next_entry_value) = (None, 0, None);
    }

    /// Finds the entry of the current offset.
    pub(super) fn find_entry(&mut self) {
        let Some(entries) = &self.entries else { return };
        let offset = self.offset;
        self.next_entry_value = None;
        self.next_entry = entries.partition_point(|entry| entry.offset <= offset);
        self.current = self.next_entry.checked_sub(1).and_then(|last| entries.get(last));
    }

    /// Moves to the entry of a later offset.
    pub(super) fn advance(&mut self, offset: u64) {
        let Some(entries) = &self.entries else { return };
        if self.current.is_some_and(|entry| entry.offset > offset) {
            // The file was truncated, and its index starts again.
            (self.current, self.next_entry, self.next_entry_value) = (None, 0, None);
        }
        loop {
            // Each entry is read once, not for each line before it.
            self.next_entry_value = self.next_entry_value.take().or_else(|| entries.get(self.next_entry));
            let Some(entry) = self.next_entry_value.take_if(|entry| entry.offset <= offset) else { return };
            self.current = Some(entry);
            self.next_entry += 1;
        }
    }
}
