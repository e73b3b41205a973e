//! Reads one log file line by line, from its rotated and compressed predecessors on into what is
//! being written to it.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use flate2::read::MultiGzDecoder;

use super::index::{Entries, Entry, FileId, Owner, file_id};
use super::item::LogPlace;
use super::rotate::{PACKED, rotated};
use super::tail;

/// Bytes read at once.
const BLOCK: usize = 64 * 1024;
/// A longer line is given in parts.
const LONGEST: usize = 1024 * 1024;

/// A line of a log file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// When it was written, microseconds since the epoch; of a file without index, when that was
    /// written last.
    pub(super) at: u64,
    /// Who wrote it, if that is known.
    pub(super) owner: Option<Owner>,
    /// Without its newline.
    pub(super) text: Vec<u8>,
    /// Lines that were removed before they could be read, right before this one.
    pub(super) missed: u64,
    /// Where it begins in the text of its file.
    pub(super) start: u64,
    /// How many lines of the whole history lie before it, the missed ones not counted.
    pub(super) number: Option<u64>,
}

/// A file that is open for reading.
#[derive(Debug)]
struct Part {
    content: Content,
    id: FileId,
    /// What it was called when it was opened.
    path: PathBuf,
    /// Offset of the next byte to be read, in the uncompressed text.
    offset: u64,
    /// Read too far, and still to be handed out.
    ahead: Vec<u8>,
    entries: Option<Entries<File>>,
    /// When its first line was written, if its index says so.
    began: Option<u64>,
    /// Where indexes lie, to look again for one that was not there.
    indexes: PathBuf,
    next: u64,
    /// The last entry at or before the line that is next.
    current: Option<Entry>,
}

#[derive(Debug)]
enum Content {
    Plain(File),
    Packed(Box<MultiGzDecoder<File>>),
}

/// A place in a log file's history.
#[derive(Debug)]
pub(super) struct Cursor {
    path: PathBuf,
    indexes: PathBuf,
    part: Option<Part>,
    /// Read, and not handed out yet; it begins at `start` of the text.
    buffer: VecDeque<u8>,
    start: u64,
    /// How many lines of the whole history lie before, where that is known.
    line: Option<u64>,
    missed: u64,
}

impl Cursor {
    /// At the last `lines` lines, and not before `since` (microseconds since the epoch).
    pub(super) fn at_tail(path: PathBuf, indexes: &Path, lines: usize, since: u64) -> io::Result<Self> {
        let mut cursor = Self {
            path,
            indexes: indexes.to_owned(),
            part: None,
            buffer: VecDeque::new(),
            start: 0,
            line: None,
            missed: 0,
        };
        cursor.seek(lines, since)?;
        Ok(cursor)
    }

