//! Where the last lines of a file begin, found from its end.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use memchr::memrchr_iter;

/// Bytes read at once.
const BLOCK: u64 = 64 * 1024;

/// Where the last `count` lines of a file begin that is `end` bytes long, and how many there are. An
/// unfinished line at the end counts.
///
/// # Errors
/// The file cannot be read.
pub(in crate::logs) fn last_lines(file: &File, end: u64, count: usize) -> io::Result<(u64, usize)> {
    scan_back(file, end, count, BLOCK)
}

fn scan_back(file: &File, end: u64, count: usize, block: u64) -> io::Result<(u64, usize)> {
    if count == 0 || end == 0 {
        return Ok((end, 0));
    }
    let (mut at, mut found) = (end, 0);
    while at > 0 {
        let start = at.saturating_sub(block);
        let mut bytes = vec![0; usize::try_from(at - start).unwrap_or_default()];
        match file.read_exact_at(&mut bytes, start) {
            Ok(()) => {}
            // Emptied while it was read: what is gone is gone.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok((0, 0)),
            Err(error) => return Err(error),
        }
        // A newline at the very end of the file ends the last line and begins none.
        let counted = if at == end { &bytes[..bytes.len() - 1] } else { &bytes[..] };
        for newline in memrchr_iter(b'\n', counted) {
            found += 1;
            if found == count {
                return Ok((start + newline as u64 + 1, count));
            }
        }
        at = start;
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

    fn of(bytes: &[u8], count: usize, block: u64) -> (Vec<Vec<u8>>, usize) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        let (start, found) = scan_back(&file, bytes.len() as u64, count, block).unwrap();
        (naive(&bytes[usize::try_from(start).unwrap()..], usize::MAX), found)
    }

    proptest! {
        #[test]
        fn as_the_naive_way(
            bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'x'), any::<u8>()], 0..200),
            count in 0usize..20,
            block in 1u64..30,
        ) {
            let want = naive(&bytes, count);
            prop_assert_eq!(of(&bytes, count, block), (want.clone(), want.len()));
        }
    }
}
