//! The file that a log path leads to at the moment, until it is rotated.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant, UNIX_EPOCH};

use crate::logs::capture::lines::MAX_LINE;
use crate::logs::files::context::FileContext;
use crate::logs::files::index::{FileId, IndexEntry, IndexWriter, StreamId, file_id};
use crate::logs::files::paths::open_append;
use crate::logs::files::rotation::{RotationNames, next_rotation};
use crate::logs::item::OutputStream;
use crate::spec::Rotation;

/// How often it is looked whether the path still leads to this file.
const IDENTITY_CHECK_INTERVAL: Duration = Duration::from_millis(500);
/// After a rotation that failed, it is tried again so much later.
const ROTATION_RETRY_DELAY: Duration = Duration::from_secs(30);
/// Bytes read at once.
const MAX_TAIL_READ: usize = 64 * 1024;
/// The owner of a line that was there before anyone was known.
const NO_STREAM: StreamId = StreamId { run: 0, stream: OutputStream::Out };

/// An open file.
#[derive(Debug)]
pub(in crate::logs) struct Segment {
    file: File,
    id: FileId,
    kind: SegmentKind,
    checked_at: Instant,
    /// Whose unfinished line it ends in.
    open_line: Option<StreamId>,
    /// It is to be left for what is at its path now, after its unfinished line.
    reopen_after_line: bool,
    /// When it is to be rotated by the clock, milliseconds since the epoch.
    next_rotation: Option<i64>,
    names: RotationNames,
    rotation_retry_at: Option<Instant>,
    /// As it was before the last write.
    checkpoint: Checkpoint,
}

/// What a write changes.
#[derive(Clone, Copy, Debug, Default)]
struct Checkpoint {
    size: u64,
    lines: u64,
    open_line: Option<StreamId>,
}

#[derive(Debug)]
enum SegmentKind {
    /// A plain file: it can be cut, rotated and indexed.
    Regular {
        size: u64,
        /// Lines in it and before it.
        lines: u64,
        index: IndexWriter,
    },
    /// A named pipe, a device: what it did not take of the last block is kept here.
    Special { rest: Vec<u8> },
}

