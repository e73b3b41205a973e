//! Capture of one stream of a run: moves complete lines from its pipe into its files.
//!
//! Nothing is kept in memory between steps: what is not in the files is still in the pipe. If a file cannot
//! be written, the app blocks on its full pipe, or its lines are dropped and counted (`when_full`).

use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::PoisonError;
use std::time::Instant;
use std::{io, mem};

use memchr::memchr_iter;
use nix::fcntl::{FcntlArg, fcntl};

use crate::logs::capture::dropped::DroppedLines;
use crate::logs::capture::format::{LineFormat, LineFrame, LineSource};
use crate::logs::capture::lines::{
    LinePiece, MAX_LINE, char_boundary_before, complete_lines_length, for_each_piece,
};
use crate::logs::capture::partial::PartialLine;
use crate::logs::capture::peek::{Peeked, enlarge_pipe, has_no_writer};
use crate::logs::capture::shared::WorkerShared;
use crate::logs::files::index::StreamId;
use crate::logs::files::log_file::LogFile;
use crate::logs::files::open_files::OpenFiles;
use crate::logs::item::OutputStream;
use crate::spec::WhenFull;

/// Bytes moved at once. More would leave the processor's cache between reading and writing.
const CHUNK_SIZE: usize = 64 * 1024;
/// The same for an enlarged pipe.
const WIDE_CHUNK_SIZE: usize = 256 * 1024;
/// Maximum size of a formatted chunk. If lines are very short, fewer are moved at once.
const MAX_FORMATTED: usize = 1024 * 1024;
/// Capacity of the format buffer that is kept between steps.
const FORMAT_BUFFER_KEEP: usize = 256 * 1024;
/// A read of this many bytes found a pipe of default size half full: the app writes fast.
const BUSY_READ_SIZE: usize = 32 * 1024;
/// After this many such reads in a row the pipe is enlarged, so that neither side waits for the other.
const BUSY_READS: u32 = 4;
/// Maximum number of enlarged pipes at a time, because their content is kernel memory.
const MAX_WIDE_PIPES: u32 = 32;

#[derive(Debug)]
pub(super) struct StreamCapture {
    source: Rc<LineSource>,
    id: StreamId,
    files: Vec<Rc<LogFile>>,
    /// The first of the files is the stream's own, not the combined one.
    has_own_file: bool,
    when_full: WhenFull,
    /// A partial line that stays in the pipe until it is complete.
    partial: Option<PartialLine>,
    /// The last line was split; the next text continues it.
    in_cut_line: bool,
    /// Bytes of the partial line that are in the files.
    open_line_bytes: usize,
    dropped: Option<DroppedLines>,
    /// Bytes that timestamp or JSON add to a line.
    frame_size: usize,
    /// Number of reads of [`BUSY_READ_SIZE`] in a row.
    busy_reads: u32,
    is_wide: bool,
}

/// Result of a step.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum CaptureStep {
    /// This many bytes were moved from the pipe into the files.
    Moved { count: usize },
    /// The pipe contains a partial line, which stays there.
    Partial,
    /// The pipe is empty.
    Idle,
    /// A file cannot be written now; the text stays in the pipe.
    WriteBlocked,
    /// A log file is a named pipe that is full; the text stays in the pipe of the app.
    PipeFull,
    /// All output is in the files.
    Ended,
}

impl StreamCapture {
    pub(super) fn new(
        source: Rc<LineSource>,
        stream: OutputStream,
        files: Vec<Rc<LogFile>>,
        has_own_file: bool,
        when_full: WhenFull,
    ) -> Self {
        Self {
            id: StreamId { run: source.run, stream },
            frame_size: LineFrame::new(&source, stream, 0).length(),
            source,
            files,
            has_own_file,
            when_full,
            partial: None,
            in_cut_line: false,
            open_line_bytes: 0,
            dropped: None,
            busy_reads: 0,
            is_wide: false,
        }
    }

    pub(super) fn source(&self) -> &LineSource {
        &self.source
    }

    /// When to check a partial line in the pipe.
    pub(super) fn next_wakeup(&self) -> Option<Instant> {
        self.partial.as_ref().map(PartialLine::next_check)
    }

