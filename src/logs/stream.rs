//! One stream of a run: what it has in hand, and where that goes.

use std::rc::Rc;

use memchr::memrchr;
use tokio::time::{Duration, Instant};

use super::follow::Hub;
use super::item;
use super::lines::{LINE_LIMIT, Lines, Piece};
use super::shape::{self, Origin, Shape};
use super::writer::{Block, Key, LogFile, Writer, is_shared};

/// How long the beginning of a line waits for its end before it is shown as it is: a prompt has no
/// newline.
const PATIENCE: Duration = Duration::from_secs(1);

/// Memory kept for shaping; a burst may need more, for its time.
const SHAPED_SPARE: usize = 256 * 1024;

/// One stream of one run.
#[derive(Debug)]
pub(super) struct Stream {
    key: Key,
    origin: Rc<Origin>,
    which: item::Stream,
    sinks: Vec<Sink>,
    /// Read, and refused by a file for now; while there is something, nothing is read.
    pending: Vec<u8>,
    /// Raw beginning of a line, kept while others share the file.
    rest: Vec<u8>,
    /// The same for shaped lines.
    lines: Lines,
    /// Since when a line has waited for its end.
    waiting: Option<Instant>,
    /// Lines on their way to followers.
    heard: Lines,
}

/// What there is to shape.
#[derive(Clone, Copy)]
enum Input<'a> {
    /// A chunk, and when it was read.
    Chunk(&'a [u8], i64),
    /// Nothing came for a while.
    Pause,
    /// Nothing will come any more.
    End,
}

#[derive(Debug)]
struct Sink {
    file: Rc<LogFile>,
    /// How much of what is pending it has taken.
    done: usize,
}

impl Stream {
    /// A stream that writes to these files, each once.
    pub(super) fn new(key: Key, origin: Rc<Origin>, which: item::Stream, files: Vec<Rc<LogFile>>) -> Self {
        Self {
            key,
            origin,
            which,
            sinks: files.into_iter().map(|file| Sink { file, done: 0 }).collect(),
            pending: Vec::new(),
            rest: Vec::new(),
            lines: Lines::default(),
            waiting: None,
            heard: Lines::default(),
        }
    }

    /// Its run and shape.
    pub(super) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Bytes that its files have not taken yet.
    pub(super) fn unwritten(&self) -> usize {
        self.pending.len()
    }

    /// When an unfinished line is to be shown, if there is one. JSON has no unfinished lines.
    pub(super) fn patience_ends(&self) -> Option<Instant> {
        self.waiting.map(|since| since + PATIENCE)
    }

    /// Takes a chunk that was read at `now` (milliseconds since the epoch).
    pub(super) fn take(&mut self, chunk: &[u8], now: i64, hub: &mut Hub, shaped: &mut Vec<u8>) {
        self.publish(chunk, now, hub);
        if self.sinks.is_empty() {
            return;
        }
        match self.origin.shape {
            Shape::Raw => self.take_raw(chunk),
            Shape::Stamped(_) | Shape::Json(_) => self.reshape(Input::Chunk(chunk, now), shaped),
        }
        self.watch_patience(chunk);
    }

    /// Shows an unfinished line that has waited long enough.
    pub(super) fn release(&mut self, shaped: &mut Vec<u8>) {
        match self.origin.shape {
            Shape::Raw => self.take_raw_up_to(&[], 0),
            Shape::Stamped(_) => self.reshape(Input::Pause, shaped),
            Shape::Json(_) => {}
        }
        self.waiting = None;
    }

    /// The stream has ended: nothing is kept back any more. Shaped lines get the newline that was
    /// missing, raw bytes stay as they are.
    pub(super) fn end(&mut self, now: i64, hub: &mut Hub, shaped: &mut Vec<u8>) {
        match self.origin.shape {
            Shape::Raw => self.take_raw_up_to(&[], 0),
            Shape::Stamped(_) | Shape::Json(_) => self.reshape(Input::End, shaped),
        }
        self.waiting = None;
        let mut last = Vec::new();
        self.heard.release(|piece| last.push(String::from_utf8_lossy(piece.text).into_owned()));
        hub.publish(&self.origin, self.which, now, &last);
    }

    /// Tries again to write what is pending; whether all of it is written now.
    pub(super) fn retry(&mut self) -> bool {
        for sink in &mut self.sinks {
            if sink.done < self.pending.len() {
                let left = Block { head: &self.pending[sink.done..], tail: &[] };
                sink.done += sink.file.write(self.key, left);
            }
        }
        if self.sinks.iter().all(|sink| sink.done >= self.pending.len()) {
            self.pending = Vec::new();
            self.sinks.iter_mut().for_each(|sink| sink.done = 0);
        }
        self.pending.is_empty()
    }

