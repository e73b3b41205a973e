//! The `Range` header (RFC 9110, section 14).

use std::ops::Range;

/// The part of a file that a `Range` header requests.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum RangeRequest {
    /// The whole file. Several ranges, other units and invalid headers may be ignored.
    Full,
    /// These bytes of the file.
    Partial(Range<u64>),
    /// No byte of the file.
    Unsatisfiable,
}

/// Parses a `Range` header for a file of `size` bytes.
pub(super) fn parse_range(header: &str, size: u64) -> RangeRequest {
    let bounds = header.trim().strip_prefix("bytes=").and_then(|ranges| ranges.trim().split_once('-'));
    match bounds.map(|(first, last)| (parse_bound(first), parse_bound(last))) {
        Some((RangeBound::At(first), last)) => resolve_bounds(first, last, size),
        Some((RangeBound::None, RangeBound::At(0))) => RangeRequest::Unsatisfiable,
        Some((RangeBound::None, RangeBound::At(count))) if size > 0 => {
            RangeRequest::Partial(size.saturating_sub(count)..size)
        }
        _ => RangeRequest::Full,
    }
}

/// The range from `first`, counted from 0, to `last`, which is included.
fn resolve_bounds(first: u64, last: RangeBound, size: u64) -> RangeRequest {
    let end = match last {
        RangeBound::None => size,
        RangeBound::At(last) if last >= first => size.min(last.saturating_add(1)),
        RangeBound::At(_) | RangeBound::Invalid => return RangeRequest::Full,
    };
    if first < size { RangeRequest::Partial(first..end) } else { RangeRequest::Unsatisfiable }
}

#[derive(Clone, Copy)]
enum RangeBound {
    None,
    At(u64),
    Invalid,
}

/// Digits only: `parse` accepts a plus sign too. A number that does not fit is larger than any file.
fn parse_bound(text: &str) -> RangeBound {
    if text.is_empty() {
        return RangeBound::None;
    }
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return RangeBound::Invalid;
    }
    RangeBound::At(text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range() {
        assert_eq!(parse_range("bytes=0-4", 10), RangeRequest::Partial(0..5));
        assert_eq!(parse_range("bytes=3-", 10), RangeRequest::Partial(3..10));
        assert_eq!(parse_range("bytes=-3", 10), RangeRequest::Partial(7..10));
        assert_eq!(parse_range("bytes=9-9", 10), RangeRequest::Partial(9..10));
        assert_eq!(parse_range("bytes=5-99", 10), RangeRequest::Partial(5..10));
        assert_eq!(parse_range("bytes=-99", 10), RangeRequest::Partial(0..10));
        assert_eq!(parse_range("bytes=5-99999999999999999999", 10), RangeRequest::Partial(5..10));
    }

    #[test]
    fn range_outside_the_file_is_unsatisfiable() {
        for header in ["bytes=10-", "bytes=10-12", "bytes=99999999999999999999-", "bytes=-0"] {
            assert_eq!(parse_range(header, 10), RangeRequest::Unsatisfiable, "{header}");
        }
        assert_eq!(parse_range("bytes=0-", 0), RangeRequest::Unsatisfiable);
        assert_eq!(parse_range("bytes=-5", 0), RangeRequest::Full);
    }

    #[test]
    fn ignores_invalid_headers() {
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
            assert_eq!(parse_range(header, 10), RangeRequest::Full, "{header}");
        }
    }

    proptest::proptest! {
        #[test]
        fn partial_range_is_within_the_file(header in "bytes=[0-9]{0,21}-[0-9]{0,21}", size in 0..50_u64) {
            if let RangeRequest::Partial(part) = parse_range(&header, size) {
                assert!(part.start < part.end && part.end <= size);
            }
        }
    }
}
