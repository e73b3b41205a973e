//! The open log files: one per path, however many streams write to it.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use crate::logs::files::context::FileContext;
use crate::logs::files::log_file::LogFile;
use crate::spec::Rotation;

/// All open log files by path.
#[derive(Debug)]
pub(in crate::logs) struct OpenFiles {
    files: HashMap<PathBuf, Weak<LogFile>>,
    context: Rc<FileContext>,
}

impl OpenFiles {
    /// No files yet.
    pub(in crate::logs) fn new(ground: FileContext) -> Self {
        Self { files: HashMap::new(), context: Rc::new(ground) }
    }

    /// The file at a path, opened at the first write if it cannot be now. The latest policy holds.
    pub(in crate::logs) fn open(&mut self, path: &Path, policy: &Arc<Rotation>) -> Rc<LogFile> {
        if let Some(file) = self.files.get(path).and_then(Weak::upgrade) {
            file.set_policy(policy);
            return file;
        }
        let file = Rc::new(LogFile::open(path, policy, &self.context));
        self.files.insert(path.to_owned(), Rc::downgrade(&file));
        file
    }

    /// Ends one stream's use of a file; the last one closes it.
    pub(in crate::logs) fn release(&mut self, file: Rc<LogFile>) {
        if Rc::strong_count(&file) == 1 {
            self.files.remove(file.path());
        }
    }

    /// All that are open.
    pub(in crate::logs) fn files(&self) -> impl Iterator<Item = Rc<LogFile>> {
        self.files.values().filter_map(Weak::upgrade)
    }

    /// Opens every file anew by its path, one that ends within a line after that line; returns
    /// what could not be opened. Such a file is written where it was: in the wrong place is better
    /// than lost.
    pub(in crate::logs) fn reopen(&self) -> Vec<(PathBuf, io::Error)> {
        let reopen = |log: Rc<LogFile>| log.reopen().err().map(|error| (log.path().to_owned(), error));
        self.files().filter_map(reopen).collect()
    }

