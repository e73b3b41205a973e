//! Reads several log files as one: all lines in the order in which they were written.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use regex::bytes::Regex;

use crate::logs::item::{LogItem, LogPosition, OutputStream};
use crate::logs::read::cursor::{Cursor, ReadLine};

/// A log file, and whose lines are in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadTarget {
    /// Where it is.
    pub path: PathBuf,
    /// The instance whose lines they are, where the file itself does not tell.
    pub id: u32,
    /// Which stream, where the file itself does not tell.
    pub stream: OutputStream,
    /// Several instances or streams write to it; only these are wanted.
    pub shared: Option<Vec<(u32, OutputStream)>>,
}

/// Which lines are wanted.
#[derive(Clone, Debug, Default)]
pub struct ReadQuery {
    /// How many of the last ones, of each file; with a pattern of all files together.
    pub lines: usize,
    /// Not before this. Microseconds since the epoch.
    pub since: Option<u64>,
    /// Not after this. Microseconds since the epoch.
    pub until: Option<u64>,
    /// Only those that match.
    pub grep: Option<Regex>,
    /// Where a former reader of the same was; files that it did not know are read from their beginning.
    pub positions: HashMap<PathBuf, LogPosition>,
}

/// Where several files are read.
#[derive(Debug)]
pub struct LogReader {
    indexes: Arc<Path>,
    query: ReadQuery,
    names: HashMap<u32, String>,
    sources: Vec<FileSource>,
    /// The last matching lines, not handed out yet.
    matched: VecDeque<LogItem>,
    /// Counts the looks into files.
    rounds: u64,
}

#[derive(Debug)]
struct FileSource {
    target: ReadTarget,
    cursor: Cursor,
    next_line: Option<ReadLine>,
    /// The look that brought its head.
    found: u64,
    /// The look that found nothing; 0 once something was found.
    empty: u64,
    /// The place that was told last.
    last_position: Option<LogPosition>,
    /// It could not be read, and that was said.
    failed: bool,
}

impl FileSource {
    fn new(tail: ReadTarget, cursor: Cursor) -> Self {
        Self { target: tail, cursor, next_line: None, found: 0, empty: 0, last_position: None, failed: false }
    }

    /// A file that cannot be read is none of those that can: they are shown all the same.
    fn poll(&mut self, number: u64) {
        self.next_line = self.cursor.next().unwrap_or_else(|error| {
            if !std::mem::replace(&mut self.failed, true) {
                tracing::warn!("cannot read log file {}: {error}", self.target.path.display());
            }
            None
        });
        match self.next_line {
            Some(_) => (self.found, self.empty) = (number, 0),
            None => self.empty = number,
        }
    }

    /// Takes its head; the next one is one that was read with it, or has to be looked for.
    fn take(&mut self) -> Option<ReadLine> {
        std::mem::replace(&mut self.next_line, self.cursor.next_buffered())
    }
}

impl LogReader {
    /// A reader of no file yet. `names` are the apps' by instance.
    pub fn new(indexes: Arc<Path>, wanted: ReadQuery) -> Self {
        Self {
            indexes,
            query: wanted,
            names: HashMap::new(),
            sources: Vec::new(),
            matched: VecDeque::new(),
            rounds: 0,
        }
    }

    /// Adds the files that are not read yet. Those that come later (`late`) are read from their
    /// beginning: nobody can have seen it. One that cannot be read is left out.
    pub fn add(&mut self, tails: Vec<ReadTarget>, names: HashMap<u32, String>, late: bool) {
        self.names.extend(names);
        for tail in tails {
            if let Some(source) = self.sources.iter_mut().find(|source| source.target.path == tail.path) {
                source.target = tail;
                continue;
            }
            match self.cursor(&tail, late) {
                Ok(cursor) => self.sources.push(FileSource::new(tail, cursor)),
                Err(error) => tracing::warn!("cannot read log file {}: {error}", tail.path.display()),
            }
        }
    }

    fn cursor(&self, tail: &ReadTarget, late: bool) -> io::Result<Cursor> {
        let (places, indexes) = (&self.query.positions, &self.indexes);
        if let Some(place) = places.get(&tail.path) {
            return Cursor::at_position(place, indexes);
        }
        let late = late || !places.is_empty();
        // What a pattern fits is known only after looking at all.
        let all = late || self.query.grep.is_some();
        let lines = if all && self.query.lines > 0 || late { usize::MAX } else { self.query.lines };
        Cursor::at_tail(tail.path.clone(), indexes, lines, self.query.since.unwrap_or(0))
    }

    /// Reads up to where the files end now, and keeps the last lines that match: those are what a
    /// pattern is about. Without a pattern there is nothing to do.
    pub fn read_ahead(&mut self) {
        let most = self.query.lines;
        if self.query.grep.is_none() || most == usize::MAX || !self.query.positions.is_empty() {
            return;
        }
        let mut matched = VecDeque::new();
        while let Some(items) = self.next(false) {
            for item in items {
                matched.push_back(item);
                if matched.len() > most {
                    matched.pop_front();
                }
            }
        }
        self.matched = matched;
    }

