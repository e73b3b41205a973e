//! The log pane: the last lines of the selection, where one stands in them, and what is searched.

use std::collections::VecDeque;

use regex::{Regex, RegexBuilder};

use crate::cli::monit::text;
use crate::ipc::message::{LogItem, OutputStream};

/// Lines kept for scrolling back.
pub(super) const SCROLLBACK: usize = 10_000;

/// A line as kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LogLine {
    /// The instance's id; none where rsm itself says something.
    pub(super) from: Option<(u32, String)>,
    /// Which stream.
    pub(super) stream: OutputStream,
    /// Without orders to the terminal.
    pub(super) text: String,
}

/// Which streams are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum StreamFilter {
    #[default]
    Both,
    Out,
    Err,
}

impl StreamFilter {
    fn shows(self, stream: OutputStream) -> bool {
        match self {
            Self::Both => true,
            Self::Out => stream == OutputStream::Out,
            Self::Err => stream == OutputStream::Err,
        }
    }
}

/// A pattern as typed: a regular expression, or where it is none, the text itself. Case counts if it
/// has capitals.
#[derive(Clone, Debug)]
pub(super) struct LinePattern(Regex);

impl LinePattern {
    /// None for no text.
    pub(super) fn new(text: &str) -> Option<Self> {
        let build = |pattern: &str| {
            let capitals = text.contains(char::is_uppercase);
            RegexBuilder::new(pattern).case_insensitive(!capitals).build().ok()
        };
        if text.is_empty() {
            return None;
        }
        build(text).or_else(|| build(&regex::escape(text))).map(Self)
    }

    /// Where it is found in a line, in bytes.
    pub(super) fn find(&self, line: &str) -> Vec<(usize, usize)> {
        self.0.find_iter(line).map(|found| (found.start(), found.end())).filter(|(a, b)| a < b).collect()
    }

    fn is_in(&self, line: &str) -> bool {
        self.0.is_match(line)
    }
}

/// The pane.
#[derive(Debug, Default)]
pub(super) struct LogPane {
    lines: VecDeque<LogLine>,
    /// Indices of the lines that are shown.
    visible: VecDeque<u64>,
    /// The number of the first line in `lines`.
    first: u64,
    /// How many of the shown lines are below the window.
    pub(super) lines_below: usize,
    /// Nothing new is taken in.
    pub(super) paused: bool,
    /// Long lines go on in the next row.
    pub(super) wrap: bool,
    /// Which streams are shown.
    pub(super) streams: StreamFilter,
    /// Columns that a line is moved to the left.
    pub(super) scroll_x: usize,
    /// Rows there are to show lines in, as of the last drawing.
    pub(super) page: usize,
    filter: Option<LinePattern>,
    search: Option<LinePattern>,
}

impl LogPane {
    /// Forgets all lines: another app is looked at.
    pub(super) fn clear(&mut self) {
        self.lines.clear();
        self.visible.clear();
        (self.first, self.lines_below, self.paused, self.scroll_x) = (0, 0, false, 0);
    }

    /// Takes in lines. What one looks at stays where it is, unless it is the end.
    pub(super) fn push_items(&mut self, items: impl IntoIterator<Item = LogItem>) {
        for item in items {
            let line = match item {
                LogItem::Line { id, name, stream, line, .. } => {
                    LogLine { from: Some((id, name)), stream, text: text::sanitize_line(&line) }
                }
                LogItem::Missed { lines } => crate::cli::monit::log_pane::push_missed(lines),
                LogItem::Positions { .. } => continue,
            };
            self.push(line);
        }
    }

    /// Says that lines were passed over.
    pub(super) fn push_missed(&mut self, lines: u64) {
        if lines > 0 {
            self.push(crate::cli::monit::log_pane::push_missed(lines));
        }
    }

    fn push(&mut self, line: LogLine) {
        if self.lines.len() == SCROLLBACK {
            self.lines.pop_front();
            if self.visible.front() == Some(&self.first) {
                self.visible.pop_front();
            }
            self.first += 1;
        }
        if self.is_visible(&line) {
            self.visible.push_back(self.first + self.lines.len() as u64);
            if self.lines_below > 0 {
                self.lines_below = (self.lines_below + 1).min(self.visible.len().saturating_sub(1));
            }
        }
        self.lines.push_back(line);
    }

    fn is_visible(&self, line: &LogLine) -> bool {
        self.streams.shows(line.stream) && self.filter.as_ref().is_none_or(|filter| filter.is_in(&line.text))
    }

    /// Shows only these streams.
    pub(super) fn set_streams(&mut self, streams: StreamFilter) {
        self.streams = streams;
        self.refilter();
    }

    /// Shows only lines that have this.
    pub(super) fn filter(&mut self, pattern: Option<LinePattern>) {
        self.filter = pattern;
        self.refilter();
    }

    fn refilter(&mut self) {
        let wanted = self.lines.iter().enumerate().filter(|(_, line)| self.is_visible(line));
        self.visible = wanted.map(|(at, _)| self.first + at as u64).collect();
        self.lines_below = 0;
    }

