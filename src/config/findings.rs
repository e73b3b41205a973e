//! Collects what is wrong and what is worth a word, so that all of it can be told at once.

use std::ops::Range;

use super::mistake::{Mistake, Mistakes, Place};
use super::source::{Quoted, Source};
use crate::text::sanitize_lines;

/// Where a setting was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum At {
    /// These bytes of the file.
    Span(Range<usize>),
    /// The same, a key nobody knows: its value may be a secret, and is not quoted.
    Key(Range<usize>),
    /// The same, among environment variables: never quoted.
    Secret(Range<usize>),
    /// This flag or argument.
    Flag(&'static str),
}

/// A setting as given, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Given<T> {
    /// What was given.
    pub(super) value: T,
    /// Where.
    pub(super) at: At,
}

/// More mistakes than this help nobody, and finding the place of each takes a look at the file.
const MOST: usize = 100;

/// Mistakes and warnings so far.
pub(super) struct Findings<'a> {
    source: Option<&'a Source>,
    mistakes: Vec<(At, Mistake)>,
    warnings: Vec<String>,
}

impl<'a> Findings<'a> {
    /// None so far; places are those of `source`.
    pub(super) fn new(source: Option<&'a Source>) -> Self {
        let warnings = source.map(|source| source.remarks.clone()).unwrap_or_default();
        Self { source, mistakes: Vec::new(), warnings }
    }

    /// Notes a mistake; an empty `help` is none.
    pub(super) fn mistake(&mut self, at: &At, message: impl Into<String>, help: impl Into<String>) {
        if self.is_full() {
            return;
        }
        let (message, help) = (message.into(), help.into());
        let place = self.place(at);
        let help = (!help.is_empty()).then_some(help);
        self.mistakes.push((at.clone(), Mistake { place, message, help }));
    }

    /// Notes something to be told though the configuration is usable.
    pub(super) fn warn(&mut self, at: &At, message: impl AsRef<str>) {
        if self.warnings.len() >= MOST {
            return;
        }
        let message = sanitize_lines(message.as_ref());
        let warning = match self.place(at) {
            Place::Span { file, line, column, .. } => {
                format!("{}:{line}:{column}: {message}", file.display())
            }
            Place::File(file) => format!("{}: {message}", file.display()),
            Place::Flag(flag) => format!("{flag}: {message}"),
            Place::Path { file, path } => format!("{}: {}: {message}", file.display(), sanitize_lines(&path)),
        };
        // The same word for each instance of the same thing helps nobody.
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    /// How many mistakes there are so far.
    pub(super) fn count(&self) -> usize {
        self.mistakes.len()
    }

    /// Whether there are so many that looking for more is of no use.
    pub(super) fn is_full(&self) -> bool {
        self.mistakes.len() >= MOST
    }

    /// The result and the warnings if there was no mistake, else all mistakes from top to bottom.
    pub(super) fn finish<T>(mut self, result: T) -> Result<(T, Vec<String>), Mistakes> {
        if self.mistakes.is_empty() {
            return Ok((result, self.warnings));
        }
        self.mistakes.sort_by_key(|(at, _)| match at {
            At::Span(span) | At::Key(span) | At::Secret(span) => span.start,
            At::Flag(_) => 0,
        });
        Err(Mistakes(self.mistakes.into_iter().map(|(_, mistake)| mistake).collect()))
    }

    fn place(&self, at: &At) -> Place {
        match (at, self.source) {
            (At::Flag(flag), _) => Place::Flag(flag),
            (At::Span(span), Some(source)) => source.place(span, Quoted::Line),
            (At::Key(span), Some(source)) => source.place(span, Quoted::Key),
            (At::Secret(span), Some(source)) => source.place(span, Quoted::No),
            (At::Span(_) | At::Key(_) | At::Secret(_), None) => Place::Flag("command line"),
        }
    }
}
