//! Takes care of rotated files: removes what is more than was asked for, and has the rest compressed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant, SystemTime};

use crate::logs::files::index::{file_id, index_path};
use crate::logs::files::rotation::{RotatedFile, excess_files, expired_files, list_rotated};
use crate::logs::retention::budget::Budget;
use crate::logs::retention::compress::is_partial;
use crate::logs::retention::compress_worker::Compressor;
use crate::spec::Rotation;

/// How often age and the budget are looked at though nothing was rotated.
const SCAN_INTERVAL: Duration = Duration::from_secs(600);
/// Apps that are started within this time are looked at together, when they have begun.
const DEBOUNCE: Duration = Duration::from_millis(300);
/// So long a writer waits for room. Longer only a disk takes that does not answer.
const FREE_SPACE_TIMEOUT: Duration = Duration::from_secs(3);

/// A file that is being compressed grows more often than that.
const STALE_PARTIAL_AGE: Duration = Duration::from_secs(3600);

/// What may be asked of the thread.
#[derive(Debug)]
enum RetentionJob {
    /// This log file belongs to an app and is kept so.
    Track { path: PathBuf, app: String, policy: Arc<Rotation> },
    /// It was rotated.
    Rotated(PathBuf),
    /// The budget has changed.
    Scan,
    /// The budget is exceeded; says when something was done about that.
    FreeSpace(Sender<()>),
}

/// The handle: only sends, but for [`make_room`](Self::make_room). The thread ends with the last one.
#[derive(Clone, Debug)]
pub(in crate::logs) struct Retention {
    jobs: Sender<RetentionJob>,
    budget: Arc<Budget>,
}

impl Retention {
    /// Starts the thread. `logs` is the directory whose files all count for the `budget` (bytes),
    /// those of apps that are gone too.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(in crate::logs) fn start(logs: PathBuf, indexes: PathBuf, budget: u64) -> io::Result<Self> {
        let (jobs, asked) = channel();
        let budget = Arc::new(Budget::new(budget));
        let packer = Compressor::start(indexes.clone(), Arc::clone(&budget))?;
        let room = RetentionWorker {
            logs,
            indexes,
            budget: Arc::clone(&budget),
            tracked: BTreeMap::new(),
            jobs: asked,
            compressor: packer,
        };
        std::thread::Builder::new().name("rsm-tidy".into()).spawn(move || room.run())?;
        Ok(Self { jobs, budget })
    }

    /// From now on the log file at `path` is kept as `policy` says.
    pub(in crate::logs) fn track(&self, path: &Path, app: &str, policy: &Arc<Rotation>) {
        let (path, app, policy) = (path.to_owned(), app.to_owned(), Arc::clone(policy));
        let _ = self.jobs.send(RetentionJob::Track { path, app, policy }); // a thread that is gone tidies nothing
    }

    /// The log file at `path` was rotated.
    pub(in crate::logs) fn on_rotated(&self, path: &Path) {
        let _ = self.jobs.send(RetentionJob::Rotated(path.to_owned()));
    }

    /// All logs together may have so many bytes.
    pub(in crate::logs) fn set_budget(&self, bytes: u64) {
        self.budget.set_limit(bytes);
        let _ = self.jobs.send(RetentionJob::Scan);
    }

    /// A log file has grown by so many bytes.
    pub(in crate::logs) fn record_growth(&self, bytes: usize) {
        self.budget.record_growth(bytes);
    }

    /// Whether all logs together have more than they may.
    pub(in crate::logs) fn is_over_budget(&self) -> bool {
        self.budget.is_exceeded()
    }

    /// Removes the oldest rotated files, and waits for that: a flood must not be faster. False if that was
    /// not enough.
    pub(in crate::logs) fn free_space(&self) -> bool {
        let (done, told) = channel();
        let asked = self.jobs.send(RetentionJob::FreeSpace(done)).is_ok();
        if !asked || told.recv_timeout(FREE_SPACE_TIMEOUT).is_err() {
            self.budget.defer_retry();
            return true;
        }
        self.budget.is_within_limit()
    }

    /// What each log file may have where there is nothing else to be removed.
    pub(in crate::logs) fn fair_share(&self) -> u64 {
        self.budget.fair_share()
    }
}

/// What the thread owns.
struct RetentionWorker {
    logs: PathBuf,
    indexes: PathBuf,
    budget: Arc<Budget>,
    tracked: BTreeMap<PathBuf, (String, Arc<Rotation>)>,
    jobs: Receiver<RetentionJob>,
    compressor: Compressor,
}

