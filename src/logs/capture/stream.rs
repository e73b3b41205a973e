//! One stream of a run: what it has in its pipe, and where that goes.

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
use crate::logs::item;
use crate::spec::WhenFull;

/// Bytes taken at once. More would not stay in the processor's cache between reading and writing.
const CHUNK_SIZE: usize = 64 * 1024;
/// The same where the pipe is wide.
const WIDE_CHUNK_SIZE: usize = 256 * 1024;
/// What that may become with stamps or as JSON; of very short lines fewer are taken at once.
const MAX_FORMATTED: usize = 1024 * 1024;
/// Memory kept for shaping.
const FORMAT_BUFFER_KEEP: usize = 256 * 1024;
/// A look that finds so much found the pipe half full, as it is by default: it is filled fast.
const BUSY_READ_SIZE: usize = 32 * 1024;
/// After so many of those in a row the pipe is widened, so that neither end waits for the other.
const BUSY_READS: u32 = 4;
/// So many pipes may be wide at a time: what they hold is memory of the kernel.
const MAX_WIDE_PIPES: u32 = 32;

/// One stream of one run.
#[derive(Debug)]
pub(in crate::logs) struct StreamCapture {
    source: Rc<LineSource>,
    id: StreamId,
    files: Vec<Rc<LogFile>>,
    /// The first of the files is its own; it has none if this is not so.
    has_own_file: bool,
    when_full: WhenFull,
    /// The beginning of a line that waits in the pipe for its end.
    partial: Option<PartialLine>,
    /// The last line was cut: what follows belongs to it.
    in_cut_line: bool,
    /// Bytes in the files of a line that has not ended.
    open_line_bytes: usize,
    dropped: Option<DroppedLines>,
    /// Bytes that stamp or JSON add to a line.
    frame_size: usize,
    /// How often in a row there was much in the pipe.
    busy_reads: u32,
    wide: bool,
}

/// What a look at the pipe came to.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::logs) enum CaptureStep {
    /// Some bytes are in the files now.
    Moved {
        /// How many.
        count: usize,
    },
    /// There is the beginning of a line, and it waits for its end.
    Partial,
    /// There is nothing.
    Idle,
    /// A file cannot be written now; all is still in the pipe.
    WriteBlocked,
    /// A named pipe is full; all is still in the app's.
    PipeFull,
    /// Nothing will come any more.
    Ended,
}

impl StreamCapture {
    /// A stream that writes to these files, each once.
    pub(in crate::logs) fn new(
        origin: Rc<LineSource>,
        stream: item::OutputStream,
        files: Vec<Rc<LogFile>>,
        kept: bool,
        when_full: WhenFull,
    ) -> Self {
        let owner = StreamId { run: origin.run, stream };
        let frame = LineFrame::new(&origin, stream, 0).length();
        let (waiting, dropped) = (None, None);
        let (cut, in_line, much, wide) = (false, 0, 0, false);
        Self {
            source: origin,
            id: owner,
            files,
            has_own_file: kept,
            when_full,
            partial: waiting,
            in_cut_line: cut,
            open_line_bytes: in_line,
            dropped,
            frame_size: frame,
            busy_reads: much,
            wide,
        }
    }

    /// Its run and shape.
    pub(in crate::logs) fn source(&self) -> &LineSource {
        &self.source
    }

    /// When the beginning of a line is to be looked at again, if one waits in the pipe.
    pub(in crate::logs) fn next_wakeup(&self) -> Option<Instant> {
        self.partial.as_ref().map(PartialLine::next_check)
    }

    /// Whether the beginning of a line may go into the files before its end is there. JSON has no
    /// unfinished lines, a file of several streams is not to be torn, and who listens wants lines.
    fn writes_partial_lines(&self) -> bool {
        let is_alone = |file: &Rc<LogFile>| Rc::strong_count(file) == 1;
        self.has_own_file
            && !matches!(self.source.format, LineFormat::Json(_))
            && self.files.iter().all(is_alone)
    }