    /// Where a former reader was. What has been removed since is missed.
    pub(super) fn at_place(place: &LogPlace, indexes: &Path) -> io::Result<Self> {
        let mut cursor = Self::at_tail(place.path.clone(), indexes, 0, 0)?;
        if place.file.is_none() {
            cursor.part = None;
            return Ok(cursor);
        }
        // From the newest on: that is where most are.
        let mut paths: Vec<PathBuf> = rotated(&place.path)?.into_iter().map(|file| file.path).collect();
        paths.push(place.path.clone());
        let mut later = None;
        while let Some(path) = paths.pop() {
            let Some(mut part) = open(&path, indexes)? else { continue };
            if part.is_at(place) {
                part.skip_bytes(place.offset)?;
                cursor.enter(part);
                break;
            }
            if !part.follows(place) {
                cursor.enter(later.unwrap_or(part));
                break;
            }
            if paths.is_empty() {
                cursor.enter(part);
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
    pub(super) fn place(&self, unread: Option<&Line>) -> LogPlace {
        let (offset, line) = match unread {
            Some(unread) => (unread.start, unread.number),
            None => (self.start, self.line.map(|line| line.saturating_sub(self.missed))),
        };
        LogPlace {
            path: self.path.clone(),
            file: self.part.as_ref().map(|part| part.id),
            began: self.part.as_ref().and_then(|part| part.began),
            offset,
            line,
        }
    }

    fn seek(&mut self, lines: usize, since: u64) -> io::Result<()> {
        // Opened before the others are looked for: it may be rotated in between.
        let own = open(&self.path, &self.indexes)?;
        let own_id = own.as_ref().map(|part| part.id);
        let old = rotated(&self.path)?.into_iter().filter(|file| micros(file.written) >= since);
        let mut paths: Vec<PathBuf> = old.map(|file| file.path).collect();
        let (mut next, mut left) = (own, lines);
        loop {
            if let Some(mut part) = next.take() {
                let found = part.skip_to_last(left)?;
                self.enter(part);
                left = left.saturating_sub(found);
            }
            let Some(path) = paths.pop().filter(|_| left > 0) else { return Ok(()) };
            next = open(&path, &self.indexes)?.filter(|part| Some(part.id) != own_id);
        }
    }

    fn enter(&mut self, mut part: Part) {
        self.buffer.clear();
        self.start = part.offset;
        part.find_entry();
        self.line = part.current.filter(|entry| entry.offset == part.offset).map(|entry| entry.lines);
        self.part = Some(part);
    }

    /// The next whole line; `None` if there is none now.
    pub(super) fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            if let Some(end) = self.newline() {
                return Ok(Some(self.take(end, true)));
            }
            if self.buffer.len() >= LONGEST {
                return Ok(Some(self.take(LONGEST, false)));
            }
            if self.fill()? {
                continue;
            }
            if !self.is_over()? {
                return Ok(None);
            }
            // Something may have come between the end and the rotation.
            if self.fill()? {
                continue;
            }
            if let Some(line) = self.rest() {
                return Ok(Some(line));
            }
            if !self.go_on()? {
                return Ok(None);
            }
        }
    }

    /// The beginning of a line whose end is not there.
    pub(super) fn rest(&mut self) -> Option<Line> {
        (!self.buffer.is_empty()).then(|| self.take(self.buffer.len(), false))
    }

    /// Whether there is the beginning of a line whose end is not there.
    pub(super) fn has_rest(&self) -> bool {
        !self.buffer.is_empty()
    }

    fn newline(&self) -> Option<usize> {
        let (one, two) = self.buffer.as_slices();
        memchr::memchr(b'\n', one).or_else(|| memchr::memchr(b'\n', two).map(|at| one.len() + at))
    }

    fn take(&mut self, length: usize, whole: bool) -> Line {
        let text: Vec<u8> = self.buffer.drain(..length).collect();
        let (mut at, mut owner) = (0, None);
        if let Some(part) = &mut self.part {
            part.advance(self.start);
            at = part.current.map_or_else(|| part.written(), |entry| entry.at);
            owner = part.current.map(|entry| entry.owner);
            if let Some(entry) = part.current.filter(|entry| entry.offset == self.start) {
                self.line = Some(entry.lines);
            }
        }
        let (start, missed) = (self.start, std::mem::take(&mut self.missed));
        let number = self.line.map(|line| line.saturating_sub(missed));
        self.start += length as u64;
        if whole {
            self.buffer.pop_front();
            self.start += 1;
            self.line = self.line.map(|line| line + 1);
        }
        Line { at, owner, text, missed, start, number }
    }

    fn fill(&mut self) -> io::Result<bool> {
        let Some(part) = &mut self.part else { return Ok(false) };
        let mut block = vec![0; BLOCK];
        let count = part.read(&mut block)?;
        self.buffer.extend(&block[..count]);
        if count == 0 && part.was_emptied()? {
            (part.offset, part.began) = (0, None);
            self.buffer.clear();
            self.start = 0;
        }
        Ok(count > 0)
    }

    /// Whether nothing will come in this file any more: the path leads to another one.
    fn is_over(&self) -> io::Result<bool> {
        match &self.part {
            Some(part) if part.path == self.path => match std::fs::metadata(&self.path) {
                Ok(meta) => Ok(file_id(&meta) != part.id),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
                Err(error) => Err(error),
            },
            Some(_) | None => Ok(true),
        }
    }

    /// Opens the file that follows; false if there is none yet.
    fn go_on(&mut self) -> io::Result<bool> {
        let (id, written) = match &self.part {
            Some(part) => (Some(part.id), part.written()),
            None => (None, 0),
        };
        let old = rotated(&self.path)?;
        let mut candidates: Vec<(PathBuf, u64)> =
            old.into_iter().map(|file| (file.path, micros(file.written))).collect();
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
            self.enter(part);
            if let (Some(first), Some(expected)) = (first, expected) {
                self.missed += first.lines.saturating_sub(expected);
            }
            return Ok(true);
        }
        Ok(false)
    }
}

fn micros(time: SystemTime) -> u64 {
    u64::try_from(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros()).unwrap_or(u64::MAX)
}

/// A file at its beginning; `None` if there is none, or it is no plain one.
fn open(path: &Path, indexes: &Path) -> io::Result<Option<Part>> {
    // Non-blocking: a named pipe must not hang whoever asks.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Ok(None);
    }
    let id = file_id(&meta);
    let packed = path.as_os_str().as_encoded_bytes().ends_with(PACKED.as_bytes());
    let content = match packed {
        true => Content::Packed(Box::new(MultiGzDecoder::new(file))),
        false => Content::Plain(file),
    };
    let mut part = Part {
        content,
        id,
        path: path.to_owned(),
        offset: 0,
        ahead: Vec::new(),
        entries: None,
        began: None,
        indexes: indexes.to_owned(),
        next: 0,
        current: None,
    };
    part.look_into_index();
    Ok(Some(part))
}

impl Part {
    fn file(&self) -> &File {
        match &self.content {
            Content::Plain(file) => file,
            Content::Packed(packed) => packed.get_ref(),
        }
    }

    fn written(&self) -> u64 {
        self.file().metadata().and_then(|meta| meta.modified()).map_or(0, micros)
    }