    /// Gives the files back.
    pub(super) fn close(&mut self, writer: &mut Writer) {
        for sink in self.sinks.drain(..) {
            writer.release(sink.file, self.key);
        }
    }

    fn publish(&mut self, chunk: &[u8], now: i64, hub: &mut Hub) {
        if !hub.wants(&self.origin, self.which) {
            // Whoever heard the beginning of this line is gone.
            if self.heard.holds() {
                self.heard.clear();
            }
            return;
        }
        let mut lines = Vec::new();
        self.heard.feed(chunk, now, |piece| lines.push(String::from_utf8_lossy(piece.text).into_owned()));
        hub.publish(&self.origin, self.which, now, &lines);
    }

    /// Alone in its files, a stream's bytes go out as they come. Beside others it writes whole lines,
    /// or what passes the limit.
    fn take_raw(&mut self, chunk: &[u8]) {
        let shared = self.sinks.iter().any(|sink| is_shared(&sink.file));
        let end = if shared { memrchr(b'\n', chunk).map_or(0, |at| at + 1) } else { chunk.len() };
        let too_long = self.rest.len() + chunk.len() > LINE_LIMIT && end == 0;
        self.take_raw_up_to(chunk, if too_long { chunk.len() } else { end });
    }

    /// Writes what was kept and the chunk up to `end`; keeps the rest of it.
    fn take_raw_up_to(&mut self, chunk: &[u8], end: usize) {
        let (now, later) = chunk.split_at(end);
        if end > 0 || chunk.is_empty() {
            let mut kept = std::mem::take(&mut self.rest);
            self.write(Block { head: &kept, tail: now });
            self.waiting = None;
            kept.clear();
            kept.shrink_to(1024);
            self.rest = kept;
        }
        self.rest.extend_from_slice(later);
    }

