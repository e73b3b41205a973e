//! The text of an ecosystem file: read with limits. Resolves byte ranges of it to locations.
//!
//! Environment variables may be secrets: a line that may belong to them is never quoted.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::config::diagnostics::{ConfigErrors, Diagnostic, Locate, Location, QuotePolicy};
use crate::config::parse::evaluate::{EvalError, EvalOutput, evaluate};
use crate::config::parse::format::{FileFormat, MAX_FILE_SIZE, STDIN};
use crate::config::parse::tree::{ConfigNode, json_paths};
use crate::config::resolve::search_path::SearchPath;
use crate::spec::origin::Fingerprint;
use crate::text::sanitize_lines;

/// Longer lines are not quoted. Bytes.
const MAX_SNIPPET: usize = 160;

const NOT_TEXT_HELP: &str = "use an ecosystem file, or `rsm start ./program` for a program";

/// A file and its text.
pub(crate) struct SourceText {
    /// The path, as the user named it.
    path: PathBuf,
    /// The content; for a script, its exports as JSON.
    pub(crate) text: String,
    /// The fingerprint of the file itself.
    pub(crate) fingerprint: Fingerprint,
    pub(crate) format: FileFormat,
    /// Warnings about the evaluation of a script.
    pub(crate) warnings: Vec<String>,
    /// For a script, the paths of the values by their position in the JSON.
    paths: Option<BTreeMap<usize, String>>,
}

impl SourceText {
    /// Reads the file, or standard input for `-`. A script is evaluated by the node found in `search`,
    /// and sees `command_line` as `process.argv`.
    pub(crate) fn read(
        path: &Path,
        search: &SearchPath,
        command_line: &[OsString],
    ) -> Result<Self, ConfigErrors> {
        let is_stdin = path == Path::new(STDIN);
        let shown = if is_stdin { PathBuf::from("standard input") } else { path.to_owned() };
        let bytes = if is_stdin { read_to_limit(std::io::stdin().lock()) } else { read_limited(path) };
        let decoded = bytes.and_then(|bytes| Ok((Fingerprint::of(&bytes), decode(bytes)?)));
        let (fingerprint, text) = decoded
            .map_err(|(message, help)| Diagnostic::error(Location::File(shown.clone()), message, help))?;
        match FileFormat::from_path(path).unwrap_or_else(|| FileFormat::detect(&text)) {
            FileFormat::Script => Self::evaluated(shown, fingerprint, search, command_line),
            format => Ok(Self { path: shown, text, fingerprint, format, warnings: Vec::new(), paths: None }),
        }
    }

    /// A text that is not in a file.
    #[cfg(test)]
    pub(crate) fn from_text(name: &str, text: &str) -> Self {
        let format = FileFormat::from_path(Path::new(name)).unwrap_or(FileFormat::Toml);
        let fingerprint = Fingerprint::of(text.as_bytes());
        Self { path: name.into(), text: text.into(), fingerprint, format, warnings: Vec::new(), paths: None }
    }

    /// The exports of a script.
    fn evaluated(
        path: PathBuf,
        fingerprint: Fingerprint,
        search: &SearchPath,
        command_line: &[OsString],
    ) -> Result<Self, ConfigErrors> {
        let absolute = crate::paths::absolute(&path);
        let EvalOutput { json, skipped, printed } = match evaluate(&absolute, search, command_line) {
            Ok(output) => output,
            Err(error) => return Err(eval_error(path, error).into()),
        };
        let shown = path.display();
        let mut warnings: Vec<String> = skipped
            .iter()
            .map(|value| format!("{shown}: {}: {}", sanitize_lines(&value.path), value.reason))
            .collect();
        if !printed.is_empty() {
            warnings.push(format!("output of {shown} during evaluation:\n{printed}"));
        }
        let paths = ConfigNode::from_json(&json).map(|node| json_paths(&node)).unwrap_or_default();
        let format = FileFormat::Script;
        Ok(Self { path, text: json, fingerprint, format, warnings, paths: Some(paths) })
    }

    /// The location of a value that a script exports.
    fn json_location(&self, paths: &BTreeMap<usize, String>, start: usize) -> Location {
        match paths.get(&start).filter(|path| !path.is_empty()) {
            Some(path) => Location::JsonPath { file: self.path.clone(), path: path.clone() },
            None => Location::File(self.path.clone()),
        }
    }

    /// The start of the character at `index`, or the end of the text.
    fn char_boundary(&self, index: usize) -> usize {
        (0..=index.min(self.text.len())).rev().find(|&index| self.text.is_char_boundary(index)).unwrap_or(0)
    }

    /// The end of the line at `index`, without its newline. `index` is a character boundary.
    fn line_end(&self, index: usize) -> usize {
        self.text[index..].find('\n').map_or(self.text.len(), |length| index + length)
    }

