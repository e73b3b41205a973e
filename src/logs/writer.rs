//! The open log files: one per path, however many streams write to it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};

use super::files::open_append;

/// Names one stream of one run, for telling whose line a file ends in.
pub(super) type Key = u64;

/// No stream's key: a file whose unfinished line is to be ended before anything else.
const NOBODY: Key = 0;

/// What is written at once, in two parts so that the kept beginning of a line and the chunk that
/// completes it need no copy.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Block<'a> {
    /// The first part.
    pub(super) head: &'a [u8],
    /// What follows it.
    pub(super) tail: &'a [u8],
}

impl<'a> Block<'a> {
    /// Bytes in all.
    pub(super) fn len(self) -> usize {
        self.head.len() + self.tail.len()
    }

    /// What is left after the first `count` bytes.
    pub(super) fn after(self, count: usize) -> Block<'a> {
        let tail = self.tail.get(count.saturating_sub(self.head.len())..).unwrap_or_default();
        Block { head: self.head.get(count..).unwrap_or_default(), tail }
    }

    fn ends_line(self) -> bool {
        self.tail.last().or(self.head.last()).is_some_and(|byte| *byte == b'\n')
    }
}

/// A log file, open as long as a stream writes to it.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    /// Absent until it could be opened.
    file: RefCell<Option<File>>,
    /// The stream whose unfinished line the file ends in.
    open_line: Cell<Option<Key>>,
    /// The stream whose block is half written: until it is whole, all others wait.
    half_done: Cell<Option<Key>>,
    /// Trouble is reported once, until it is over.
    failing: Cell<bool>,
}

impl LogFile {
    /// Writes what can be written of a stream's block now; returns how many bytes that was. Fewer
    /// than the block has: try the rest again later.
    pub(super) fn write(&self, key: Key, block: Block<'_>) -> usize {
        if self.half_done.get().is_some_and(|other| other != key) {
            return 0;
        }
        let mut done = 0;
        let result = self.attempt(key, block, &mut done);
        if done > 0 {
            self.half_done.set((done < block.len()).then_some(key));
            self.open_line.set((done < block.len() || !block.ends_line()).then_some(key));
        }
        self.report(result);
        done
    }

