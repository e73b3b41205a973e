//! Parts of a file (RFC 9110, section 14).

use std::ops::Range;

/// What a `Range` header asks of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// All of it: no range, several, or one that cannot be read; all these may be ignored.
    All,
    /// These bytes, within the file.
    Part(Range<u64>),
    /// Bytes that the file does not have.
    Beyond,
}

/// Reads a `Range` header for a file of `size` bytes.
pub(super) fn wanted(header: &str, size: u64) -> Wanted {
    let bounds = header.trim().strip_prefix("bytes=").and_then(|ranges| ranges.trim().split_once('-'));
    match bounds.map(|(first, last)| (position(first), position(last))) {
        Some((Position::At(first), last)) => from(first, last, size),
        Some((Position::None, Position::At(0))) => Wanted::Beyond,
        Some((Position::None, Position::At(count))) if size > 0 => {
            Wanted::Part(size.saturating_sub(count)..size)
        }
        _ => Wanted::All,
    }
}

/// A range with a first byte, counted from 0, and perhaps a last one, which is part of it.
fn from(first: u64, last: Position, size: u64) -> Wanted {
    let end = match last {
        Position::None => size,
        Position::At(last) if last >= first => size.min(last.saturating_add(1)),
        Position::At(_) | Position::Wrong => return Wanted::All,
    };
    if first < size { Wanted::Part(first..end) } else { Wanted::Beyond }
}

#[derive(Clone, Copy)]
enum Position {
    None,
    At(u64),
    Wrong,
}

/// Digits only: Rust's own parser would take a plus sign. What is too large for a number is beyond
/// any file.
fn position(text: &str) -> Position {
    if text.is_empty() {
        return Position::None;
    }
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Position::Wrong;
    }
    Position::At(text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range() {
        assert_eq!(wanted("bytes=0-4", 10), Wanted::Part(0..5));
        assert_eq!(wanted("bytes=3-", 10), Wanted::Part(3..10));
        assert_eq!(wanted("bytes=-3", 10), Wanted::Part(7..10));
        assert_eq!(wanted("bytes=9-9", 10), Wanted::Part(9..10));
        assert_eq!(wanted("bytes=5-99", 10), Wanted::Part(5..10));
        assert_eq!(wanted("bytes=-99", 10), Wanted::Part(0..10));
        assert_eq!(wanted("bytes=5-99999999999999999999", 10), Wanted::Part(5..10));
    }

    #[test]
    fn outside_the_file() {
        for header in ["bytes=10-", "bytes=10-12", "bytes=99999999999999999999-", "bytes=-0"] {
            assert_eq!(wanted(header, 10), Wanted::Beyond, "{header}");
        }
        assert_eq!(wanted("bytes=0-", 0), Wanted::Beyond);
        assert_eq!(wanted("bytes=-5", 0), Wanted::All);
    }

    #[test]
    fn what_cannot_be_read_is_ignored() {
        for header in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=5-3",
            "bytes=a-b",
            "lines=0-1",
            "bytes=0-1,3-4",
            "bytes=+1-2",
            "bytes=1-2-3",
        ] {
            assert_eq!(wanted(header, 10), Wanted::All, "{header}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_part_lies_within_the_file(header in "bytes=[0-9]{0,21}-[0-9]{0,21}", size in 0..50_u64) {
            if let Wanted::Part(part) = wanted(&header, size) {
                assert!(part.start < part.end && part.end <= size);
            }
        }
    }
}