    /// Marks this wherever it is, and goes to where it was last.
    pub(super) fn search(&mut self, pattern: Option<LinePattern>) -> bool {
        self.search = pattern;
        self.lines_below = 0;
        self.search.is_none() || self.find_from(0)
    }

    /// The pattern that is marked.
    pub(super) fn search_pattern(&self) -> Option<&LinePattern> {
        self.search.as_ref()
    }

    /// Goes to the next older line that has what is searched for; false if there is none.
    pub(super) fn find_older(&mut self) -> bool {
        self.find_from(self.lines_below + 1)
    }

    fn find_from(&mut self, below: usize) -> bool {
        let Some(pattern) = &self.search else { return false };
        let found = (below..self.len())
            .find(|below| self.nth_last(*below).is_some_and(|line| pattern.is_in(&line.text)));
        found.map(|below| self.lines_below = below).is_some()
    }

    /// Goes to the next newer line that has what is searched for; false if there is none.
    pub(super) fn find_newer(&mut self) -> bool {
        let Some(pattern) = &self.search else { return false };
        let mut newer = (0..self.lines_below).rev();
        let found = newer.find(|below| self.nth_last(*below).is_some_and(|line| pattern.is_in(&line.text)));
        found.map(|below| self.lines_below = below).is_some()
    }

    /// Goes so many lines towards the older ones (negative: newer).
    pub(super) fn scroll(&mut self, lines: isize) {
        self.lines_below =
            self.lines_below.saturating_add_signed(lines).min(self.len().saturating_sub(self.page.max(1)));
    }

    /// How many lines are shown.
    pub(super) fn len(&self) -> usize {
        self.visible.len()
    }

    /// The shown line that has so many newer ones after it.
    pub(super) fn nth_last(&self, newer: usize) -> Option<&LogLine> {
        let number = self.visible.get(self.visible.len().checked_sub(newer + 1)?)?;
        self.lines.get(usize::try_from(number - self.first).ok()?)
    }
}

fn push_missed(lines: u64) -> LogLine {
    let text = format!("… {lines} lines skipped");
    LogLine { from: None, stream: OutputStream::Out, text }
}

#[cfg(test)]
mod tests {
    use crate::cli::monit::log_pane::*;

    fn line(stream: OutputStream, text: &str) -> LogItem {
        LogItem::Line { id: 0, name: "api".into(), stream, at: None, line: text.into() }
    }

    fn pane(lines: &[&str]) -> LogPane {
        let mut pane = LogPane::default();
        pane.push_items(lines.iter().map(|text| line(OutputStream::Out, text)));
        pane
    }

    fn end(pane: &LogPane) -> &str {
        &pane.nth_last(pane.lines_below).unwrap().text
    }

    #[test]
    fn the_end_is_followed_and_anything_else_stands_still() {
        let mut pane = pane(&["a", "b", "c"]);
        pane.push_items([line(OutputStream::Out, "d")]);
        assert_eq!(end(&pane), "d");
        pane.scroll(2);
        pane.push_items([line(OutputStream::Out, "e")]);
        assert_eq!(end(&pane), "b");
        pane.scroll(100);
        assert_eq!(end(&pane), "a");
        pane.scroll(-100);
        assert_eq!(end(&pane), "e");
    }

    #[test]
    fn memory_is_bounded() {
        let mut pane = LogPane::default();
        pane.push_items((0..SCROLLBACK + 7).map(|number| line(OutputStream::Out, &number.to_string())));
        pane.scroll(isize::MAX);
        assert_eq!((pane.len(), end(&pane)), (SCROLLBACK, "7"));
        pane.push_items((0..SCROLLBACK).map(|_| line(OutputStream::Out, "new")));
        assert_eq!((pane.len(), end(&pane)), (SCROLLBACK, "new"));
    }

    #[test]
    fn filters_and_streams() {
        let mut pane = pane(&["GET /", "POST /", "get"]);
        pane.push_items([line(OutputStream::Err, "oops")]);
        pane.filter(LinePattern::new("get"));
        assert_eq!(pane.len(), 2);
        pane.push_items([line(OutputStream::Out, "target"), line(OutputStream::Out, "none")]);
        assert_eq!((pane.len(), end(&pane)), (3, "target"));
        pane.filter(LinePattern::new("GET"));
        assert_eq!(pane.len(), 1, "capitals count when they are typed");
        pane.filter(None);
        pane.set_streams(StreamFilter::Err);
        assert_eq!((pane.len(), end(&pane)), (1, "oops"));
    }

    #[test]
    fn searches_go_from_line_to_line() {
        let mut pane = pane(&["x 1", "y", "x 2", "y"]);
        assert!(pane.search(LinePattern::new("x")));
        assert_eq!(end(&pane), "x 2");
        assert!(pane.find_older());
        assert_eq!(end(&pane), "x 1");
        assert!(!pane.find_older() && pane.find_newer());
        assert_eq!(end(&pane), "x 2");
        assert!(!pane.search(LinePattern::new("(none")), "what is no expression is text");
    }
}
