//! The open log files of a worker: one for each path, shared by all streams that write to it.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use crate::logs::files::access::LogAccess;
use crate::logs::files::context::FileContext;
use crate::logs::files::log_file::LogFile;
use crate::logs::files::rotation::RotationPolicy;
use crate::secure_fs::FileUser;
use crate::spec::Rotation;

#[derive(Debug)]
pub(crate) struct OpenFiles {
    files: HashMap<PathBuf, Weak<LogFile>>,
    context: Rc<FileContext>,
    /// The policy of the file opened last. Most apps have the same settings: their schedule is parsed and
    /// kept once.
    policy: Rc<RotationPolicy>,
}

impl OpenFiles {
    pub(crate) fn new(context: FileContext) -> Self {
        let policy = Rc::new(RotationPolicy::new(&Arc::default()));
        Self { files: HashMap::new(), context: Rc::new(context), policy }
    }

    /// The file at a path of an app that runs as `user`, or `fallback` if the path is refused. If it cannot be
    /// opened now, it is opened at the first write. The settings of the latest caller apply.
    pub(crate) fn open(
        &mut self,
        path: &Path,
        fallback: Option<&Path>,
        user: FileUser,
        rotation: &Arc<Rotation>,
    ) -> Rc<LogFile> {
        if self.policy.settings != *rotation {
            self.policy = Rc::new(RotationPolicy::new(rotation));
        }
        let access = LogAccess::new(Arc::clone(&self.context.home), user, Arc::clone(&self.policy.settings));
        if let Some(file) = self.files.get(path).and_then(Weak::upgrade) {
            file.add_app(&self.policy, &access);
            return file;
        }
        let file = Rc::new(LogFile::open(path, fallback, &self.policy, access, &self.context));
        self.files.insert(path.to_owned(), Rc::downgrade(&file));
        file
    }

    /// Ends the use of a file by one stream; the last stream closes it.
    pub(crate) fn release(&mut self, file: Rc<LogFile>) {
        if Rc::strong_count(&file) == 1 {
            self.files.remove(file.path());
        }
    }

    pub(crate) fn files(&self) -> impl Iterator<Item = Rc<LogFile>> {
        self.files.values().filter_map(Weak::upgrade)
    }

    /// Reopens every file by its path, after its partial line if it ends in one. Returns those that could not
    /// be opened; writes to them go to the previous file, so that no line is lost.
    pub(crate) fn reopen(&self) -> Vec<(PathBuf, io::Error)> {
        let reopen = |file: Rc<LogFile>| file.reopen().err().map(|error| (file.path().to_owned(), error));
        self.files().filter_map(reopen).collect()
    }

