//! Rotated files: which they are, their order, and the settings of rotation.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::logs::files::access::LogAccess;
use crate::logs::files::index::{FileId, IndexReader, file_id};
use crate::logs::files::rotated_name::{
    DatePattern, RotationMark, gzip_path, is_gzip_path, name_parts, rotation_mark, rotation_number,
};
use crate::schedule::Schedule;
use crate::secure_fs::Location;
use crate::spec::Rotation;

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
    /// Without symbolic links.
    pub(crate) path: PathBuf,
    pub(crate) id: FileId,
    /// Bytes on the disk.
    pub(crate) size: u64,
    pub(crate) modified: SystemTime,
}

impl RotatedFile {
    /// `None` if the file system does not know when it was written.
    pub(crate) fn new(
        path: PathBuf,
        meta: &Metadata,
        location: &Location,
        access: &LogAccess,
    ) -> Option<Self> {
        let (size, modified) = written(meta, location, access)?;
        Some(Self { path, id: file_id(meta), size, modified })
    }

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

/// Bytes on the disk, and the time of the last write, as far as rsm wrote them: in a directory of another user,
/// a file may be made to look large or new.
pub(crate) fn written(meta: &Metadata, location: &Location, access: &LogAccess) -> Option<(u64, SystemTime)> {
    let size = meta.len().min(meta.blocks().saturating_mul(512)); // a file may have holes
    let modified = meta.modified().ok()?;
    if location.is_trusted() {
        return Some((size, modified));
    }
    let index = IndexReader::open(&access.home.indexes, file_id(meta))?;
    Some((size.min(index.max_size()), index.modified().unwrap_or(modified)))
}

/// Whether the file, or a directory on its path, does not exist.
pub(crate) fn is_not_found(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// The rotated files of a log file, oldest first; none if its directory does not exist. They are only those that
/// rsm has rotated: other files may have similar names, even log files of other apps.
///
/// # Errors
/// The directory cannot be read, or is refused.
pub(crate) fn list_rotated(path: &Path, access: &LogAccess) -> io::Result<Vec<RotatedFile>> {
    let location = match Location::find(path) {
        Ok(location) => location,
        Err(error) if is_not_found(&error) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    // A symbolic link may lead to a file of another name.
    let path = location.path();
    let (prefix, extension) = name_parts(&path);
    let dates = DatePattern::new(&access.rotation.date_format);
    let mut files = Vec::new();
    for entry in location.siblings()? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let Some(mark) = rotation_mark(&name, &prefix, &extension) else { continue };
        let mut rotated = path.with_file_name(&*name);
        let meta = entry.metadata().or_else(|_| {
            // Since the directory was read, it was removed, or replaced by its compressed form, which the directory
            // did not contain yet.
            rotated = gzip_path(&rotated);
            std::fs::symlink_metadata(&rotated)
        });
        let Ok(meta) = meta else { continue };
        if is_rotated_file(&mark, &dates, &path, &meta, access) && access.accepts(&location, &meta) {
            files.extend(RotatedFile::new(rotated, &meta, &location, access));
        }
    }
    // If a file exists in both forms, compression was interrupted before it removed the uncompressed one.
    let uncompressed = files.iter().filter(|file| !file.is_compressed());
    let duplicates: HashSet<PathBuf> = uncompressed.map(|file| gzip_path(&file.path)).collect();
    files.retain(|file| !duplicates.contains(&file.path));
    files.sort_by(RotatedFile::age_order);
    files.dedup_by(|one, other| one.path == other.path);
    Ok(files)
}

/// Whether a file with this mark in its name was rotated by rsm from the log at `path`.
pub(crate) fn is_rotated_file(
    mark: &RotationMark<'_>,
    dates: &DatePattern,
    path: &Path,
    meta: &Metadata,
    access: &LogAccess,
) -> bool {
    let (home, id) = (&access.home, file_id(meta));
    if !meta.is_file() {
        return false;
    }
    if path.parent() == Some(&home.logs) && (mark.is_date_like() || dates.matches(mark.date)) {
        return true; // everything there is rsm's
    }
    // The mark in the index holds if the date format was changed; a file rotated by an earlier version has none.
    (dates.matches(mark.date) && home.has_index(id)) || (!mark.has_separator() && home.is_rotated(id))
}

#[cfg(test)]
mod tests {
    use crate::logs::files::access::tests::access;
    use crate::logs::files::index::{index_path, mark_rotated};
    use crate::logs::files::rotated_name::RotationNames;
    use crate::logs::files::rotation::*;

    #[test]
    fn rotation_names_are_unique_and_sorted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a-out.log");
        let mut names = RotationNames::default();
        let mut created = Vec::new();
        let access = access(dir.path());
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
        let mut files = list_rotated(&path, &access).unwrap();
        files.iter_mut().for_each(|file| file.modified = same_time);
        files.sort_by(RotatedFile::age_order);
        let numbers: Vec<_> = files.iter().map(|file| rotation_number(&file.path)).collect();
        assert_eq!(numbers, (0..13).collect::<Vec<_>>());
    }

    #[test]
    fn list_contains_only_rotated_files_of_this_log() {
        let dir = tempfile::tempdir().unwrap();
        let access = access(&dir.path().join("home"));
        std::fs::create_dir_all(&access.home.indexes).unwrap();
        let make = |name: &str, index: Option<bool>| {
            let path = dir.path().join(name);
            std::fs::write(&path, "x").unwrap();
            let id = file_id(&path.metadata().unwrap());
            if let Some(is_rotated) = index {
                std::fs::write(index_path(&access.home.indexes, id), "").unwrap();
                if is_rotated {
                    mark_rotated(&access.home.indexes, id);
                }
            }
        };
        make("api__2026-03-01_00-00-00.log", Some(false));
        make("api__2026-03-01_00-00-00.1.log.gz", Some(false));
        make("api__2025.log", Some(true));
        make("api__2024-03-01_00-00-00.log", None); // a file of the user
        make("api__worker.log", Some(false)); // the log of another app
        make("api__notes.log", None);
        make("api__worker__2026-03-01_00-00-00.log", Some(true));
        make("api.log", Some(false));
        let names = |log: &str| -> Vec<String> {
            let files = list_rotated(&dir.path().join(log), &access).unwrap();
            let mut names: Vec<_> =
                files.iter().map(|file| file.path.file_name().unwrap().to_str().unwrap().into()).collect();
            names.sort();
            names
        };
        assert_eq!(
            names("api.log"),
            ["api__2025.log", "api__2026-03-01_00-00-00.1.log.gz", "api__2026-03-01_00-00-00.log"]
        );
        assert_eq!(names("api__worker.log"), ["api__worker__2026-03-01_00-00-00.log"]);
        assert!(list_rotated(Path::new("/nonexistent/a.log"), &access).unwrap().is_empty());
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
