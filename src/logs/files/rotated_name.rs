//! Names of rotated files: `api-out.log` becomes `api-out__2026-03-01_00-00-00.log`, as with pm2-logrotate.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use jiff::Timestamp;
use regex::Regex;

use crate::logs::timestamp::TimestampFormat;
use crate::spec::Rotation;

/// Between the name of a log file and the date of its rotation.
const DATE_SEPARATOR: &str = "__";
const GZIP_SUFFIX: &str = ".gz";

/// The date format unless another is configured.
static DEFAULT_DATES: LazyLock<Option<Regex>> =
    LazyLock::new(|| date_regex(&Rotation::default().date_format));

/// The dates that a format produces in file names.
#[derive(Debug)]
pub(crate) struct DatePattern(Option<Regex>);

impl DatePattern {
    pub(crate) fn new(format: &str) -> Self {
        let is_default = format == Rotation::default().date_format;
        Self(if is_default { DEFAULT_DATES.clone() } else { date_regex(format) })
    }

    /// Whether a date has this format or the default format, which the app may have had before.
    pub(crate) fn matches(&self, date: &str) -> bool {
        [self.0.as_ref(), DEFAULT_DATES.as_ref()].into_iter().flatten().any(|dates| dates.is_match(date))
    }
}

fn date_regex(format: &str) -> Option<Regex> {
    Regex::new(&TimestampFormat::new(format).regex(&file_name_part)).ok()
}

/// A date must not lead into another directory, and a dot separates it from the number.
fn file_name_part(text: &str) -> String {
    text.replace(['/', '\0', '.'], "-")
}

/// What stands between the name of a log file and its extension.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RotationMark<'n> {
    pub(crate) date: &'n str,
    /// Number among files of the same date.
    pub(crate) number: u32,
}

impl RotationMark<'_> {
    /// Whether it looks like a date in any format.
    pub(crate) fn is_date_like(&self) -> bool {
        self.date.starts_with(|c: char| c.is_ascii_digit()) && !self.date.contains(DATE_SEPARATOR)
    }

    pub(crate) fn has_separator(&self) -> bool {
        self.date.contains(DATE_SEPARATOR)
    }
}

/// The file name of a log before and after the date: `api-out__` and `.log`.
pub(super) fn name_parts(path: &Path) -> (String, String) {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let extension = path.extension().map(|extension| format!(".{}", extension.to_string_lossy()));
    (format!("{stem}{DATE_SEPARATOR}"), extension.unwrap_or_default())
}

/// The mark in the name of a rotated file of a log; `None` for other names.
pub(super) fn rotation_mark<'n>(name: &'n str, prefix: &str, extension: &str) -> Option<RotationMark<'n>> {
    let name = name.strip_suffix(GZIP_SUFFIX).unwrap_or(name);
    parse_mark(name.strip_prefix(prefix)?.strip_suffix(extension)?)
}

fn parse_mark(text: &str) -> Option<RotationMark<'_>> {
    let (date, number) = match text.split_once('.') {
        Some((date, number)) if number.bytes().all(|c| c.is_ascii_digit()) => (date, number.parse().ok()?),
        Some(_) => return None,
        None => (text, 0),
    };
    (!date.is_empty()).then_some(RotationMark { date, number })
}

/// The log files that a rotated file of this name may come from, and its mark.
pub(crate) fn possible_logs(name: &str) -> Vec<(String, RotationMark<'_>)> {
    let name = name.strip_suffix(GZIP_SUFFIX).unwrap_or(name);
    let mut found = Vec::new();
    for (at, _) in name.char_indices().skip(1) {
        let Some(rest) = name[at..].strip_prefix(DATE_SEPARATOR) else { continue };
        let stem = &name[..at];
        if let Some(mark) = parse_mark(rest) {
            found.push((stem.to_owned(), mark));
        }
        if let Some((mark, extension)) = rest.rsplit_once('.')
            && let Some(mark) = parse_mark(mark)
        {
            found.push((format!("{stem}.{extension}"), mark));
        }
    }
    found
}