    /// Truncates files, open or not. Returns those that could not be truncated; a missing file counts as
    /// empty.
    pub(crate) fn truncate(&self, paths: Vec<(PathBuf, FileUser)>) -> Vec<(PathBuf, io::Error)> {
        let mut errors = Vec::new();
        for (path, user) in paths {
            let open = self.files.get(&path).and_then(Weak::upgrade);
            let mut access = LogAccess::new(Arc::clone(&self.context.home), user, Arc::default());
            open.iter().for_each(|file| access.add(&file.access()));
            match truncate(&path, &access) {
                Ok(()) => open.iter().for_each(|file| file.on_truncated()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => errors.push((path, error)),
            }
        }
        errors
    }
}

/// Truncates a regular file; writers in append mode continue at its new end. Terminals and pipes are left
/// alone.
fn truncate(path: &Path, access: &LogAccess) -> io::Result<()> {
    let file = access.open_write(path)?;
    if file.metadata()?.is_file() { file.set_len(0) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use crate::logs::files::access::LogHome;
    use crate::logs::files::access::tests::access;
    use crate::logs::files::index::StreamId;
    use crate::logs::files::open_files::*;
    use crate::logs::files::rotation::list_rotated;
    use crate::logs::item::OutputStream;
    use crate::logs::retention::worker::Retention;

    const ONE: StreamId = StreamId { run: 1, stream: OutputStream::Out };
    const TWO: StreamId = StreamId { run: 1, stream: OutputStream::Err };

    struct Fixture {
        dir: tempfile::TempDir,
        path: PathBuf,
        open_files: OpenFiles,
        rotation: Arc<Rotation>,
    }

    impl Fixture {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let (path, indexes) = (dir.path().join("logs/a.log"), dir.path().join("index"));
            let home = Arc::new(LogHome { logs: dir.path().join("logs"), indexes });
            let retention = Retention::start(Arc::clone(&home), u64::MAX).unwrap();
            let context = FileContext::new(home, retention, Arc::default());
            let rotation = Arc::new(Rotation { schedule: None, max_size: Some(10), ..Rotation::default() });
            Self { dir, path, open_files: OpenFiles::new(context), rotation }
        }

        fn open(&mut self) -> Rc<LogFile> {
            self.open_files.open(&self.path, None, FileUser::own(), &self.rotation)
        }

        fn text(&self, name: &str) -> String {
            std::fs::read_to_string(self.dir.path().join("logs").join(name)).unwrap()
        }

        fn rotated(&self) -> Vec<String> {
            let files = list_rotated(&self.path, &access(&self.dir.path().join("logs"))).unwrap();
            files.iter().map(|file| std::fs::read_to_string(&file.path).unwrap()).collect()
        }
    }

    fn write(file: &LogFile, stream: StreamId, text: &str) -> io::Result<()> {
        file.prepare_write(text.len())?;
        file.append(stream, text.as_bytes())
    }

    #[test]
    fn partial_line_of_other_stream_is_ended_first() {
        let mut fixture = Fixture::new();
        fixture.rotation = Arc::new(Rotation { max_size: None, ..Rotation::default() });
        let file = fixture.open();
        for (stream, text) in [(ONE, "name? "), (ONE, "bob\nage? "), (TWO, "error\n"), (ONE, "7\n")] {
            write(&file, stream, text).unwrap();
        }
        assert_eq!(fixture.text("a.log"), "name? bob\nage? \nerror\n7\n");
    }

    #[test]
    fn stream_of_partial_line_survives_restart() {
        let mut fixture = Fixture::new();
        let file = fixture.open();
        write(&file, ONE, "name? ").unwrap();
        fixture.open_files.release(file);
        let file = fixture.open();
        assert!(file.has_open_line_of(ONE) && !file.has_open_line_of(TWO));
        write(&file, TWO, "x\n").unwrap();
        assert_eq!(fixture.text("a.log"), "name? \nx\n");
    }

    #[test]
    fn full_file_rotates_between_lines() {
        let mut fixture = Fixture::new();
        let file = fixture.open();
        for text in ["one\n", "two\n", "three\n", "a very long line\n", "x\n"] {
            write(&file, ONE, text).unwrap();
        }
        assert_eq!(fixture.rotated(), ["one\ntwo\n", "three\n", "a very long line\n"]);
        assert_eq!(fixture.text("a.log"), "x\n");
        assert_eq!(file.prepare_write(1).unwrap(), 8);
    }

    #[test]
    fn removed_or_replaced_file_is_reopened() {
        let mut fixture = Fixture::new();
        let file = fixture.open();
        write(&file, ONE, "one\n").unwrap();
        std::fs::remove_file(&fixture.path).unwrap();
        write(&file, ONE, "two\n").unwrap();
        assert_eq!(fixture.text("a.log"), "two\n");
        std::fs::write(&fixture.path, "").unwrap();
        write(&file, ONE, "three\n").unwrap();
        assert_eq!(fixture.text("a.log"), "three\n");
    }

    #[test]
    fn reopen_waits_for_end_of_line() {
        let mut fixture = Fixture::new();
        fixture.rotation = Arc::new(Rotation { max_size: None, ..Rotation::default() });
        let file = fixture.open();
        write(&file, ONE, "one\ntw").unwrap();
        std::fs::rename(fixture.dir.path().join("logs"), fixture.dir.path().join("old")).unwrap();
        assert!(fixture.open_files.reopen().is_empty());
        write(&file, ONE, "o\n").unwrap();
        write(&file, ONE, "three\n").unwrap();
        assert_eq!(std::fs::read_to_string(fixture.dir.path().join("old/a.log")).unwrap(), "one\ntwo\n");
        assert_eq!(fixture.text("a.log"), "three\n");
    }

    #[test]
    fn truncated_file_continues_at_start() {
        let mut fixture = Fixture::new();
        let file = fixture.open();
        write(&file, ONE, "old, unf").unwrap();
        let paths = [fixture.path.clone(), "/nonexistent/x.log".into()];
        let paths = paths.into_iter().map(|path| (path, FileUser::own())).collect();
        assert!(fixture.open_files.truncate(paths).is_empty());
        write(&file, TWO, "new\n").unwrap();
        assert_eq!(fixture.text("a.log"), "new\n");
    }

    #[test]
    fn roll_back_removes_last_write() {
        let mut fixture = Fixture::new();
        let file = fixture.open();
        write(&file, ONE, "one\n").unwrap();
        write(&file, ONE, "tw").unwrap();
        file.roll_back();
        write(&file, TWO, "x\n").unwrap();
        assert_eq!(fixture.text("a.log"), "one\nx\n");
    }

    #[test]
    fn write_to_full_device_fails() {
        let mut fixture = Fixture::new();
        fixture.path = "/dev/full".into();
        let file = fixture.open();
        assert!(!file.is_regular() && file.pending_write().is_none());
        assert!(write(&file, ONE, "x\n").is_err());
        assert!(file.is_failing());
    }

    #[test]
    fn last_stream_closes_file() {
        let mut fixture = Fixture::new();
        let (one, two) = (fixture.open(), fixture.open());
        fixture.open_files.release(one);
        assert_eq!(fixture.open_files.files().count(), 1);
        fixture.open_files.release(two);
        assert!(fixture.open_files.files.is_empty());
    }
}