    /// Whether something was dropped that no file says yet.
    pub(in crate::logs) fn has_unreported_drops(&self) -> bool {
        self.dropped.is_some()
    }

    /// Whether its pipe was widened, since it is filled fast.
    pub(in crate::logs) fn is_wide(&self) -> bool {
        self.wide
    }

    /// Gives the files back.
    pub(in crate::logs) fn close(&mut self, writer: &mut OpenFiles, desk: &WorkerShared) {
        desk.wide_pipes.set(desk.wide_pipes.get() - u32::from(mem::take(&mut self.wide)));
        self.files.drain(..).for_each(|file| writer.release(file));
    }

    /// Moves what the pipe has now, by whole lines, into the files. Nothing is kept in memory: what
    /// is not in the files is still in the pipe.
    ///
    /// # Errors
    /// It is no pipe.
    pub(in crate::logs) fn step(&mut self, pipe: &impl AsFd, desk: &WorkerShared) -> io::Result<CaptureStep> {
        let mut chunk = desk.read_buffer.borrow_mut();
        let usual = if self.wide { WIDE_CHUNK_SIZE } else { CHUNK_SIZE };
        let mut most = usual.min(desk.peek.capacity());
        let mut ended = false;
        loop {
            if chunk.len() < most {
                chunk.resize(most, 0);
            }
            let length = match desk.peek.peek(pipe, &mut chunk[..most])? {
                Peeked::Empty => return Ok(CaptureStep::Idle),
                Peeked::Eof => return Ok(self.finish(desk)),
                Peeked::Bytes(length) => length,
            };
            self.widen_if_busy(length, pipe, desk);
            let text = &chunk[..length];
            let now = now();
            let take = match complete_lines_length(text, length) {
                _ if self.writes_partial_lines() => self.writable_length(text),
                Some(_) => self.writable_length(text),
                None if length == most && most < desk.peek.capacity() => {
                    most = desk.peek.capacity();
                    continue;
                }
                None if length > MAX_LINE => {
                    let cut = char_boundary_before(text, MAX_LINE);
                    self.writable_length(&text[..cut]).map(|_| cut)
                }
                None if ended || self.is_partial_due(length, pipe) => self.writable_length(text),
                // What it wrote last may have come after the look.
                None if has_no_writer(pipe) => {
                    ended = true;
                    continue;
                }
                None => return Ok(self.hold_partial(length, now)),
            };
            let begins = self.partial.as_ref().map_or(now, PartialLine::at);
            let result = take.and_then(|take| self.deliver(&text[..take], begins, now, pipe, desk));
            chunk.truncate(usual);
            chunk.shrink_to(usual);
            return Ok(match result {
                Ok(count) => CaptureStep::Moved { count },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => CaptureStep::PipeFull,
                Err(_) => CaptureStep::WriteBlocked,
            });
        }
    }

    /// An app that writes faster than its pipe takes waits for us each time that it is full.
    fn widen_if_busy(&mut self, length: usize, pipe: &impl AsFd, desk: &WorkerShared) {
        self.busy_reads = if length >= BUSY_READ_SIZE { self.busy_reads.saturating_add(1) } else { 0 };
        if self.busy_reads >= BUSY_READS && !self.wide && desk.wide_pipes.get() < MAX_WIDE_PIPES {
            enlarge_pipe(pipe);
            self.wide = true;
            desk.wide_pipes.set(desk.wide_pipes.get() + 1);
        }
    }

    /// Leaves the beginning of a line in the pipe.
    fn hold_partial(&mut self, length: usize, at: i64) -> CaptureStep {
        self.partial = Some(PartialLine::extend(self.partial, length, at));
        CaptureStep::Partial
    }

