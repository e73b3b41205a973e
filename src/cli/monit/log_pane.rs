//! The log pane: the last lines of the selection, the scroll position, filters and search.

use std::collections::VecDeque;

use regex::{Regex, RegexBuilder};

use crate::cli::monit::text;
use crate::ipc::message::{LogItem, OutputStream};

/// Maximum number of lines in the pane.
pub(super) const SCROLLBACK: usize = 10_000;

/// A line of the pane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LogLine {
    /// Id and name of the instance; `None` for a line of rsm.
    pub(super) source: Option<(u32, String)>,
    pub(super) stream: OutputStream,
    /// When it was read, in milliseconds since the epoch.
    pub(super) at: Option<u64>,
    /// Without control characters.
    pub(super) text: String,
}

/// The visible streams.
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

/// A pattern: a regular expression, or the text itself if it is not valid as one. Case-sensitive if it contains an
/// uppercase letter.
#[derive(Clone, Debug)]
pub(super) struct LinePattern(Regex);

impl LinePattern {
    /// Returns `None` for an empty text.
    pub(super) fn new(text: &str) -> Option<Self> {
        let build = |pattern: &str| {
            let case_sensitive = text.contains(char::is_uppercase);
            RegexBuilder::new(pattern).case_insensitive(!case_sensitive).build().ok()
        };
        if text.is_empty() {
            return None;
        }
        build(text).or_else(|| build(&regex::escape(text))).map(Self)
    }

    /// The byte ranges of matches in a line.
    pub(super) fn find(&self, line: &str) -> Vec<(usize, usize)> {
        self.0
            .find_iter(line)
            .map(|found| (found.start(), found.end()))
            .filter(|(start, end)| start < end)
            .collect()
    }

    fn matches(&self, line: &str) -> bool {
        self.0.is_match(line)
    }
}

/// The state of the pane.
#[derive(Debug, Default)]
pub(super) struct LogPane {
    lines: VecDeque<LogLine>,
    /// Numbers of the lines that match the filters.
    visible: VecDeque<u64>,
    /// The number of the first line in `lines`.
    first: u64,
    /// Number of matching lines below the window.
    pub(super) lines_below: usize,
    /// New lines are not read.
    pub(super) paused: bool,
    /// Long lines are wrapped.
    pub(super) wrap: bool,
    pub(super) streams: StreamFilter,
    /// Horizontal scroll position in columns.
    pub(super) scroll_x: usize,
    /// Height of the pane in the last frame.
    pub(super) page: usize,
    filter: Option<LinePattern>,
    search: Option<LinePattern>,
}

impl LogPane {
    /// Removes all lines, after a change of the selection.
    pub(super) fn clear(&mut self) {
        self.lines.clear();
        self.visible.clear();
        (self.first, self.lines_below, self.paused, self.scroll_x) = (0, 0, false, 0);
    }

    /// Adds lines. The visible lines stay in place, unless the pane is scrolled to the end.
    pub(super) fn push_items(&mut self, items: impl IntoIterator<Item = LogItem>) {
        for item in items {
            let line = match item {
                LogItem::Line { id, name, stream, line, at } => {
                    LogLine { source: Some((id, name)), stream, at, text: text::sanitize_line(&line) }
                }
                LogItem::Missed { lines } => missed_line(lines),
                LogItem::Positions { .. } => continue,
            };
            self.push(line);
        }
    }

