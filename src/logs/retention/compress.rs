//! Compression of rotated files, by a thread of idle priority.
//!
//! A compressed file replaces the original in one step: at any moment at least one of them is complete.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::logs::files::index::{file_id, index_path};
use crate::logs::files::rotation::{gzip_path, list_rotated};
use crate::logs::retention::budget::Budget;
use crate::process::priority;

/// Bytes compressed between two checks for new jobs.
const BLOCK_SIZE: usize = 64 * 1024;
/// Suffix of a compressed file that is not complete.
const PARTIAL_SUFFIX: &str = ".part";

/// A request to compress the rotated files of a log file.
#[derive(Debug)]
struct CompressJob {
    /// The log file, not the rotated one.
    path: PathBuf,
    /// Leave the newest rotated file uncompressed.
    keep_newest: bool,
}

/// Handle of the compression thread, which ends when it is dropped.
#[derive(Debug)]
pub(super) struct Compressor(Sender<CompressJob>);

impl Compressor {
    /// # Errors
    /// The thread cannot be started.
    pub(super) fn start(indexes: PathBuf, budget: Arc<Budget>) -> io::Result<Self> {
        let (sender, jobs) = channel();
        let worker = CompressWorker { indexes, budget, jobs, pending: BTreeMap::new() };
        std::thread::Builder::new().name("rsm-compress".into()).spawn(move || worker.run())?;
        Ok(Self(sender))
    }

    /// Compresses the rotated files of the log file at `path`.
    pub(super) fn submit(&self, path: &Path, keep_newest: bool) {
        // Fails only if the thread has ended; files then stay uncompressed.
        let _ = self.0.send(CompressJob { path: path.to_owned(), keep_newest });
    }
}

struct CompressWorker {
    indexes: PathBuf,
    budget: Arc<Budget>,
    jobs: Receiver<CompressJob>,
    /// Log files to process, and whether to keep their newest rotated file.
    pending: BTreeMap<PathBuf, bool>,
}

impl CompressWorker {
    fn run(mut self) {
        if let Err(error) = priority::set_idle_priority() {
            tracing::debug!("cannot lower the priority of log compression: {error}");
        }
        while let Ok(CompressJob { path, keep_newest }) = self.jobs.recv() {
            self.pending.insert(path, keep_newest);
            while let Some((path, keep_newest)) = self.pending.pop_first() {
                for file in uncompressed_files(&path, keep_newest) {
                    self.compress(&file);
                }
            }
        }
    }

    fn compress(&mut self, file: &Path) {
        let indexes = self.indexes.clone();
        let result = compress(file, &indexes, |bytes| {
            self.budget.record_growth(bytes);
            self.poll_jobs()
        });
        if let Err(error) = result {
            tracing::warn!("cannot compress {}: {error}", file.display());
        }
    }