    /// Whether the line at `index` may belong to environment variables. Decided by the text alone, as a file with a
    /// syntax error has no structure; a line too many is better than a secret.
    fn is_secret(&self, index: usize) -> bool {
        for line in self.text[..self.line_end(index)].lines().rev() {
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

impl Locate for SourceText {
    fn locate(&self, span: &Range<usize>, policy: QuotePolicy) -> Location {
        if let Some(paths) = &self.paths {
            return self.json_location(paths, span.start);
        }
        let start = self.char_boundary(span.start);
        let head = &self.text[..start];
        let line_start = head.rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = self.line_end(start);
        let line = self.text[line_start..line_end].trim_end_matches('\r');
        let end = self.char_boundary(span.end).clamp(start, line_end);
        let quoted = match policy {
            QuotePolicy::Line => Some(line),
            // The rest of the line may be a variable in the wrong position.
            QuotePolicy::Key => {
                let is_first = head[line_start..].chars().all(|c| c == '[' || c.is_whitespace());
                is_first.then_some(&self.text[line_start..end])
            }
            QuotePolicy::None => None,
        };
        // In other formats, one line may hold a whole app with its variables.
        let is_quotable = self.format == FileFormat::Toml && !self.is_secret(start);
        let quoted = quoted.filter(|text| text.len() <= MAX_SNIPPET && is_quotable);
        Location::Span {
            file: self.path.clone(),
            line: head.matches('\n').count() + 1,
            column: head[line_start..].chars().count() + 1,
            snippet: quoted.map(|text| (text.to_owned(), self.text[start..end].chars().count())),
        }
    }
}

/// Message and help.
type ReadError = (String, &'static str);

fn decode(bytes: Vec<u8>) -> Result<String, ReadError> {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(("is UTF-16 text".into(), "save it as UTF-8"));
    }
    match String::from_utf8(bytes) {
        Ok(text) if text.contains('\0') => Err(("is not a text file".into(), NOT_TEXT_HELP)),
        // Some editors write a byte order mark, which no format accepts.
        Ok(text) => Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text)),
        Err(error) => {
            let valid = error.utf8_error().valid_up_to();
            Err((format!("is not valid UTF-8 (at byte {valid})"), NOT_TEXT_HELP))
        }
    }
}

fn eval_error(path: PathBuf, error: EvalError) -> Diagnostic {
    let location = match error.line {
        Some(line) => Location::Span { file: path, line, column: error.column.unwrap_or(1), snippet: None },
        None => Location::File(path),
    };
    Diagnostic::error(location, error.message, error.help)
}

fn read_limited(path: &Path) -> Result<Vec<u8>, ReadError> {
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

/// Opens without blocking: opening a FIFO without a writer would block.
fn open(path: &Path) -> io::Result<File> {
    File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)
}

/// The fingerprint of the content of an ecosystem file, as in [`crate::spec::origin::SpecOrigin`].
///
/// # Errors
/// The file cannot be read, or is not a regular file.
pub fn fingerprint_file(path: &Path) -> io::Result<Fingerprint> {
    let file = open(path)?;
    if !file.metadata()?.is_file() {
        return Err(ErrorKind::InvalidInput.into());
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE_SIZE + 1).read_to_end(&mut bytes)?;
    Ok(Fingerprint::of(&bytes))
}

/// Reads a file of at most [`MAX_FILE_SIZE`]. Its metadata is not used: the file may grow.
fn read_to_limit(file: impl Read) -> Result<Vec<u8>, ReadError> {
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
        match source.locate(&(at..at + 1), QuotePolicy::Line) {
            Location::Span { line, column, snippet, .. } => (line, column, snippet.is_some()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn locations_count_characters_from_one() {
        let text = source("a = 1\nnäme = é\r\n");
        assert_eq!(line_column(&text, 0), (1, 1, true));
        assert_eq!(line_column(&text, text.text.find('é').unwrap()), (2, 8, true));
        assert_eq!(line_column(&text, text.text.find('é').unwrap() + 1), (2, 8, true));
        assert_eq!(line_column(&text, 999), (3, 1, true));
    }

    #[test]
    fn environment_lines_are_not_quoted() {
        let text =
            source("[[apps]]\nname = 1\nenv = { A = 'x }\n[apps.env_prod]\nB = 'y\n[[apps]]\nname = 2\n");
        let quoted = |part: &str| line_column(&text, text.text.find(part).unwrap()).2;
        assert!(quoted("name = 1") && quoted("name = 2"));
        assert!(!quoted("'x") && !quoted("B ="));
    }

    #[test]
    fn unknown_key_is_quoted_without_rest_of_line() {
        let text = source("  KEY = 'x'\napp = { A = 'x', KEY = 'y' }\n");
        let quoted = |at: usize| match text.locate(&(at..at + 3), QuotePolicy::Key) {
            Location::Span { snippet, .. } => snippet,
            other => panic!("{other:?}"),
        };
        assert_eq!(quoted(2), Some(("  KEY".into(), 3)));
        assert_eq!(quoted(text.text.rfind("KEY").unwrap()), None);
    }

    #[test]
    fn reports_unreadable_files() {
        let dir = tempfile::tempdir().unwrap();
        let message = |name: &str, bytes: Option<&[u8]>| {
            let path = dir.path().join(name);
            if let Some(bytes) = bytes {
                std::fs::write(&path, bytes).unwrap();
            }
            SourceText::read(&path, &SearchPath::new(None, "/bin".as_ref(), Path::new("/")), &[])
                .err()
                .map(|errors| errors.0[0].message().to_owned())
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