    /// Empties files, open or not; returns those that could not be emptied. A missing one is empty.
    pub(in crate::logs) fn truncate(&self, paths: Vec<PathBuf>) -> Vec<(PathBuf, io::Error)> {
        let mut failed = Vec::new();
        for path in paths {
            match truncate(&path) {
                Ok(()) => {
                    if let Some(file) = self.files.get(&path).and_then(Weak::upgrade) {
                        file.was_emptied();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => failed.push((path, error)),
            }
        }
        failed
    }
}

/// Empties a plain file. Writers in append mode go on at its new end. Terminals and pipes hold
/// nothing to empty.
fn truncate(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    if file.metadata()?.is_file() { file.set_len(0) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use crate::logs::files::index::StreamId;
    use crate::logs::files::open_files::*;
    use crate::logs::item::OutputStream;
    use crate::logs::retention::worker::Retention;

    const ONE: StreamId = StreamId { run: 1, stream: OutputStream::Out };
    const TWO: StreamId = StreamId { run: 1, stream: OutputStream::Err };

    struct Scene {
        dir: tempfile::TempDir,
        path: PathBuf,
        writer: OpenFiles,
        policy: Arc<Rotation>,
    }

    impl Scene {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let (path, indexes) = (dir.path().join("logs/a.log"), dir.path().join("index"));
            let tidy = Retention::start(dir.path().join("logs"), indexes.clone(), u64::MAX).unwrap();
            let policy = Arc::new(Rotation { schedule: None, max_size: Some(10), ..Rotation::default() });
            Self { dir, path, writer: OpenFiles::new(FileContext::new(indexes, tidy)), policy }
        }

        fn open(&mut self) -> Rc<LogFile> {
            self.writer.open(&self.path, &self.policy)
        }

        fn text(&self, name: &str) -> String {
            std::fs::read_to_string(self.dir.path().join("logs").join(name)).unwrap()
        }

        fn rotated(&self) -> Vec<String> {
            let found = crate::logs::files::rotation::list_rotated(&self.path).unwrap();
            found.iter().map(|file| std::fs::read_to_string(&file.path).unwrap()).collect()
        }
    }

    fn say(file: &LogFile, owner: StreamId, text: &str) -> io::Result<()> {
        file.prepare_write(text.len())?;
        file.append(owner, text.as_bytes())
    }

    #[test]
    fn another_streams_unfinished_line_is_ended_first() {
        let mut scene = Scene::new();
        scene.policy = Arc::new(Rotation { max_size: None, ..Rotation::default() });
        let file = scene.open();
        for (owner, text) in [(ONE, "name? "), (ONE, "bob\nage? "), (TWO, "error\n"), (ONE, "7\n")] {
            say(&file, owner, text).unwrap();
        }
        assert_eq!(scene.text("a.log"), "name? bob\nage? \nerror\n7\n");
    }

    #[test]
    fn whose_line_is_open_is_known_after_a_restart() {
        let mut scene = Scene::new();
        let file = scene.open();
        say(&file, ONE, "name? ").unwrap();
        scene.writer.release(file);
        let file = scene.open();
        assert!(file.has_open_line_of(ONE) && !file.has_open_line_of(TWO));
        say(&file, TWO, "x\n").unwrap();
        assert_eq!(scene.text("a.log"), "name? \nx\n");
    }

    #[test]
    fn a_full_file_makes_way_between_lines() {
        let mut scene = Scene::new();
        let file = scene.open();
        for text in ["one\n", "two\n", "three\n", "a very long line\n", "x\n"] {
            say(&file, ONE, text).unwrap();
        }
        assert_eq!(scene.rotated(), ["one\ntwo\n", "three\n", "a very long line\n"]);
        assert_eq!(scene.text("a.log"), "x\n");
        assert_eq!(file.prepare_write(1).unwrap(), 8);
    }

    #[test]
    fn files_moved_or_removed_by_others_are_noticed() {
        let mut scene = Scene::new();
        let file = scene.open();
        say(&file, ONE, "one\n").unwrap();
        std::fs::remove_file(&scene.path).unwrap();
        say(&file, ONE, "two\n").unwrap();
        assert_eq!(scene.text("a.log"), "two\n");
        std::fs::write(&scene.path, "").unwrap();
        say(&file, ONE, "three\n").unwrap();
        assert_eq!(scene.text("a.log"), "three\n");
    }

    #[test]
    fn reopen_follows_a_renamed_file_after_its_line() {
        let mut scene = Scene::new();
        scene.policy = Arc::new(Rotation { max_size: None, ..Rotation::default() });
        let file = scene.open();
        say(&file, ONE, "one\ntw").unwrap();
        std::fs::rename(scene.dir.path().join("logs"), scene.dir.path().join("old")).unwrap();
        assert!(scene.writer.reopen().is_empty());
        say(&file, ONE, "o\n").unwrap();
        say(&file, ONE, "three\n").unwrap();
        assert_eq!(std::fs::read_to_string(scene.dir.path().join("old/a.log")).unwrap(), "one\ntwo\n");
        assert_eq!(scene.text("a.log"), "three\n");
    }

    #[test]
    fn emptied_files_go_on_from_their_start() {
        let mut scene = Scene::new();
        let file = scene.open();
        say(&file, ONE, "old, unf").unwrap();
        let paths = vec![scene.path.clone(), "/nonexistent/x.log".into()];
        assert!(scene.writer.truncate(paths).is_empty());
        say(&file, TWO, "new\n").unwrap();
        assert_eq!(scene.text("a.log"), "new\n");
    }

    #[test]
    fn what_is_undone_is_not_there() {
        let mut scene = Scene::new();
        let file = scene.open();
        say(&file, ONE, "one\n").unwrap();
        say(&file, ONE, "tw").unwrap();
        file.roll_back();
        say(&file, TWO, "x\n").unwrap();
        assert_eq!(scene.text("a.log"), "one\nx\n");
    }

    #[test]
    fn a_full_disk_is_an_error_and_no_plain_file() {
        let mut scene = Scene::new();
        scene.path = "/dev/full".into();
        let file = scene.open();
        assert!(!file.is_regular() && file.pending_write().is_none());
        assert!(say(&file, ONE, "x\n").is_err());
        assert!(file.is_failing());
    }

    #[test]
    fn a_file_is_closed_with_its_last_stream() {
        let mut scene = Scene::new();
        let (one, two) = (scene.open(), scene.open());
        scene.writer.release(one);
        assert_eq!(scene.writer.files().count(), 1);
        scene.writer.release(two);
        assert!(scene.writer.files.is_empty());
    }
}