    /// Whether a partial line is written to the files at once. Not as JSON, which has only complete lines,
    /// not to a file that several streams share, and not if only followers get the lines.
    fn writes_partial_lines(&self) -> bool {
        let is_unshared = |file: &Rc<LogFile>| Rc::strong_count(file) == 1;
        self.has_own_file
            && !matches!(self.source.format, LineFormat::Json(_))
            && self.files.iter().all(is_unshared)
    }

    pub(super) fn has_unreported_drops(&self) -> bool {
        self.dropped.is_some()
    }

    /// Whether the pipe was enlarged.
    pub(super) fn is_wide(&self) -> bool {
        self.is_wide
    }

    /// Releases the files.
    pub(super) fn close(&mut self, open_files: &mut OpenFiles, shared: &WorkerShared) {
        shared.wide_pipes.set(shared.wide_pipes.get() - u32::from(mem::take(&mut self.is_wide)));
        self.files.drain(..).for_each(|file| open_files.release(file));
    }

    /// Moves the content of the pipe into the files, by complete lines.
    ///
    /// # Errors
    /// `pipe` is not a pipe.
    pub(super) fn step(&mut self, pipe: &impl AsFd, shared: &WorkerShared) -> io::Result<CaptureStep> {
        let mut buffer = shared.read_buffer.borrow_mut();
        let chunk_size = if self.is_wide { WIDE_CHUNK_SIZE } else { CHUNK_SIZE };
        let mut limit = chunk_size.min(shared.peek.capacity());
        let mut is_last_read = false;
        loop {
            if buffer.len() < limit {
                buffer.resize(limit, 0);
            }
            let run = self.source.run;
            let peeked = shared.pulse.call(run, || shared.peek.peek(pipe, &mut buffer[..limit]))?;
            let length = match peeked? {
                Peeked::Empty => return Ok(CaptureStep::Idle),
                Peeked::Eof => return Ok(self.finish(shared)),
                Peeked::Bytes(length) => length,
            };
            shared.pulse.call(run, || self.enlarge_if_busy(length, pipe, shared))?;
            let is_due = complete_lines_length(&buffer[..length], length).is_none()
                && shared.pulse.call(run, || self.is_partial_due(length, pipe))?;
            let text = &buffer[..length];
            let now = now();
            let taken = match complete_lines_length(text, length) {
                _ if self.writes_partial_lines() => self.writable_length(text),
                Some(_) => self.writable_length(text),
                None if length == limit && limit < shared.peek.capacity() => {
                    limit = shared.peek.capacity();
                    continue;
                }
                None if length > MAX_LINE => {
                    let cut = char_boundary_before(text, MAX_LINE);
                    self.writable_length(&text[..cut]).map(|_| cut)
                }
                None if is_last_read || is_due => self.writable_length(text),
                // The last writer may have written more between the peek and this check: read once more.
                None if has_no_writer(pipe) => {
                    is_last_read = true;
                    continue;
                }
                None => return Ok(self.hold_partial(length, now)),
            };
            let line_start = self.partial.as_ref().map_or(now, PartialLine::at);
            let result = taken.and_then(|taken| self.deliver(&text[..taken], line_start, now, pipe, shared));
            buffer.truncate(chunk_size);
            buffer.shrink_to(chunk_size);
            return Ok(match result {
                Ok(count) => CaptureStep::Moved { count },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => CaptureStep::PipeFull,
                Err(_) => CaptureStep::WriteBlocked,
            });
        }
    }

    /// An app that fills its pipe faster than it is read blocks each time it is full.
    fn enlarge_if_busy(&mut self, length: usize, pipe: &impl AsFd, shared: &WorkerShared) {
        self.busy_reads = if length >= BUSY_READ_SIZE { self.busy_reads.saturating_add(1) } else { 0 };
        if self.busy_reads >= BUSY_READS && !self.is_wide && shared.wide_pipes.get() < MAX_WIDE_PIPES {
            enlarge_pipe(pipe);
            self.is_wide = true;
            shared.wide_pipes.set(shared.wide_pipes.get() + 1);
        }
    }

