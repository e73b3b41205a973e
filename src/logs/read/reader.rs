//! Reader of several log files as one: all lines in the order in which they were written.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::PathBuf;

use regex::bytes::Regex;

use crate::logs::files::access::LogAccess;
use crate::logs::item::{LogItem, LogPosition, OutputStream};
use crate::logs::read::cursor::{Cursor, ReadLine};

/// A log file to read, and the streams that write to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadTarget {
    /// Log file.
    pub path: PathBuf,
    /// How its files are opened.
    pub access: LogAccess,
    /// Instance id of lines whose stream is unknown.
    pub id: u32,
    /// Stream of lines whose stream is unknown.
    pub stream: OutputStream,
    /// Streams to read; `None` reads all that write to the file.
    pub shared: Option<Vec<(u32, OutputStream)>>,
}

/// Lines to read.
#[derive(Clone, Debug, Default)]
pub struct ReadQuery {
    /// Maximum number of last lines of each file; with `grep`, of all files together.
    pub lines: usize,
    /// Skips earlier lines, in microseconds since the epoch.
    pub since: Option<u64>,
    /// Skips later lines, in microseconds since the epoch.
    pub until: Option<u64>,
    /// Pattern that a line must match.
    pub grep: Option<Regex>,
    /// Positions of an earlier reader. Files without a position are read from their start.
    pub positions: HashMap<PathBuf, LogPosition>,
}

/// Reads several files as one.
#[derive(Debug)]
pub struct LogReader {
    query: ReadQuery,
    names: HashMap<u32, String>,
    sources: Vec<FileSource>,
    /// The last matching lines, not returned yet.
    matched: VecDeque<LogItem>,
    /// Number of polls of all files; orders them.
    polls: u64,
}

#[derive(Debug)]
struct FileSource {
    target: ReadTarget,
    cursor: Cursor,
    next_line: Option<ReadLine>,
    /// The poll that read `next_line`.
    found_at: u64,
    /// The poll that found no line; 0 if the last one found a line.
    empty_at: u64,
    /// The position reported last.
    last_position: Option<LogPosition>,
    /// A read error was logged.
    failed: bool,
}

impl FileSource {
    fn new(target: ReadTarget, cursor: Cursor) -> Self {
        Self { target, cursor, next_line: None, found_at: 0, empty_at: 0, last_position: None, failed: false }
    }

    /// Reads the next line. A file that cannot be read is skipped; the others are read all the same.
    fn poll(&mut self, poll: u64) {
        self.next_line = self.cursor.next().unwrap_or_else(|error| {
            if !std::mem::replace(&mut self.failed, true) {
                tracing::warn!("cannot read log file {}: {error}", self.target.path.display());
            }
            None
        });
        match self.next_line {
            Some(_) => (self.found_at, self.empty_at) = (poll, 0),
            None => self.empty_at = poll,
        }
    }

    /// Takes the next line. The line after it is set only if it was read in the same block.
    fn take(&mut self) -> Option<ReadLine> {
        std::mem::replace(&mut self.next_line, self.cursor.next_buffered())
    }
}

impl LogReader {
    /// A reader without files.
    pub fn new(query: ReadQuery) -> Self {
        Self { query, names: HashMap::new(), sources: Vec::new(), matched: VecDeque::new(), polls: 0 }
    }

    /// Adds the files that are not read yet; one that cannot be read is skipped. `names` are app names by
    /// instance id. Files of apps added while reading (`late`) are read from their start, because all their
    /// lines are new.
    pub fn add(&mut self, targets: Vec<ReadTarget>, names: HashMap<u32, String>, late: bool) {
        self.names.extend(names);
        for target in targets {
            if let Some(source) = self.sources.iter_mut().find(|source| source.target.path == target.path) {
                source.target = target;
                continue;
            }
            match self.cursor(&target, late) {
                Ok(cursor) => self.sources.push(FileSource::new(target, cursor)),
                Err(error) => tracing::warn!("cannot read log file {}: {error}", target.path.display()),
            }
        }
    }

    fn cursor(&self, target: &ReadTarget, late: bool) -> io::Result<Cursor> {
        let (positions, access) = (&self.query.positions, &target.access);
        if let Some(position) = positions.get(&target.path) {
            return Cursor::at_position(position, access);
        }
        let from_start = late || !positions.is_empty();
        // Which lines match a pattern is known only after reading all of them.
        let searches = self.query.grep.is_some() && self.query.lines > 0;
        let lines = if from_start || searches { usize::MAX } else { self.query.lines };
        Cursor::at_tail(target.path.clone(), access, lines, self.query.since.unwrap_or(0))
    }

    /// With a pattern, reads to the current end of the files and keeps the last lines that match. Does
    /// nothing without a pattern.
    pub fn read_ahead(&mut self) {
        let max_lines = self.query.lines;
        if self.query.grep.is_none() || max_lines == usize::MAX || !self.query.positions.is_empty() {
            return;
        }
        let mut matched = VecDeque::new();
        while let Some(items) = self.next(false) {
            for item in items {
                matched.push_back(item);
                if matched.len() > max_lines {
                    matched.pop_front();
                }
            }
        }
        self.matched = matched;
    }

