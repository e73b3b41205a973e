//! Diagnostics of a configuration: errors and warnings, each with its location and help.
//!
//! A diagnostic is created once, with its location resolved, and rendered once, by `Display`. [`Diagnostics`] collects
//! them while a configuration is read and resolved, so that all errors are reported together.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use crate::text::sanitize_lines;

/// More errors than this are not useful, and the location of each one requires a search in the file.
const MAX_ERRORS: usize = 100;

/// All errors of one file or command line, in the order of their locations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<Diagnostic>);

/// An error or a warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    severity: Severity,
    location: Location,
    /// The problem, without the location.
    message: String,
    /// How to solve it; may be empty.
    help: String,
}

/// How serious a diagnostic is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Severity {
    Error,
    Warning,
}

/// The location of a diagnostic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// The file as a whole.
    File(PathBuf),
    /// A part of a file.
    Span {
        /// The file, as the user named it.
        file: PathBuf,
        /// Counted from 1.
        line: usize,
        /// Counted from 1, in characters.
        column: usize,
        /// The text of the line and the width of the part in characters; absent if it could show a secret.
        snippet: Option<(String, usize)>,
    },
    /// A value exported by a script, whose position in the text of the script is unknown.
    JsonPath {
        /// The file, as the user named it.
        file: PathBuf,
        /// The path in JavaScript notation: `apps[2].instances`.
        path: String,
    },
    /// A flag or argument of the command.
    Flag(&'static str),
}

/// Where a setting was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SourceRef {
    /// Bytes of the file.
    Span(Range<usize>),
    /// Bytes of the file that are an unknown key: its value may be a secret, and is not quoted.
    Key(Range<usize>),
    /// Bytes of the file that belong to environment variables, which are never quoted.
    SecretSpan(Range<usize>),
    /// A flag or argument.
    Flag(&'static str),
}

/// A value and where it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Located<T> {
    pub(crate) value: T,
    pub(crate) source: SourceRef,
}

/// How much of a line may be quoted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QuotePolicy {
    /// The line, unless it looks like a part of an environment.
    Line,
    /// Only the key, and only if nothing precedes it on the line.
    Key,
    /// Nothing.
    None,
}

/// Resolves byte ranges of a file to locations.
pub(crate) trait Locate {
    /// The location of a byte range, with as much of the line as the policy allows.
    fn locate(&self, span: &Range<usize>, policy: QuotePolicy) -> Location;
}

/// Collects errors and warnings.
pub(crate) struct Diagnostics<'a> {
    source: Option<&'a dyn Locate>,
    errors: Vec<(SourceRef, Diagnostic)>,
    warnings: Vec<String>,
}

impl Diagnostic {
    /// An error; `help` may be empty.
    pub fn error(location: Location, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { severity: Severity::Error, location, message: message.into(), help: help.into() }
    }

    /// A warning.
    pub fn warning(location: Location, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, location, message: message.into(), help: String::new() }
    }

    /// The problem, without location and help.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl From<Diagnostic> for ConfigErrors {
    fn from(error: Diagnostic) -> Self {
        Self(vec![error])
    }
}

impl<'a> Diagnostics<'a> {
    /// Starts without errors, and with the warnings that reading the file caused.
    pub(crate) fn of_file(source: &'a dyn Locate, warnings: Vec<String>) -> Self {
        Self { source: Some(source), errors: Vec::new(), warnings }
    }

    /// Starts without errors and warnings.
    pub(crate) fn of_command_line() -> Self {
        Self { source: None, errors: Vec::new(), warnings: Vec::new() }
    }

    /// Adds an error; `help` may be empty.
    pub(crate) fn error(&mut self, source: &SourceRef, message: impl Into<String>, help: impl Into<String>) {
        if !self.is_full() {
            self.errors.push((source.clone(), Diagnostic::error(self.locate(source), message, help)));
        }
    }

