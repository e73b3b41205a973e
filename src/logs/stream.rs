//! One stream of a run: what it has in its pipe, and where that goes.

use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::PoisonError;
use std::time::Instant;
use std::{io, mem};

use memchr::memchr_iter;
use nix::fcntl::{FcntlArg, fcntl};

use super::desk::WorkerShared;
use super::dropped::DroppedLines;
use super::index::StreamId;
use super::item;
use super::lines::{LINE_LIMIT, LinePiece, pieces, whole_chars, whole_lines};
use super::log_file::LogFile;
use super::peek::{Peeked, is_abandoned, widen};
use super::shape::{LineFormat, LineFrame, LineSource};
use super::waiting::PartialLine;
use super::writer::OpenFiles;
use crate::spec::WhenFull;

/// Bytes taken at once. More would not stay in the processor's cache between reading and writing.
const CHUNK: usize = 64 * 1024;
/// The same where the pipe is wide.
const WIDE_CHUNK: usize = 256 * 1024;
/// What that may become with stamps or as JSON; of very short lines fewer are taken at once.
const MOST_SHAPED: usize = 1024 * 1024;
/// Memory kept for shaping.
const SHAPED_SPARE: usize = 256 * 1024;
/// A look that finds so much found the pipe half full, as it is by default: it is filled fast.
const MUCH: usize = 32 * 1024;
/// After so many of those in a row the pipe is widened, so that neither end waits for the other.
const MUCH_OFTEN: u32 = 4;
/// So many pipes may be wide at a time: what they hold is memory of the kernel.
const MOST_WIDE: u32 = 32;

/// One stream of one run.
#[derive(Debug)]
pub(super) struct StreamCapture {
    origin: Rc<LineSource>,
    owner: StreamId,
    files: Vec<Rc<LogFile>>,
    /// The first of the files is its own; it has none if this is not so.
    kept: bool,
    when_full: WhenFull,
    /// The beginning of a line that waits in the pipe for its end.
    waiting: Option<PartialLine>,
    /// The last line was cut: what follows belongs to it.
    cut: bool,
    /// Bytes in the files of a line that has not ended.
    in_line: usize,
    dropped: Option<DroppedLines>,
    /// Bytes that stamp or JSON add to a line.
    frame: usize,
    /// How often in a row there was much in the pipe.
    much: u32,
    wide: bool,
}

/// What a look at the pipe came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum CaptureStep {
    /// Some bytes are in the files now.
    Moved {
        /// How many.
        count: usize,
    },
    /// There is the beginning of a line, and it waits for its end.
    Waits,
    /// There is nothing.
    Nothing,
    /// A file cannot be written now; all is still in the pipe.
    Refused,
    /// A named pipe is full; all is still in the app's.
    Full,
    /// Nothing will come any more.
    Ended,
}

impl StreamCapture {
    /// A stream that writes to these files, each once.
    pub(super) fn new(
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
        Self { origin, owner, files, kept, when_full, waiting, cut, in_line, dropped, frame, much, wide }
    }

    /// Its run and shape.
    pub(super) fn origin(&self) -> &LineSource {
        &self.origin
    }

    /// When the beginning of a line is to be looked at again, if one waits in the pipe.
    pub(super) fn wakes(&self) -> Option<Instant> {
        self.waiting.as_ref().map(PartialLine::look)
    }

    /// Whether the beginning of a line may go into the files before its end is there. JSON has no
    /// unfinished lines, a file of several streams is not to be torn, and who listens wants lines.
    fn shows_parts(&self) -> bool {
        let is_alone = |file: &Rc<LogFile>| Rc::strong_count(file) == 1;
        self.kept && !matches!(self.origin.shape, LineFormat::Json(_)) && self.files.iter().all(is_alone)
    }

    /// Whether something was dropped that no file says yet.
    pub(super) fn owes_a_note(&self) -> bool {
        self.dropped.is_some()
    }

    /// Whether its pipe was widened, since it is filled fast.
    pub(super) fn is_wide(&self) -> bool {
        self.wide
    }

    /// Gives the files back.
    pub(super) fn close(&mut self, writer: &mut OpenFiles, desk: &WorkerShared) {
        desk.wide.set(desk.wide.get() - u32::from(mem::take(&mut self.wide)));
        self.files.drain(..).for_each(|file| writer.release(file));
    }

