//! Rotated files: their names, their order, and the settings of rotation.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use jiff::Timestamp;

use crate::logs::timestamp::TimestampFormat;
use crate::schedule::Schedule;
use crate::spec::Rotation;

/// Between the name of a log file and the date of its rotation, as in pm2-logrotate.
const DATE_SEPARATOR: &str = "__";
const GZIP_SUFFIX: &str = ".gz";

/// Rotation settings with the schedule parsed, shared by all files that have the same settings.
#[derive(Debug)]
pub(crate) struct RotationPolicy {
    pub(crate) settings: Arc<Rotation>,
    schedule: Option<Schedule>,
}

impl RotationPolicy {
    /// A schedule that cannot be parsed never matches: the config was validated before.
    pub(crate) fn new(settings: &Arc<Rotation>) -> Self {
        let pattern = settings.schedule.as_deref();
        let schedule = pattern.and_then(|pattern| Schedule::parse_syntax(pattern).ok());
        Self { settings: Arc::clone(settings), schedule }
    }

    /// The first scheduled rotation after `time` in local time; both are milliseconds since the epoch.
    pub(crate) fn next_rotation(&self, time: i64) -> Option<i64> {
        self.schedule.as_ref()?.next_after_ms(time)
    }
}

/// A rotated file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RotatedFile {
    pub(crate) path: PathBuf,
    /// Bytes on the disk.
    pub(crate) size: u64,
    pub(crate) modified: SystemTime,
}

impl RotatedFile {
    pub(crate) fn is_compressed(&self) -> bool {
        is_gzip_path(&self.path)
    }

    /// Oldest first. Files with the same date are ordered by the number after it.
    pub(crate) fn age_order(&self, other: &Self) -> Ordering {
        (self.modified, rotation_number(&self.path), &self.path).cmp(&(
            other.modified,
            rotation_number(&other.path),
            &other.path,
        ))
    }
}

/// The file name of a log before and after the date: `api-out__` and `.log`.
fn name_parts(path: &Path) -> (String, String) {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let extension = path.extension().map(|extension| format!(".{}", extension.to_string_lossy()));
    (format!("{stem}{DATE_SEPARATOR}"), extension.unwrap_or_default())
}

