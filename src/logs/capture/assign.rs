//! Assignment of log files to workers, by directory and without disk access.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Which worker (by number) writes which files.
#[derive(Debug)]
pub(crate) struct WorkerAssignment {
    /// The default directory of logs, served by worker 0.
    home: PathBuf,
    max_workers: usize,
    /// Workers of other directories.
    dirs: HashMap<PathBuf, usize>,
    /// Files not served by the worker of their directory: all files of a stream need the same worker.
    files: HashMap<PathBuf, usize>,
    runs: HashMap<u64, usize>,
}

impl WorkerAssignment {
    pub(crate) fn new(home: PathBuf, max_workers: usize) -> Self {
        Self { home, max_workers, dirs: HashMap::new(), files: HashMap::new(), runs: HashMap::new() }
    }

    /// Assigns files to a worker that a previous daemon had assigned to it.
    pub(crate) fn assign_stored(&mut self, worker: usize, files: Vec<PathBuf>) {
        for path in files {
            if worker > 0
                && let Some(dir) = path.parent()
            {
                self.dirs.entry(dir.to_owned()).or_insert(worker);
            }
            self.files.insert(path, worker);
        }
    }

    /// The worker of these files. They stay assigned to it.
    pub(crate) fn worker_for(&mut self, paths: &[&Path]) -> usize {
        let assigned = paths.iter().find_map(|path| self.files.get(*path)).copied();
        let outside_home = paths.iter().filter_map(|path| path.parent()).find(|dir| *dir != self.home);
        let worker = assigned.unwrap_or_else(|| outside_home.map_or(0, |dir| self.worker_for_dir(dir)));
        for path in paths {
            let default = path.parent().map_or(0, |dir| self.worker_for_dir(dir));
            if default != worker {
                self.files.insert((*path).to_owned(), worker);
            }
        }
        worker
    }

    /// The worker of a directory. A new directory gets an unused worker, or else the one with the fewest
    /// directories.
    fn worker_for_dir(&mut self, dir: &Path) -> usize {
        if dir == self.home {
            return 0;
        }
        if let Some(worker) = self.dirs.get(dir) {
            return *worker;
        }
        let dir_count = |worker: &usize| self.dirs.values().filter(|other| *other == worker).count();
        let worker = (1..self.max_workers).min_by_key(dir_count).unwrap_or(0);
        self.dirs.insert(dir.to_owned(), worker);
        worker
    }

    /// The worker of the files of a run, recorded until [`remove_run`](Self::remove_run).
    pub(crate) fn worker_for_run(&mut self, run: u64, paths: &[&Path]) -> usize {
        let worker = self.worker_for(paths);
        self.runs.insert(run, worker);
        worker
    }

    /// Removes a run that has ended and returns its worker; `None` if it is not recorded.
    pub(crate) fn remove_run(&mut self, run: u64) -> Option<usize> {
        self.runs.remove(&run)
    }
}

#[cfg(test)]
mod tests {
    use crate::logs::capture::assign::*;

    const MAX_WORKERS: usize = 8;

    fn assignment() -> WorkerAssignment {
        WorkerAssignment::new("/h/logs".into(), MAX_WORKERS)
    }

    fn worker_for(assignment: &mut WorkerAssignment, paths: &[&str]) -> usize {
        assignment.worker_for(&paths.iter().map(Path::new).collect::<Vec<_>>())
    }

    #[test]
    fn each_directory_has_its_own_worker() {
        let mut assignment = assignment();
        assert_eq!(worker_for(&mut assignment, &["/h/logs/a.log"]), 0);
        assert_eq!(worker_for(&mut assignment, &[]), 0);
        let slow = worker_for(&mut assignment, &["/slow/a.log", "/slow/b.log"]);
        let other = worker_for(&mut assignment, &["/other/a.log"]);
        assert!(slow != 0 && other != 0 && slow != other);
        assert_eq!(worker_for(&mut assignment, &["/slow/c.log"]), slow);
    }

    #[test]
    fn all_writers_of_file_share_worker() {
        let mut assignment = assignment();
        let slow = worker_for(&mut assignment, &["/h/logs/a.log", "/slow/all.log"]);
        assert_ne!(slow, 0);
        assert_eq!(worker_for(&mut assignment, &["/h/logs/a.log"]), slow);
        assert_eq!(worker_for(&mut assignment, &["/h/logs/b.log"]), 0);
        assignment.assign_stored(5, vec!["/found/x.log".into()]);
        assert_eq!(worker_for(&mut assignment, &["/found/x.log"]), 5);
    }

    #[test]
    fn directories_share_workers_when_all_are_used() {
        let mut assignment = assignment();
        let workers: Vec<usize> =
            (0..20).map(|n| worker_for(&mut assignment, &[&format!("/{n}/a.log")])).collect();
        assert!(workers.iter().all(|worker| (1..MAX_WORKERS).contains(worker)));
        assert_eq!(workers[0], workers[MAX_WORKERS - 1]);
    }

    #[test]
    fn run_is_recorded_until_removed() {
        let mut assignment = assignment();
        assignment.worker_for_run(7, &[Path::new("/h/logs/a.log")]);
        assert_eq!((assignment.remove_run(7), assignment.remove_run(7)), (Some(0), None));
    }
}