/// The number after a date that several files share; 0 for the first of them.
pub(super) fn rotation_number(path: &Path) -> u32 {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = name.strip_suffix(GZIP_SUFFIX).unwrap_or(&name);
    let date = name.rsplit(DATE_SEPARATOR).next().unwrap_or_default();
    date.split('.').nth(1).and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// Finds unused names for rotated files.
#[derive(Debug, Default)]
pub(crate) struct RotationNames {
    /// Date and number of the last name.
    last: Option<(String, u32)>,
}

impl RotationNames {
    /// A name for a file rotated now that no file has, compressed or not. `path` contains no symbolic links.
    pub(crate) fn next_free(&mut self, path: &Path, date_format: &str) -> PathBuf {
        let mut date = Vec::new();
        TimestampFormat::new(date_format).write(Timestamp::now().as_millisecond(), &mut date);
        let date = file_name_part(&String::from_utf8_lossy(&date));
        let mut number = match self.last.take() {
            Some((last, number)) if last == date => number + 1,
            _ => 0,
        };
        let (prefix, extension) = name_parts(path);
        let free = loop {
            let suffix = if number == 0 { String::new() } else { format!(".{number}") };
            let name = path.with_file_name(format!("{prefix}{date}{suffix}{extension}"));
            if !is_taken(&name) && !is_taken(&gzip_path(&name)) {
                break name;
            }
            number += 1;
        };
        self.last = Some((date, number));
        free
    }
}

fn is_taken(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// The path of a file once it is compressed.
pub(crate) fn gzip_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(GZIP_SUFFIX);
    name.into()
}

pub(crate) fn is_gzip_path(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().ends_with(GZIP_SUFFIX.as_bytes())
}

#[cfg(test)]
mod tests {
    use crate::logs::files::rotated_name::*;

    #[test]
    fn marks_are_a_date_and_a_number() {
        for (name, expected) in [
            ("a__2026.log", Some(("2026", 0))),
            ("a__2026.1.log.gz", Some(("2026", 1))),
            ("a__b__2026.log", Some(("b__2026", 0))),
            ("a.log", None),
            ("ab__2026.log", None),
            ("a__.log", None),
            ("a__2026.txt", None),
            ("a__2026.x.log", None),
        ] {
            let found = rotation_mark(name, "a__", ".log").map(|mark| (mark.date, mark.number));
            assert_eq!(found, expected, "{name}");
        }
        assert_eq!(name_parts(Path::new("/l/noending")), ("noending__".into(), String::new()));
        assert_eq!(rotation_mark("app__error.log", "app__", ""), None);
    }

    #[test]
    fn dates_have_the_format_of_the_log_or_the_default_format() {
        let dates = DatePattern::new("YYYY.MM.DD [of] ddd");
        for (date, is) in [
            ("2026-03-01 of Sun", true),
            ("2026-03-01_00-00-00", true),
            ("2026-03-01", false),
            ("worker", false),
            ("notes", false),
            ("2026-03-01_00-00-00x", false),
        ] {
            assert_eq!(dates.matches(date), is, "{date}");
        }
    }

    #[test]
    fn all_logs_that_a_name_may_come_from_are_found() {
        let logs = |name| -> Vec<String> { possible_logs(name).into_iter().map(|(log, _)| log).collect() };
        assert_eq!(logs("a__b__2026.1.log.gz"), ["a.log", "a__b.log"]);
        assert_eq!(logs("a__2026.log"), ["a.log"]);
        assert_eq!(logs("a__2026.7"), ["a", "a.7"]);
        assert_eq!(logs("my___2026.log"), ["my.log", "my_.log"]);
        assert!(logs("a.log").is_empty() && logs("__2026.log").is_empty());
    }

    #[test]
    fn date_does_not_change_directory() {
        let name = RotationNames::default().next_free(Path::new("/nonexistent/a.log"), "[../../etc/x.y]");
        assert_eq!(name, Path::new("/nonexistent/a__------etc-x-y.log"));
    }
}
