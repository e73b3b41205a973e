//! Cuts a stream of chunks into lines of bounded length.

use memchr::memchr;

/// The most bytes of a line that are kept together. A longer line is cut here.
pub(super) const LINE_LIMIT: usize = 256 * 1024;

/// Room kept for the next unfinished line. Beyond it memory is given back: one long line must not
/// cost every instance its length for ever.
const SPARE: usize = 1024;

/// A line, or a part of one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Piece<'a> {
    /// Its bytes, without the newline.
    pub(super) text: &'a [u8],
    /// When its first byte was read, milliseconds since the epoch.
    pub(super) at: i64,
    /// The line begins here; else an earlier piece began it.
    pub(super) first: bool,
}

/// Lines being put together from chunks that end anywhere.
#[derive(Debug, Default)]
pub(super) struct Lines {
    rest: Vec<u8>,
    at: i64,
    begun: bool,
}

impl Lines {
    /// Takes a chunk and hands on every line that it completes.
    pub(super) fn feed(&mut self, chunk: &[u8], now: i64, mut each: impl FnMut(Piece<'_>)) {
        let mut left = chunk;
        while let Some(end) = memchr(b'\n', left) {
            self.line(&left[..end], now, &mut each);
            left = &left[end + 1..];
        }
        let left = self.cut(left, now, &mut each);
        self.keep(left, now);
    }

    /// Hands on what is there of an unfinished line. What follows is no first piece.
    pub(super) fn release(&mut self, mut each: impl FnMut(Piece<'_>)) {
        if !self.rest.is_empty() {
            each(Piece { text: &self.rest, at: self.at, first: !self.begun });
            self.begun = true;
            self.forget();
        }
    }

    /// Whether an unfinished line is kept here.
    pub(super) fn holds(&self) -> bool {
        !self.rest.is_empty()
    }

    /// Forgets an unfinished line.
    pub(super) fn clear(&mut self) {
        self.begun = false;
        self.forget();
    }

    fn line(&mut self, text: &[u8], now: i64, each: &mut impl FnMut(Piece<'_>)) {
        let text = self.cut(text, now, each);
        if self.rest.is_empty() {
            each(Piece { text, at: now, first: !self.begun });
        } else {
            self.rest.extend_from_slice(text);
            each(Piece { text: &self.rest, at: self.at, first: !self.begun });
        }
        self.clear();
    }

    /// Hands on full pieces while the line is longer than the limit; gives back what fits.
    fn cut<'t>(&mut self, mut text: &'t [u8], now: i64, each: &mut impl FnMut(Piece<'_>)) -> &'t [u8] {
        while self.rest.len() + text.len() > LINE_LIMIT {
            let (fits, left) = text.split_at(whole_chars(text, LINE_LIMIT - self.rest.len()));
            self.keep(fits, now);
            each(Piece { text: &self.rest, at: self.at, first: !self.begun });
            self.begun = true;
            self.forget();
            text = left;
        }
        text
    }

    fn keep(&mut self, text: &[u8], now: i64) {
        if self.rest.is_empty() {
            self.at = now;
        }
        self.rest.extend_from_slice(text);
    }

    fn forget(&mut self) {
        self.rest.clear();
        self.rest.shrink_to(SPARE);
    }
}

/// The largest cut at or before `limit` that does not split a UTF-8 character; `limit` itself in
/// bytes that are no UTF-8.
fn whole_chars(text: &[u8], limit: usize) -> usize {
    let inside = |at: &usize| text.get(*at).is_some_and(|byte| byte & 0xC0 == 0x80);
    (limit.saturating_sub(3)..=limit).rev().find(|at| !inside(at)).unwrap_or(limit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn feed(lines: &mut Lines, chunk: &[u8], now: i64) -> Vec<(Vec<u8>, i64, bool)> {
        let mut got = Vec::new();
        lines.feed(chunk, now, |piece| got.push((piece.text.to_vec(), piece.at, piece.first)));
        got
    }

    #[test]
    fn a_line_bears_the_time_of_its_beginning() {
        let mut lines = Lines::default();
        assert_eq!(feed(&mut lines, b"a\nb", 1), [(b"a".to_vec(), 1, true)]);
        assert_eq!(feed(&mut lines, b"c\n\n", 2), [(b"bc".to_vec(), 1, true), (b"".to_vec(), 2, true)]);
        assert!(!lines.holds());
    }

    #[test]
    fn a_released_line_goes_on_as_one() {
        let mut lines = Lines::default();
        feed(&mut lines, b"name? ", 1);
        let mut shown = Vec::new();
        lines.release(|piece| shown.extend_from_slice(piece.text));
        assert_eq!(shown, b"name? ");
        assert_eq!(feed(&mut lines, b"bob\nx\n", 2), [(b"bob".to_vec(), 2, false), (b"x".to_vec(), 2, true)]);
    }

    #[test]
    fn long_lines_are_cut_between_characters() {
        let mut lines = Lines::default();
        let long = "ä".repeat(LINE_LIMIT) + "\n"; // twice the limit in bytes
        let mut got = feed(&mut lines, b"x", 1);
        got.extend(feed(&mut lines, long.as_bytes(), 2));
        let sizes: Vec<_> = got.iter().map(|(text, _, first)| (text.len(), *first)).collect();
        assert_eq!(sizes, [(LINE_LIMIT - 1, true), (LINE_LIMIT, false), (2, false)]);
        assert!(got.iter().all(|(text, ..)| std::str::from_utf8(text).is_ok()));
    }

    #[test]
    fn a_line_of_the_limit_is_whole() {
        let got = feed(&mut Lines::default(), &[vec![b'a'; LINE_LIMIT], vec![b'\n']].concat(), 1);
        assert_eq!(got.len(), 1);
        let binary = feed(&mut Lines::default(), &vec![0x80; LINE_LIMIT + 1], 1);
        assert_eq!(binary[0].0.len(), LINE_LIMIT);
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_lines(
            bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..300),
            size in 1usize..40,
        ) {
            let mut lines = Lines::default();
            let mut got: Vec<Vec<u8>> = Vec::new();
            for chunk in bytes.chunks(size) {
                lines.feed(chunk, 0, |piece| got.push(piece.text.to_vec()));
            }
            lines.release(|piece| got.push(piece.text.to_vec()));
            let mut whole: Vec<Vec<u8>> = bytes.split(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
            if whole.last().is_some_and(Vec::is_empty) {
                whole.pop();
            }
            prop_assert_eq!(got, whole);
        }
    }
}
