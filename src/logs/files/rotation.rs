//! Rotated files: their names, their order, and which of them have to go.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use jiff::Timestamp;

use crate::logs::timestamp::TimestampFormat;
use crate::schedule::Schedule;
use crate::spec::Rotation;

/// Stands between a file's name and the date of its rotation, as with pm2-logrotate.
const DATE_SEPARATOR: &str = "__";
/// Ending of a compressed file.
pub(in crate::logs) const GZIP_SUFFIX: &str = ".gz";

/// A rotated file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::logs) struct RotatedFile {
    /// Where it is.
    pub(in crate::logs) path: PathBuf,
    /// Bytes on the disk.
    pub(in crate::logs) size: u64,
    /// When it was last written.
    pub(in crate::logs) modified: SystemTime,
}

impl RotatedFile {
    /// Whether it is compressed.
    pub(in crate::logs) fn is_compressed(&self) -> bool {
        self.path.as_os_str().as_encoded_bytes().ends_with(GZIP_SUFFIX.as_bytes())
    }

    /// Older files first. Several may bear the same date; then the number behind it counts.
    pub(in crate::logs) fn age_order(&self, other: &Self) -> Ordering {
        (self.modified, rotation_number(&self.path), &self.path).cmp(&(
            other.modified,
            rotation_number(&other.path),
            &other.path,
        ))
    }
}

/// A file's name around the date: `api-out__` and `.log`.
fn name_parts(path: &Path) -> (String, String) {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let ending = path.extension().map(|ending| format!(".{}", ending.to_string_lossy()));
    (format!("{stem}{DATE_SEPARATOR}"), ending.unwrap_or_default())
}

/// The number behind a date that several files share: 0 for the first.
fn rotation_number(path: &Path) -> u32 {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = name.strip_suffix(GZIP_SUFFIX).unwrap_or(&name);
    let date = name.rsplit(DATE_SEPARATOR).next().unwrap_or_default();
    date.split('.').nth(1).and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// Finds a free name for a file that is rotated now.
#[derive(Debug, Default)]
pub(in crate::logs) struct RotationNames {
    last: Option<(Vec<u8>, u32)>,
}

impl RotationNames {
    /// A name that no file has, packed or not.
    pub(in crate::logs) fn next_free(&mut self, path: &Path, format: &str) -> PathBuf {
        let mut date = Vec::new();
        TimestampFormat::new(format).write(Timestamp::now().as_millisecond(), &mut date);
        // A date must not lead into another directory, and the dot belongs to the number.
        date.iter_mut().filter(|byte| matches!(byte, b'/' | b'\0' | b'.')).for_each(|byte| *byte = b'-');
        let mut count = match self.last.take() {
            Some((last, count)) if last == date => count + 1,
            _ => 0,
        };
        let (before, after) = name_parts(path);
        let text = String::from_utf8_lossy(&date).into_owned();
        let free = loop {
            let number = if count == 0 { String::new() } else { format!(".{count}") };
            let name = path.with_file_name(format!("{before}{text}{number}{after}"));
            if !name.exists() && !gzip_path(&name).exists() {
                break name;
            }
            count += 1;
        };
        self.last = Some((date, count));
        free
    }
}

/// The name of a file once it is compressed.
pub(in crate::logs) fn gzip_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(GZIP_SUFFIX);
    name.into()
}

/// Whether an error says that there is no such file, or that its directory is none.
pub(in crate::logs) fn is_not_found(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// The rotated files of a log file, oldest first.
///
/// # Errors
/// Its directory cannot be read. One that is not there has none.
pub(in crate::logs) fn list_rotated(path: &Path) -> io::Result<Vec<RotatedFile>> {
    let Some(dir) = path.parent() else { return Ok(Vec::new()) };
    let (before, after) = name_parts(path);
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if is_not_found(&error) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        if !is_rotated(&name.to_string_lossy(), &before, &after) {
            continue;
        }
        // Removed since the directory was read: as if it had not been there.
        let Ok(meta) = entry.metadata() else { continue };
        if let (true, Ok(written)) = (meta.is_file(), meta.modified()) {
            found.push(RotatedFile { path: entry.path(), size: meta.len(), modified: written });
        }
    }
    // A packed file whose origin is still there: its packer was killed between two steps.
    let whole: HashSet<PathBuf> =
        found.iter().filter(|file| !file.is_compressed()).map(|file| gzip_path(&file.path)).collect();
    found.retain(|file| !whole.contains(&file.path));
    found.sort_by(RotatedFile::age_order);
    Ok(found)
}

