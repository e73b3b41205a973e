//! The text of a configuration file: read with limits, and places in it found.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::config::mistake::{ConfigError, Location};
use crate::config::parse::evaluate::{EvalError, EvalOutput, evaluate};
use crate::config::parse::format::{FileFormat, MAX_FILE_SIZE, STDIN};
use crate::config::parse::tree::{ConfigNode, json_paths};
use crate::config::resolve::search_path::SearchPath;
use crate::spec::origin::Fingerprint;
use crate::text::sanitize_lines;

/// Lines longer than this are not quoted whole; nobody reads them on a terminal.
const MAX_SNIPPET: usize = 160;

/// A file and its text.
pub(in crate::config) struct SourceText {
    /// As the user named it.
    pub(in crate::config) path: PathBuf,
    /// What it holds; what a script exports, as JSON.
    pub(in crate::config) text: String,
    /// What is in the file itself.
    pub(in crate::config) fingerprint: Fingerprint,
    /// How to read it.
    pub(in crate::config) format: FileFormat,
    /// What to tell the user besides.
    pub(in crate::config) notes: Vec<String>,
    /// Of a script, what stands where in the JSON.
    paths: Option<BTreeMap<usize, String>>,
}

impl SourceText {
    /// Reads the file, or standard input for `-`. A script is evaluated by the node found in `search`.
    pub(in crate::config) fn read(path: &Path, search: &SearchPath) -> Result<Self, ConfigError> {
        let stdin = path == Path::new(STDIN);
        let named = if stdin { PathBuf::from("standard input") } else { path.to_owned() };
        let fail = |message: String, help: &str| ConfigError {
            location: Location::File(named.clone()),
            message,
            help: (!help.is_empty()).then(|| help.to_owned()),
        };
        let bytes = if stdin { read_to_limit(std::io::stdin().lock()) } else { read_limited(path) };
        let bytes = bytes.map_err(|(message, help)| fail(message, help))?;
        let content = Fingerprint::of(&bytes);
        if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
            return Err(fail("is UTF-16 text".into(), "save it as UTF-8"));
        }
        let text = match String::from_utf8(bytes) {
            Ok(text) if text.contains('\0') => return Err(fail("is not a text file".into(), NOT_TEXT_HELP)),
            Ok(text) => text,
            Err(error) => {
                let at = error.utf8_error().valid_up_to();
                return Err(fail(format!("is not valid UTF-8 (at byte {at})"), NOT_TEXT_HELP));
            }
        };
        // Editors on other systems begin a file so; no format means anything by it.
        let text = text.strip_prefix('\u{feff}').map_or(text.clone(), str::to_owned);
        let format = FileFormat::from_path(path).unwrap_or_else(|| FileFormat::detect(&text));
        match format {
            FileFormat::Script => Self::evaluated(named, content, search),
            _ => Ok(Self { path: named, text, fingerprint: content, format, notes: Vec::new(), paths: None }),
        }
    }

    /// A file's text without the file.
    #[cfg(test)]
    pub(in crate::config) fn from_text(name: &str, text: &str) -> Self {
        let format = FileFormat::from_path(Path::new(name)).unwrap_or(FileFormat::Toml);
        let content = Fingerprint::of(text.as_bytes());
        Self {
            path: name.into(),
            text: text.into(),
            fingerprint: content,
            format,
            notes: Vec::new(),
            paths: None,
        }
    }

    /// What a script exports.
    fn evaluated(path: PathBuf, content: Fingerprint, search: &SearchPath) -> Result<Self, ConfigError> {
        let absolute = std::path::absolute(&path).unwrap_or_else(|_| path.clone());
        let EvalOutput { json, skipped: left, printed } = match evaluate(&absolute, search) {
            Ok(exported) => exported,
            Err(failure) => return Err(eval_error(path, failure)),
        };
        let named = path.display();
        let mut remarks: Vec<String> = left
            .iter()
            .map(|left| format!("{named}: {}: {}", sanitize_lines(&left.path), left.reason))
            .collect();
        if !printed.is_empty() {
            remarks.push(format!("output of {named} during evaluation:\n{printed}"));
        }
        let paths = ConfigNode::from_json(&json).map(|node| json_paths(&node)).unwrap_or_default();
        Ok(Self {
            path,
            text: json,
            fingerprint: content,
            format: FileFormat::Script,
            notes: remarks,
            paths: Some(paths),
        })
    }

    /// Turns a stretch of bytes into a place people can find.
    pub(in crate::config) fn location(&self, span: &Range<usize>, quoted: QuotePolicy) -> Location {
        if let Some(paths) = &self.paths {
            return match paths.get(&span.start).filter(|path| !path.is_empty()) {
                Some(path) => Location::JsonPath { file: self.path.clone(), path: path.clone() },
                None => Location::File(self.path.clone()),
            };
        }
        let start = self.char_boundary(span.start);
        let head = &self.text[..start];
        let line_start = head.rfind('\n').map_or(0, |at| at + 1);
        let line_end = self.text[start..].find('\n').map_or(self.text.len(), |at| start + at);
        let line = self.text[line_start..line_end].trim_end_matches('\r');
        let end = self.char_boundary(span.end).clamp(start, line_end);
        let shown = match quoted {
            QuotePolicy::Line => Some(line),
            // What stands before or behind it may be a variable put in the wrong place.
            QuotePolicy::Key => {
                let first = head[line_start..].chars().all(|c| c == '[' || c.is_whitespace());
                first.then_some(&self.text[line_start..end])
            }
            QuotePolicy::None => None,
        };
        // In other formats a whole app may stand on one line, with its variables.
        let plain = self.format == FileFormat::Toml && !self.is_secret(start);
        let shown = shown.filter(|text| text.len() <= MAX_SNIPPET && plain);
        Location::Span {
            file: self.path.clone(),
            line: head.matches('\n').count() + 1,
            column: head[line_start..].chars().count() + 1,
            snippet: shown.map(|text| (text.to_owned(), self.text[start..end].chars().count())),
        }
    }

    /// The nearest place at or before `at` that does not cut a character.
    fn char_boundary(&self, at: usize) -> usize {
        (0..=at.min(self.text.len())).rev().find(|&at| self.text.is_char_boundary(at)).unwrap_or(0)
    }

    /// Whether `at` may lie among environment variables. Judged by the text alone, since in a
    /// broken file there is no structure to ask, and rather too often than too seldom.
    fn is_secret(&self, at: usize) -> bool {
        let line_end = self.text[at..].find('\n').map_or(self.text.len(), |end| at + end);
        for line in self.text[..line_end].lines().rev() {
            let line = line.trim_start();
            if line.starts_with("env") || (line.starts_with('[') && line.contains("env")) {
                return true;
            }
            if line.starts_with('[') {
                return false;
            }
        }
        false
    }
}

