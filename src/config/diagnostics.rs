//! Collects what is wrong and what is worth a word, so that all of it can be told at once.

use std::ops::Range;

use crate::config::mistake::{ConfigError, ConfigErrors, Location};
use crate::config::parse::source::{QuotePolicy, SourceText};
use crate::text::sanitize_lines;

/// Where a setting was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SourceRef {
    /// These bytes of the file.
    Span(Range<usize>),
    /// The same, a key nobody knows: its value may be a secret, and is not quoted.
    Key(Range<usize>),
    /// The same, among environment variables: never quoted.
    SecretSpan(Range<usize>),
    /// This flag or argument.
    Flag(&'static str),
}

/// A setting as given, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Located<T> {
    /// What was given.
    pub(super) value: T,
    /// Where.
    pub(super) source: SourceRef,
}

/// More mistakes than this help nobody, and finding the place of each takes a look at the file.
const MAX_ERRORS: usize = 100;

/// Mistakes and warnings so far.
pub(super) struct Diagnostics<'a> {
    source: Option<&'a SourceText>,
    errors: Vec<(SourceRef, ConfigError)>,
    warnings: Vec<String>,
}

impl<'a> Diagnostics<'a> {
    /// None so far; places are those of `source`.
    pub(super) fn new(source: Option<&'a SourceText>) -> Self {
        let warnings = source.map(|source| source.notes.clone()).unwrap_or_default();
        Self { source, errors: Vec::new(), warnings }
    }

    /// Notes a mistake; an empty `help` is none.
    pub(super) fn error(&mut self, at: &SourceRef, message: impl Into<String>, help: impl Into<String>) {
        if self.is_full() {
            return;
        }
        let (message, help) = (message.into(), help.into());
        let place = self.locate(at);
        let help = (!help.is_empty()).then_some(help);
        self.errors.push((at.clone(), ConfigError { location: place, message, help }));
    }

    /// Notes something to be told though the configuration is usable.
    pub(super) fn warn(&mut self, at: &SourceRef, message: impl AsRef<str>) {
        if self.warnings.len() >= MAX_ERRORS {
            return;
        }
        let message = sanitize_lines(message.as_ref());
        let warning = match self.locate(at) {
            Location::Span { file, line, column, .. } => {
                format!("{}:{line}:{column}: {message}", file.display())
            }
            Location::File(file) => format!("{}: {message}", file.display()),
            Location::Flag(flag) => format!("{flag}: {message}"),
            Location::JsonPath { file, path } => {
                format!("{}: {}: {message}", file.display(), sanitize_lines(&path))
            }
        };
        // The same word for each instance of the same thing helps nobody.
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    /// How many mistakes there are so far.
    pub(super) fn count(&self) -> usize {
        self.errors.len()
    }

    /// Whether there are so many that looking for more is of no use.
    pub(super) fn is_full(&self) -> bool {
        self.errors.len() >= MAX_ERRORS
    }

    /// The result and the warnings if there was no mistake, else all mistakes from top to bottom.
    pub(super) fn finish<T>(mut self, result: T) -> Result<(T, Vec<String>), ConfigErrors> {
        if self.errors.is_empty() {
            return Ok((result, self.warnings));
        }
        self.errors.sort_by_key(|(at, _)| match at {
            SourceRef::Span(span) | SourceRef::Key(span) | SourceRef::SecretSpan(span) => span.start,
            SourceRef::Flag(_) => 0,
        });
        Err(ConfigErrors(self.errors.into_iter().map(|(_, mistake)| mistake).collect()))
    }

    fn locate(&self, at: &SourceRef) -> Location {
        match (at, self.source) {
            (SourceRef::Flag(flag), _) => Location::Flag(flag),
            (SourceRef::Span(span), Some(source)) => source.location(span, QuotePolicy::Line),
            (SourceRef::Key(span), Some(source)) => source.location(span, QuotePolicy::Key),
            (SourceRef::SecretSpan(span), Some(source)) => source.location(span, QuotePolicy::None),
            (SourceRef::Span(_) | SourceRef::Key(_) | SourceRef::SecretSpan(_), None) => {
                Location::Flag("command line")
            }
        }
    }
}
