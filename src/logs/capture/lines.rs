//! Splitting text into lines of bounded length.

use memchr::{memchr, memrchr};

/// Maximum length of a line in bytes. A longer line is split.
pub(crate) const MAX_LINE: usize = 256 * 1024;

/// A line, or a part of one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LinePiece<'a> {
    /// Without the newline.
    pub(crate) text: &'a [u8],
    /// The line begins here.
    pub(crate) first: bool,
    /// The line ends here.
    pub(crate) last: bool,
}

/// Calls `each` with every line of a text. `is_continuation`: the first one continues a line of an earlier
/// text.
pub(crate) fn for_each_piece(text: &[u8], mut is_continuation: bool, mut each: impl FnMut(LinePiece<'_>)) {
    let mut left = text;
    while !left.is_empty() {
        let end = memchr(b'\n', left);
        let line = &left[..end.unwrap_or(left.len())];
        if line.len() > MAX_LINE {
            let (part, rest) = left.split_at(char_boundary_before(line, MAX_LINE));
            each(LinePiece { text: part, first: !is_continuation, last: false });
            left = rest;
            is_continuation = true;
        } else {
            each(LinePiece { text: line, first: !is_continuation, last: end.is_some() });
            left = end.map_or(&[], |end| &left[end + 1..]);
            is_continuation = end.is_none();
        }
    }
}

/// Length of the complete lines within the first `limit` bytes of a text, or else of the first complete line;
/// `None` if it has none.
pub(crate) fn complete_lines_length(text: &[u8], limit: usize) -> Option<usize> {
    let last = memrchr(b'\n', &text[..text.len().min(limit)]);
    last.or_else(|| memchr(b'\n', text)).map(|at| at + 1)
}

/// The last index at or before `limit` that does not split a UTF-8 character; `limit` itself if the bytes are
/// not UTF-8.
pub(crate) fn char_boundary_before(text: &[u8], limit: usize) -> usize {
    let is_inside_char = |at: &usize| text.get(*at).is_some_and(|byte| byte & 0xC0 == 0x80);
    (limit.saturating_sub(3)..=limit).rev().find(|at| !is_inside_char(at)).unwrap_or(limit)
}

#[cfg(test)]
mod tests {
    use crate::logs::capture::lines::*;
    use proptest::prelude::*;

    fn pieces(text: &[u8], is_continuation: bool) -> Vec<(Vec<u8>, bool, bool)> {
        let mut pieces = Vec::new();
        for_each_piece(text, is_continuation, |piece| {
            pieces.push((piece.text.to_vec(), piece.first, piece.last))
        });
        pieces
    }

    #[test]
    fn pieces_mark_first_and_last() {
        assert_eq!(
            pieces(b"a\n\nb", true),
            [(b"a".to_vec(), false, true), (b"".to_vec(), true, true), (b"b".to_vec(), true, false)]
        );
    }

    #[test]
    fn long_lines_are_split_between_characters() {
        let long = format!("x{}\ny\n", "ä".repeat(MAX_LINE)); // twice the limit in bytes
        let got = pieces(long.as_bytes(), false);
        let sizes: Vec<_> = got.iter().map(|(text, first, last)| (text.len(), *first, *last)).collect();
        let want = [(MAX_LINE - 1, true, false), (MAX_LINE, false, false), (2, false, true), (1, true, true)];
        assert_eq!(sizes, want);
        assert!(got.iter().all(|(text, ..)| std::str::from_utf8(text).is_ok()));
    }

    #[test]
    fn line_of_maximum_length_is_not_split() {
        assert_eq!(pieces(&[vec![b'a'; MAX_LINE], vec![b'\n']].concat(), false).len(), 1);
        assert_eq!(pieces(&vec![0x80; MAX_LINE + 1], false)[0].0.len(), MAX_LINE);
    }

    #[test]
    fn length_is_limited_to_complete_lines() {
        for (limit, length) in [(0, Some(4)), (4, Some(4)), (7, Some(4)), (8, Some(8)), (99, Some(8))] {
            assert_eq!(complete_lines_length(b"one\ntwo\nth", limit), length, "{limit}");
        }
        assert_eq!(complete_lines_length(b"th", 99), None);
    }

    proptest! {
        #[test]
        fn pieces_contain_all_text(bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..300)) {
            let mut got = Vec::new();
            for_each_piece(&bytes, false, |piece| {
                got.extend_from_slice(piece.text);
                got.extend(piece.last.then_some(b'\n'));
            });
            prop_assert_eq!(got, bytes);
        }
    }
}