    fn read(&mut self, block: &mut [u8]) -> io::Result<usize> {
        let count = match &mut self.content {
            _ if !self.ahead.is_empty() => {
                let count = self.ahead.len().min(block.len());
                block[..count].copy_from_slice(&self.ahead[..count]);
                self.ahead.drain(..count);
                count
            }
            Content::Plain(file) => {
                file.seek(SeekFrom::Start(self.offset))?;
                file.read(block)?
            }
            Content::Packed(packed) => packed.read(block)?,
        };
        self.offset += count as u64;
        self.look_into_index();
        Ok(count)
    }

    /// Sees what the index says by now.
    fn look_into_index(&mut self) {
        match &mut self.entries {
            Some(entries) => entries.refresh(),
            empty => *empty = Entries::open(&self.indexes, self.id),
        }
        self.began = self.began.or_else(|| self.first().map(|first| first.at));
    }

    fn first(&self) -> Option<Entry> {
        self.entries.as_ref().and_then(|entries| entries.get(0))
    }

    /// Whether it was emptied, and maybe written anew. A daemon that takes over from one that was killed
    /// may cut off a block to write it again: that is another thing, and its beginning stays.
    fn was_emptied(&self) -> io::Result<bool> {
        match &self.content {
            Content::Plain(file) if file.metadata()?.len() < self.offset => {
                Ok(self.began.is_none() || self.began != self.first().map(|first| first.at))
            }
            Content::Plain(_) | Content::Packed(_) => Ok(false),
        }
    }

    /// Whether this is the file that a former reader was in.
    fn is_at(&self, place: &LogPlace) -> bool {
        match (self.began, place.began) {
            (Some(ours), Some(theirs)) => ours == theirs,
            _ => Some(self.id) == place.file && !matches!(self.content, Content::Packed(_)),
        }
    }

    /// Whether it was begun after the file that a former reader was in, which is gone.
    fn follows(&self, place: &LogPlace) -> bool {
        match (self.first(), place.line, place.began) {
            (Some(first), Some(line), _) => first.lines >= line,
            (Some(first), None, Some(began)) => first.at > began,
            // Nothing is known of one of them: what may have been read is not told again.
            _ => false,
        }
    }

    /// Reads over so many bytes of its text.
    fn skip_bytes(&mut self, bytes: u64) -> io::Result<()> {
        if matches!(self.content, Content::Plain(_)) {
            self.offset = bytes;
            return Ok(());
        }
        let mut block = vec![0; BLOCK];
        while self.offset < bytes {
            let most = usize::try_from(bytes - self.offset).unwrap_or(BLOCK).min(BLOCK);
            if self.read(&mut block[..most])? == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Goes to the last `count` lines, at the beginning; returns how many there are from here.
    fn skip_to_last(&mut self, count: usize) -> io::Result<usize> {
        match &mut self.content {
            Content::Plain(file) => {
                let end = file.metadata()?.len();
                let (start, lines) = tail::last_lines(file, end, count)?;
                self.offset = start;
                Ok(lines)
            }
            Content::Packed(_) => {
                let all = self.count_lines()?;
                let again = File::open(&self.path)?;
                self.content = Content::Packed(Box::new(MultiGzDecoder::new(again)));
                self.offset = 0;
                self.skip_lines(all.saturating_sub(count))?;
                Ok(all.min(count))
            }
        }
    }

    fn count_lines(&mut self) -> io::Result<usize> {
        let (mut block, mut lines) = (vec![0; BLOCK], 0);
        loop {
            match self.read(&mut block)? {
                0 => return Ok(lines),
                count => lines += memchr::memchr_iter(b'\n', &block[..count]).count(),
            }
        }
    }

    /// Reads over so many lines.
    fn skip_lines(&mut self, mut lines: usize) -> io::Result<()> {
        let mut block = vec![0; BLOCK];
        while lines > 0 {
            let count = self.read(&mut block)?;
            if count == 0 {
                return Ok(());
            }
            match memchr::memchr_iter(b'\n', &block[..count]).nth(lines - 1) {
                Some(at) => {
                    self.ahead = block[at + 1..count].to_vec();
                    self.offset -= self.ahead.len() as u64;
                    return Ok(());
                }
                None => lines -= memchr::memchr_iter(b'\n', &block[..count]).count(),
            }
        }
        Ok(())
    }

    /// Finds the entry of the present offset.
    fn find_entry(&mut self) {
        let Some(entries) = &self.entries else { return };
        let offset = self.offset;
        self.next = entries.partition(|entry| entry.offset <= offset);
        self.current = self.next.checked_sub(1).and_then(|last| entries.get(last));
    }

    /// Goes on to the entry of a later offset.
    fn advance(&mut self, offset: u64) {
        let Some(entries) = &self.entries else { return };
        if self.current.is_some_and(|entry| entry.offset > offset) {
            (self.current, self.next) = (None, 0); // it was emptied and begins anew
        }
        while let Some(entry) = entries.get(self.next).filter(|entry| entry.offset <= offset) {
            self.current = Some(entry);
            self.next += 1;
        }
    }
}