    /// The next lines, as written first to last; `None` if there are none now. `all`: the
    /// beginnings of lines too, whose ends are not there.
    pub fn next(&mut self, all: bool) -> Option<Vec<LogItem>> {
        if !self.matched.is_empty() {
            return Some(std::mem::take(&mut self.matched).into());
        }
        loop {
            let first = self.next_source(all)?;
            let source = &mut self.sources[first];
            let line = source.take()?;
            let (missed, item) = (line.missed, item(&source.target, &self.names, line, &self.query));
            let missed = (missed > 0).then_some(LogItem::Missed { lines: missed });
            let items: Vec<LogItem> = missed.into_iter().chain(item).collect();
            if !items.is_empty() {
                return Some(items);
            }
        }
    }

    /// How far the files were read that were read on since the last time.
    pub fn changed_positions(&mut self) -> Vec<LogPosition> {
        let changed = |source: &mut FileSource| {
            let place = source.cursor.position(source.next_line.as_ref());
            (source.last_position.as_ref() != Some(&place))
                .then(|| source.last_position.insert(place).clone())
        };
        self.sources.iter_mut().filter_map(changed).collect()
    }

    /// Whether the beginning of a line waits for its end.
    pub fn has_partial(&self) -> bool {
        self.sources.iter().any(|source| source.cursor.has_partial())
    }

    /// Whose line is the first one. When its block was read, all that was written before was in its file:
    /// so every other file has to have been found empty by a later look. Files are not asked more
    /// often than that: there may be a hundred, and only one that is written to.
    fn next_source(&mut self, all: bool) -> Option<usize> {
        loop {
            let first = self.earliest_source();
            let since = first.map_or(0, |first| self.sources[first].found);
            let mut new = false;
            for source in &mut self.sources {
                if source.next_line.is_none() && source.empty <= since {
                    self.rounds += 1;
                    source.poll(self.rounds);
                    new |= source.next_line.is_some();
                }
            }
            if new {
                continue;
            }
            let waits = self.sources.iter_mut().filter(|source| all && source.next_line.is_none());
            waits.for_each(|source| source.next_line = source.cursor.take_partial());
            let first = self.earliest_source();
            if first.is_none() {
                // Whoever comes again looks again.
                self.sources.iter_mut().for_each(|source| source.empty = 0);
            }
            return first;
        }
    }

    fn earliest_source(&self) -> Option<usize> {
        let heads = self
            .sources
            .iter()
            .enumerate()
            .filter_map(|(at, source)| Some((source.next_line.as_ref()?.time, at)));
        heads.min().map(|(_, at)| at)
    }
}

/// The line as followers see it, if it is wanted.
fn item(
    tail: &ReadTarget,
    names: &HashMap<u32, String>,
    line: ReadLine,
    wanted: &ReadQuery,
) -> Option<LogItem> {
    let (mut id, mut stream) = (tail.id, tail.stream);
    if let Some(owner) = line.stream {
        (id, stream) = (owner.instance(), owner.stream);
        if tail.shared.as_ref().is_some_and(|these| !these.contains(&(id, stream))) {
            return None;
        }
    }
    let after = wanted.since.is_none_or(|since| line.time >= since);
    let before = wanted.until.is_none_or(|until| line.time <= until);
    let fits = wanted.grep.as_ref().is_none_or(|pattern| pattern.is_match(&line.text));
    (after && before && fits).then(|| LogItem::Line {
        id,
        name: names.get(&id).or_else(|| names.get(&tail.id)).cloned().unwrap_or_default(),
        stream,
        at: Some(line.time / 1000),
        line: String::from_utf8_lossy(&line.text).into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use crate::logs::read::reader::*;

    fn tail(path: PathBuf, id: u32) -> ReadTarget {
        ReadTarget { path, id, stream: OutputStream::Out, shared: None }
    }

    #[test]
    fn quiet_files_are_asked_once_for_each_block_of_a_busy_one() {
        let dir = tempfile::tempdir().unwrap();
        let (quiet, lines) = (50, 5000);
        let busy = dir.path().join("busy.log");
        std::fs::write(&busy, "a line of a hundred bytes or so\n".repeat(lines)).unwrap();
        let mut tails = vec![tail(busy, 0)];
        for id in 1..=quiet {
            let path = dir.path().join(format!("{id}.log"));
            std::fs::write(&path, "").unwrap();
            tails.push(tail(path, id));
        }
        let wanted = ReadQuery { lines, ..ReadQuery::default() };
        let mut reader = LogReader::new(dir.path().into(), wanted);
        reader.add(tails, HashMap::new(), false);
        let mut got = 0;
        while let Some(items) = reader.next(false) {
            got += items.len();
        }
        assert_eq!(got, lines);
        assert!(reader.rounds < 10 * u64::from(quiet), "{} looks", reader.rounds);
    }
}
