//! The last lines of a file, read from its end.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use memchr::{memchr_iter, memrchr_iter};

/// Bytes read at once.
const BLOCK: u64 = 64 * 1024;
/// The most bytes looked at. Of a longer tail the lines that fit are given; a line that alone is
/// longer is given as far as it fits.
const CAP: u64 = 64 * 1024 * 1024;

/// The last `count` lines of a file, oldest first, without their newlines. An unfinished line at the
/// end counts. A missing file has no lines.
///
/// # Errors
/// The file cannot be read, or is no plain file.
pub fn last_lines(path: &Path, count: usize) -> io::Result<Vec<Vec<u8>>> {
    // Non-blocking: a named pipe must not hang whoever asks.
    let file = match OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)
    {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a plain file"));
    }
    tail(&file, meta.len(), count, BLOCK, CAP)
}

fn tail(file: &File, end: u64, count: usize, block: u64, cap: u64) -> io::Result<Vec<Vec<u8>>> {
    if count == 0 {
        return Ok(Vec::new());
    }
    let (blocks, whole) = blocks_from_end(file, end, count, block, cap)?;
    let text = blocks.into_iter().rev().flatten().collect::<Vec<u8>>();
    let mut lines: Vec<&[u8]> = Vec::new();
    let mut start = 0;
    for at in memchr_iter(b'\n', &text) {
        lines.push(&text[start..at]);
        start = at + 1;
    }
    if start < text.len() {
        lines.push(&text[start..]);
    }
    if !whole && lines.len() > 1 {
        // Its beginning lies before what was read.
        lines.remove(0);
    }
    let skip = lines.len().saturating_sub(count);
    Ok(lines[skip..].iter().map(|line| line.to_vec()).collect())
}

/// Blocks that hold at least the last `count` lines, last block first, and whether they begin at the
/// start of a line.
fn blocks_from_end(
    file: &File,
    end: u64,
    count: usize,
    block: u64,
    cap: u64,
) -> io::Result<(Vec<Vec<u8>>, bool)> {
    let (mut blocks, mut at, mut newlines) = (Vec::new(), end, 0);
    while at > 0 && end - at < cap {
        let start = at.saturating_sub(block.min(cap - (end - at)));
        let mut bytes = vec![0; usize::try_from(at - start).unwrap_or_default()];
        match file.read_exact_at(&mut bytes, start) {
            Ok(()) => {}
            // Emptied while it was read: what is gone is gone.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok((Vec::new(), true)),
            Err(error) => return Err(error),
        }
        // A newline at the very end of the file ends the last line and begins none.
        let counted = if at == end { &bytes[..bytes.len() - 1] } else { &bytes[..] };
        if let Some(first) = memrchr_iter(b'\n', counted).nth(count - newlines - 1) {
            blocks.push(bytes.split_off(first + 1));
            return Ok((blocks, true));
        }
        newlines += memrchr_iter(b'\n', counted).count();
        blocks.push(bytes);
        at = start;
    }
    Ok((blocks, at == 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    fn naive(bytes: &[u8], count: usize) -> Vec<Vec<u8>> {
        let mut lines: Vec<_> = bytes.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        if lines.last().is_some_and(Vec::is_empty) {
            lines.pop();
        }
        lines.split_off(lines.len().saturating_sub(count))
    }

    fn of(bytes: &[u8], count: usize, block: u64, cap: u64) -> Vec<Vec<u8>> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        tail(&file, bytes.len() as u64, count, block, cap).unwrap()
    }

    #[test]
    fn missing_files_have_no_lines_and_directories_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        assert!(last_lines(&dir.path().join("none"), 5).unwrap().is_empty());
        assert!(last_lines(dir.path(), 5).is_err());
    }

    #[test]
    fn lines_longer_than_blocks() {
        let long = [vec![b'a'; 200_000], b"\n".to_vec(), vec![b'b'; 200_000]].concat();
        assert_eq!(of(&long, 2, BLOCK, CAP), naive(&long, 2));
        assert_eq!(of(&long, 1, BLOCK, CAP), naive(&long, 1));
    }

    #[test]
    fn the_cap_leaves_whole_lines_or_the_end_of_one() {
        assert_eq!(of(b"aaaa\nbb\ncc\n", 9, 2, 8), [b"bb".to_vec(), b"cc".to_vec()]);
        assert_eq!(of(b"aaaaaaaaaaaa", 9, 4, 8), [b"aaaaaaaa".to_vec()]);
    }

    proptest! {
        #[test]
        fn as_the_naive_way(
            bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'x'), any::<u8>()], 0..200),
            count in 0usize..20,
            block in 1u64..30,
        ) {
            prop_assert_eq!(of(&bytes, count, block, CAP), naive(&bytes, count));
        }
    }
}