/// The number after a date that several files share; 0 for the first of them.
fn rotation_number(path: &Path) -> u32 {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = name.strip_suffix(GZIP_SUFFIX).unwrap_or(&name);
    let date = name.rsplit(DATE_SEPARATOR).next().unwrap_or_default();
    date.split('.').nth(1).and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// The log file that a rotated file came from; the path itself if it is no rotated file.
pub(crate) fn log_path_of(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let name = name.strip_suffix(GZIP_SUFFIX).unwrap_or(name);
    let Some((stem, date)) = name.rsplit_once(DATE_SEPARATOR) else { return Some(path.with_file_name(name)) };
    // After the date come a number, if several files share it, and the extension of the log file.
    let extension = date.rsplit_once('.').map(|(_, extension)| extension);
    let log_name = match extension.filter(|extension| !extension.bytes().all(|c| c.is_ascii_digit())) {
        Some(extension) => format!("{stem}.{extension}"),
        None => stem.to_owned(),
    };
    Some(path.with_file_name(log_name))
}

/// Finds unused names for rotated files.
#[derive(Debug, Default)]
pub(crate) struct RotationNames {
    /// Date and number of the last name.
    last: Option<(Vec<u8>, u32)>,
}

impl RotationNames {
    /// A name for a file rotated now that no file has, compressed or not.
    pub(crate) fn next_free(&mut self, path: &Path, date_format: &str) -> PathBuf {
        let mut date = Vec::new();
        TimestampFormat::new(date_format).write(Timestamp::now().as_millisecond(), &mut date);
        // A date must not lead into another directory, and a dot separates it from the number.
        date.iter_mut().filter(|byte| matches!(byte, b'/' | b'\0' | b'.')).for_each(|byte| *byte = b'-');
        let mut number = match self.last.take() {
            Some((last, number)) if last == date => number + 1,
            _ => 0,
        };
        let (prefix, extension) = name_parts(path);
        let text = String::from_utf8_lossy(&date).into_owned();
        let free = loop {
            let suffix = if number == 0 { String::new() } else { format!(".{number}") };
            let name = path.with_file_name(format!("{prefix}{text}{suffix}{extension}"));
            if !name.exists() && !gzip_path(&name).exists() {
                break name;
            }
            number += 1;
        };
        self.last = Some((date, number));
        free
    }
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

/// Whether the file, or a directory on its path, does not exist.
pub(crate) fn is_not_found(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// The rotated files of a log file, oldest first; none if its directory does not exist.
///
/// # Errors
/// The directory cannot be read.
pub(crate) fn list_rotated(path: &Path) -> io::Result<Vec<RotatedFile>> {
    let Some(dir) = path.parent() else { return Ok(Vec::new()) };
    let (prefix, extension) = name_parts(path);
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if is_not_found(&error) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry?;
        if !is_rotated(&entry.file_name().to_string_lossy(), &prefix, &extension) {
            continue;
        }
        // The file may have been removed since the directory was read.
        let Ok(meta) = entry.metadata() else { continue };
        if let (true, Ok(modified)) = (meta.is_file(), meta.modified()) {
            files.push(RotatedFile { path: entry.path(), size: meta.len(), modified });
        }
    }
    // If a file exists in both forms, compression was interrupted before it removed the uncompressed one.
    let uncompressed = files.iter().filter(|file| !file.is_compressed());
    let duplicates: HashSet<PathBuf> = uncompressed.map(|file| gzip_path(&file.path)).collect();
    files.retain(|file| !duplicates.contains(&file.path));
    files.sort_by(RotatedFile::age_order);
    Ok(files)
}

fn is_rotated(name: &str, prefix: &str, extension: &str) -> bool {
    let name = name.strip_suffix(GZIP_SUFFIX).unwrap_or(name);
    let date = name.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(extension));
    // The name of another log file may begin with this one's; a date contains no separator.
    date.is_some_and(|date| !date.is_empty() && !date.contains(DATE_SEPARATOR))
}

#[cfg(test)]
mod tests {
    use crate::logs::files::rotation::*;

    #[test]
    fn rotation_names_are_unique_and_sorted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a-out.log");
        let mut names = RotationNames::default();
        let mut created = Vec::new();
        for n in 0..12 {
            let name = names.next_free(&path, "YYYY");
            std::fs::write(if n % 2 == 0 { gzip_path(&name) } else { name.clone() }, "x").unwrap();
            created.push(name);
        }
        // A restarted daemon does not know the last number, and still overwrites no file.
        created.push(RotationNames::default().next_free(&path, "YYYY"));
        std::fs::write(&created[12], "x").unwrap();
        assert!(created[11].to_string_lossy().ends_with(".11.log"), "{created:?}");
        let same_time = SystemTime::now();
        let mut files = list_rotated(&path).unwrap();
        files.iter_mut().for_each(|file| file.modified = same_time);
        files.sort_by(RotatedFile::age_order);
        let numbers: Vec<_> = files.iter().map(|file| rotation_number(&file.path)).collect();
        assert_eq!(numbers, (0..13).collect::<Vec<_>>());
    }

    #[test]
    fn list_contains_only_files_of_this_log() {
        for (name, is) in [
            ("a__2026.log", true),
            ("a__2026.1.log.gz", true),
            ("a.log", false),
            ("ab__2026.log", false),
            ("a__b__2026.log", false),
            ("a__.log", false),
            ("a__2026.txt", false),
        ] {
            assert_eq!(is_rotated(name, "a__", ".log"), is, "{name}");
        }
        assert_eq!(name_parts(Path::new("/l/noending")), ("noending__".into(), String::new()));
        assert!(list_rotated(Path::new("/nonexistent/a.log")).unwrap().is_empty());
    }

    #[test]
    fn date_does_not_change_directory() {
        let name = RotationNames::default().next_free(Path::new("/nonexistent/a.log"), "[../../etc/x.y]");
        assert_eq!(name, Path::new("/nonexistent/a__------etc-x-y.log"));
    }

    #[test]
    fn next_rotation_follows_schedule() {
        let policy = |schedule: &str| {
            RotationPolicy::new(&Arc::new(Rotation {
                schedule: Some(schedule.into()),
                ..Rotation::default()
            }))
        };
        let hourly = policy("0 * * * *");
        let first = hourly.next_rotation(1).unwrap();
        assert!(first > 1 && hourly.next_rotation(first).unwrap() == first + 3_600_000);
        assert_eq!(policy("nonsense").next_rotation(1), None);
    }
}
