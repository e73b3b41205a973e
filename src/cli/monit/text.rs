//! Layout of text in terminal columns, and removal of escape sequences.

use unicode_segmentation::UnicodeSegmentation;
use unicode_width::UnicodeWidthChar;

use crate::cli::escape::skip_sequence;
use crate::cli::render::style::{truncate, width};

/// Columns between tab stops.
const TAB: usize = 8;

/// `text` truncated or padded on the right to `columns`.
pub(super) fn pad_right(text: &str, columns: usize) -> String {
    let text = truncate(text, columns);
    let gap = columns - width(&text);
    format!("{text}{:gap$}", "")
}

/// `text` truncated or padded on the left to `columns`.
pub(super) fn pad_left(text: &str, columns: usize) -> String {
    let text = truncate(text, columns);
    let gap = columns - width(&text);
    format!("{:gap$}{text}", "")
}

/// The byte ranges of the rows of `text` when it is wrapped at `columns`. At least one.
pub(super) fn wrap(text: &str, columns: usize) -> Vec<(usize, usize)> {
    let (mut rows, mut start, mut used) = (Vec::new(), 0, 0);
    for (at, grapheme) in text.grapheme_indices(true) {
        let columns_used = width(grapheme);
        if used + columns_used > columns.max(2) {
            rows.push((start, at));
            (start, used) = (at, 0);
        }
        used += columns_used;
    }
    rows.push((start, text.len()));
    rows
}

/// A log line without escape sequences and control characters; tabs are expanded.
pub(super) fn sanitize_line(line: &str) -> String {
    if !line.contains(char::is_control) {
        return line.to_owned();
    }
    let (mut clean, mut column) = (String::with_capacity(line.len()), 0);
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => skip_sequence(&mut chars),
            '\t' => {
                let gap = TAB - column % TAB;
                clean.extend(std::iter::repeat_n(' ', gap));
                column += gap;
            }
            c if c.is_control() => {}
            c => {
                clean.push(c);
                column += c.width().unwrap_or(0);
            }
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pads_to_terminal_columns() {
        assert_eq!((pad_right("网关", 6), pad_left("网关", 6)), ("网关  ".into(), "  网关".into()));
        assert_eq!((pad_right("网关", 3), width(&pad_right("网关", 2))), ("网…".into(), 2));
    }

    #[test]
    fn wraps_at_terminal_columns() {
        let parts = |text: &'static str, columns| -> Vec<&str> {
            wrap(text, columns).into_iter().map(|(start, end)| &text[start..end]).collect()
        };
        assert_eq!(parts("abcdef", 4), ["abcd", "ef"]);
        assert_eq!(parts("队列服务", 5), ["队列", "服务"]);
        assert_eq!(parts("", 5), [""]);
    }

    #[test]
    fn removes_escape_sequences() {
        assert_eq!(sanitize_line("\u{1b}[1;31mred\u{1b}[0m\u{7}"), "red");
        assert_eq!(sanitize_line("a\tb"), "a       b");
        assert_eq!(sanitize_line("\u{1b}]0;title\u{7}x\u{1b}]8;;u\u{1b}\\y\u{1b}[2J"), "xy");
    }
}
