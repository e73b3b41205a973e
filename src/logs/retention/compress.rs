//! Compresses a rotated file, so that at every moment either it or the packed one is whole.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::logs::files::index::{file_id, index_path};
use crate::logs::files::rotation::gzip_path;

/// Bytes packed between two looks at what else there is to do.
const BLOCK_SIZE: usize = 64 * 1024;

/// The ending of a file that is not whole yet.
const PARTIAL_SUFFIX: &str = ".part";

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::logs) enum CompressionOutcome {
    /// It is compressed.
    Done,
    /// It was told to stop, or the file is gone.
    Cancelled,
}

/// Compresses the file at `path` to `<path>.gz`, which bears its times and rights, and removes it.
/// `go_on` is asked after each block, and told by how many bytes the packed one has grown.
///
/// # Errors
/// It could not be read, or the other not written; the file is as it was.
pub(in crate::logs) fn compress(
    path: &Path,
    indexes: &Path,
    mut go_on: impl FnMut(usize) -> bool,
) -> io::Result<CompressionOutcome> {
    let source = match File::open(path) {
        Ok(source) => source,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(CompressionOutcome::Cancelled),
        Err(error) => return Err(error),
    };
    let meta = source.metadata()?;
    let target = gzip_path(path);
    let unfinished = partial_path(&target);
    let made = (|| {
        let mut options = OpenOptions::new();
        let part =
            options.write(true).create(true).truncate(true).mode(meta.mode() & 0o777).open(&unfinished)?;
        let mut packer = GzEncoder::new(part, Compression::fast());
        let (mut source, mut block, mut before) = (source, vec![0; BLOCK_SIZE], 0);
        loop {
            let count = source.read(&mut block)?;
            if count == 0 {
                break;
            }
            packer.write_all(&block[..count])?;
            let length = packer.get_ref().metadata()?.len();
            if !go_on(usize::try_from(length - before).unwrap_or(usize::MAX)) {
                return Ok(CompressionOutcome::Cancelled);
            }
            before = length;
        }
        let part = packer.finish()?;
        part.set_modified(meta.modified()?)?;
        part.sync_all()?; // the other is removed next
        // Removed meanwhile, for a budget: then this one is not wanted either.
        if !path.exists() {
            return Ok(CompressionOutcome::Cancelled);
        }
        // The index is of both until one of them is gone: either may be being read.
        let ids = [file_id(&meta), file_id(&std::fs::metadata(&unfinished)?)];
        let [old, new] = ids.map(|id| index_path(indexes, id));
        let _ = std::fs::remove_file(&new); // of a file that was there before
        let _ = std::fs::hard_link(&old, &new);
        std::fs::rename(&unfinished, &target)?;
        std::fs::remove_file(path)?;
        let _ = std::fs::remove_file(old);
        Ok(CompressionOutcome::Done)
    })();
    if !matches!(made, Ok(CompressionOutcome::Done)) {
        let _ = std::fs::remove_file(&unfinished); // written anew the next time
    }
    made
}

/// A file that is not whole yet: hidden, so that nobody takes it for a log.
fn partial_path(target: &Path) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!(".{name}{PARTIAL_SUFFIX}"))
}

/// Whether this is such a file.
pub(in crate::logs) fn is_partial(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    name.starts_with(b".") && name.ends_with(PARTIAL_SUFFIX.as_bytes())
}

#[cfg(test)]
mod tests {
    use crate::logs::retention::compress::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_packed_file_takes_its_place() {
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
    fn a_stop_leaves_the_file_as_it_was() {
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
