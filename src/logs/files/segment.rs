//! The file at a log path that is open for appending, until it is rotated or replaced.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant, UNIX_EPOCH};

use crate::logs::capture::lines::MAX_LINE;
use crate::logs::files::access::LogAccess;
use crate::logs::files::attributes;
use crate::logs::files::index::{FileId, IndexEntry, IndexWriter, StreamId, file_id, mark_rotated};
use crate::logs::files::rotated_name::RotationNames;
use crate::logs::files::rotation::RotationPolicy;
use crate::logs::item::OutputStream;
use crate::logs::retention::worker::Retention;
use crate::secure_fs::Location;

/// How often to check whether the path still refers to the open file.
const IDENTITY_CHECK_INTERVAL: Duration = Duration::from_millis(500);
/// Delay after a rotation that failed.
const ROTATION_RETRY_DELAY: Duration = Duration::from_secs(30);
const MAX_TAIL_READ: usize = 64 * 1024;
/// Owner of a partial line whose stream is unknown.
const NO_STREAM: StreamId = StreamId { run: 0, stream: OutputStream::Out };

#[derive(Debug)]
pub(crate) struct Segment {
    file: File,
    id: FileId,
    kind: SegmentKind,
    checked_at: Instant,
    /// Stream of the partial line at the end of the file.
    open_line: Option<StreamId>,
    /// The path refers to another file, to be opened after the partial line.
    reopen_after_line: bool,
    /// Time of the next scheduled rotation, in milliseconds since the epoch.
    next_rotation: Option<i64>,
    names: RotationNames,
    rotation_retry_at: Option<Instant>,
    checkpoint: Checkpoint,
}

/// State before the last write.
#[derive(Clone, Copy, Debug, Default)]
struct Checkpoint {
    size: u64,
    lines: u64,
    open_line: Option<StreamId>,
}

#[derive(Debug)]
enum SegmentKind {
    /// A file that can be truncated, rotated and indexed.
    Regular {
        size: u64,
        /// Number of lines, including all files before this one.
        lines: u64,
        index: IndexWriter,
    },
    /// A named pipe or a device. `rest` is the part of the last block that it has not accepted yet.
    Special { rest: Vec<u8> },
}

impl Segment {
    /// Opens the file at a path; creates it if it does not exist.
    pub(crate) fn open(path: &Path, policy: &RotationPolicy, access: &LogAccess) -> io::Result<Self> {
        let (file, _) = access.open_append(path)?;
        Self::from_file(file, path, policy, access)
    }

    fn from_file(file: File, path: &Path, policy: &RotationPolicy, access: &LogAccess) -> io::Result<Self> {
        let meta = file.metadata()?;
        let id = file_id(&meta);
        let mut segment = Self {
            file,
            id,
            kind: SegmentKind::Special { rest: Vec::new() },
            checked_at: Instant::now(),
            open_line: None,
            reopen_after_line: false,
            next_rotation: None,
            names: RotationNames::default(),
            rotation_retry_at: None,
            checkpoint: Checkpoint::default(),
        };
        if meta.file_type().is_file() {
            let size = meta.len();
            let index = IndexWriter::open(&access.home.indexes, id, size);
            let (lines, open_line) = resume(|| access.open_read(path), id, size, &index);
            segment.open_line = open_line;
            segment.kind = SegmentKind::Regular { size, lines, index };
            // A rotation that was due while no daemon ran is due now.
            let modified = meta.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
            segment.next_rotation = policy.next_rotation(i64::try_from(modified.as_millis()).unwrap_or(0));
        }
        Ok(segment)
    }

