//! Cursor: reads the lines of one log file and its rotated and compressed predecessors, up to the line
//! written last.

use std::io;
use std::path::{Path, PathBuf};

use crate::logs::files::access::LogAccess;
use crate::logs::files::index::{StreamId, file_id};
use crate::logs::files::rotated_name::{gzip_path, is_gzip_path};
use crate::logs::files::rotation::{is_not_found, list_rotated};
use crate::logs::item::LogPosition;
use crate::logs::read::segment_reader::{BLOCK_SIZE, SegmentReader, micros, open};

/// Maximum length of a line in bytes; a longer line is returned in parts.
const MAX_READ_LINE: usize = 1024 * 1024;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ReadLine {
    /// Time of the write, in microseconds since the epoch. For a file without an index, the time of its last
    /// write.
    pub(super) time: u64,
    /// The stream that wrote it, if known.
    pub(super) stream: Option<StreamId>,
    /// Without its newline.
    pub(super) text: Vec<u8>,
    /// Number of lines right before this one that were removed before they could be read.
    pub(super) missed: u64,
    /// Offset in the text of its file.
    pub(super) start: u64,
    /// Number of lines before it in all files of the log, without the missed ones.
    pub(super) number: Option<u64>,
}

/// A read position in a log file or one of its predecessors.
#[derive(Debug)]
pub(super) struct Cursor {
    path: PathBuf,
    access: LogAccess,
    segment: Option<SegmentReader>,
    /// Bytes read from the segment; those before `consumed` were returned.
    buffer: Vec<u8>,
    consumed: usize,
    /// Offset of the next line in the text of the segment.
    start: u64,
    /// Number of lines before the next one in all files of the log, if known.
    line: Option<u64>,
    /// Number of removed lines to report with the next line.
    missed: u64,
}

/// Opens a file of the log at `log`: a rotated one may have been replaced by its compressed form since the directory
/// was read.
fn open_any_form(path: &Path, log: &Path, access: &LogAccess) -> io::Result<Option<SegmentReader>> {
    match open(path, access)? {
        None if path != log && !is_gzip_path(path) => open(&gzip_path(path), access),
        segment => Ok(segment),
    }
}

impl Cursor {
    /// A cursor at the last `lines` lines, without files last written before `since` (microseconds since the
    /// epoch).
    pub(super) fn at_tail(path: PathBuf, access: &LogAccess, lines: usize, since: u64) -> io::Result<Self> {
        let mut cursor = Self {
            path,
            access: access.clone(),
            segment: None,
            buffer: Vec::new(),
            consumed: 0,
            start: 0,
            line: None,
            missed: 0,
        };
        cursor.seek(lines, since)?;
        Ok(cursor)
    }

    /// A cursor at the position of an earlier reader. Lines removed since count as missed.
    pub(super) fn at_position(position: &LogPosition, access: &LogAccess) -> io::Result<Self> {
        let mut cursor = Self::at_tail(position.path.clone(), access, 0, 0)?;
        if position.file.is_none() {
            cursor.segment = None;
            return Ok(cursor);
        }
        // Newest first, because most readers are in the newest file.
        let mut paths: Vec<PathBuf> =
            list_rotated(&position.path, access)?.into_iter().map(|file| file.path).collect();
        paths.push(position.path.clone());
        let mut later = None;
        while let Some(path) = paths.pop() {
            let Some(mut segment) = open_any_form(&path, &position.path, access)? else { continue };
            if segment.is_at(position) {
                segment.seek_to(position.offset)?;
                cursor.set_segment(segment);
                break;
            }
            if !segment.is_after(position) {
                cursor.set_segment(later.unwrap_or(segment));
                break;
            }
            if paths.is_empty() {
                cursor.set_segment(segment);
                break;
            }
            later = Some(segment);
        }
        if let (Some(expected), Some(line)) = (position.line, cursor.line) {
            cursor.missed = line.saturating_sub(expected);
        }
        cursor.line = cursor.line.or(position.line);
        Ok(cursor)
    }

    /// The position after the last line, or before it if it is still `unread`.
    pub(super) fn position(&self, unread: Option<&ReadLine>) -> LogPosition {
        let (offset, line) = match unread {
            Some(unread) => (unread.start, unread.number),
            None => (self.start, self.line.map(|line| line.saturating_sub(self.missed))),
        };
        LogPosition {
            path: self.path.clone(),
            file: self.segment.as_ref().map(|segment| segment.id),
            created_at: self.segment.as_ref().and_then(|segment| segment.created_at),
            offset,
            line,
        }
    }

    fn seek(&mut self, lines: usize, since: u64) -> io::Result<()> {
        // Open the current file before listing rotated ones: it may be rotated in between.
        let current = open(&self.path, &self.access)?;
        let current_id = current.as_ref().map(|segment| segment.id);
        let rotated =
            list_rotated(&self.path, &self.access)?.into_iter().filter(|file| micros(file.modified) >= since);
        let mut paths: Vec<PathBuf> = rotated.map(|file| file.path).collect();
        let (mut next, mut left) = (current, lines);
        loop {
            if let Some(mut segment) = next.take() {
                let found = segment.skip_to_last(left)?;
                self.set_segment(segment);
                left = left.saturating_sub(found);
            }
            let Some(path) = paths.pop().filter(|_| left > 0) else { return Ok(()) };
            next = open_any_form(&path, &self.path, &self.access)?
                .filter(|segment| Some(segment.id) != current_id);
        }
    }

