//! Which files count for the budget of all logs.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::Metadata;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::logs::files::access::{LogAccess, LogHome};
use crate::logs::files::rotated_name::{DatePattern, RotationMark, possible_logs};
use crate::logs::files::rotation::{RotatedFile, is_rotated_file, written};
use crate::logs::retention::compress::{PARTIAL_SUFFIX, is_partial};
use crate::secure_fs::{FileUser, Location};

/// A partial compressed file not written for this long was left by a daemon that was killed.
const STALE_PARTIAL_AGE: Duration = Duration::from_secs(3600);

/// The log files of a directory by name.
type LogsOfDir<'a> = BTreeMap<&'a OsStr, (&'a LogAccess, DatePattern)>;

/// What counts for the budget.
#[derive(Default)]
pub(super) struct BudgetScan {
    pub(super) rotated: Vec<RotatedFile>,
    /// Partial compressed files of an earlier daemon.
    pub(super) stale: Vec<RotatedFile>,
    pub(super) active_bytes: u64,
    pub(super) active_files: u64,
}

impl BudgetScan {
    /// Scans the directories of these log files and the default directory, each once.
    pub(super) fn of<'a>(
        logs: impl Iterator<Item = (&'a Path, &'a LogAccess)>,
        home: &'a Arc<LogHome>,
    ) -> Self {
        let mut dirs: BTreeMap<&Path, LogsOfDir<'_>> =
            BTreeMap::from([(home.logs.as_path(), BTreeMap::new())]);
        for (path, access) in logs {
            if let (Some(dir), Some(name)) = (path.parent(), path.file_name()) {
                let dates = DatePattern::new(&access.rotation.date_format);
                dirs.entry(dir).or_default().insert(name, (access, dates));
            }
        }
        let own = LogAccess::new(Arc::clone(home), FileUser::own(), Arc::default());
        let mut scan = Self::default();
        for (dir, logs) in dirs {
            scan.read(dir, &logs, (dir == home.logs).then_some(&own));
        }
        scan
    }

    /// Reads a directory. `own`: it is the default directory, in which all files are rsm's.
    fn read(&mut self, dir: &Path, logs: &LogsOfDir<'_>, own: Option<&LogAccess>) {
        let Ok(location) = Location::find(&dir.join("log")) else { return };
        for entry in location.siblings().into_iter().flatten().flatten() {
            let (file_name, path) = (entry.file_name(), location.path().with_file_name(entry.file_name()));
            let Some(meta) = entry.metadata().ok().filter(Metadata::is_file) else { continue };
            let name = file_name.to_string_lossy();
            let is_rotated = |(log, mark): &(String, RotationMark<'_>)| match logs.get(OsStr::new(log)) {
                Some((access, dates)) => {
                    is_rotated_file(mark, dates, &path, &meta, access).then_some(*access)
                }
                None => own.filter(|_| mark.is_date_like()),
            };
            if let Some((access, _)) = logs.get(file_name.as_os_str()) {
                self.add_active(written(&meta, &location, access));
            } else if is_partial(&path) {
                // Of a log in this directory, so that no file of another program is removed.
                let log = name.trim_start_matches('.').trim_end_matches(PARTIAL_SUFFIX);
                let of_log = possible_logs(log).iter().find_map(|(log, _)| logs.get(OsStr::new(log)));
                let Some(access) = of_log.map(|(access, _)| *access).or(own) else { continue };
                match RotatedFile::new(path, &meta, &location, access) {
                    Some(file) if is_stale_partial(file.modified) => self.stale.push(file),
                    Some(file) => self.active_bytes += file.size,
                    None => {}
                }
            } else if let Some(access) = possible_logs(&name).iter().find_map(is_rotated)
                && access.accepts(&location, &meta)
            {
                self.rotated.extend(RotatedFile::new(path, &meta, &location, access));
            } else if let Some(own) = own {
                self.add_active(written(&meta, &location, own));
            }
        }
    }

    fn add_active(&mut self, written: Option<(u64, SystemTime)>) {
        if let Some((size, _)) = written {
            self.active_bytes += size;
            self.active_files += 1;
        }
    }
}

fn is_stale_partial(modified: SystemTime) -> bool {
    modified.elapsed().is_ok_and(|age| age > STALE_PARTIAL_AGE)
}

#[cfg(test)]
mod tests {
    use crate::logs::files::access::tests::access;
    use crate::logs::files::index::{FileId, IndexEntry, IndexWriter, StreamId, file_id};
    use crate::logs::item::OutputStream;
    use crate::logs::retention::scan::*;
    use std::os::unix::fs::chown;

    const NOBODY: FileUser = FileUser { uid: 65534, gid: 65534 };

    /// A file without blocks that looks like one of a terabyte.
    fn sparse(path: &Path) -> FileId {
        let file = std::fs::File::create(path).unwrap();
        file.set_len(1 << 40).unwrap();
        chown(path, Some(NOBODY.uid), None).unwrap();
        file_id(&file.metadata().unwrap())
    }

    #[test]
    fn files_of_other_users_count_for_what_rsm_wrote() {
        let dir = tempfile::tempdir().unwrap();
        let home = access(&dir.path().join("logs")).home;
        std::fs::create_dir(&home.logs).unwrap();
        std::fs::write(home.logs.join("other-out__2026-03-01_00-00-00.log"), "0123456789").unwrap();
        let theirs = dir.path().join("theirs");
        std::fs::create_dir(&theirs).unwrap();
        chown(&theirs, Some(NOBODY.uid), None).unwrap();
        let live = theirs.join("out.log");
        let rotated = theirs.join("out__2026-03-01_00-00-00.log");
        for path in [&live, &rotated] {
            let mut index = IndexWriter::open(&home.indexes, sparse(path), 1 << 40);
            let stream = StreamId { run: 1 << 32, stream: OutputStream::Out };
            index.append(IndexEntry { at: 1, offset: 100, stream, lines: 2 }, false);
        }
        // The user of the app fills one of them, and plants others.
        std::fs::write(&rotated, vec![b'x'; 40 << 20]).unwrap();
        sparse(&theirs.join("out__2020-03-01_00-00-00.log"));
        std::fs::write(theirs.join("out__2021-03-01_00-00-00.log"), vec![b'x'; 40 << 20]).unwrap();
        let access = LogAccess::new(Arc::clone(&home), NOBODY, Arc::default());
        let scan = BudgetScan::of([(live.as_path(), &access)].into_iter(), &home);
        let mut sizes: Vec<u64> = scan.rotated.iter().map(|file| file.size).collect();
        sizes.sort_unstable();
        assert_eq!(sizes.len(), 2, "{:?}", scan.rotated);
        assert!(sizes[0] == 10 && sizes[1] < 20 << 20, "{sizes:?}");
        assert!(scan.active_bytes < 1 << 20, "{}", scan.active_bytes);
    }
}
