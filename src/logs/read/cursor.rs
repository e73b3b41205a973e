//! Reads one log file line by line, from its rotated and compressed predecessors on into what is
//! being written to it.

use std::io;
use std::path::{Path, PathBuf};

use crate::logs::files::index::{StreamId, file_id};
use crate::logs::files::rotation::{is_not_found, list_rotated};
use crate::logs::item::LogPosition;
use crate::logs::read::segment_reader::{BLOCK_SIZE, SegmentReader, micros, open};

/// A longer line is given in parts.
const MAX_READ_LINE: usize = 1024 * 1024;

/// A line of a log file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::logs) struct ReadLine {
    /// When it was written, microseconds since the epoch; of a file without index, when that was
    /// written last.
    pub(in crate::logs) time: u64,
    /// Who wrote it, if that is known.
    pub(in crate::logs) stream: Option<StreamId>,
    /// Without its newline.
    pub(in crate::logs) text: Vec<u8>,
    /// Lines that were removed before they could be read, right before this one.
    pub(in crate::logs) missed: u64,
    /// Where it begins in the text of its file.
    pub(in crate::logs) start: u64,
    /// How many lines of the whole history lie before it, the missed ones not counted.
    pub(in crate::logs) number: Option<u64>,
}

/// A place in a log file's history.
#[derive(Debug)]
pub(in crate::logs) struct Cursor {
    path: PathBuf,
    indexes: PathBuf,
    segment: Option<SegmentReader>,
    /// What was read; up to `taken` it is handed out, and there `start` of the text is.
    buffer: Vec<u8>,
    consumed: usize,
    start: u64,
    /// How many lines of the whole history lie before, where that is known.
    line: Option<u64>,
    missed: u64,
}