impl Segment {
    /// Opens the file at a path, making it if there is none.
    pub(in crate::logs) fn open(path: &Path, policy: &Rotation, indexes: &Path) -> io::Result<Self> {
        let file = open_append(path)?;
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
            let index = IndexWriter::open(indexes, id, size);
            let (lines, open_line) = segment.resume(path, size, &index);
            segment.open_line = open_line;
            segment.kind = SegmentKind::Regular { size, lines, index };
            let since = meta.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
            segment.schedule_rotation(policy, i64::try_from(since.as_millis()).unwrap_or(0));
        }
        Ok(segment)
    }

    /// How many lines were written so far, and whose line is unfinished.
    fn resume(&self, path: &Path, size: u64, index: &IndexWriter) -> (u64, Option<StreamId>) {
        let Some(last) = index.last() else { return (0, (size > 0).then_some(NO_STREAM)) };
        let Ok(file) = File::open(path) else { return (last.lines, Some(last.stream)) };
        let (mut at, mut lines, mut end) = (last.offset, last.lines, b'\n');
        let mut block =
            vec![0; usize::try_from(size - last.offset).unwrap_or(MAX_TAIL_READ).min(MAX_TAIL_READ)];
        while let Ok(count @ 1..) = file.read_at(&mut block, at) {
            lines += memchr::memchr_iter(b'\n', &block[..count]).count() as u64;
            end = block[count - 1];
            at += count as u64;
        }
        (lines, (end != b'\n').then_some(last.stream))
    }

    fn schedule_rotation(&mut self, policy: &Rotation, from: i64) {
        self.next_rotation = policy.schedule.as_deref().and_then(|schedule| next_rotation(schedule, from));
    }

    /// Whether this is still the file to write to; also sees what others did to it.
    pub(in crate::logs) fn is_current(&mut self, path: &Path) -> io::Result<bool> {
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

    /// Whether it has to make way before `line` more bytes come.
    pub(in crate::logs) fn needs_rotation(&self, line: u64, policy: &Rotation) -> bool {
        let SegmentKind::Regular { size, .. } = &self.kind else { return false };
        let full =
            policy.max_size.is_some_and(|most| *size > 0 && line > 0 && size.saturating_add(line) > most);
        let waits = self.rotation_retry_at.is_some_and(|until| Instant::now() < until);
        // A line that never ends must not keep a file growing for ever.
        let endless = policy.max_size.is_some_and(|most| *size > most.saturating_add(MAX_LINE as u64));
        (full || self.is_past_schedule()) && !waits && (self.open_line.is_none() || endless)
    }

    /// Puts the file aside and begins a new one. If that fails it is written on.
    pub(in crate::logs) fn rotate(&mut self, path: &Path, policy: &Rotation, ground: &FileContext) {
        let SegmentKind::Regular { size, lines, .. } = &self.kind else { return };
        let (size, lines) = (*size, *lines);
        self.schedule_rotation(policy, jiff::Timestamp::now().as_millisecond());
        if size == 0 && !policy.rotate_empty {
            return;
        }
        let aside = self.names.next_free(path, &policy.date_format);
        let fresh = std::fs::rename(path, &aside).and_then(|()| Self::open(path, policy, &ground.indexes));
        match fresh {
            Ok(mut fresh) => {
                if let SegmentKind::Regular { lines: known, size: 0, .. } = &mut fresh.kind {
                    *known = lines;
                }
                fresh.names = std::mem::take(&mut self.names);
                *self = fresh;
                ground.retention.on_rotated(path);
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

    /// When it is to be rotated by the clock; milliseconds since the epoch.
    pub(in crate::logs) fn next_rotation(&self) -> Option<i64> {
        self.next_rotation
    }

    /// Which file it is.
    pub(in crate::logs) fn id(&self) -> FileId {
        self.id
    }

    /// Bytes of a plain file.
    pub(in crate::logs) fn size(&self) -> Option<u64> {
        self.pending_write().map(|(_, size)| size)
    }

    /// Which file may grow, and its length; only a plain one can be cut again.
    pub(in crate::logs) fn pending_write(&self) -> Option<(FileId, u64)> {
        match &self.kind {
            SegmentKind::Regular { size, .. } => Some((self.id, *size)),
            SegmentKind::Special { .. } => None,
        }
    }

    /// How many bytes it shall take before it is rotated or left; a line that has begun may go on.
    pub(in crate::logs) fn remaining(&self, policy: &Rotation) -> u64 {
        if self.open_line.is_some() && (self.reopen_after_line || self.is_past_schedule()) {
            return 0;
        }
        match (&self.kind, policy.max_size) {
            (SegmentKind::Regular { size, .. }, Some(most)) => most.saturating_sub(*size),
            _ => u64::MAX,
        }
    }

    /// Whose unfinished line it ends in.
    pub(in crate::logs) fn open_line(&self) -> Option<StreamId> {
        self.open_line
    }

    /// Makes it be left once its unfinished line has ended.
    pub(in crate::logs) fn reopen_after_line(&mut self) {
        self.reopen_after_line = true;
    }

    /// Someone cut it to nothing.
    pub(in crate::logs) fn on_truncated(&mut self) {
        if let SegmentKind::Regular { size, index, .. } = &mut self.kind {
            *size = 0;
            index.truncate(0);
            self.open_line = None;
        }
    }

    /// Writes what a named pipe or device has not taken yet.
    pub(in crate::logs) fn flush(&mut self) -> io::Result<()> {
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

    /// Writes a stream's text at the end, another stream's unfinished line ended before it.
    pub(in crate::logs) fn append(
        &mut self,
        owner: StreamId,
        text: &[u8],
        at: u64,
        alone: bool,
    ) -> io::Result<()> {
        let foreign = self.open_line.is_some_and(|open| open != owner);
        match &mut self.kind {
            SegmentKind::Regular { size, lines, index } => {
                self.checkpoint = Checkpoint { size: *size, lines: *lines, open_line: self.open_line };
                if foreign {
                    self.file.write_all(b"\n")?;
                    *size += 1;
                    *lines += 1;
                }
                index.append(IndexEntry { at, offset: *size, stream: owner, lines: *lines }, alone);
                self.file.write_all(text)?;
                *size += text.len() as u64;
                *lines += memchr::memchr_iter(b'\n', text).count() as u64;
            }
            SegmentKind::Special { rest } => {
                // Whatever is refused at once was not taken at all; the rest of a block must follow.
                let taken = self.file.write(text)?;
                rest.extend_from_slice(&text[taken..]);
            }
        }
        self.open_line = (text.last() != Some(&b'\n')).then_some(owner);
        Ok(())
    }

    /// Cuts a plain file to its length before the last write.
    pub(in crate::logs) fn roll_back(&mut self) {
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
