//! Cuts text into lines of bounded length.

use memchr::{memchr, memrchr};

/// The most bytes of a line that are kept together. A longer line is cut here.
pub(in crate::logs) const MAX_LINE: usize = 256 * 1024;

/// A line, or a part of one.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::logs) struct LinePiece<'a> {
    /// Its bytes, without the newline.
    pub(in crate::logs) text: &'a [u8],
    /// The line begins here; else an earlier piece began it.
    pub(in crate::logs) first: bool,
    /// The line ends here.
    pub(in crate::logs) last: bool,
}

/// Hands on every line of a text. `begun`: an earlier text began the first one.
pub(in crate::logs) fn for_each_piece(text: &[u8], mut begun: bool, mut each: impl FnMut(LinePiece<'_>)) {
    let mut left = text;
    while !left.is_empty() {
        let end = memchr(b'\n', left);
        let line = &left[..end.unwrap_or(left.len())];
        if line.len() > MAX_LINE {
            let cut = char_boundary_before(line, MAX_LINE);
            each(LinePiece { text: &left[..cut], first: !begun, last: false });
            left = &left[cut..];
        } else {
            each(LinePiece { text: line, first: !begun, last: end.is_some() });
            left = end.map_or(&[], |end| &left[end + 1..]);
        }
        begun = true;
        if end.is_some_and(|_| line.len() <= MAX_LINE) {
            begun = false;
        }
    }
}

/// How much of a text to take: its whole lines within `room` bytes, or else the first one.
/// `None`: it has no whole line.
pub(in crate::logs) fn complete_lines_length(text: &[u8], room: usize) -> Option<usize> {
    let within = memrchr(b'\n', &text[..text.len().min(room)]);
    within.or_else(|| memchr(b'\n', text)).map(|at| at + 1)
}

/// The largest cut at or before `limit` that does not split a UTF-8 character; `limit` itself in
/// bytes that are no UTF-8.
pub(in crate::logs) fn char_boundary_before(text: &[u8], limit: usize) -> usize {
    let inside = |at: &usize| text.get(*at).is_some_and(|byte| byte & 0xC0 == 0x80);
    (limit.saturating_sub(3)..=limit).rev().find(|at| !inside(at)).unwrap_or(limit)
}

#[cfg(test)]
mod tests {
    use crate::logs::capture::lines::*;
    use proptest::prelude::*;

    fn all(text: &[u8], begun: bool) -> Vec<(Vec<u8>, bool, bool)> {
        let mut got = Vec::new();
        for_each_piece(text, begun, |piece| got.push((piece.text.to_vec(), piece.first, piece.last)));
        got
    }

    #[test]
    fn lines_know_whether_they_are_whole() {
        assert_eq!(
            all(b"a\n\nb", true),
            [(b"a".to_vec(), false, true), (b"".to_vec(), true, true), (b"b".to_vec(), true, false)]
        );
    }

    #[test]
    fn long_lines_are_cut_between_characters() {
        let long = format!("x{}\ny\n", "ä".repeat(MAX_LINE)); // twice the limit in bytes
        let got = all(long.as_bytes(), false);
        let sizes: Vec<_> = got.iter().map(|(text, first, last)| (text.len(), *first, *last)).collect();
        let want = [(MAX_LINE - 1, true, false), (MAX_LINE, false, false), (2, false, true), (1, true, true)];
        assert_eq!(sizes, want);
        assert!(got.iter().all(|(text, ..)| std::str::from_utf8(text).is_ok()));
    }

    #[test]
    fn a_line_of_the_limit_is_whole() {
        assert_eq!(all(&[vec![b'a'; MAX_LINE], vec![b'\n']].concat(), false).len(), 1);
        assert_eq!(all(&vec![0x80; MAX_LINE + 1], false)[0].0.len(), MAX_LINE);
    }

    #[test]
    fn what_fits_is_taken_by_lines() {
        for (room, taken) in [(0, Some(4)), (4, Some(4)), (7, Some(4)), (8, Some(8)), (99, Some(8))] {
            assert_eq!(complete_lines_length(b"one\ntwo\nth", room), taken, "{room}");
        }
        assert_eq!(complete_lines_length(b"th", 99), None);
    }

    proptest! {
        #[test]
        fn nothing_is_lost(bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..300)) {
            let mut got = Vec::new();
            for_each_piece(&bytes, false, |piece| {
                got.extend_from_slice(piece.text);
                got.extend(piece.last.then_some(b'\n'));
            });
            prop_assert_eq!(got, bytes);
        }
    }
}
