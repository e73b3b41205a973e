//! Retention thread: removes rotated files that exceed the limits of their app or the budget of all logs, and
//! submits the others for compression.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant, SystemTime};

use crate::logs::files::access::{LogAccess, LogHome};
use crate::logs::files::index::index_path;
use crate::logs::files::rotation::{RotatedFile, list_rotated, written};
use crate::logs::retention::budget::Budget;
use crate::logs::retention::compress::Compressor;
use crate::logs::retention::policy::{excess_files, expired_files};
use crate::logs::retention::scan::BudgetScan;
use crate::secure_fs::Location;

/// How often to check age and budget if nothing is rotated.
const SCAN_INTERVAL: Duration = Duration::from_secs(600);
/// Files of apps that start within this time are checked together.
const DEBOUNCE: Duration = Duration::from_millis(300);
/// Maximum time that a writer waits for free space. Only a disk that does not respond takes longer.
const FREE_SPACE_TIMEOUT: Duration = Duration::from_secs(3);
#[derive(Debug)]
enum RetentionJob {
    /// Applies these settings to a log file of an app.
    Track { path: PathBuf, app: String, access: LogAccess },
    /// The log file was rotated.
    Rotated(PathBuf),
    /// The budget has changed.
    Scan,
    /// The budget is exceeded. The sender is dropped once files were removed.
    FreeSpace(Sender<()>),
}

/// Handle of the retention thread, which ends with the last clone. Only [`free_space`](Self::free_space)
/// blocks.
#[derive(Clone, Debug)]
pub(crate) struct Retention {
    jobs: Sender<RetentionJob>,
    budget: Arc<Budget>,
}

impl Retention {
    /// Starts the thread. All files in the default directory of logs count for the budget (in bytes), including those
    /// of deleted apps.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(crate) fn start(home: Arc<LogHome>, budget: u64) -> io::Result<Self> {
        let (sender, jobs) = channel();
        let budget = Arc::new(Budget::new(budget));
        let compressor = Compressor::start(Arc::clone(&budget))?;
        let worker =
            RetentionWorker { home, budget: Arc::clone(&budget), tracked: BTreeMap::new(), jobs, compressor };
        std::thread::Builder::new().name("rsm-retention".into()).spawn(move || worker.run())?;
        Ok(Self { jobs: sender, budget })
    }

    /// Applies the rotation settings of `access` to the log file at `path` from now on.
    pub(crate) fn track(&self, path: &Path, app: &str, access: &LogAccess) {
        let (path, app, access) = (path.to_owned(), app.to_owned(), access.clone());
        self.send(RetentionJob::Track { path, app, access });
    }

    /// The log file at `path` was rotated.
    pub(crate) fn on_rotated(&self, path: &Path) {
        self.send(RetentionJob::Rotated(path.to_owned()));
    }

    /// Sets the budget of all logs, in bytes.
    pub(crate) fn set_budget(&self, bytes: u64) {
        self.budget.set_limit(bytes);
        self.send(RetentionJob::Scan);
    }

    /// A log file has grown.
    pub(crate) fn record_growth(&self, bytes: usize) {
        self.budget.record_growth(bytes);
    }

    pub(crate) fn is_over_budget(&self) -> bool {
        self.budget.is_exceeded()
    }

    /// Removes the oldest rotated files and waits for it, so that no app writes faster than files are
    /// removed. Returns false if that freed too little.
    pub(crate) fn free_space(&self) -> bool {
        let (done, is_done) = channel();
        let is_sent = self.send(RetentionJob::FreeSpace(done));
        if !is_sent || is_done.recv_timeout(FREE_SPACE_TIMEOUT) == Err(RecvTimeoutError::Timeout) {
            self.budget.defer_retry();
            return true;
        }
        self.budget.is_within_limit()
    }

    /// Size each file may have when no rotated file is left to remove.
    pub(crate) fn fair_share(&self) -> u64 {
        self.budget.fair_share()
    }

    /// Returns false if the thread has ended; retention stops then.
    fn send(&self, job: RetentionJob) -> bool {
        self.jobs.send(job).is_ok()
    }
}

struct RetentionWorker {
    home: Arc<LogHome>,
    budget: Arc<Budget>,
    /// Log files with the name of their app and their settings.
    tracked: BTreeMap<PathBuf, (String, LogAccess)>,
    jobs: Receiver<RetentionJob>,
    compressor: Compressor,
}