/// Whether the line of a place may be shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::config) enum QuotePolicy {
    /// It may, unless it looks like part of an environment.
    Line,
    /// Only the key that the place is, and only where nothing stands before it.
    Key,
    /// It holds something secret.
    None,
}

/// The mistake of a script that cannot be evaluated.
fn eval_error(path: PathBuf, failure: EvalError) -> ConfigError {
    let place = match failure.line {
        Some(line) => Location::Span { file: path, line, column: failure.column.unwrap_or(1), snippet: None },
        None => Location::File(path),
    };
    let help = (!failure.help.is_empty()).then(|| failure.help.to_owned());
    ConfigError { location: place, message: failure.message, help }
}

const NOT_TEXT_HELP: &str = "use an ecosystem file, or `rsm start ./program` for a program";

/// The file's bytes, or what is wrong and what to do.
fn read_limited(path: &Path) -> Result<Vec<u8>, (String, &'static str)> {
    let file = open(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => {
            ("no such file".to_owned(), "check the path, or run `rsm init` to create an ecosystem file")
        }
        ErrorKind::PermissionDenied => ("permission denied".into(), "check its owner and mode (ls -l)"),
        _ => (format!("cannot be opened: {error}"), ""),
    })?;
    let meta = file.metadata().map_err(|error| (format!("cannot be read: {error}"), ""))?;
    if meta.is_dir() {
        return Err(("is a directory".into(), "use a file in it, such as ecosystem.toml"));
    }
    if !meta.is_file() {
        return Err(("is not a regular file".into(), "write the configuration to a file first"));
    }
    read_to_limit(file)
}

