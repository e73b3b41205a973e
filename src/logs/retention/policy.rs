//! Retention policy: which rotated files are removed by count, age and size. Pure decisions.

use std::time::SystemTime;

use crate::logs::files::rotation::RotatedFile;
use crate::spec::Rotation;

/// The rotated files of one log file (oldest first) that exceed its number or age.
pub(super) fn expired_files<'r>(
    files: &'r [RotatedFile],
    settings: &Rotation,
    now: SystemTime,
) -> &'r [RotatedFile] {
    let retain = settings.retain.map_or(files.len(), |count| usize::try_from(count).unwrap_or(usize::MAX));
    let by_count = files.len().saturating_sub(retain);
    let is_too_old = |file: &RotatedFile| match settings.max_age {
        Some(max_age) => now.duration_since(file.modified).is_ok_and(|age| age.as_millis() > max_age.into()),
        None => false,
    };
    let by_age = files.iter().take_while(|file| is_too_old(file)).count();
    &files[..by_count.max(by_age)]
}

/// How many of these files (oldest first) must be removed so that, with `other_bytes`, at most `max_bytes`
/// remain.
pub(super) fn excess_files(files: &[RotatedFile], other_bytes: u64, max_bytes: u64) -> usize {
    let mut total = files.iter().map(|file| file.size).sum::<u64>().saturating_add(other_bytes);
    files
        .iter()
        .take_while(|file| {
            let is_over = total > max_bytes;
            total = total.saturating_sub(file.size);
            is_over
        })
        .count()
}

#[cfg(test)]
mod tests {
    use crate::logs::retention::policy::*;
    use std::time::Duration;

    fn file(name: &str, size: u64, seconds: u64) -> RotatedFile {
        let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        RotatedFile { path: name.into(), id: (0, 0), size, modified }
    }

    #[test]
    fn count_age_and_size_limit_files() {
        let files = [file("1", 5, 10), file("2", 5, 20), file("3", 5, 30)];
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(40);
        let expired = |retain, max_age| {
            expired_files(&files, &Rotation { retain, max_age, ..Rotation::default() }, now).len()
        };
        assert_eq!(expired(None, None), 0);
        assert_eq!(expired(Some(1), None), 2);
        assert_eq!(expired(Some(0), None), 3);
        assert_eq!(expired(None, Some(15_000)), 2);
        assert_eq!(expired(Some(2), Some(15_000)), 2);
        for (other_bytes, max_bytes, count) in [(0, 15, 0), (0, 14, 1), (10, 15, 2), (100, 15, 3)] {
            assert_eq!(excess_files(&files, other_bytes, max_bytes), count);
        }
    }
}