impl RetentionWorker {
    fn run(mut self) {
        loop {
            let (mut due, mut waiting) = (BTreeSet::new(), Vec::new());
            let mut hurry = match self.jobs.recv_timeout(SCAN_INTERVAL) {
                Ok(job) => self.accept(job, &mut due, &mut waiting),
                Err(RecvTimeoutError::Timeout) => {
                    due.extend(self.tracked.keys().cloned());
                    true
                }
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let until = Instant::now() + DEBOUNCE;
            let left =
                |hurry| if hurry { Duration::ZERO } else { until.saturating_duration_since(Instant::now()) };
            while let Ok(job) = self.jobs.recv_timeout(left(hurry)) {
                hurry |= self.accept(job, &mut due, &mut waiting);
            }
            self.apply_policies(&due);
            drop(waiting); // that is the answer
            self.queue_compression(&due);
        }
    }

    /// Notes what is asked; whether that is not to wait.
    fn accept(
        &mut self,
        job: RetentionJob,
        due: &mut BTreeSet<PathBuf>,
        waiting: &mut Vec<Sender<()>>,
    ) -> bool {
        let hurry = !matches!(job, RetentionJob::Track { .. });
        match job {
            RetentionJob::Track { path, app, policy } => {
                let former = self.tracked.insert(path.clone(), (app.clone(), Arc::clone(&policy)));
                // A restart brings the same again; there is nothing to look for then.
                if former != Some((app, policy)) {
                    due.insert(path);
                }
            }
            RetentionJob::Rotated(path) => drop(due.insert(path)),
            RetentionJob::Scan => {}
            RetentionJob::FreeSpace(done) => waiting.push(done),
        }
        hurry
    }

    fn queue_compression(&self, due: &BTreeSet<PathBuf>) {
        for path in due {
            if let Some((_, policy)) = self.tracked.get(path).filter(|(_, policy)| policy.compress) {
                self.compressor.submit(path, policy.delay_compress);
            }
        }
    }

    fn apply_policies(&self, due: &BTreeSet<PathBuf>) {
        let mut apps = BTreeSet::new();
        for path in due {
            let Some((app, policy)) = self.tracked.get(path) else { continue };
            let files = list_rotated(path).unwrap_or_default();
            self.remove(expired_files(&files, policy, SystemTime::now()));
            apps.extend(policy.max_total.map(|most| (app, most)));
        }
        for (app, most) in apps {
            let of_app = self.tracked.iter().filter(|(_, (name, _))| name == app).map(|(path, _)| path);
            let (files, active) = rotated_files_of(of_app.map(PathBuf::as_path));
            let over = excess_files(&files, active, most);
            self.remove(&files[..over]);
        }
        self.enforce_budget();
    }

    /// The budget of all logs: those of the apps, and whatever lies in the directory of logs.
    fn enforce_budget(&self) {
        let (mut files, mut active, mut count) = (Vec::new(), 0, 0);
        self.budget.begin_scan();
        // Each directory is read once, however many files it has: there may be thousands.
        let parents = self.tracked.keys().filter_map(|path| path.parent());
        for dir in parents.chain([self.logs.as_path()]).collect::<BTreeSet<_>>() {
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                let path = entry.path();
                let base =
                    log_path_of(&path).filter(|base| dir == self.logs || self.tracked.contains_key(base));
                let (Some(base), Ok(meta)) = (base, entry.metadata()) else { continue };
                match meta.modified() {
                    Ok(written) if is_partial(&path) && is_stale_partial(written) => {
                        self.remove(&[RotatedFile { path, size: meta.len(), modified: written }]);
                    }
                    Ok(written) if meta.is_file() && base != path && !is_partial(&path) => {
                        files.push(RotatedFile { path, size: meta.len(), modified: written });
                    }
                    _ => {
                        active += if meta.is_file() { meta.len() } else { 0 };
                        count += u64::from(meta.is_file() && base == path);
                    }
                }
            }
        }
        files.sort_by(RotatedFile::age_order);
        let over = excess_files(&files, active, self.budget.limit());
        if over > 0 {
            tracing::debug!("log budget exceeded: removing {over} rotated files");
        }
        self.remove(&files[..over]);
        self.budget.end_scan(active + files[over..].iter().map(|file| file.size).sum::<u64>(), count);
    }

