//! Compression of rotated files, by a thread of idle priority.
//!
//! A compressed file replaces the original in one step: at any moment at least one of them is complete.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};

use flate2::Compression;
use flate2::write::GzEncoder;
use nix::fcntl::OFlag;

use crate::logs::files::access::LogAccess;
use crate::logs::files::attributes;
use crate::logs::files::index::{file_id, index_path};
use crate::logs::files::rotated_name::gzip_path;
use crate::logs::files::rotation::list_rotated;
use crate::logs::retention::budget::Budget;
use crate::process::priority;
use crate::secure_fs::{FileUser, Location};

/// Bytes compressed between two checks for new jobs.
const BLOCK_SIZE: usize = 64 * 1024;
/// Suffix of a compressed file that is not complete.
pub(super) const PARTIAL_SUFFIX: &str = ".part";

/// A request to compress the rotated files of a log file.
#[derive(Debug)]
struct CompressJob {
    /// The log file, not the rotated one.
    path: PathBuf,
    access: LogAccess,
}

/// Handle of the compression thread, which ends when it is dropped.
#[derive(Debug)]
pub(super) struct Compressor(Sender<CompressJob>);

impl Compressor {
    /// # Errors
    /// The thread cannot be started.
    pub(super) fn start(budget: Arc<Budget>) -> io::Result<Self> {
        let (sender, jobs) = channel();
        let worker = CompressWorker { budget, jobs, pending: BTreeMap::new() };
        std::thread::Builder::new().name("rsm-compress".into()).spawn(move || worker.run())?;
        Ok(Self(sender))
    }

    /// Compresses the rotated files of the log file at `path`.
    pub(super) fn submit(&self, path: &Path, access: LogAccess) {
        // Fails only if the thread has ended; files then stay uncompressed.
        let _ = self.0.send(CompressJob { path: path.to_owned(), access });
    }
}

struct CompressWorker {
    budget: Arc<Budget>,
    jobs: Receiver<CompressJob>,
    /// Log files to process.
    pending: BTreeMap<PathBuf, LogAccess>,
}

impl CompressWorker {
    fn run(mut self) {
        if let Err(error) = priority::set_idle_priority() {
            tracing::debug!("cannot lower the priority of log compression: {error}");
        }
        while let Ok(CompressJob { path, access }) = self.jobs.recv() {
            self.pending.insert(path, access);
            while let Some((path, access)) = self.pending.pop_first() {
                for file in uncompressed_files(&path, &access) {
                    self.compress(&file, &access);
                }
            }
        }
    }

    fn compress(&mut self, file: &Path, access: &LogAccess) {
        let result = compress(file, access, |bytes| {
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
                Ok(CompressJob { path, access }) => drop(self.pending.insert(path, access)),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }
}

/// The rotated files of a log file to compress, oldest first.
fn uncompressed_files(path: &Path, access: &LogAccess) -> Vec<PathBuf> {
    let mut files = list_rotated(path, access).unwrap_or_default();
    if access.rotation.delay_compress {
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

/// Replaces the file at `path` by `<path>.gz` with the same times, mode and owner. `on_progress` gets the number of
/// bytes that each block adds to the compressed file, and returns whether to continue.
///
/// # Errors
/// The file cannot be read, or the compressed file cannot be written; the file is unchanged.
fn compress(
    path: &Path,
    access: &LogAccess,
    on_progress: impl FnMut(usize) -> bool,
) -> io::Result<CompressionOutcome> {
    let original = Location::find(path)?;
    let source = match access.open_read_at(&original) {
        Ok(source) => source,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(CompressionOutcome::Cancelled),
        Err(error) => return Err(error),
    };
    let partial = Location::find(&partial_path(&gzip_path(path)))?;
    let _ = partial.remove_entry(); // of an earlier attempt
    // Nobody else can read it until it has the owner and the mode of the original.
    let target = partial.create_new(OFlag::O_WRONLY, 0o600, FileUser::own())?;
    let target_id = file_id(&target.metadata()?);
    let result = compress_and_replace(source, &original, target, &partial, access, on_progress);
    if !matches!(result, Ok(CompressionOutcome::Done)) {
        let _ = partial.remove(target_id); // the next attempt removes it anyway
    }
    result
}

fn compress_and_replace(
    source: File,
    original: &Location,
    target: File,
    partial: &Location,
    access: &LogAccess,
    on_progress: impl FnMut(usize) -> bool,
) -> io::Result<CompressionOutcome> {
    let meta = source.metadata()?;
    let Some(target) = write_gzip(&source, target, on_progress)? else {
        return Ok(CompressionOutcome::Cancelled);
    };
    attributes::copy(&source, &target, true);
    target.set_modified(meta.modified()?)?;
    target.sync_all()?; // the original is removed next
    // Retention may have removed the original in the meantime.
    let [old_id, new_id] = [file_id(&meta), file_id(&target.metadata()?)];
    if !original.id().is_ok_and(|id| id == old_id) {
        return Ok(CompressionOutcome::Cancelled);
    }
    // Both files have the index until one of them is removed: a reader may have either open.
    let [old_index, new_index] = [old_id, new_id].map(|id| index_path(&access.home.indexes, id));
    let _ = std::fs::remove_file(&new_index); // of an earlier file with this inode
    let _ = std::fs::hard_link(&old_index, &new_index);
    let compressed = Location::find(&gzip_path(&original.path()))?;
    // An interrupted attempt left both files.
    if let Ok(meta) = access.open_read_at(&compressed).and_then(|file| file.metadata()) {
        compressed.remove(file_id(&meta))?;
    }
    partial.rename(new_id, gzip_path(&original.path()).file_name().unwrap_or_default())?;
    original.remove(old_id)?;
    let _ = std::fs::remove_file(old_index);
    Ok(CompressionOutcome::Done)
}

/// Compresses `source` into `target`; `None` if `on_progress` returned false.
fn write_gzip(
    mut source: &File,
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
    use crate::logs::files::access::tests::{access, access_with};
    use crate::logs::retention::compress::*;
    use crate::spec::Rotation;
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
        let delayed = Rotation { delay_compress: true, ..Rotation::default() };
        let delayed = access_with(dir.path(), delayed);
        assert_eq!(uncompressed_files(&file("a.log"), &delayed), [file("a__1.log")]);
        let all = uncompressed_files(&file("a.log"), &access(dir.path()));
        assert_eq!(all, [file("a__1.log"), file("a__2.log")]);
    }

    #[test]
    fn compressed_file_replaces_original() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a__1.log");
        let text: String = (0..50_000).map(|number| format!("line {number}\n")).collect();
        std::fs::write(&path, &text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let before = std::fs::metadata(&path).unwrap();
        assert_eq!(compress(&path, &access(dir.path()), |_| true).unwrap(), CompressionOutcome::Done);
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
        assert_eq!(compress(&path, &access(dir.path()), |_| false).unwrap(), CompressionOutcome::Cancelled);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_eq!(
            compress(&dir.path().join("none"), &access(dir.path()), |_| true).unwrap(),
            CompressionOutcome::Cancelled
        );
    }
}
