//! The text of a configuration file: read with limits, and places in it found.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::mistake::{Mistake, Place};

/// The largest file read. A hundred times what the largest known ecosystem files need.
pub(super) const LIMIT: u64 = 1 << 20;

/// Lines longer than this are not quoted whole; nobody reads them on a terminal.
const QUOTED: usize = 160;

/// A file and its text.
pub(super) struct Source {
    /// As the user named it.
    pub(super) path: PathBuf,
    /// What it holds.
    pub(super) text: String,
}

impl Source {
    /// Reads the file.
    pub(super) fn read(path: &Path) -> Result<Self, Mistake> {
        let fail = |message: String, help: &str| Mistake {
            place: Place::File(path.to_owned()),
            message,
            help: (!help.is_empty()).then(|| help.to_owned()),
        };
        let bytes = read_limited(path).map_err(|(message, help)| fail(message, help))?;
        match String::from_utf8(bytes) {
            Ok(text) if text.contains('\0') => Err(fail("is not a text file".into(), NOT_TEXT)),
            Ok(text) => Ok(Self { path: path.to_owned(), text }),
            Err(error) => {
                let at = error.utf8_error().valid_up_to();
                Err(fail(format!("is not UTF-8 text (byte {at} cannot be read)"), NOT_TEXT))
            }
        }
    }

    /// Turns a stretch of bytes into a place people can find.
    pub(super) fn place(&self, span: &Range<usize>, quoted: Quoted) -> Place {
        let start = self.boundary(span.start);
        let head = &self.text[..start];
        let line_start = head.rfind('\n').map_or(0, |at| at + 1);
        let line_end = self.text[start..].find('\n').map_or(self.text.len(), |at| start + at);
        let line = self.text[line_start..line_end].trim_end_matches('\r');
        let end = self.boundary(span.end).clamp(start, line_end);
        let shown = match quoted {
            Quoted::Line => Some(line),
            // What stands before or behind it may be a variable put in the wrong place.
            Quoted::Key => {
                let first = head[line_start..].chars().all(|c| c == '[' || c.is_whitespace());
                first.then_some(&self.text[line_start..end])
            }
            Quoted::No => None,
        };
        let shown = shown.filter(|text| text.len() <= QUOTED && !self.is_environment(start));
        Place::Span {
            file: self.path.clone(),
            line: head.matches('\n').count() + 1,
            column: head[line_start..].chars().count() + 1,
            quote: shown.map(|text| (text.to_owned(), self.text[start..end].chars().count())),
        }
    }

    /// The nearest place at or before `at` that does not cut a character.
    fn boundary(&self, at: usize) -> usize {
        (0..=at.min(self.text.len())).rev().find(|&at| self.text.is_char_boundary(at)).unwrap_or(0)
    }

    /// Whether `at` may lie among environment variables. Judged by the text alone, since in a
    /// broken file there is no structure to ask, and rather too often than too seldom.
    fn is_environment(&self, at: usize) -> bool {
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
pub(super) enum Quoted {
    /// It may, unless it looks like part of an environment.
    Line,
    /// Only the key that the place is, and only where nothing stands before it.
    Key,
    /// It holds something secret.
    No,
}

const NOT_TEXT: &str = "name an ecosystem.toml; a program is started with `rsm start ./program`";

/// The file's bytes, or what is wrong and what to do.
fn read_limited(path: &Path) -> Result<Vec<u8>, (String, &'static str)> {
    // Non-blocking, so that a FIFO without a writer cannot hang the command.
    let opened = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = opened.map_err(|error| match error.kind() {
        ErrorKind::NotFound => {
            ("no such file".to_owned(), "check the path, or write one: docs/ecosystem.md shows how")
        }
        ErrorKind::PermissionDenied => ("may not be read by you".into(), "check its owner and mode (ls -l)"),
        _ => (format!("cannot be opened: {error}"), ""),
    })?;
    let meta = file.metadata().map_err(|error| (format!("cannot be examined: {error}"), ""))?;
    if meta.is_dir() {
        return Err(("is a directory".into(), "name the file in it, such as ecosystem.toml"));
    }
    if !meta.is_file() {
        return Err(("is not a regular file".into(), "write the configuration to a file first"));
    }
    let mut bytes = Vec::new();
    // The limit holds for what is read, not for the size stated: the file may be growing.
    file.take(LIMIT + 1).read_to_end(&mut bytes).map_err(|error| (format!("cannot be read: {error}"), ""))?;
    if bytes.len() as u64 > LIMIT {
        return Err(("is larger than 1 MiB".into(), "is this the right file? Split a real one into several"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source { path: "e.toml".into(), text: text.into() }
    }

    fn line_column(source: &Source, at: usize) -> (usize, usize, bool) {
        match source.place(&(at..at + 1), Quoted::Line) {
            Place::Span { line, column, quote, .. } => (line, column, quote.is_some()),
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
        let quoted = |at: usize| match text.place(&(at..at + 3), Quoted::Key) {
            Place::Span { quote, .. } => quote,
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
            Source::read(&path).err().map(|mistake| mistake.message).unwrap_or_default()
        };
        assert_eq!(message("absent.toml", None), "no such file");
        assert_eq!(message("", None), "is a directory");
        assert_eq!(
            message("binary.toml", Some(b"\x7fELF\0\xff")),
            "is not UTF-8 text (byte 5 cannot be read)"
        );
        assert_eq!(message("nul.toml", Some(b"a\0b")), "is not a text file");
        assert_eq!(message("big.toml", Some(&vec![b' '; LIMIT as usize + 1])), "is larger than 1 MiB");
        assert_eq!(message("fine.toml", Some(&vec![b' '; LIMIT as usize])), "");
        nix::unistd::mkfifo(&dir.path().join("fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert_eq!(message("fifo", None), "is not a regular file");
    }
}