    /// Whether writes still belong in this file. Also notices if another program truncated it.
    pub(crate) fn is_current(&mut self, path: &Path) -> io::Result<bool> {
        if self.reopen_after_line && self.open_line.is_none() {
            return Ok(false);
        }
        let SegmentKind::Regular { size, index, .. } = &mut self.kind else { return Ok(true) };
        let meta = self.file.metadata()?;
        if meta.nlink() == 0 {
            return Ok(false);
        }
        if meta.len() < *size {
            index.truncate(meta.len());
            self.open_line = None;
        }
        *size = meta.len();
        if self.checked_at.elapsed() < IDENTITY_CHECK_INTERVAL {
            return Ok(true);
        }
        self.checked_at = Instant::now();
        self.reopen_after_line |= !std::fs::metadata(path).is_ok_and(|meta| file_id(&meta) == self.id);
        Ok(!self.reopen_after_line || self.open_line.is_some())
    }

    fn is_past_schedule(&self) -> bool {
        self.next_rotation.is_some_and(|due| jiff::Timestamp::now().as_millisecond() >= due)
    }

    /// Whether the file must be rotated before a write of `line` bytes.
    pub(crate) fn needs_rotation(&self, line: u64, policy: &RotationPolicy) -> bool {
        let SegmentKind::Regular { size, .. } = &self.kind else { return false };
        let max_size = policy.settings.max_size;
        let is_full = max_size.is_some_and(|max| *size > 0 && line > 0 && size.saturating_add(line) > max);
        let is_delayed = self.rotation_retry_at.is_some_and(|retry_at| Instant::now() < retry_at);
        // A line without an end must not prevent rotation forever.
        let is_oversized = max_size.is_some_and(|max| *size > max.saturating_add(MAX_LINE as u64));
        (is_full || self.is_past_schedule()) && !is_delayed && (self.open_line.is_none() || is_oversized)
    }

    /// Renames the file and opens a new one. On failure, writes continue in the current file.
    pub(crate) fn rotate(
        &mut self,
        path: &Path,
        policy: &RotationPolicy,
        access: &LogAccess,
        retention: &Retention,
    ) {
        let SegmentKind::Regular { size, lines, .. } = &self.kind else { return };
        let (size, lines) = (*size, *lines);
        self.next_rotation = policy.next_rotation(jiff::Timestamp::now().as_millisecond());
        if size == 0 && !policy.settings.rotate_empty {
            return;
        }
        match self.rename_and_open(path, policy, access) {
            Ok(mut new) => {
                if let SegmentKind::Regular { lines: new_lines, size: 0, .. } = &mut new.kind {
                    *new_lines = lines;
                }
                new.names = std::mem::take(&mut self.names);
                *self = new;
                retention.on_rotated(path);
            }
            Err(error) => {
                tracing::warn!(
                    "cannot rotate log file {}: {error}; continuing with the current file",
                    path.display()
                );
                self.rotation_retry_at = Some(Instant::now() + ROTATION_RETRY_DELAY);
            }
        }
    }

    fn rename_and_open(
        &mut self,
        path: &Path,
        policy: &RotationPolicy,
        access: &LogAccess,
    ) -> io::Result<Self> {
        let location = Location::find(path)?;
        let rotated = self.names.next_free(&location.path(), &policy.settings.date_format);
        location.rename(self.id, rotated.file_name().unwrap_or_default())?;
        mark_rotated(&access.home.indexes, self.id);
        let (new, is_new) = access.open_append(path)?;
        if is_new {
            attributes::copy(&self.file, &new, policy.settings.mode.is_none());
        }
        Self::from_file(new, path, policy, access)
    }

    /// Time of the next scheduled rotation, in milliseconds since the epoch.
    pub(crate) fn next_rotation(&self) -> Option<i64> {
        self.next_rotation
    }

    pub(crate) fn id(&self) -> FileId {
        self.id
    }

    /// Size in bytes; `None` for a named pipe or a device.
    pub(crate) fn size(&self) -> Option<u64> {
        self.pending_write().map(|(_, size)| size)
    }

    /// Identity and size of a file that can be truncated if a write is undone.
    pub(crate) fn pending_write(&self) -> Option<(FileId, u64)> {
        match &self.kind {
            SegmentKind::Regular { size, .. } => Some((self.id, *size)),
            SegmentKind::Special { .. } => None,
        }
    }