    /// Moves what the pipe has now, by whole lines, into the files. Nothing is kept in memory: what
    /// is not in the files is still in the pipe.
    ///
    /// # Errors
    /// It is no pipe.
    pub(super) fn step(&mut self, pipe: &impl AsFd, desk: &WorkerShared) -> io::Result<CaptureStep> {
        let mut chunk = desk.chunk.borrow_mut();
        let usual = if self.wide { WIDE_CHUNK } else { CHUNK };
        let mut most = usual.min(desk.peek.room());
        let mut ended = false;
        loop {
            if chunk.len() < most {
                chunk.resize(most, 0);
            }
            let length = match desk.peek.look(pipe, &mut chunk[..most])? {
                Peeked::Nothing => return Ok(CaptureStep::Nothing),
                Peeked::End => return Ok(self.end(desk)),
                Peeked::Bytes(length) => length,
            };
            self.widen_if_busy(length, pipe, desk);
            let text = &chunk[..length];
            let now = now();
            let take = match whole_lines(text, length) {
                _ if self.shows_parts() => self.within_room(text),
                Some(_) => self.within_room(text),
                None if length == most && most < desk.peek.room() => {
                    most = desk.peek.room();
                    continue;
                }
                None if length > LINE_LIMIT => {
                    let cut = whole_chars(text, LINE_LIMIT);
                    self.within_room(&text[..cut]).map(|_| cut)
                }
                None if ended || self.is_over(length, pipe) => self.within_room(text),
                // What it wrote last may have come after the look.
                None if is_abandoned(pipe) => {
                    ended = true;
                    continue;
                }
                None => return Ok(self.wait(length, now)),
            };
            let begins = self.waiting.as_ref().map_or(now, PartialLine::at);
            let result = take.and_then(|take| self.deliver(&text[..take], begins, now, pipe, desk));
            chunk.truncate(usual);
            chunk.shrink_to(usual);
            return Ok(match result {
                Ok(count) => CaptureStep::Moved { count },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => CaptureStep::Full,
                Err(_) => CaptureStep::Refused,
            });
        }
    }

    /// An app that writes faster than its pipe takes waits for us each time that it is full.
    fn widen_if_busy(&mut self, length: usize, pipe: &impl AsFd, desk: &WorkerShared) {
        self.much = if length >= MUCH { self.much.saturating_add(1) } else { 0 };
        if self.much >= MUCH_OFTEN && !self.wide && desk.wide.get() < MOST_WIDE {
            widen(pipe);
            self.wide = true;
            desk.wide.set(desk.wide.get() + 1);
        }
    }

    /// Leaves the beginning of a line in the pipe.
    fn wait(&mut self, length: usize, at: i64) -> CaptureStep {
        self.waiting = Some(PartialLine::again(self.waiting, length, at));
        CaptureStep::Waits
    }

    /// Whether an unfinished line is not waited for any longer: it has been there for long, or
    /// there is no room for more of it.
    fn is_over(&self, length: usize, pipe: &impl AsFd) -> bool {
        let shown = !matches!(self.origin.shape, LineFormat::Json(_));
        if shown && self.waiting.as_ref().is_some_and(PartialLine::is_over) {
            return true;
        }
        let room = fcntl(pipe.as_fd(), FcntlArg::F_GETPIPE_SZ).map_or(0, |size| size as usize);
        // Half full may be all there is: pages need not be filled.
        length >= room / 2 && widen(pipe.as_fd()) / 2 <= length
    }

    /// Opens and rotates files as need be; how much of the text they take. An error only with
    /// [`WhenFull::Block`].
    fn within_room(&self, text: &[u8]) -> io::Result<usize> {
        let line = whole_lines(text, 0).unwrap_or(text.len());
        let mut room = u64::MAX;
        for file in &self.files {
            match (file.ready(line), self.when_full) {
                (Ok(left), _) => room = room.min(left),
                (Err(_), WhenFull::Drop) => {}
                (Err(error), WhenFull::Block) => return Err(error),
            }
        }
        let room = self.unshaped(text, usize::try_from(room).unwrap_or(usize::MAX));
        if text.len() <= room && self.shows_parts() {
            return Ok(text.len());
        }
        Ok(whole_lines(text, room).unwrap_or(text.len()))
    }

    /// How much of a text is `room` bytes at most in the shape asked for, about.
    fn unshaped(&self, text: &[u8], room: usize) -> usize {
        if self.frame == 0 {
            return room;
        }
        let room = room.min(MOST_SHAPED);
        let shaped = text.len() + self.frame * memchr_iter(b'\n', text).count();
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
        journal.begin(self.files.iter().filter_map(|file| file.growth()))?;
        let (cut, in_line) = (self.cut, self.in_line);
        let written = self.write(text, begins, now, &mut desk.shaped.borrow_mut());
        match written {
            Ok(()) => self.dropped = None,
            Err(error) => {
                (self.cut, self.in_line) = (cut, in_line);
                if self.when_full == WhenFull::Block {
                    journal.clear()?;
                    return Err(error);
                }
                self.dropped.get_or_insert_default().add(text, &error);
            }
        }
        if let Err(error) = journal.consume(pipe, text.len()) {
            self.files.iter().for_each(|file| file.undo());
            journal.clear()?;
            return Err(error);
        }
        self.waiting = None;
        self.publish(text, now, desk);
        Ok(text.len())
    }

