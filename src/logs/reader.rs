//! Reads several log files as one: all lines in the order in which they were written.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use regex::bytes::Regex;

use super::cursor::{Cursor, Line};
use super::item::{LogItem, LogPlace, Stream};

/// A log file, and whose lines are in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tail {
    /// Where it is.
    pub path: PathBuf,
    /// The instance whose lines they are, where the file itself does not tell.
    pub id: u32,
    /// Which stream, where the file itself does not tell.
    pub stream: Stream,
    /// Several instances or streams write to it; only these are wanted.
    pub shared: Option<Vec<(u32, Stream)>>,
}

/// Which lines are wanted.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// How many of the last ones, of each file; with a pattern of all files together.
    pub lines: usize,
    /// Not before this. Microseconds since the epoch.
    pub since: Option<u64>,
    /// Not after this. Microseconds since the epoch.
    pub until: Option<u64>,
    /// Only those that match.
    pub grep: Option<Regex>,
    /// Where a former reader of the same was; files that it did not know are read from their beginning.
    pub places: HashMap<PathBuf, LogPlace>,
}

/// Where several files are read.
#[derive(Debug)]
pub struct Reader {
    indexes: Arc<Path>,
    wanted: Wanted,
    names: HashMap<u32, String>,
    sources: Vec<Source>,
    /// The last matching lines, not handed out yet.
    matched: VecDeque<LogItem>,
}

#[derive(Debug)]
struct Source {
    tail: Tail,
    cursor: Cursor,
    head: Option<Line>,
    /// The place that was told last.
    told: Option<LogPlace>,
}

impl Reader {
    /// A reader of no file yet. `names` are the apps' by instance.
    pub fn new(indexes: Arc<Path>, wanted: Wanted) -> Self {
        Self { indexes, wanted, names: HashMap::new(), sources: Vec::new(), matched: VecDeque::new() }
    }

    /// Adds the files that are not read yet. Those that come later (`late`) are read from their
    /// beginning: nobody can have seen it.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn add(&mut self, tails: Vec<Tail>, names: HashMap<u32, String>, late: bool) -> io::Result<()> {
        self.names.extend(names);
        for tail in tails {
            if let Some(source) = self.sources.iter_mut().find(|source| source.tail.path == tail.path) {
                source.tail = tail;
                continue;
            }
            let (places, indexes) = (&self.wanted.places, &self.indexes);
            if let Some(place) = places.get(&tail.path) {
                let cursor = Cursor::at_place(place, indexes)?;
                self.sources.push(Source { tail, cursor, head: None, told: None });
                continue;
            }
            let late = late || !places.is_empty();
            // What a pattern fits is known only after looking at all.
            let all = late || self.wanted.grep.is_some();
            let lines = if all && self.wanted.lines > 0 || late { usize::MAX } else { self.wanted.lines };
            let since = self.wanted.since.unwrap_or(0);
            let cursor = Cursor::at_tail(tail.path.clone(), indexes, lines, since)?;
            self.sources.push(Source { tail, cursor, head: None, told: None });
        }
        Ok(())
    }

    /// Reads up to where the files end now, and keeps the last lines that match: those are what a
    /// pattern is about. Without a pattern there is nothing to do.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn search(&mut self) -> io::Result<()> {
        let most = self.wanted.lines;
        if self.wanted.grep.is_none() || most == usize::MAX || !self.wanted.places.is_empty() {
            return Ok(());
        }
        let mut matched = VecDeque::new();
        while let Some(items) = self.next(false)? {
            for item in items {
                matched.push_back(item);
                if matched.len() > most {
                    matched.pop_front();
                }
            }
        }
        self.matched = matched;
        Ok(())
    }

    /// The next lines, as written first to last; `None` if there are none now. `all`: the
    /// beginnings of lines too, whose ends are not there.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn next(&mut self, all: bool) -> io::Result<Option<Vec<LogItem>>> {
        if !self.matched.is_empty() {
            return Ok(Some(std::mem::take(&mut self.matched).into()));
        }
        loop {
            self.look(all)?;
            let heads = self.sources.iter_mut().filter(|source| source.head.is_some());
            let Some(first) = heads.min_by_key(|source| source.head.as_ref().map(|line| line.at)) else {
                return Ok(None);
            };
            let Some(line) = first.head.take() else { return Ok(None) };
            let (missed, item) = (line.missed, item(&first.tail, &self.names, line, &self.wanted));
            let missed = (missed > 0).then_some(LogItem::Missed { lines: missed });
            let items: Vec<LogItem> = missed.into_iter().chain(item).collect();
            if !items.is_empty() {
                return Ok(Some(items));
            }
        }
    }

    /// How far the files were read that were read on since the last time.
    pub fn places(&mut self) -> Vec<LogPlace> {
        let changed = |source: &mut Source| {
            let place = source.cursor.place(source.head.as_ref());
            (source.told.as_ref() != Some(&place)).then(|| source.told.insert(place).clone())
        };
        self.sources.iter_mut().filter_map(changed).collect()
    }

    /// Whether the beginning of a line waits for its end.
    pub fn has_rest(&self) -> bool {
        self.sources.iter().any(|source| source.cursor.has_rest())
    }

    /// Looks into every file that has no line at hand. Twice, if there was any: a line of one file
    /// may have come before that of another which was looked at later.
    fn look(&mut self, all: bool) -> io::Result<()> {
        for _ in 0..2 {
            let mut found = false;
            for source in self.sources.iter_mut().filter(|source| source.head.is_none()) {
                source.head = source.cursor.next()?;
                found |= source.head.is_some();
            }
            if !found {
                break;
            }
        }
        if all {
            for source in self.sources.iter_mut().filter(|source| source.head.is_none()) {
                source.head = source.cursor.rest();
            }
        }
        Ok(())
    }
}

/// The line as followers see it, if it is wanted.
fn item(tail: &Tail, names: &HashMap<u32, String>, line: Line, wanted: &Wanted) -> Option<LogItem> {
    let (mut id, mut stream) = (tail.id, tail.stream);
    if let Some(owner) = line.owner {
        (id, stream) = (owner.instance(), owner.stream);
        if tail.shared.as_ref().is_some_and(|these| !these.contains(&(id, stream))) {
            return None;
        }
    }
    let after = wanted.since.is_none_or(|since| line.at >= since);
    let before = wanted.until.is_none_or(|until| line.at <= until);
    let fits = wanted.grep.as_ref().is_none_or(|pattern| pattern.is_match(&line.text));
    (after && before && fits).then(|| LogItem::Line {
        id,
        name: names.get(&id).or_else(|| names.get(&tail.id)).cloned().unwrap_or_default(),
        stream,
        at: Some(line.at / 1000),
        line: String::from_utf8_lossy(&line.text).into_owned(),
    })
}
