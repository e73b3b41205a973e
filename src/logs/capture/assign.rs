//! Which thread writes which files: by directory, and without asking any disk.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::logs::handle::MAX_WORKERS;

/// Who writes where.
#[derive(Debug)]
pub(in crate::logs) struct WorkerAssignment {
    /// The directory of most logs; its thread is the first.
    home: PathBuf,
    /// Threads of other directories.
    dirs: HashMap<PathBuf, usize>,
    /// Files that do not go with their directory: streams with several files have one thread.
    files: HashMap<PathBuf, usize>,
    runs: HashMap<u64, usize>,
}

impl WorkerAssignment {
    /// Nothing but the directory of most logs.
    pub(in crate::logs) fn new(home: PathBuf) -> Self {
        Self { home, dirs: HashMap::new(), files: HashMap::new(), runs: HashMap::new() }
    }

    /// These files are a thread's from now on.
    pub(in crate::logs) fn assign_stored(&mut self, room: usize, files: Vec<PathBuf>) {
        for path in files {
            if room > 0
                && let Some(dir) = path.parent()
            {
                self.dirs.entry(dir.to_owned()).or_insert(room);
            }
            self.files.insert(path, room);
        }
    }

    /// The thread of these files; all of them are its own from now on.
    pub(in crate::logs) fn worker_for(&mut self, paths: &[&Path]) -> usize {
        let known = paths.iter().find_map(|path| self.files.get(*path)).copied();
        let foreign = paths.iter().find(|path| path.parent().is_some_and(|dir| dir != self.home));
        let room = known.unwrap_or_else(|| {
            foreign.and_then(|path| path.parent()).map_or(0, |dir| self.worker_for_dir(dir))
        });
        for path in paths {
            let usual =
                path.parent().map_or(0, |dir| if dir == self.home { 0 } else { self.worker_for_dir(dir) });
            if usual != room {
                self.files.insert((*path).to_owned(), room);
            }
        }
        room
    }

    /// The thread of a directory: the next free one, or if none is free the one with the fewest.
    fn worker_for_dir(&mut self, dir: &Path) -> usize {
        if let Some(room) = self.dirs.get(dir) {
            return *room;
        }
        let count = |room: &usize| self.dirs.values().filter(|other| *other == room).count();
        let room = (1..MAX_WORKERS).min_by_key(count).unwrap_or(0);
        self.dirs.insert(dir.to_owned(), room);
        room
    }

    /// The thread of a run's files, noted until [`forget_run`](Self::forget_run).
    pub(in crate::logs) fn worker_for_run(&mut self, run: u64, paths: &[&Path]) -> usize {
        let room = self.worker_for(paths);
        self.runs.insert(run, room);
        room
    }

    /// The thread of a run that is over; `None` if it was never noted.
    pub(in crate::logs) fn remove_run(&mut self, run: u64) -> Option<usize> {
        self.runs.remove(&run)
    }
}

#[cfg(test)]
mod tests {
    use crate::logs::capture::assign::*;

    fn worker_for(places: &mut WorkerAssignment, paths: &[&str]) -> usize {
        places.worker_for(&paths.iter().map(Path::new).collect::<Vec<_>>())
    }

    #[test]
    fn a_directory_of_its_own_has_a_thread_of_its_own() {
        let mut places = WorkerAssignment::new("/h/logs".into());
        assert_eq!(worker_for(&mut places, &["/h/logs/a.log"]), 0);
        assert_eq!(worker_for(&mut places, &[]), 0);
        let slow = worker_for(&mut places, &["/slow/a.log", "/slow/b.log"]);
        let other = worker_for(&mut places, &["/other/a.log"]);
        assert!(slow != 0 && other != 0 && slow != other);
        assert_eq!(worker_for(&mut places, &["/slow/c.log"]), slow);
    }

    #[test]
    fn a_file_has_one_thread_whoever_writes_to_it() {
        let mut places = WorkerAssignment::new("/h/logs".into());
        let slow = worker_for(&mut places, &["/h/logs/a.log", "/slow/all.log"]);
        assert_ne!(slow, 0);
        assert_eq!(worker_for(&mut places, &["/h/logs/a.log"]), slow);
        assert_eq!(worker_for(&mut places, &["/h/logs/b.log"]), 0);
        places.assign_stored(5, vec!["/found/x.log".into()]);
        assert_eq!(worker_for(&mut places, &["/found/x.log"]), 5);
    }

    #[test]
    fn when_all_are_taken_they_are_shared() {
        let mut places = WorkerAssignment::new("/h/logs".into());
        let rooms: Vec<usize> = (0..20).map(|n| worker_for(&mut places, &[&format!("/{n}/a.log")])).collect();
        assert!(rooms.iter().all(|room| (1..MAX_WORKERS).contains(room)));
        assert_eq!(rooms[0], rooms[MAX_WORKERS - 1]);
    }

    #[test]
    fn a_run_is_known_until_it_is_over() {
        let mut places = WorkerAssignment::new("/h/logs".into());
        places.worker_for_run(7, &[Path::new("/h/logs/a.log")]);
        assert_eq!((places.remove_run(7), places.remove_run(7)), (Some(0), None));
    }
}