    /// Whether an unfinished line is not waited for any longer: it has been there for long, or
    /// there is no room for more of it.
    fn is_partial_due(&self, length: usize, pipe: &impl AsFd) -> bool {
        let shown = !matches!(self.source.format, LineFormat::Json(_));
        if shown && self.partial.as_ref().is_some_and(PartialLine::is_expired) {
            return true;
        }
        let room = fcntl(pipe.as_fd(), FcntlArg::F_GETPIPE_SZ).map_or(0, |size| size as usize);
        // Half full may be all there is: pages need not be filled.
        length >= room / 2 && enlarge_pipe(pipe.as_fd()) / 2 <= length
    }

    /// Opens and rotates files as need be; how much of the text they take. An error only with
    /// [`WhenFull::Block`].
    fn writable_length(&self, text: &[u8]) -> io::Result<usize> {
        let line = complete_lines_length(text, 0).unwrap_or(text.len());
        let mut room = u64::MAX;
        for file in &self.files {
            match (file.prepare_write(line), self.when_full) {
                (Ok(left), _) => room = room.min(left),
                (Err(_), WhenFull::Drop) => {}
                (Err(error), WhenFull::Block) => return Err(error),
            }
        }
        let room = self.unformatted_length(text, usize::try_from(room).unwrap_or(usize::MAX));
        if text.len() <= room && self.writes_partial_lines() {
            return Ok(text.len());
        }
        Ok(complete_lines_length(text, room).unwrap_or(text.len()))
    }

    /// How much of a text is `room` bytes at most in the shape asked for, about.
    fn unformatted_length(&self, text: &[u8], room: usize) -> usize {
        if self.frame_size == 0 {
            return room;
        }
        let room = room.min(MAX_FORMATTED);
        let shaped = text.len() + self.frame_size * memchr_iter(b'\n', text).count();
        if shaped <= room { text.len() } else { room / shaped.div_ceil(text.len().max(1)) }
    }

    /// Writes text to every file and takes it out of the pipe, or neither. `begins`: when its first
    /// byte was seen.
    fn deliver(
        &mut self,
        text: &[u8],
        begins: i64,
        now: i64,
        pipe: &impl AsFd,
        desk: &WorkerShared,
    ) -> io::Result<usize> {
        let mut journal = desk.journal.borrow_mut();
        journal.begin(self.files.iter().filter_map(|file| file.pending_write()))?;
        let (cut, in_line) = (self.in_cut_line, self.open_line_bytes);
        let written = self.write(text, begins, now, &mut desk.format_buffer.borrow_mut());
        match written {
            Ok(()) => self.dropped = None,
            Err(error) => {
                (self.in_cut_line, self.open_line_bytes) = (cut, in_line);
                if self.when_full == WhenFull::Block {
                    journal.clear()?;
                    return Err(error);
                }
                self.dropped.get_or_insert_default().add(text, &error);
            }
        }
        if let Err(error) = journal.consume(pipe, text.len()) {
            self.files.iter().for_each(|file| file.roll_back());
            journal.clear()?;
            return Err(error);
        }
        self.partial = None;
        self.publish(text, now, desk);
        Ok(text.len())
    }

    /// Says in the files what was dropped; false if that is not possible yet.
    pub(in crate::logs) fn report_drops(&mut self, desk: &WorkerShared) -> bool {
        if self.dropped.is_none() || self.files.iter().any(|file| file.prepare_write(0).is_err()) {
            return self.dropped.is_none();
        }
        if self.write(&[], now(), now(), &mut desk.format_buffer.borrow_mut()).is_ok() {
            self.dropped = None;
        }
        self.dropped.is_none()
    }

    /// Whether named pipes have taken all that they were given.
    pub(in crate::logs) fn is_flushed(&self) -> bool {
        !self.files.iter().any(|file| file.has_backlog())
    }