    /// Adds a line that reports missed lines.
    pub(super) fn push_missed(&mut self, lines: u64) {
        if lines > 0 {
            self.push(missed_line(lines));
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
        self.streams.shows(line.stream)
            && self.filter.as_ref().is_none_or(|filter| filter.matches(&line.text))
    }

    pub(super) fn set_streams(&mut self, streams: StreamFilter) {
        self.streams = streams;
        self.refilter();
    }

    /// Shows only matching lines.
    pub(super) fn set_filter(&mut self, pattern: Option<LinePattern>) {
        self.filter = pattern;
        self.refilter();
    }

    fn refilter(&mut self) {
        let matching = self.lines.iter().enumerate().filter(|(_, line)| self.is_visible(line));
        self.visible = matching.map(|(at, _)| self.first + at as u64).collect();
        self.lines_below = 0;
    }

    /// Highlights matches and scrolls to the last one. Returns false if there is none.
    pub(super) fn set_search(&mut self, pattern: Option<LinePattern>) -> bool {
        self.search = pattern;
        self.lines_below = 0;
        self.search.is_none() || self.find_from(0)
    }

    pub(super) fn search_pattern(&self) -> Option<&LinePattern> {
        self.search.as_ref()
    }

    /// Scrolls to the next older match. Returns false if there is none.
    pub(super) fn find_older(&mut self) -> bool {
        self.find_from(self.lines_below + 1)
    }

    fn find_from(&mut self, below: usize) -> bool {
        let Some(pattern) = &self.search else { return false };
        let found = (below..self.len())
            .find(|below| self.nth_last(*below).is_some_and(|line| pattern.matches(&line.text)));
        found.map(|below| self.lines_below = below).is_some()
    }

    /// Scrolls to the next newer match. Returns false if there is none.
    pub(super) fn find_newer(&mut self) -> bool {
        let Some(pattern) = &self.search else { return false };
        let mut newer = (0..self.lines_below).rev();
        let found = newer.find(|below| self.nth_last(*below).is_some_and(|line| pattern.matches(&line.text)));
        found.map(|below| self.lines_below = below).is_some()
    }

    /// Scrolls by a number of lines to older ones, or to newer ones if negative.
    pub(super) fn scroll(&mut self, lines: isize) {
        self.lines_below =
            self.lines_below.saturating_add_signed(lines).min(self.len().saturating_sub(self.page.max(1)));
    }

    /// Number of matching lines.
    pub(super) fn len(&self) -> usize {
        self.visible.len()
    }

    /// The matching line with `newer` lines after it.
    pub(super) fn nth_last(&self, newer: usize) -> Option<&LogLine> {
        let number = self.visible.get(self.visible.len().checked_sub(newer + 1)?)?;
        self.lines.get(usize::try_from(number - self.first).ok()?)
    }
}

fn missed_line(lines: u64) -> LogLine {
    let text = format!("… {lines} lines skipped");
    LogLine { source: None, stream: OutputStream::Out, at: None, text }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn follows_end_and_keeps_other_positions() {
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
    fn scrollback_is_limited() {
        let mut pane = LogPane::default();
        pane.push_items((0..SCROLLBACK + 7).map(|number| line(OutputStream::Out, &number.to_string())));
        pane.scroll(isize::MAX);
        assert_eq!((pane.len(), end(&pane)), (SCROLLBACK, "7"));
        pane.push_items((0..SCROLLBACK).map(|_| line(OutputStream::Out, "new")));
        assert_eq!((pane.len(), end(&pane)), (SCROLLBACK, "new"));
    }

    #[test]
    fn filters_by_pattern_and_stream() {
        let mut pane = pane(&["GET /", "POST /", "get"]);
        pane.push_items([line(OutputStream::Err, "oops")]);
        pane.set_filter(LinePattern::new("get"));
        assert_eq!(pane.len(), 2);
        pane.push_items([line(OutputStream::Out, "target"), line(OutputStream::Out, "none")]);
        assert_eq!((pane.len(), end(&pane)), (3, "target"));
        pane.set_filter(LinePattern::new("GET"));
        assert_eq!(pane.len(), 1, "uppercase makes it case-sensitive");
        pane.set_filter(None);
        pane.set_streams(StreamFilter::Err);
        assert_eq!((pane.len(), end(&pane)), (1, "oops"));
    }

    #[test]
    fn search_moves_between_matches() {
        let mut pane = pane(&["x 1", "y", "x 2", "y"]);
        assert!(pane.set_search(LinePattern::new("x")));
        assert_eq!(end(&pane), "x 2");
        assert!(pane.find_older());
        assert_eq!(end(&pane), "x 1");
        assert!(!pane.find_older() && pane.find_newer());
        assert_eq!(end(&pane), "x 2");
        assert!(!pane.set_search(LinePattern::new("(none")), "an invalid expression is plain text");
    }
}