/// Jobs received together.
#[derive(Default)]
struct Batch {
    /// Log files whose rotated files are to be checked.
    paths: BTreeSet<PathBuf>,
    /// Writers that wait for free space.
    waiters: Vec<Sender<()>>,
    is_urgent: bool,
}

impl RetentionWorker {
    fn run(mut self) {
        while let Some(Batch { paths, waiters, .. }) = self.receive_batch() {
            self.apply_policies(&paths);
            drop(waiters); // wakes them
            self.queue_compression(&paths);
        }
    }

    /// Waits for jobs, or until everything must be checked; `None` once all handles are gone.
    fn receive_batch(&mut self) -> Option<Batch> {
        let mut batch = Batch::default();
        match self.jobs.recv_timeout(SCAN_INTERVAL) {
            Ok(job) => self.accept(job, &mut batch),
            Err(RecvTimeoutError::Timeout) => {
                batch.paths.extend(self.tracked.keys().cloned());
                batch.is_urgent = true;
            }
            Err(RecvTimeoutError::Disconnected) => return None,
        }
        let deadline = Instant::now() + DEBOUNCE;
        let delay = |is_urgent| {
            if is_urgent { Duration::ZERO } else { deadline.saturating_duration_since(Instant::now()) }
        };
        while let Ok(job) = self.jobs.recv_timeout(delay(batch.is_urgent)) {
            self.accept(job, &mut batch);
        }
        Some(batch)
    }

    fn accept(&mut self, job: RetentionJob, batch: &mut Batch) {
        batch.is_urgent |= !matches!(job, RetentionJob::Track { .. });
        match job {
            RetentionJob::Track { path, app, access } => {
                let previous = self.tracked.insert(path.clone(), (app.clone(), access.clone()));
                // A restarted app has the same settings: its files need no check.
                if previous != Some((app, access)) {
                    batch.paths.insert(path);
                }
            }
            RetentionJob::Rotated(path) => drop(batch.paths.insert(path)),
            RetentionJob::Scan => {}
            RetentionJob::FreeSpace(done) => batch.waiters.push(done),
        }
    }

    fn queue_compression(&self, paths: &BTreeSet<PathBuf>) {
        for path in paths {
            if let Some((_, access)) = self.tracked.get(path).filter(|(_, access)| access.rotation.compress) {
                self.compressor.submit(path, access.clone());
            }
        }
    }

    fn apply_policies(&self, paths: &BTreeSet<PathBuf>) {
        let mut totals = BTreeSet::new();
        for path in paths {
            let Some((app, access)) = self.tracked.get(path) else { continue };
            let settings = &access.rotation;
            let files = self.rotated_files(path, access);
            self.remove(expired_files(&files, settings, SystemTime::now()));
            totals.extend(settings.max_total.map(|max_total| (app, max_total)));
        }
        for (app, max_total) in totals {
            let (files, active_bytes) = self.files_of_app(app);
            let excess = excess_files(&files, active_bytes, max_total);
            self.remove(&files[..excess]);
        }
        self.enforce_budget();
    }

    /// The rotated files of a log file, oldest first. Files that apps write are not rotated files, whatever their names are.
    fn rotated_files(&self, path: &Path, access: &LogAccess) -> Vec<RotatedFile> {
        let mut files = list_rotated(path, access).unwrap_or_default();
        files.retain(|file| !self.tracked.contains_key(&file.path));
        files
    }

    /// The rotated files of an app, oldest first, and the bytes of its log files.
    fn files_of_app(&self, app: &str) -> (Vec<RotatedFile>, u64) {
        let (mut files, mut active_bytes) = (Vec::new(), 0);
        for (path, (_, access)) in self.tracked.iter().filter(|(_, (name, _))| name == app) {
            files.extend(self.rotated_files(path, access));
            active_bytes += active_size(path, access).unwrap_or(0);
        }
        files.sort_by(RotatedFile::age_order);
        (files, active_bytes)
    }

    /// Removes the oldest rotated files of all apps until the budget holds. It covers the files of apps and
    /// everything in the directory of logs.
    fn enforce_budget(&self) {
        self.budget.begin_scan();
        let logs = self.tracked.iter().map(|(path, (_, access))| (path.as_path(), access));
        let scan = BudgetScan::of(logs, &self.home);
        self.remove(&scan.stale);
        let BudgetScan { mut rotated, active_bytes, active_files, .. } = scan;
        rotated.sort_by(RotatedFile::age_order);
        rotated.dedup_by_key(|file| file.id);
        let excess = excess_files(&rotated, active_bytes, self.budget.limit());
        if excess > 0 {
            tracing::debug!("log budget exceeded: removing {excess} rotated files");
        }
        self.remove(&rotated[..excess]);
        let rotated_bytes: u64 = rotated[excess..].iter().map(|file| file.size).sum();
        self.budget.end_scan(active_bytes + rotated_bytes, active_files);
    }