    /// The next lines in write order; `None` if there are none now. `include_partial`: also returns partial
    /// lines.
    pub fn next(&mut self, include_partial: bool) -> Option<Vec<LogItem>> {
        if !self.matched.is_empty() {
            return Some(std::mem::take(&mut self.matched).into());
        }
        loop {
            let index = self.next_source(include_partial)?;
            let source = &mut self.sources[index];
            let line = source.take()?;
            let (missed, item) = (line.missed, to_item(&source.target, &self.names, line, &self.query));
            let missed = (missed > 0).then_some(LogItem::Missed { lines: missed });
            let items: Vec<LogItem> = missed.into_iter().chain(item).collect();
            if !items.is_empty() {
                return Some(items);
            }
        }
    }

    /// Positions that have changed since the last call.
    pub fn changed_positions(&mut self) -> Vec<LogPosition> {
        let changed = |source: &mut FileSource| {
            let position = source.cursor.position(source.next_line.as_ref());
            (source.last_position.as_ref() != Some(&position))
                .then(|| source.last_position.insert(position).clone())
        };
        self.sources.iter_mut().filter_map(changed).collect()
    }

    /// Whether a file ends in a partial line that was not returned.
    pub fn has_partial(&self) -> bool {
        self.sources.iter().any(|source| source.cursor.has_partial())
    }

    /// The source of the earliest line. When its block was read, all earlier lines were in their files. So
    /// each other file must have a line too, or have been found empty by a later poll. Files are not polled
    /// more often: there may be a hundred of which one is written to.
    fn next_source(&mut self, include_partial: bool) -> Option<usize> {
        loop {
            let found_at = self.earliest_source().map_or(0, |index| self.sources[index].found_at);
            let mut has_new_line = false;
            for source in &mut self.sources {
                if source.next_line.is_none() && source.empty_at <= found_at {
                    self.polls += 1;
                    source.poll(self.polls);
                    has_new_line |= source.next_line.is_some();
                }
            }
            if has_new_line {
                continue;
            }
            if include_partial {
                let without_line = self.sources.iter_mut().filter(|source| source.next_line.is_none());
                without_line.for_each(|source| source.next_line = source.cursor.take_partial());
            }
            let earliest = self.earliest_source();
            if earliest.is_none() {
                // Poll all files again at the next call.
                self.sources.iter_mut().for_each(|source| source.empty_at = 0);
            }
            return earliest;
        }
    }

    fn earliest_source(&self) -> Option<usize> {
        let sources = self.sources.iter().enumerate();
        let times = sources.filter_map(|(index, source)| Some((source.next_line.as_ref()?.time, index)));
        times.min().map(|(_, index)| index)
    }
}

/// The item of a line; `None` if the query excludes it.
fn to_item(
    target: &ReadTarget,
    names: &HashMap<u32, String>,
    line: ReadLine,
    query: &ReadQuery,
) -> Option<LogItem> {
    let (mut id, mut stream) = (target.id, target.stream);
    if let Some(writer) = line.stream {
        (id, stream) = (writer.instance(), writer.stream);
        if target.shared.as_ref().is_some_and(|streams| !streams.contains(&(id, stream))) {
            return None;
        }
    }
    let is_in_range = query.since.is_none_or(|since| line.time >= since)
        && query.until.is_none_or(|until| line.time <= until);
    let matches = query.grep.as_ref().is_none_or(|pattern| pattern.is_match(&line.text));
    (is_in_range && matches).then(|| LogItem::Line {
        id,
        name: names.get(&id).or_else(|| names.get(&target.id)).cloned().unwrap_or_default(),
        stream,
        at: Some(line.time / 1000),
        line: String::from_utf8_lossy(&line.text).into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use crate::logs::files::access::tests::access;
    use crate::logs::read::reader::*;

    fn target(path: PathBuf, id: u32) -> ReadTarget {
        let access = access(path.parent().unwrap());
        ReadTarget { path, access, id, stream: OutputStream::Out, shared: None }
    }

    #[test]
    fn idle_files_are_polled_once_per_block() {
        let dir = tempfile::tempdir().unwrap();
        let (idle, lines) = (50, 5000);
        let busy = dir.path().join("busy.log");
        std::fs::write(&busy, "a line of a hundred bytes or so\n".repeat(lines)).unwrap();
        let mut targets = vec![target(busy, 0)];
        for id in 1..=idle {
            let path = dir.path().join(format!("{id}.log"));
            std::fs::write(&path, "").unwrap();
            targets.push(target(path, id));
        }
        let query = ReadQuery { lines, ..ReadQuery::default() };
        let mut reader = LogReader::new(query);
        reader.add(targets, HashMap::new(), false);
        let mut count = 0;
        while let Some(items) = reader.next(false) {
            count += items.len();
        }
        assert_eq!(count, lines);
        assert!(reader.polls < 10 * u64::from(idle), "{} polls", reader.polls);
    }
}