    /// Accepts new jobs; false once the handle is gone.
    fn poll_jobs(&mut self) -> bool {
        loop {
            match self.jobs.try_recv() {
                Ok(CompressJob { path, keep_newest }) => drop(self.pending.insert(path, keep_newest)),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }
}

/// The rotated files of a log file to compress, oldest first.
fn uncompressed_files(path: &Path, keep_newest: bool) -> Vec<PathBuf> {
    let mut files = list_rotated(path).unwrap_or_default();
    if keep_newest {
        files.pop();
    }
    files.retain(|file| !file.is_compressed());
    files.into_iter().map(|file| file.path).collect()
}

#[derive(Debug, PartialEq, Eq)]
enum CompressionOutcome {
    Done,
    /// `on_progress` returned false, or the file was removed.
    Cancelled,
}

/// Replaces the file at `path` by `<path>.gz` with the same times and mode. `on_progress` gets the number of
/// bytes that each block adds to the compressed file, and returns whether to continue.
///
/// # Errors
/// The file cannot be read, or the compressed file cannot be written; the file is unchanged.
fn compress(
    path: &Path,
    indexes: &Path,
    on_progress: impl FnMut(usize) -> bool,
) -> io::Result<CompressionOutcome> {
    let source = match File::open(path) {
        Ok(source) => source,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(CompressionOutcome::Cancelled),
        Err(error) => return Err(error),
    };
    let partial = partial_path(&gzip_path(path));
    let result = compress_and_replace(source, path, &partial, indexes, on_progress);
    if !matches!(result, Ok(CompressionOutcome::Done)) {
        let _ = std::fs::remove_file(&partial); // the next attempt truncates it anyway
    }
    result
}

fn compress_and_replace(
    source: File,
    path: &Path,
    partial: &Path,
    indexes: &Path,
    on_progress: impl FnMut(usize) -> bool,
) -> io::Result<CompressionOutcome> {
    let meta = source.metadata()?;
    let mut options = OpenOptions::new();
    let target = options.write(true).create(true).truncate(true).mode(meta.mode() & 0o777).open(partial)?;
    let Some(target) = write_gzip(source, target, on_progress)? else {
        return Ok(CompressionOutcome::Cancelled);
    };
    target.set_modified(meta.modified()?)?;
    target.sync_all()?; // the original is removed next
    // Retention may have removed the original in the meantime.
    if !path.exists() {
        return Ok(CompressionOutcome::Cancelled);
    }
    // Both files have the index until one of them is removed: a reader may have either open.
    let ids = [file_id(&meta), file_id(&std::fs::metadata(partial)?)];
    let [old_index, new_index] = ids.map(|id| index_path(indexes, id));
    let _ = std::fs::remove_file(&new_index); // of an earlier file with this inode
    let _ = std::fs::hard_link(&old_index, &new_index);
    std::fs::rename(partial, gzip_path(path))?;
    std::fs::remove_file(path)?;
    let _ = std::fs::remove_file(old_index);
    Ok(CompressionOutcome::Done)
}

/// Compresses `source` into `target`; `None` if `on_progress` returned false.
fn write_gzip(
    mut source: File,
    target: File,
    mut on_progress: impl FnMut(usize) -> bool,
) -> io::Result<Option<File>> {
    let mut encoder = GzEncoder::new(target, Compression::fast());
    let (mut block, mut size_before) = (vec![0; BLOCK_SIZE], 0);
    loop {
        let count = source.read(&mut block)?;
        if count == 0 {
            return encoder.finish().map(Some);
        }
        encoder.write_all(&block[..count])?;
        let size = encoder.get_ref().metadata()?.len();
        if !on_progress(usize::try_from(size - size_before).unwrap_or(usize::MAX)) {
            return Ok(None);
        }
        size_before = size;
    }
}

/// The name of a compressed file until it is complete. It is hidden, so that no pattern for logs matches it.
fn partial_path(target: &Path) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!(".{name}{PARTIAL_SUFFIX}"))
}

/// Whether the file is a compressed file that is not complete.
pub(super) fn is_partial(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    name.starts_with(b".") && name.ends_with(PARTIAL_SUFFIX.as_bytes())
}

#[cfg(test)]
mod tests {
    use crate::logs::retention::compress::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn newest_file_can_stay_uncompressed() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join(name);
        for (age, name) in ["a__2.log", "a__1.log", "a__0.log.gz"].into_iter().enumerate() {
            std::fs::write(file(name), "").unwrap();
            let modified = std::time::SystemTime::now() - std::time::Duration::from_secs(age as u64 * 10);
            File::open(file(name)).unwrap().set_modified(modified).unwrap();
        }
        assert_eq!(uncompressed_files(&file("a.log"), true), [file("a__1.log")]);
        assert_eq!(uncompressed_files(&file("a.log"), false), [file("a__1.log"), file("a__2.log")]);
    }

    #[test]
    fn compressed_file_replaces_original() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a__1.log");
        let text: String = (0..50_000).map(|number| format!("line {number}\n")).collect();
        std::fs::write(&path, &text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let before = std::fs::metadata(&path).unwrap();
        assert_eq!(compress(&path, dir.path(), |_| true).unwrap(), CompressionOutcome::Done);
        let after = std::fs::metadata(gzip_path(&path)).unwrap();
        assert_eq!(after.modified().unwrap(), before.modified().unwrap());
        assert_eq!(after.permissions().mode() & 0o777, 0o640);
        assert!(!path.exists() && after.len() < before.len() / 2);
        let mut read = String::new();
        let file = File::open(gzip_path(&path)).unwrap();
        flate2::read::MultiGzDecoder::new(file).read_to_string(&mut read).unwrap();
        assert_eq!(read, text);
    }

    #[test]
    fn cancellation_leaves_file_unchanged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a__1.log");
        std::fs::write(&path, vec![b'x'; 3 * BLOCK_SIZE]).unwrap();
        assert_eq!(compress(&path, dir.path(), |_| false).unwrap(), CompressionOutcome::Cancelled);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_eq!(
            compress(&dir.path().join("none"), dir.path(), |_| true).unwrap(),
            CompressionOutcome::Cancelled
        );
    }
}