    fn attempt(&self, key: Key, block: Block<'_>, done: &mut usize) -> io::Result<()> {
        let mut slot = self.file.borrow_mut();
        let file = match &mut *slot {
            Some(file) => file,
            empty => empty.insert(open_append(&self.path)?),
        };
        if self.open_line.get().is_some_and(|other| other != key) {
            file.write_all(b"\n")?;
            self.open_line.set(None);
        }
        while *done < block.len() {
            let left = block.after(*done);
            match file.write_vectored(&[IoSlice::new(left.head), IoSlice::new(left.tail)]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => *done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn report(&self, result: io::Result<()>) {
        let path = self.path.display();
        match result {
            Ok(()) if self.failing.replace(false) => tracing::info!("log file {path} can be written again"),
            Ok(()) => {}
            Err(error) if !self.failing.replace(true) => tracing::warn!(
                "cannot write log file {path}: {error}. The output is kept and tried again every half \
                 second; the apps that write there wait when their pipes are full"
            ),
            Err(_) => {}
        }
    }

    /// Whether the file ends in an unfinished line of this stream.
    pub(super) fn is_in_line_of(&self, key: Key) -> bool {
        self.open_line.get() == Some(key)
    }

    /// Ends an unfinished line before the next write.
    pub(super) fn end_line(&self) {
        if self.open_line.get().is_some() {
            self.open_line.set(Some(NOBODY));
        }
    }

    /// A stream gives up what it had half written.
    pub(super) fn abandon(&self, key: Key) {
        if self.half_done.get() == Some(key) {
            self.half_done.set(None);
        }
    }
}

/// Whether several streams write to this file.
pub(super) fn is_shared(file: &Rc<LogFile>) -> bool {
    Rc::strong_count(file) > 1
}

/// All open log files by path.
#[derive(Debug, Default)]
pub(super) struct Writer {
    files: HashMap<PathBuf, Weak<LogFile>>,
}

impl Writer {
    /// The file at a path, opened at the first write if it cannot be now.
    pub(super) fn open(&mut self, path: &Path) -> Rc<LogFile> {
        if let Some(file) = self.files.get(path).and_then(Weak::upgrade) {
            return file;
        }
        let file = Rc::new(LogFile {
            path: path.to_owned(),
            file: RefCell::new(open_append(path).ok()),
            open_line: Cell::new(None),
            half_done: Cell::new(None),
            failing: Cell::new(false),
        });
        self.files.insert(path.to_owned(), Rc::downgrade(&file));
        file
    }

    /// Ends one stream's use of a file; the last one closes it.
    pub(super) fn release(&mut self, file: Rc<LogFile>, key: Key) {
        file.abandon(key);
        if !is_shared(&file) {
            self.files.remove(&file.path);
        }
    }

    /// Opens every file anew by its path; returns what could not be opened. Such a file is written
    /// where it was: in the wrong place is better than lost.
    pub(super) fn reopen(&self) -> Vec<(PathBuf, io::Error)> {
        let mut failed = Vec::new();
        for log in self.files.values().filter_map(Weak::upgrade) {
            match open_append(&log.path) {
                Ok(file) => {
                    log.file.replace(Some(file));
                    log.open_line.set(None);
                }
                Err(error) => failed.push((log.path.clone(), error)),
            }
        }
        failed
    }

    /// Empties files, open or not; returns those that could not be emptied. A missing one is empty.
    pub(super) fn truncate(&self, paths: Vec<PathBuf>) -> Vec<(PathBuf, io::Error)> {
        let mut failed = Vec::new();
        for path in paths {
            match truncate(&path) {
                Ok(()) => {
                    if let Some(file) = self.files.get(&path).and_then(Weak::upgrade) {
                        file.open_line.set(None);
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
    use super::*;

    fn block(text: &str) -> Block<'_> {
        Block { head: text.as_bytes(), tail: b"" }
    }

    fn setup() -> (tempfile::TempDir, PathBuf, Writer) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        (dir, path, Writer::default())
    }

    #[test]
    fn another_streams_unfinished_line_is_ended_first() {
        let (_dir, path, mut writer) = setup();
        let file = writer.open(&path);
        file.write(1, block("name? "));
        file.write(1, Block { head: b"bo", tail: b"b\nage? " });
        file.write(2, block("error\n"));
        file.write(1, block("7\n"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "name? bob\nage? \nerror\n7\n");
    }

    #[test]
    fn blocks_are_counted_through() {
        let whole = Block { head: b"abc", tail: b"de" };
        for (count, head, tail) in
            [(0, "abc", "de"), (2, "c", "de"), (3, "", "de"), (4, "", "e"), (5, "", "")]
        {
            let left = whole.after(count);
            assert_eq!((left.head, left.tail), (head.as_bytes(), tail.as_bytes()), "{count}");
        }
    }

    #[test]
    fn reopen_follows_a_renamed_file_and_makes_directories() {
        let (dir, _, mut writer) = setup();
        let path = dir.path().join("d/a.log");
        let file = writer.open(&path);
        file.write(1, block("one\n"));
        std::fs::rename(dir.path().join("d"), dir.path().join("e")).unwrap();
        file.write(1, block("two\n"));
        assert!(writer.reopen().is_empty());
        file.write(1, block("three\n"));
        assert_eq!(std::fs::read_to_string(dir.path().join("e/a.log")).unwrap(), "one\ntwo\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "three\n");
    }

    #[test]
    fn truncated_files_go_on_from_their_start() {
        let (_dir, path, mut writer) = setup();
        let file = writer.open(&path);
        file.write(1, block("old, unfinished"));
        assert!(writer.truncate(vec![path.clone(), "/nonexistent/x.log".into()]).is_empty());
        file.write(2, block("new\n"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new\n");
    }

    #[test]
    fn a_full_disk_takes_nothing_and_is_tried_again() {
        let mut writer = Writer::default();
        let file = writer.open(Path::new("/dev/full"));
        assert_eq!(file.write(1, block("x\n")), 0);
        assert_eq!(file.write(2, block("y\n")), 0);
        assert!(file.failing.get() && file.half_done.get().is_none());
    }

    #[test]
    fn others_wait_for_a_half_written_block() {
        let (_dir, path, mut writer) = setup();
        let file = writer.open(&path);
        file.half_done.set(Some(1));
        assert_eq!(file.write(2, block("y\n")), 0);
        assert_eq!(file.write(1, block("x\n")), 2);
        assert_eq!(file.write(2, block("y\n")), 2);
    }

    #[test]
    fn a_file_is_closed_with_its_last_stream() {
        let (_dir, path, mut writer) = setup();
        let (one, two) = (writer.open(&path), writer.open(&path));
        assert!(is_shared(&one));
        writer.release(one, 1);
        assert!(!is_shared(&two) && writer.files.len() == 1);
        writer.release(two, 2);
        assert!(writer.files.is_empty());
    }
}