    /// Leaves a partial line in the pipe.
    fn hold_partial(&mut self, length: usize, now: i64) -> CaptureStep {
        self.partial = Some(PartialLine::extend(self.partial, length, now));
        CaptureStep::Partial
    }

    /// Whether a partial line must be written now: it has waited long enough, or the pipe has no space for
    /// more of it.
    fn is_partial_due(&self, length: usize, pipe: &impl AsFd) -> bool {
        let is_json = matches!(self.source.format, LineFormat::Json(_));
        if !is_json && self.partial.as_ref().is_some_and(PartialLine::is_expired) {
            return true;
        }
        let pipe_size = fcntl(pipe.as_fd(), FcntlArg::F_GETPIPE_SZ).map_or(0, |size| size as usize);
        // A pipe can be full with half of its size in bytes, because its pages need not be filled.
        length >= pipe_size / 2 && enlarge_pipe(pipe.as_fd()) / 2 <= length
    }

    /// Prepares the files, and returns how much of the text to write. Fails only with [`WhenFull::Block`].
    fn writable_length(&self, text: &[u8]) -> io::Result<usize> {
        let line = complete_lines_length(text, 0).unwrap_or(text.len());
        let mut limit = u64::MAX;
        for file in &self.files {
            match (file.prepare_write(line), self.when_full) {
                (Ok(remaining), _) => limit = limit.min(remaining),
                (Err(_), WhenFull::Drop) => {}
                (Err(error), WhenFull::Block) => return Err(error),
            }
        }
        let limit = self.unformatted_length(text, usize::try_from(limit).unwrap_or(usize::MAX));
        if text.len() <= limit && self.writes_partial_lines() {
            return Ok(text.len());
        }
        Ok(complete_lines_length(text, limit).unwrap_or(text.len()))
    }

    /// How much of a text has at most about `limit` bytes once it is formatted.
    fn unformatted_length(&self, text: &[u8], limit: usize) -> usize {
        if self.frame_size == 0 {
            return limit;
        }
        let limit = limit.min(MAX_FORMATTED);
        let formatted = text.len() + self.frame_size * memchr_iter(b'\n', text).count();
        if formatted <= limit { text.len() } else { limit / formatted.div_ceil(text.len().max(1)) }
    }

    /// Writes text to all files and consumes it from the pipe, or neither. `line_start`: time of its first
    /// byte.
    fn deliver(
        &mut self,
        text: &[u8],
        line_start: i64,
        now: i64,
        pipe: &impl AsFd,
        shared: &WorkerShared,
    ) -> io::Result<usize> {
        let mut journal = shared.journal.borrow_mut();
        journal.begin(self.files.iter().filter_map(|file| file.pending_write()))?;
        let line_state = (self.in_cut_line, self.open_line_bytes);
        match self.write(text, line_start, now, &mut shared.format_buffer.borrow_mut()) {
            Ok(()) => self.dropped = None,
            Err(error) => {
                (self.in_cut_line, self.open_line_bytes) = line_state;
                if self.when_full == WhenFull::Block {
                    journal.clear()?;
                    return Err(error);
                }
                self.dropped.get_or_insert_default().add(text, &error);
            }
        }
        // If this worker is abandoned in this call, the call still completes the move.
        if let Err(error) = shared.pulse.call(self.source.run, || journal.consume(pipe, text.len()))? {
            self.files.iter().for_each(|file| file.roll_back());
            journal.clear()?;
            return Err(error);
        }
        self.partial = None;
        self.publish(text, now, shared);
        Ok(text.len())
    }

    /// Writes the number of dropped lines to the files. Returns false if it must be retried.
    pub(super) fn report_drops(&mut self, shared: &WorkerShared) -> bool {
        if self.dropped.is_none() || self.files.iter().any(|file| file.prepare_write(0).is_err()) {
            return self.dropped.is_none();
        }
        if self.write(&[], now(), now(), &mut shared.format_buffer.borrow_mut()).is_ok() {
            self.dropped = None;
        }
        self.dropped.is_none()
    }

    /// Whether log files that are named pipes have accepted all output.
    pub(super) fn is_flushed(&self) -> bool {
        !self.files.iter().any(|file| file.has_backlog())
    }