fn is_rotated(name: &str, before: &str, after: &str) -> bool {
    let name = name.strip_suffix(GZIP_SUFFIX).unwrap_or(name);
    let date = name.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
    // Another file's name may go on behind this one's; a date has no joint in it.
    date.is_some_and(|date| !date.is_empty() && !date.contains(DATE_SEPARATOR))
}

/// Which rotated files of one log file (oldest first) have to go by count and age.
pub(in crate::logs) fn expired_files<'r>(
    files: &'r [RotatedFile],
    policy: &Rotation,
    now: SystemTime,
) -> &'r [RotatedFile] {
    let keep = policy.retain.map_or(files.len(), |keep| usize::try_from(keep).unwrap_or(usize::MAX));
    let by_count = files.len().saturating_sub(keep);
    let old = |file: &RotatedFile| match policy.max_age {
        Some(age) => now.duration_since(file.modified).is_ok_and(|passed| passed.as_millis() > age.into()),
        None => false,
    };
    let by_age = files.iter().take_while(|file| old(file)).count();
    &files[..by_count.max(by_age)]
}

/// How many of these files (oldest first) have to go so that with `others` bytes all are at
/// most `most`.
pub(in crate::logs) fn excess_files(files: &[RotatedFile], others: u64, most: u64) -> usize {
    let mut total = files.iter().map(|file| file.size).sum::<u64>().saturating_add(others);
    files
        .iter()
        .take_while(|file| {
            let over = total > most;
            total = total.saturating_sub(file.size);
            over
        })
        .count()
}

/// The next time of a schedule after `from` (milliseconds since the epoch), in local time.
pub(in crate::logs) fn next_rotation(schedule: &str, from: i64) -> Option<i64> {
    Schedule::parse_syntax(schedule).ok()?.next_after_ms(from)
}

#[cfg(test)]
mod tests {
    use crate::logs::files::rotation::*;
    use std::time::Duration;

    fn file(name: &str, size: u64, written: u64) -> RotatedFile {
        RotatedFile {
            path: name.into(),
            size,
            modified: SystemTime::UNIX_EPOCH + Duration::from_secs(written),
        }
    }

    #[test]
    fn names_are_free_and_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a-out.log");
        let mut names = RotationNames::default();
        let mut made = Vec::new();
        for n in 0..12 {
            let name = names.next_free(&path, "YYYY");
            std::fs::write(if n % 2 == 0 { gzip_path(&name) } else { name.clone() }, "x").unwrap();
            made.push(name);
        }
        // After a restart nothing is known of them, and none is overwritten.
        made.push(RotationNames::default().next_free(&path, "YYYY"));
        std::fs::write(&made[12], "x").unwrap();
        assert!(made[11].to_string_lossy().ends_with(".11.log"), "{made:?}");
        let same_time = SystemTime::now();
        let mut found = list_rotated(&path).unwrap();
        found.iter_mut().for_each(|file| file.modified = same_time);
        found.sort_by(RotatedFile::age_order);
        let found: Vec<_> = found.iter().map(|file| rotation_number(&file.path)).collect();
        assert_eq!(found, (0..13).collect::<Vec<_>>());
    }

    #[test]
    fn only_a_files_own_rotated_ones_are_found() {
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
    fn a_date_stays_in_its_directory() {
        let name = RotationNames::default().next_free(Path::new("/nonexistent/a.log"), "[../../etc/x.y]");
        assert_eq!(name, Path::new("/nonexistent/a__------etc-x-y.log"));
    }

    #[test]
    fn count_age_and_size_decide_what_goes() {
        let files = [file("1", 5, 10), file("2", 5, 20), file("3", 5, 30)];
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(40);
        let gone = |keep, max_age| {
            expired_files(&files, &Rotation { retain: keep, max_age, ..Rotation::default() }, now).len()
        };
        assert_eq!(gone(None, None), 0);
        assert_eq!(gone(Some(1), None), 2);
        assert_eq!(gone(Some(0), None), 3);
        assert_eq!(gone(None, Some(15_000)), 2);
        assert_eq!(gone(Some(2), Some(15_000)), 2);
        for (others, most, count) in [(0, 15, 0), (0, 14, 1), (10, 15, 2), (100, 15, 3)] {
            assert_eq!(excess_files(&files, others, most), count);
        }
    }

    #[test]
    fn schedules_go_on() {
        let first = next_rotation("0 * * * *", 1).unwrap();
        assert!(first > 1 && next_rotation("0 * * * *", first).unwrap() == first + 3_600_000);
        assert_eq!(next_rotation("nonsense", 1), None);
    }
}