    fn remove(&self, files: &[RotatedFile]) {
        for file in files {
            match Location::find(&file.path).and_then(|location| location.remove(file.id)) {
                Ok(()) => drop(std::fs::remove_file(index_path(&self.home.indexes, file.id))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => tracing::warn!("cannot remove {}: {error}", file.path.display()),
            }
        }
    }
}

/// Bytes of a log file.
fn active_size(path: &Path, access: &LogAccess) -> Option<u64> {
    let location = Location::find(path).ok()?;
    let meta = access.open_read_at(&location).ok()?.metadata().ok().filter(Metadata::is_file)?;
    written(&meta, &location, access).map(|(size, _)| size)
}

#[cfg(test)]
mod tests {
    use crate::logs::files::access::tests::{access, access_with};
    use crate::logs::retention::worker::*;
    use crate::spec::Rotation;

    struct Fixture {
        dir: tempfile::TempDir,
        worker: RetentionWorker,
        _jobs: Sender<RetentionJob>,
    }

    impl Fixture {
        fn new(budget: u64) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let (sender, jobs) = channel();
            let home = access(dir.path()).home;
            let budget = Arc::new(Budget::new(budget));
            let compressor = Compressor::start(Arc::clone(&budget)).unwrap();
            let worker = RetentionWorker { home, budget, tracked: BTreeMap::new(), jobs, compressor };
            Self { dir, worker, _jobs: sender }
        }

        fn file(&self, name: &str, age: u64) {
            let path = self.dir.path().join(name);
            std::fs::write(&path, "0123456789").unwrap();
            let modified = SystemTime::now() - Duration::from_secs(age);
            std::fs::File::open(path).unwrap().set_modified(modified).unwrap();
        }

        fn track(&mut self, name: &str, app: &str, settings: Rotation) -> BTreeSet<PathBuf> {
            let path = self.dir.path().join(name);
            let access = access_with(self.dir.path(), settings);
            self.worker.tracked.insert(path.clone(), (app.into(), access));
            BTreeSet::from([path])
        }

        fn names(&self) -> Vec<String> {
            let entries = std::fs::read_dir(self.dir.path()).unwrap();
            let mut names: Vec<_> =
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        }
    }

    #[test]
    fn free_space_reports_whether_budget_holds() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a-out.log", "a-out__1.log"] {
            std::fs::write(dir.path().join(name), "0123456789").unwrap();
        }
        let retention = Retention::start(access(dir.path()).home, 10).unwrap();
        assert!(retention.free_space());
        assert!(!dir.path().join("a-out__1.log").exists());
        retention.set_budget(9);
        assert!(!retention.free_space());
        assert_eq!(retention.fair_share(), 9);
    }

    #[test]
    fn max_total_removes_oldest_files_of_app() {
        let mut fixture = Fixture::new(u64::MAX);
        for (name, age) in
            [("a-out.log", 0), ("a-out__1.log", 30), ("a-error__1.log", 20), ("a-out__2.log", 10)]
        {
            fixture.file(name, age);
        }
        let settings = Rotation { max_total: Some(25), ..Rotation::default() };
        fixture.track("a-error.log", "a", settings.clone());
        let paths = fixture.track("a-out.log", "a", settings);
        fixture.worker.apply_policies(&paths);
        assert_eq!(fixture.names(), ["a-out.log", "a-out__2.log"]);
    }

    #[test]
    fn budget_includes_logs_of_deleted_apps() {
        let mut fixture = Fixture::new(25);
        for (name, age) in [("a-out.log", 0), ("gone-out__1.log.gz", 30), ("a-out__1.log", 20), ("b.txt", 9)]
        {
            fixture.file(name, age);
        }
        let paths = fixture.track("a-out.log", "a", Rotation::default());
        fixture.worker.apply_policies(&paths);
        assert_eq!(fixture.names(), ["a-out.log", "b.txt"]);
        fixture.file(".a-out__2.log.gz.part", 20);
        fixture.file(".gone-out__2.log.gz.part", 4000);
        fixture.file("noending__2026.1", 5);
        fixture.worker.enforce_budget();
        assert_eq!(fixture.names(), [".a-out__2.log.gz.part", "a-out.log", "b.txt"]);
    }
}