    /// Adds a warning, unless there is an equal one: several instances of a setting cause the same warning.
    pub(crate) fn warn(&mut self, source: &SourceRef, message: impl Into<String>) {
        if self.warnings.len() >= MAX_ERRORS {
            return;
        }
        let warning = Diagnostic::warning(self.locate(source), message).to_string();
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    /// The number of errors.
    pub(crate) fn count(&self) -> usize {
        self.errors.len()
    }

    /// Whether further errors are dropped.
    pub(crate) fn is_full(&self) -> bool {
        self.errors.len() >= MAX_ERRORS
    }

    /// The result and the warnings if there is no error, else all errors in the order of the file.
    pub(crate) fn finish<T>(mut self, result: T) -> Result<(T, Vec<String>), ConfigErrors> {
        if self.errors.is_empty() {
            return Ok((result, self.warnings));
        }
        self.errors.sort_by_key(|(source, _)| match source {
            SourceRef::Span(span) | SourceRef::Key(span) | SourceRef::SecretSpan(span) => span.start,
            SourceRef::Flag(_) => 0,
        });
        Err(ConfigErrors(self.errors.into_iter().map(|(_, error)| error).collect()))
    }

    /// The location of a setting.
    pub(crate) fn locate(&self, source: &SourceRef) -> Location {
        let (span, policy) = match source {
            SourceRef::Flag(flag) => return Location::Flag(flag),
            SourceRef::Span(span) => (span, QuotePolicy::Line),
            SourceRef::Key(span) => (span, QuotePolicy::Key),
            SourceRef::SecretSpan(span) => (span, QuotePolicy::None),
        };
        self.source.map_or(Location::Flag("command line"), |source| source.locate(span, policy))
    }
}

impl fmt::Display for ConfigErrors {
    /// One block for each error, separated by blank lines.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, error) in self.0.iter().enumerate() {
            if number > 0 {
                writeln!(out)?;
            }
            error.fmt(out)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

impl fmt::Display for Diagnostic {
    /// An error is a block of lines, each with a newline; a warning is one line without it.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.location, sanitize_lines(&self.message))?;
        if self.severity == Severity::Warning {
            return Ok(());
        }
        writeln!(out)?;
        if let Location::Span { line, column, snippet: Some((text, width)), .. } = &self.location {
            underline(out, *line, *column, &sanitize_lines(text), *width)?;
        }
        if self.help.is_empty() { Ok(()) } else { writeln!(out, "help: {}", sanitize_lines(&self.help)) }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file) => write!(out, "{}", file.display()),
            Self::Flag(flag) => write!(out, "{flag}"),
            Self::JsonPath { file, path } => write!(out, "{}: {}", file.display(), sanitize_lines(path)),
            Self::Span { file, line, column, .. } => write!(out, "{}:{line}:{column}", file.display()),
        }
    }
}

/// Prints the line, with carets below the part. Tabs are kept in the margin, so that both lines align.
fn underline(
    out: &mut fmt::Formatter<'_>,
    line: usize,
    column: usize,
    text: &str,
    width: usize,
) -> fmt::Result {
    let (number, before) = (line.to_string(), column.saturating_sub(1));
    let margin: String = text.chars().take(before).map(|c| if c == '\t' { c } else { ' ' }).collect();
    let max_width = text.chars().count().saturating_sub(before).max(1);
    writeln!(out, "  {number} | {text}")?;
    writeln!(out, "  {:>1$} | {margin}{2}", "", number.len(), "^".repeat(width.clamp(1, max_width)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(column: usize, text: &str, width: usize) -> Location {
        Location::Span { file: "e.toml".into(), line: 12, column, snippet: Some((text.into(), width)) }
    }

    #[test]
    fn error_shows_location_line_and_help() {
        let location = span(8, "\tport = \"x\"", 3);
        let error = Diagnostic::error(location, "invalid value for `port`", "write 8080");
        let text = "e.toml:12:8: invalid value for `port`\n  12 | \tport = \"x\"\n     | \t      ^^^\nhelp: write 8080\n";
        assert_eq!(error.to_string(), text);
    }

    #[test]
    fn blank_line_separates_errors() {
        let flag = Diagnostic::error(Location::Flag("--name"), "is empty", "");
        let file = Diagnostic::error(Location::File("e.toml".into()), "is a directory", "");
        assert_eq!(
            ConfigErrors(vec![flag, file]).to_string(),
            "--name: is empty\n\ne.toml: is a directory\n"
        );
    }

    #[test]
    fn warning_is_one_line_and_not_repeated() {
        let mut diagnostics = Diagnostics::of_command_line();
        for _ in 0..2 {
            diagnostics.warn(&SourceRef::Flag("--watch"), "watched path /x not found");
        }
        let (_, warnings) = diagnostics.finish(()).unwrap();
        assert_eq!(warnings, ["--watch: watched path /x not found"]);
    }

    #[test]
    fn control_characters_are_replaced() {
        let error = Diagnostic::error(span(1, "a = [", 3), "\u{1b}[2Jx", "");
        assert!(!error.to_string().contains('\u{1b}'));
    }

    #[test]
    fn carets_stay_within_line() {
        let error = Diagnostic::error(span(4, "a = [", 90), "m", "");
        assert!(error.to_string().contains("|    ^^\n"), "{error}");
    }

    #[test]
    fn column_outside_of_line_does_not_panic() {
        for column in [0, 99] {
            assert!(Diagnostic::error(span(column, "a", 1), "m", "").to_string().contains('^'));
        }
    }
}