    fn remove(&self, files: &[RotatedFile]) {
        for file in files {
            let id = std::fs::metadata(&file.path).map(|meta| file_id(&meta));
            match std::fs::remove_file(&file.path) {
                Ok(()) => drop(id.map(|id| std::fs::remove_file(index_path(&self.indexes, id)))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => tracing::warn!("cannot remove {}: {error}", file.path.display()),
            }
        }
    }
}

/// Whether nobody is compressing any more into a file written last at that time: a daemon was killed.
fn is_stale_partial(written: SystemTime) -> bool {
    written.elapsed().is_ok_and(|age| age > STALE_PARTIAL_AGE)
}

/// The log file that a file is, or was before it was rotated.
fn log_path_of(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let name = name.strip_suffix(crate::logs::files::rotation::GZIP_SUFFIX).unwrap_or(name);
    let Some((stem, date)) = name.rsplit_once("__") else { return Some(path.with_file_name(name)) };
    // Behind a date there may be a number, and the ending that the file had.
    let ending = date.rsplit_once('.').map(|(_, ending)| ending);
    let whole = match ending.filter(|ending| !ending.bytes().all(|c| c.is_ascii_digit())) {
        Some(ending) => format!("{stem}.{ending}"),
        None => stem.to_owned(),
    };
    Some(path.with_file_name(whole))
}

/// The rotated files of these log files, oldest first, and the bytes of those not rotated.
fn rotated_files_of<'p>(paths: impl Iterator<Item = &'p Path>) -> (Vec<RotatedFile>, u64) {
    let (mut files, mut active) = (Vec::new(), 0);
    for path in paths {
        files.extend(list_rotated(path).unwrap_or_default());
        active += std::fs::metadata(path).ok().filter(|meta| meta.is_file()).map_or(0, |meta| meta.len());
    }
    files.sort_by(RotatedFile::age_order);
    (files, active)
}

#[cfg(test)]
mod tests {
    use crate::logs::retention::worker::*;

    struct Scene {
        dir: tempfile::TempDir,
        room: RetentionWorker,
        _jobs: Sender<RetentionJob>,
    }

    impl Scene {
        fn new(budget: u64) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let (jobs, asked) = channel();
            let logs = dir.path().to_owned();
            let indexes = dir.path().join("none");
            let budget = Arc::new(Budget::new(budget));
            let packer = Compressor::start(indexes.clone(), Arc::clone(&budget)).unwrap();
            let room = RetentionWorker {
                logs,
                indexes,
                budget,
                tracked: BTreeMap::new(),
                jobs: asked,
                compressor: packer,
            };
            Self { dir, room, _jobs: jobs }
        }

        fn file(&self, name: &str, age: u64) {
            let path = self.dir.path().join(name);
            std::fs::write(&path, "0123456789").unwrap();
            let written = SystemTime::now() - Duration::from_secs(age);
            std::fs::File::open(path).unwrap().set_modified(written).unwrap();
        }

        fn track(&mut self, name: &str, app: &str, policy: Rotation) -> BTreeSet<PathBuf> {
            let path = self.dir.path().join(name);
            self.room.tracked.insert(path.clone(), (app.into(), Arc::new(policy)));
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
    fn an_apps_total_takes_the_oldest_of_all_its_files() {
        let mut scene = Scene::new(u64::MAX);
        for (name, age) in
            [("a-out.log", 0), ("a-out__1.log", 30), ("a-error__1.log", 20), ("a-out__2.log", 10)]
        {
            scene.file(name, age);
        }
        let policy = Rotation { max_total: Some(25), ..Rotation::default() };
        scene.track("a-error.log", "a", policy.clone());
        let due = scene.track("a-out.log", "a", policy);
        scene.room.apply_policies(&due);
        assert_eq!(scene.names(), ["a-out.log", "a-out__2.log"]);
    }

    #[test]
    fn the_budget_counts_the_logs_of_apps_that_are_gone() {
        let mut scene = Scene::new(25);
        for (name, age) in [("a-out.log", 0), ("gone-out__1.log.gz", 30), ("a-out__1.log", 20), ("b.txt", 9)]
        {
            scene.file(name, age);
        }
        let due = scene.track("a-out.log", "a", Rotation::default());
        scene.room.apply_policies(&due);
        assert_eq!(scene.names(), ["a-out.log", "b.txt"]);
        scene.file(".a-out__2.log.gz.part", 20);
        scene.file(".gone-out__2.log.gz.part", 4000);
        scene.file("noending__2026.1", 5);
        scene.room.enforce_budget();
        assert_eq!(scene.names(), [".a-out__2.log.gz.part", "a-out.log", "b.txt"]);
    }
}