    fn write(&mut self, text: &[u8], line_start: i64, now: i64, formatted: &mut Vec<u8>) -> io::Result<()> {
        let drops = self.dropped.as_ref().map(DroppedLines::message);
        if drops.is_none() && matches!(self.source.format, LineFormat::Raw) {
            return self.append(text);
        }
        formatted.clear();
        self.format_lines(drops.unwrap_or_default().as_bytes(), now, now, formatted);
        self.format_lines(text, line_start, now, formatted);
        let result = self.append(formatted);
        formatted.clear();
        formatted.shrink_to(FORMAT_BUFFER_KEEP);
        result
    }

    /// Appends to all files, or to none if one fails.
    fn append(&self, text: &[u8]) -> io::Result<()> {
        for (index, file) in self.files.iter().enumerate() {
            if let Err(error) = file.append(self.id, text) {
                self.files[..=index].iter().for_each(|file| file.roll_back());
                return Err(error);
            }
        }
        Ok(())
    }

    /// Appends text to `out` in the format of the source.
    fn format_lines(&mut self, text: &[u8], line_start: i64, now: i64, out: &mut Vec<u8>) {
        // Continues the partial line at the end of the files, unless another stream has written since.
        let mut continues_open_line = out.is_empty()
            && !self.files.is_empty()
            && self.files.iter().all(|file| file.has_open_line_of(self.id));
        let (source, stream) = (&*self.source, self.id.stream);
        let is_json = matches!(source.format, LineFormat::Json(_));
        let mut in_cut_line = self.in_cut_line;
        let (mut frame_time, mut frame) = (line_start, LineFrame::new(source, stream, line_start));
        if continues_open_line && self.open_line_bytes > MAX_LINE {
            out.push(b'\n');
            (continues_open_line, in_cut_line) = (false, true);
        }
        for_each_piece(text, in_cut_line || continues_open_line, |piece: LinePiece<'_>| {
            match &source.format {
                LineFormat::Json(_) => frame.write_json(&piece, out),
                LineFormat::Timestamped(_) if !mem::take(&mut continues_open_line) => {
                    frame.write_timestamped(&piece, out)
                }
                LineFormat::Timestamped(_) | LineFormat::Raw => out.extend_from_slice(piece.text),
            }
            // A part of maximum length becomes a line of the file; the next part is marked as its
            // continuation.
            in_cut_line = !piece.last && (piece.text.len() + 4 > MAX_LINE || is_json);
            if !is_json && (piece.last || in_cut_line) {
                out.push(b'\n');
            }
            if frame_time != now {
                (frame_time, frame) = (now, LineFrame::new(source, stream, now));
            }
        });
        self.in_cut_line = in_cut_line;
        self.open_line_bytes = match memchr::memrchr(b'\n', text) {
            Some(newline) => text.len() - newline - 1,
            None => self.open_line_bytes + text.len(),
        };
    }

    /// At the end of the stream, ends a partial line with a timestamp. Raw output stays as it is.
    fn finish(&mut self, shared: &WorkerShared) -> CaptureStep {
        let has_open_line = self.files.iter().any(|file| file.has_open_line_of(self.id));
        if has_open_line && matches!(self.source.format, LineFormat::Timestamped(_)) {
            // Best effort: the next stream that writes here ends the line otherwise.
            let _ = self.append(b"\n");
        }
        let _ = self.report_drops(shared);
        CaptureStep::Ended
    }

    /// Wakes the readers of the files, and sends the lines to followers if no file contains them.
    fn publish(&self, text: &[u8], now: i64, shared: &WorkerShared) {
        shared.notify.notify();
        if self.has_own_file && self.files.first().is_some_and(|file| file.is_regular()) {
            return;
        }
        let mut subscribers = shared.subscribers.lock().unwrap_or_else(PoisonError::into_inner);
        if !subscribers.has_matching(&self.source, self.id.stream) {
            return;
        }
        let mut lines = Vec::new();
        for_each_piece(text, false, |piece| lines.push(String::from_utf8_lossy(piece.text).into_owned()));
        subscribers.publish(&self.source, self.id.stream, now, &lines);
    }
}

/// Milliseconds since the epoch.
fn now() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