    fn write(&mut self, text: &[u8], begins: i64, now: i64, shaped: &mut Vec<u8>) -> io::Result<()> {
        let note = self.dropped.as_ref().map(DroppedLines::message);
        if note.is_none() && matches!(self.source.format, LineFormat::Raw) {
            return self.append(text);
        }
        shaped.clear();
        self.format_lines(note.unwrap_or_default().as_bytes(), now, now, shaped);
        self.format_lines(text, begins, now, shaped);
        let result = self.append(shaped);
        shaped.clear();
        shaped.shrink_to(FORMAT_BUFFER_KEEP);
        result
    }

    /// Appends to every file or, where one fails, to none.
    fn append(&self, text: &[u8]) -> io::Result<()> {
        for (number, file) in self.files.iter().enumerate() {
            if let Err(error) = file.append(self.id, text) {
                self.files[..=number].iter().for_each(|file| file.roll_back());
                return Err(error);
            }
        }
        Ok(())
    }

    /// Appends text in the shape asked for.
    fn format_lines(&mut self, text: &[u8], begins: i64, now: i64, shaped: &mut Vec<u8>) {
        // A line whose beginning was shown goes on behind it, unless something came between.
        let mut goes_on = shaped.is_empty()
            && !self.files.is_empty()
            && self.files.iter().all(|file| file.has_open_line_of(self.id));
        let (origin, stream) = (&*self.source, self.id.stream);
        let (mut cut, mut at) = (self.in_cut_line, begins);
        let mut frame = LineFrame::new(origin, stream, at);
        if goes_on && self.open_line_bytes > MAX_LINE {
            shaped.push(b'\n');
            (goes_on, cut) = (false, true);
        }
        for_each_piece(text, cut || goes_on, |piece: LinePiece<'_>| {
            match &origin.format {
                LineFormat::Json(_) => frame.write_json(&piece, shaped),
                LineFormat::Timestamped(_) if !mem::take(&mut goes_on) => {
                    frame.write_timestamped(&piece, shaped)
                }
                LineFormat::Timestamped(_) | LineFormat::Raw => shaped.extend_from_slice(piece.text),
            }
            // A part that reached the limit ends as a line of the file; the next one says so.
            let is_json = matches!(origin.format, LineFormat::Json(_));
            cut = !piece.last && (piece.text.len() + 4 > MAX_LINE || is_json);
            if !is_json && (piece.last || cut) {
                shaped.push(b'\n');
            }
            if at != now {
                (at, frame) = (now, LineFrame::new(origin, stream, now));
            }
        });
        self.in_cut_line = cut;
        let begun = memchr::memrchr(b'\n', text).map_or(self.open_line_bytes, |_| 0);
        self.open_line_bytes = begun + text.len() - memchr::memrchr(b'\n', text).map_or(0, |at| at + 1);
    }

    /// The stream has ended: a shaped line gets the newline that was missing, raw bytes stay as they
    /// are.
    fn finish(&mut self, desk: &WorkerShared) -> CaptureStep {
        let open = self.files.iter().any(|file| file.has_open_line_of(self.id));
        if open && matches!(self.source.format, LineFormat::Timestamped(_)) {
            // Best effort: the next one to write here would end the line.
            let _ = self.append(b"\n");
        }
        let _ = self.report_drops(desk);
        CaptureStep::Ended
    }

    /// Hands the lines on to who listens: at once where no file has them, else by a word that there
    /// is more to read.
    fn publish(&self, text: &[u8], now: i64, desk: &WorkerShared) {
        desk.notify.notify();
        if self.has_own_file && self.files.first().is_some_and(|file| file.is_regular()) {
            return;
        }
        let mut hub = desk.subscribers.lock().unwrap_or_else(PoisonError::into_inner);
        if !hub.has_matching(&self.source, self.id.stream) {
            return;
        }
        let mut lines = Vec::new();
        for_each_piece(text, false, |piece| lines.push(String::from_utf8_lossy(piece.text).into_owned()));
        hub.publish(&self.source, self.id.stream, now, &lines);
    }
}

/// Milliseconds since the epoch.
fn now() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