impl Cursor {
    /// At the last `lines` lines, and not before `since` (microseconds since the epoch).
    pub(in crate::logs) fn at_tail(
        path: PathBuf,
        indexes: &Path,
        lines: usize,
        since: u64,
    ) -> io::Result<Self> {
        let mut cursor = Self {
            path,
            indexes: indexes.to_owned(),
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

    /// Where a former reader was. What has been removed since is missed.
    pub(in crate::logs) fn at_position(place: &LogPosition, indexes: &Path) -> io::Result<Self> {
        let mut cursor = Self::at_tail(place.path.clone(), indexes, 0, 0)?;
        if place.file.is_none() {
            cursor.segment = None;
            return Ok(cursor);
        }
        // From the newest on: that is where most are.
        let mut paths: Vec<PathBuf> = list_rotated(&place.path)?.into_iter().map(|file| file.path).collect();
        paths.push(place.path.clone());
        let mut later = None;
        while let Some(path) = paths.pop() {
            let Some(mut part) = open(&path, indexes)? else { continue };
            if part.is_at(place) {
                part.skip_bytes(place.offset)?;
                cursor.set_segment(part);
                break;
            }
            if !part.is_after(place) {
                cursor.set_segment(later.unwrap_or(part));
                break;
            }
            if paths.is_empty() {
                cursor.set_segment(part);
                break;
            }
            later = Some(part);
        }
        if let (Some(expected), Some(line)) = (place.line, cursor.line) {
            cursor.missed = line.saturating_sub(expected);
        }
        cursor.line = cursor.line.or(place.line);
        Ok(cursor)
    }

    /// How far it was read, `unread` being the line that was taken last.
    pub(in crate::logs) fn position(&self, unread: Option<&ReadLine>) -> LogPosition {
        let (offset, line) = match unread {
            Some(unread) => (unread.start, unread.number),
            None => (self.start, self.line.map(|line| line.saturating_sub(self.missed))),
        };
        LogPosition {
            path: self.path.clone(),
            file: self.segment.as_ref().map(|part| part.id),
            created_at: self.segment.as_ref().and_then(|part| part.created_at),
            offset,
            line,
        }
    }

    fn seek(&mut self, lines: usize, since: u64) -> io::Result<()> {
        // Opened before the others are looked for: it may be rotated in between.
        let own = open(&self.path, &self.indexes)?;
        let own_id = own.as_ref().map(|part| part.id);
        let old = list_rotated(&self.path)?.into_iter().filter(|file| micros(file.modified) >= since);
        let mut paths: Vec<PathBuf> = old.map(|file| file.path).collect();
        let (mut next, mut left) = (own, lines);
        loop {
            if let Some(mut part) = next.take() {
                let found = part.skip_to_last(left)?;
                self.set_segment(part);
                left = left.saturating_sub(found);
            }
            let Some(path) = paths.pop().filter(|_| left > 0) else { return Ok(()) };
            next = open(&path, &self.indexes)?.filter(|part| Some(part.id) != own_id);
        }
    }

    fn set_segment(&mut self, mut part: SegmentReader) {
        self.clear_buffer();
        self.start = part.offset;
        part.find_entry();
        self.line = part.current.filter(|entry| entry.offset == part.offset).map(|entry| entry.lines);
        self.segment = Some(part);
    }

    /// The next whole line; `None` if there is none now.
    pub(in crate::logs) fn next(&mut self) -> io::Result<Option<ReadLine>> {
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
            // Something may have come between the end and the rotation.
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

    /// The next line of what was read before: no file is asked.
    pub(in crate::logs) fn next_buffered(&mut self) -> Option<ReadLine> {
        let left = &self.buffer[self.consumed..];
        match memchr::memchr(b'\n', left) {
            Some(end) => Some(self.take(end, true)),
            None => (left.len() >= MAX_READ_LINE).then(|| self.take(MAX_READ_LINE, false)),
        }
    }

    /// The beginning of a line whose end is not there.
    pub(in crate::logs) fn take_partial(&mut self) -> Option<ReadLine> {
        self.has_partial().then(|| self.take(self.buffer.len() - self.consumed, false))
    }

    /// Whether there is the beginning of a line whose end is not there.
    pub(in crate::logs) fn has_partial(&self) -> bool {
        self.consumed < self.buffer.len()
    }

    fn take(&mut self, length: usize, whole: bool) -> ReadLine {
        let text = self.buffer[self.consumed..self.consumed + length].to_vec();
        self.consumed += length;
        let (mut at, mut owner) = (0, None);
        if let Some(part) = &mut self.segment {
            part.advance(self.start);
            at = part.current.map_or_else(|| part.modified(), |entry| entry.at);
            owner = part.current.map(|entry| entry.stream);
            if let Some(entry) = part.current.filter(|entry| entry.offset == self.start) {
                self.line = Some(entry.lines);
            }
        }
        let (start, missed) = (self.start, std::mem::take(&mut self.missed));
        let number = self.line.map(|line| line.saturating_sub(missed));
        self.start += length as u64;
        if whole {
            self.consumed += 1;
            self.start += 1;
            self.line = self.line.map(|line| line + 1);
        }
        ReadLine { time: at, stream: owner, text, missed, start, number }
    }

    fn fill(&mut self) -> io::Result<bool> {
        let Some(part) = &mut self.segment else { return Ok(false) };
        self.buffer.drain(..std::mem::take(&mut self.consumed));
        let before = self.buffer.len();
        self.buffer.resize(before + BLOCK_SIZE, 0);
        let read = part.read(&mut self.buffer[before..]);
        self.buffer.truncate(before + read.as_ref().map_or(0, |count| *count));
        let found = read? > 0;
        if !found && part.was_truncated()? {
            part.rewind();
            self.clear_buffer();
            self.start = 0;
        }
        if !self.has_partial() {
            // There are many files that nothing is written to.
            self.clear_buffer();
        }
        Ok(found)
    }

    fn clear_buffer(&mut self) {
        (self.buffer, self.consumed) = (Vec::new(), 0);
    }

    /// Whether nothing will come in this file any more: the path leads to another one, and that is written to.
    /// Until it is, whoever writes may not have seen yet that somebody else has put it there.
    fn is_segment_replaced(&self) -> io::Result<bool> {
        match &self.segment {
            Some(part) if part.path == self.path => match std::fs::metadata(&self.path) {
                Ok(meta) => Ok(file_id(&meta) != part.id && meta.len() > 0),
                Err(error) if is_not_found(&error) => Ok(false),
                Err(error) => Err(error),
            },
            Some(_) | None => Ok(true),
        }
    }

    /// Opens the file that follows; false if there is none yet.
    fn open_next_segment(&mut self) -> io::Result<bool> {
        let (id, written) = match &self.segment {
            Some(part) => (Some(part.id), part.modified()),
            None => (None, 0),
        };
        let old = list_rotated(&self.path)?;
        let mut candidates: Vec<(PathBuf, u64)> =
            old.into_iter().map(|file| (file.path, micros(file.modified))).collect();
        candidates.push((self.path.clone(), u64::MAX));
        let mut passed = false;
        for (path, changed) in candidates {
            let Some(part) = open(&path, &self.indexes)? else { continue };
            let first = part.entries.as_ref().and_then(|entries| entries.get(0));
            // Numbers of lines are never mistaken; times have to do where there are none.
            let follows = match (first, self.line) {
                (Some(first), Some(line)) => first.lines >= line,
                _ => changed > written,
            };
            if Some(part.id) == id {
                passed = true;
                continue;
            }
            if !passed && !follows && path != self.path {
                continue;
            }
            let expected = self.line;
            self.set_segment(part);
            if let (Some(first), Some(expected)) = (first, expected) {
                self.missed += first.lines.saturating_sub(expected);
            }
            return Ok(true);
        }
        Ok(false)
    }
}