    /// Maximum number of bytes to write before the file is rotated or reopened. A partial line may exceed it.
    pub(crate) fn remaining(&self, policy: &RotationPolicy) -> u64 {
        if self.open_line.is_some() && (self.reopen_after_line || self.is_past_schedule()) {
            return 0;
        }
        match (&self.kind, policy.settings.max_size) {
            (SegmentKind::Regular { size, .. }, Some(max)) => max.saturating_sub(*size),
            _ => u64::MAX,
        }
    }

    /// Stream of the partial line at the end of the file.
    pub(crate) fn open_line(&self) -> Option<StreamId> {
        self.open_line
    }

    /// Makes [`is_current`](Self::is_current) false once the partial line has ended.
    pub(crate) fn reopen_after_line(&mut self) {
        self.reopen_after_line = true;
    }

    /// The file was truncated to zero.
    pub(crate) fn on_truncated(&mut self) {
        if let SegmentKind::Regular { size, index, .. } = &mut self.kind {
            *size = 0;
            index.truncate(0);
            self.open_line = None;
        }
    }

    /// Writes what a named pipe or device has not accepted yet.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        let SegmentKind::Special { rest } = &mut self.kind else { return Ok(()) };
        while !rest.is_empty() {
            match self.file.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => drop(rest.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Appends text of a stream; ends the partial line of another stream first.
    pub(crate) fn append(&mut self, stream: StreamId, text: &[u8], time: u64, alone: bool) -> io::Result<()> {
        let ends_other_line = self.open_line.is_some_and(|open| open != stream);
        match &mut self.kind {
            SegmentKind::Regular { size, lines, index } => {
                self.checkpoint = Checkpoint { size: *size, lines: *lines, open_line: self.open_line };
                if ends_other_line {
                    self.file.write_all(b"\n")?;
                    *size += 1;
                    *lines += 1;
                }
                index.append(IndexEntry { at: time, offset: *size, stream, lines: *lines }, alone);
                self.file.write_all(text)?;
                *size += text.len() as u64;
                *lines += memchr::memchr_iter(b'\n', text).count() as u64;
            }
            SegmentKind::Special { rest } => {
                // An error means that nothing was accepted; after a short write the rest must follow.
                let accepted = self.file.write(text)?;
                rest.extend_from_slice(&text[accepted..]);
            }
        }
        self.open_line = (text.last() != Some(&b'\n')).then_some(stream);
        Ok(())
    }

    /// Truncates a regular file to its size before the last write.
    pub(crate) fn roll_back(&mut self) {
        let SegmentKind::Regular { size, lines, index } = &mut self.kind else { return };
        if let Err(error) = self.file.set_len(self.checkpoint.size) {
            tracing::error!("duplicate lines in a log file: {error}");
            return;
        }
        index.truncate(self.checkpoint.size);
        (*size, *lines, self.open_line) =
            (self.checkpoint.size, self.checkpoint.lines, self.checkpoint.open_line);
    }
}

/// The number of lines written so far, and the stream of the partial line at the end of the file.
fn resume(
    open: impl FnOnce() -> io::Result<File>,
    id: FileId,
    size: u64,
    index: &IndexWriter,
) -> (u64, Option<StreamId>) {
    let Some(last) = index.last() else { return (0, (size > 0).then_some(NO_STREAM)) };
    let is_same = |file: &File| file.metadata().is_ok_and(|meta| file_id(&meta) == id);
    let Some(file) = open().ok().filter(is_same) else { return (last.lines, Some(last.stream)) };
    let (mut offset, mut lines, mut last_byte) = (last.offset, last.lines, b'\n');
    let block_size = usize::try_from(size - last.offset).unwrap_or(MAX_TAIL_READ).min(MAX_TAIL_READ);
    let mut block = vec![0; block_size];
    while let Ok(count @ 1..) = file.read_at(&mut block, offset) {
        lines += memchr::memchr_iter(b'\n', &block[..count]).count() as u64;
        last_byte = block[count - 1];
        offset += count as u64;
    }
    (lines, (last_byte != b'\n').then_some(last.stream))
}