/// Non-blocking, so that a FIFO without a writer cannot hang who opens it.
fn open(path: &Path) -> io::Result<File> {
    File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)
}

/// What tells the content of a file from another, as in [`crate::spec::origin::Origin`].
///
/// # Errors
/// It cannot be read, or is no file that apps could come from.
pub fn fingerprint_file(path: &Path) -> io::Result<Fingerprint> {
    let file = open(path)?;
    if !file.metadata()?.is_file() {
        return Err(ErrorKind::InvalidInput.into());
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE_SIZE + 1).read_to_end(&mut bytes)?;
    Ok(Fingerprint::of(&bytes))
}

/// All of it, up to the limit. That holds for what is read, not for the size stated: a file may be
/// growing.
fn read_to_limit(file: impl Read) -> Result<Vec<u8>, (String, &'static str)> {
    let mut bytes = Vec::new();
    file.take(MAX_FILE_SIZE + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| (format!("cannot be read: {error}"), ""))?;
    if bytes.len() as u64 > MAX_FILE_SIZE {
        return Err(("is larger than 1 MiB".into(), "split it into several files"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use crate::config::parse::source::*;

    fn source(text: &str) -> SourceText {
        SourceText::from_text("e.toml", text)
    }

    fn line_column(source: &SourceText, at: usize) -> (usize, usize, bool) {
        match source.location(&(at..at + 1), QuotePolicy::Line) {
            Location::Span { line, column, snippet: quote, .. } => (line, column, quote.is_some()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn places_count_characters_from_one() {
        let text = source("a = 1\nnäme = é\r\n");
        assert_eq!(line_column(&text, 0), (1, 1, true));
        assert_eq!(line_column(&text, text.text.find('é').unwrap()), (2, 8, true));
        assert_eq!(line_column(&text, text.text.find('é').unwrap() + 1), (2, 8, true));
        assert_eq!(line_column(&text, 999), (3, 1, true));
    }

    #[test]
    fn lines_of_an_environment_are_not_quoted() {
        let text =
            source("[[apps]]\nname = 1\nenv = { A = 'x }\n[apps.env_prod]\nB = 'y\n[[apps]]\nname = 2\n");
        let quoted = |part: &str| line_column(&text, text.text.find(part).unwrap()).2;
        assert!(quoted("name = 1") && quoted("name = 2"));
        assert!(!quoted("'x") && !quoted("B ="));
    }

    #[test]
    fn an_unknown_key_is_quoted_without_its_neighbours() {
        let text = source("  KEY = 'x'\napp = { A = 'x', KEY = 'y' }\n");
        let quoted = |at: usize| match text.location(&(at..at + 3), QuotePolicy::Key) {
            Location::Span { snippet: quote, .. } => quote,
            other => panic!("{other:?}"),
        };
        assert_eq!(quoted(2), Some(("  KEY".into(), 3)));
        assert_eq!(quoted(text.text.rfind("KEY").unwrap()), None);
    }

    #[test]
    fn unreadable_files_are_named_with_a_way_out() {
        let dir = tempfile::tempdir().unwrap();
        let message = |name: &str, bytes: Option<&[u8]>| {
            let path = dir.path().join(name);
            if let Some(bytes) = bytes {
                std::fs::write(&path, bytes).unwrap();
            }
            SourceText::read(&path, &SearchPath::new(None, "/bin".as_ref(), Path::new("/")))
                .err()
                .map(|mistake| mistake.message)
                .unwrap_or_default()
        };
        assert_eq!(message("absent.toml", None), "no such file");
        assert_eq!(message("", None), "is a directory");
        assert_eq!(message("binary.toml", Some(b"\x7fELF\0\xff")), "is not valid UTF-8 (at byte 5)");
        assert_eq!(message("nul.toml", Some(b"a\0b")), "is not a text file");
        assert_eq!(message("wide.toml", Some(b"\xff\xfea\0")), "is UTF-16 text");
        assert_eq!(
            message("big.toml", Some(&vec![b' '; MAX_FILE_SIZE as usize + 1])),
            "is larger than 1 MiB"
        );
        assert_eq!(message("fine.toml", Some(&vec![b' '; MAX_FILE_SIZE as usize])), "");
        nix::unistd::mkfifo(&dir.path().join("fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert_eq!(message("fifo", None), "is not a regular file");
    }
}