    /// Says in the files what was dropped; false if that is not possible yet.
    pub(super) fn settle_debt(&mut self, desk: &WorkerShared) -> bool {
        if self.dropped.is_none() || self.files.iter().any(|file| file.ready(0).is_err()) {
            return self.dropped.is_none();
        }
        if self.write(&[], now(), now(), &mut desk.shaped.borrow_mut()).is_ok() {
            self.dropped = None;
        }
        self.dropped.is_none()
    }

    /// Whether named pipes have taken all that they were given.
    pub(super) fn is_taken(&self) -> bool {
        !self.files.iter().any(|file| file.is_full())
    }

    fn write(&mut self, text: &[u8], begins: i64, now: i64, shaped: &mut Vec<u8>) -> io::Result<()> {
        let note = self.dropped.as_ref().map(DroppedLines::note);
        if note.is_none() && matches!(self.origin.shape, LineFormat::Raw) {
            return self.append(text);
        }
        shaped.clear();
        self.reshape(note.unwrap_or_default().as_bytes(), now, now, shaped);
        self.reshape(text, begins, now, shaped);
        let result = self.append(shaped);
        shaped.clear();
        shaped.shrink_to(SHAPED_SPARE);
        result
    }

    /// Appends to every file or, where one fails, to none.
    fn append(&self, text: &[u8]) -> io::Result<()> {
        for (number, file) in self.files.iter().enumerate() {
            if let Err(error) = file.append(self.owner, text) {
                self.files[..=number].iter().for_each(|file| file.undo());
                return Err(error);
            }
        }
        Ok(())
    }

    /// Appends text in the shape asked for.
    fn reshape(&mut self, text: &[u8], begins: i64, now: i64, shaped: &mut Vec<u8>) {
        // A line whose beginning was shown goes on behind it, unless something came between.
        let mut goes_on = shaped.is_empty()
            && !self.files.is_empty()
            && self.files.iter().all(|file| file.is_in_line_of(self.owner));
        let (origin, stream) = (&*self.origin, self.owner.stream);
        let (mut cut, mut at) = (self.cut, begins);
        let mut frame = LineFrame::new(origin, stream, at);
        if goes_on && self.in_line > LINE_LIMIT {
            shaped.push(b'\n');
            (goes_on, cut) = (false, true);
        }
        pieces(text, cut || goes_on, |piece: LinePiece<'_>| {
            match &origin.shape {
                LineFormat::Json(_) => frame.object(&piece, shaped),
                LineFormat::Stamped(_) if !mem::take(&mut goes_on) => frame.stamped(&piece, shaped),
                LineFormat::Stamped(_) | LineFormat::Raw => shaped.extend_from_slice(piece.text),
            }
            // A part that reached the limit ends as a line of the file; the next one says so.
            let is_json = matches!(origin.shape, LineFormat::Json(_));
            cut = !piece.last && (piece.text.len() + 4 > LINE_LIMIT || is_json);
            if !is_json && (piece.last || cut) {
                shaped.push(b'\n');
            }
            if at != now {
                (at, frame) = (now, LineFrame::new(origin, stream, now));
            }
        });
        self.cut = cut;
        let begun = memchr::memrchr(b'\n', text).map_or(self.in_line, |_| 0);
        self.in_line = begun + text.len() - memchr::memrchr(b'\n', text).map_or(0, |at| at + 1);
    }

    /// The stream has ended: a shaped line gets the newline that was missing, raw bytes stay as they
    /// are.
    fn end(&mut self, desk: &WorkerShared) -> CaptureStep {
        let open = self.files.iter().any(|file| file.is_in_line_of(self.owner));
        if open && matches!(self.origin.shape, LineFormat::Stamped(_)) {
            // Best effort: the next one to write here would end the line.
            let _ = self.append(b"\n");
        }
        let _ = self.settle_debt(desk);
        CaptureStep::Ended
    }

    /// Hands the lines on to who listens: at once where no file has them, else by a word that there
    /// is more to read.
    fn publish(&self, text: &[u8], now: i64, desk: &WorkerShared) {
        desk.news.tell();
        if self.kept && self.files.first().is_some_and(|file| file.is_plain()) {
            return;
        }
        let mut hub = desk.hub.lock().unwrap_or_else(PoisonError::into_inner);
        if !hub.wants(&self.origin, self.owner.stream) {
            return;
        }
        let mut lines = Vec::new();
        pieces(text, false, |piece| lines.push(String::from_utf8_lossy(piece.text).into_owned()));
        hub.publish(&self.origin, self.owner.stream, now, &lines);
    }
}

/// Milliseconds since the epoch.
fn now() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