    fn set_segment(&mut self, mut segment: SegmentReader) {
        self.clear_buffer();
        self.start = segment.offset;
        segment.find_entry();
        self.line = segment.current.filter(|entry| entry.offset == segment.offset).map(|entry| entry.lines);
        self.segment = Some(segment);
    }

    /// The next complete line; `None` if there is none now.
    pub(super) fn next(&mut self) -> io::Result<Option<ReadLine>> {
        loop {
            if let Some(line) = self.next_buffered() {
                return Ok(Some(line));
            }
            if self.fill()? {
                continue;
            }
            if !self.is_segment_replaced()? {
                return Ok(None);
            }
            // Lines may have been written between the last read and the rotation.
            if self.fill()? {
                continue;
            }
            if let Some(line) = self.take_partial() {
                return Ok(Some(line));
            }
            if !self.open_next_segment()? {
                return Ok(None);
            }
        }
    }

    /// The next complete line in the buffer, without reading a file.
    pub(super) fn next_buffered(&mut self) -> Option<ReadLine> {
        let left = &self.buffer[self.consumed..];
        match memchr::memchr(b'\n', left) {
            Some(end) => {
                let line = self.take(end);
                self.skip_newline();
                Some(line)
            }
            None => (left.len() >= MAX_READ_LINE).then(|| self.take(MAX_READ_LINE)),
        }
    }

    /// The partial line in the buffer.
    pub(super) fn take_partial(&mut self) -> Option<ReadLine> {
        self.has_partial().then(|| self.take(self.buffer.len() - self.consumed))
    }

    /// Whether the buffer contains a partial line.
    pub(super) fn has_partial(&self) -> bool {
        self.consumed < self.buffer.len()
    }

    fn take(&mut self, length: usize) -> ReadLine {
        let text = self.buffer[self.consumed..self.consumed + length].to_vec();
        self.consumed += length;
        let (mut time, mut stream) = (0, None);
        if let Some(segment) = &mut self.segment {
            segment.advance(self.start);
            time = segment.current.map_or_else(|| segment.modified(), |entry| entry.at);
            stream = segment.current.map(|entry| entry.stream);
            if let Some(entry) = segment.current.filter(|entry| entry.offset == self.start) {
                self.line = Some(entry.lines);
            }
        }
        let (start, missed) = (self.start, std::mem::take(&mut self.missed));
        let number = self.line.map(|line| line.saturating_sub(missed));
        self.start += length as u64;
        ReadLine { time, stream, text, missed, start, number }
    }

    fn skip_newline(&mut self) {
        self.consumed += 1;
        self.start += 1;
        self.line = self.line.map(|line| line + 1);
    }

    /// Reads a block into the buffer; false at the end of the file.
    fn fill(&mut self) -> io::Result<bool> {
        let Some(segment) = &mut self.segment else { return Ok(false) };
        self.buffer.drain(..std::mem::take(&mut self.consumed));
        let before = self.buffer.len();
        self.buffer.resize(before + BLOCK_SIZE, 0);
        let read = segment.read(&mut self.buffer[before..]);
        self.buffer.truncate(before + read.as_ref().map_or(0, |count| *count));
        let has_more = read? > 0;
        if !has_more && segment.was_truncated()? {
            segment.rewind();
            self.clear_buffer();
            self.start = 0;
        }
        if !self.has_partial() {
            // Free the buffer: most of the files read are idle.
            self.clear_buffer();
        }
        Ok(has_more)
    }

    fn clear_buffer(&mut self) {
        (self.buffer, self.consumed) = (Vec::new(), 0);
    }

    /// Whether nothing will be written to the current file any more: the path refers to another file, and
    /// that one is not empty. While it is empty, the writer may not have noticed yet that another program
    /// replaced the file.
    fn is_segment_replaced(&self) -> io::Result<bool> {
        match &self.segment {
            Some(segment) if segment.path == self.path => match std::fs::metadata(&self.path) {
                Ok(meta) => Ok(file_id(&meta) != segment.id && meta.len() > 0),
                Err(error) if is_not_found(&error) => Ok(false),
                Err(error) => Err(error),
            },
            Some(_) | None => Ok(true),
        }
    }

    /// Opens the file after the current one; false if there is none yet.
    fn open_next_segment(&mut self) -> io::Result<bool> {
        let (id, modified) = match &self.segment {
            Some(segment) => (Some(segment.id), segment.modified()),
            None => (None, 0),
        };
        let rotated = list_rotated(&self.path, &self.access)?;
        let mut candidates: Vec<(PathBuf, u64)> =
            rotated.into_iter().map(|file| (file.path, micros(file.modified))).collect();
        candidates.push((self.path.clone(), u64::MAX));
        let mut is_past_current = false;
        for (path, candidate_modified) in candidates {
            let Some(segment) = open_any_form(&path, &self.path, &self.access)? else { continue };
            let first = segment.first_entry();
            // Line numbers are exact. Without an index, compare times.
            let follows = match (first, self.line) {
                (Some(first), Some(line)) => first.lines >= line,
                _ => candidate_modified > modified,
            };
            if Some(segment.id) == id {
                is_past_current = true;
                continue;
            }
            if !is_past_current && !follows && path != self.path {
                continue;
            }
            let expected = self.line;
            self.set_segment(segment);
            if let (Some(first), Some(expected)) = (first, expected) {
                self.missed += first.lines.saturating_sub(expected);
            }
            return Ok(true);
        }
        Ok(false)
    }
}
