//! Offset of the last lines of a file, found from its end.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use memchr::memrchr_iter;

/// Bytes read at once.
const BLOCK: u64 = 64 * 1024;

/// Offset and number of the last lines (at most `count`) of a file of `end` bytes. A partial line at the end
/// counts.
///
/// # Errors
/// The file cannot be read.
pub(super) fn last_lines(file: &File, end: u64, count: usize) -> io::Result<(u64, usize)> {
    scan_back(file, end, count, BLOCK)
}

fn scan_back(file: &File, end: u64, count: usize, block: u64) -> io::Result<(u64, usize)> {
    if count == 0 || end == 0 {
        return Ok((end, 0));
    }
    let (mut position, mut found) = (end, 0);
    while position > 0 {
        let start = position.saturating_sub(block);
        let mut bytes = vec![0; usize::try_from(position - start).unwrap_or_default()];
        match file.read_exact_at(&mut bytes, start) {
            Ok(()) => {}
            // The file was truncated in the meantime: read it from its start.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok((0, 0)),
            Err(error) => return Err(error),
        }
        // A newline at the end of the file ends the last line and starts no other.
        let counted = if position == end { &bytes[..bytes.len() - 1] } else { &bytes[..] };
        for newline in memrchr_iter(b'\n', counted) {
            found += 1;
            if found == count {
                return Ok((start + newline as u64 + 1, count));
            }
        }
        position = start;
    }
    Ok((0, found + 1))
}

#[cfg(test)]
mod tests {
    use crate::logs::read::tail::*;
    use proptest::prelude::*;
    use std::io::Write;

    fn naive(bytes: &[u8], count: usize) -> Vec<Vec<u8>> {
        let mut lines: Vec<_> = bytes.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        if lines.last().is_some_and(Vec::is_empty) {
            lines.pop();
        }
        lines.split_off(lines.len().saturating_sub(count))
    }

    fn scanned(bytes: &[u8], count: usize, block: u64) -> (Vec<Vec<u8>>, usize) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        let (start, found) = scan_back(&file, bytes.len() as u64, count, block).unwrap();
        (naive(&bytes[usize::try_from(start).unwrap()..], usize::MAX), found)
    }

    proptest! {
        #[test]
        fn scan_matches_forward_search(
            bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'x'), any::<u8>()], 0..200),
            count in 0usize..20,
            block in 1u64..30,
        ) {
            let expected = naive(&bytes, count);
            prop_assert_eq!(scanned(&bytes, count, block), (expected.clone(), expected.len()));
        }
    }
}