    /// Puts what came into the shape asked for, and writes it.
    fn reshape(&mut self, input: Input<'_>, shaped: &mut Vec<u8>) {
        shaped.clear();
        // A line whose beginning was shown goes on behind it, unless something came between.
        let mut unbroken = self.sinks.iter().all(|sink| sink.file.is_in_line_of(self.key));
        let Self { lines, origin, sinks, which, .. } = self;
        let mut render = |piece: Piece<'_>, out: &mut Vec<u8>| {
            match &origin.shape {
                Shape::Json(stamp) => shape::json(stamp, origin, *which, &piece, out),
                Shape::Stamped(_) if unbroken && !piece.first => out.extend_from_slice(piece.text),
                Shape::Stamped(stamp) => {
                    sinks.iter().filter(|_| out.is_empty()).for_each(|sink| sink.file.end_line());
                    shape::stamped(stamp, &piece, out);
                }
                Shape::Raw => out.extend_from_slice(piece.text),
            }
            unbroken = false;
        };
        let newline: &[u8] = if matches!(origin.shape, Shape::Json(_)) { b"" } else { b"\n" };
        match input {
            Input::Chunk(chunk, now) => lines.feed(chunk, now, |piece| {
                render(piece, shaped);
                shaped.extend_from_slice(newline);
            }),
            Input::Pause => lines.release(|piece| render(piece, shaped)),
            Input::End => {
                lines.release(|piece| render(piece, shaped));
                if !shaped.is_empty() || unbroken {
                    shaped.extend_from_slice(newline);
                }
            }
        }
        self.write(Block { head: shaped, tail: &[] });
        shaped.clear();
        shaped.shrink_to(SHAPED_SPARE);
    }

    /// Writes a block to every file; what one does not take is kept for [`retry`](Self::retry).
    fn write(&mut self, block: Block<'_>) {
        if block.len() == 0 {
            return;
        }
        if self.pending.is_empty() {
            for sink in &mut self.sinks {
                sink.done = sink.file.write(self.key, block);
            }
            let written = self.sinks.iter().map(|sink| sink.done).min().unwrap_or(block.len());
            if written == block.len() {
                self.sinks.iter_mut().for_each(|sink| sink.done = 0);
                return;
            }
        }
        self.pending.extend_from_slice(block.head);
        self.pending.extend_from_slice(block.tail);
    }

    /// A line that begins waits from now on; one that was waiting goes on doing so.
    fn watch_patience(&mut self, chunk: &[u8]) {
        let waits = match self.origin.shape {
            Shape::Raw => !self.rest.is_empty(),
            Shape::Stamped(_) => self.lines.holds(),
            Shape::Json(_) => false,
        };
        let begins = memrchr(b'\n', chunk).is_some();
        self.waiting = match self.waiting {
            Some(since) if waits && !begins => Some(since),
            _ => waits.then(Instant::now),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::LogFormat;
    use std::path::{Path, PathBuf};

    /// Two streams of one run, the second in the same file as the first.
    struct Pair {
        _dir: tempfile::TempDir,
        path: PathBuf,
        streams: [Stream; 2],
        hub: Hub,
        shaped: Vec<u8>,
    }

    impl Pair {
        fn new(format: LogFormat, date_format: Option<&str>) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a.log");
            let mut writer = Writer::default();
            let shape = Shape::new(format, date_format);
            let origin = Rc::new(Origin { id: 1, name: "a".into(), run: 1, shape });
            let streams = [(1, item::Stream::Out), (2, item::Stream::Err)]
                .map(|(key, which)| Stream::new(key, Rc::clone(&origin), which, vec![writer.open(&path)]));
            Self { _dir: dir, path, streams, hub: Hub::default(), shaped: Vec::new() }
        }

        fn take(&mut self, stream: usize, text: &str) {
            self.streams[stream].take(text.as_bytes(), 0, &mut self.hub, &mut self.shaped);
        }

        fn release(&mut self, stream: usize) {
            self.streams[stream].release(&mut self.shaped);
        }

        fn end(&mut self, stream: usize) {
            self.streams[stream].end(0, &mut self.hub, &mut self.shaped);
        }

        fn text(&self) -> String {
            std::fs::read_to_string(&self.path).unwrap()
        }
    }

    #[test]
    fn streams_sharing_a_file_write_whole_lines() {
        let mut pair = Pair::new(LogFormat::Raw, None);
        pair.take(0, "one\ntw");
        pair.take(1, "error\nerr");
        pair.take(0, "o\n");
        pair.end(1);
        assert_eq!(pair.text(), "one\nerror\ntwo\nerr");
    }

    #[test]
    fn a_prompt_appears_and_goes_on_in_its_line() {
        let mut pair = Pair::new(LogFormat::Raw, None);
        pair.take(0, "name? ");
        assert!(pair.text().is_empty() && pair.streams[0].patience_ends().is_some());
        pair.release(0);
        assert_eq!(pair.text(), "name? ");
        assert!(pair.streams[0].patience_ends().is_none());
        pair.take(0, "bob\n");
        assert_eq!(pair.text(), "name? bob\n");
    }

    #[test]
    fn a_lone_stream_keeps_nothing_back() {
        let mut pair = Pair::new(LogFormat::Raw, None);
        pair.streams[1].close(&mut Writer::default());
        pair.take(0, "name? ");
        assert_eq!(pair.text(), "name? ");
    }

    #[test]
    fn a_stamped_line_shown_in_parts_has_one_stamp() {
        let mut pair = Pair::new(LogFormat::Raw, Some("[t]"));
        pair.take(0, "name? ");
        pair.release(0);
        pair.take(0, "bo");
        pair.release(0);
        pair.take(0, "b\nage? ");
        pair.release(0);
        pair.end(0);
        assert_eq!(pair.text(), "t: name? bob\nt: age? \n");
    }

    #[test]
    fn a_stamped_line_that_was_broken_into_says_so() {
        let mut pair = Pair::new(LogFormat::Raw, Some("[t]"));
        pair.take(0, "name? ");
        pair.release(0);
        pair.take(1, "error\n");
        pair.take(0, "bob\n");
        pair.end(0);
        pair.end(1);
        assert_eq!(pair.text(), "t: name? \nt: error\nt: [continued] bob\n");
    }

    #[test]
    fn json_waits_for_the_end_of_a_line() {
        let mut pair = Pair::new(LogFormat::Json, None);
        pair.take(0, "half");
        assert!(pair.streams[0].patience_ends().is_none());
        pair.release(0);
        assert!(pair.text().is_empty());
        pair.end(0);
        let object: serde_json::Value = serde_json::from_str(&pair.text()).unwrap();
        assert_eq!(object["message"], "half");
    }

    #[test]
    fn what_a_file_refuses_is_kept_in_order() {
        let mut writer = Writer::default();
        let origin = Rc::new(Origin { id: 1, name: "a".into(), run: 1, shape: Shape::Raw });
        let files = vec![writer.open(Path::new("/dev/full")), writer.open(Path::new("/dev/null"))];
        let mut stream = Stream::new(1, origin, item::Stream::Out, files);
        let mut hub = Hub::default();
        stream.take(b"one\ntw", 0, &mut hub, &mut Vec::new());
        assert_eq!(stream.unwritten(), 6);
        assert!(!stream.retry());
        stream.end(0, &mut hub, &mut Vec::new());
        assert_eq!((stream.pending.as_slice(), stream.sinks[1].done), (b"one\ntw".as_slice(), 6));
    }
}
