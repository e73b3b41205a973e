//! Text in columns of a terminal: wide characters take two, and escape sequences none.

use unicode_segmentation::UnicodeSegmentation;
use unicode_width::UnicodeWidthChar;

use crate::cli::render::style::{truncate, width};

/// Columns between the stops of a tabulator.
const TAB: usize = 8;

/// `text` in exactly `columns`, filled up on its right.
pub(super) fn pad_right(text: &str, columns: usize) -> String {
    let text = truncate(text, columns);
    let gap = columns - width(&text);
    format!("{text}{:gap$}", "")
}

/// `text` in exactly `columns`, filled up on its left.
pub(super) fn pad_left(text: &str, columns: usize) -> String {
    let text = truncate(text, columns);
    let gap = columns - width(&text);
    format!("{:gap$}{text}", "")
}

/// Where `text` is to be broken so that no part takes more than `columns`: the parts' beginnings
/// and ends, in bytes. At least one part.
pub(super) fn wrapped(text: &str, columns: usize) -> Vec<(usize, usize)> {
    let (mut parts, mut begin, mut taken) = (Vec::new(), 0, 0);
    for (at, sign) in text.grapheme_indices(true) {
        let wide = width(sign);
        if taken + wide > columns.max(2) {
            parts.push((begin, at));
            (begin, taken) = (at, 0);
        }
        taken += wide;
    }
    parts.push((begin, text.len()));
    parts
}

/// A line of an app as it can be shown: colors and other orders to the terminal are taken out,
/// tabulators become blanks.
pub(super) fn sanitize_line(line: &str) -> String {
    if !line.contains(char::is_control) {
        return line.to_owned();
    }
    let (mut tame, mut at) = (String::with_capacity(line.len()), 0);
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => skip_sequence(&mut chars),
            '\t' => {
                let gap = TAB - at % TAB;
                tame.extend(std::iter::repeat_n(' ', gap));
                at += gap;
            }
            c if c.is_control() => {}
            c => {
                tame.push(c);
                at += c.width().unwrap_or(0);
            }
        }
    }
    tame
}

/// Passes over what follows an escape character (ECMA-48): `[` … a letter, `]` … BEL or ESC `\`, or one.
fn skip_sequence(chars: &mut std::str::Chars<'_>) {
    match chars.next() {
        Some('[') => drop(chars.find(|c| ('\u{40}'..='\u{7e}').contains(c))),
        Some(']') => {
            let end = chars.find(|c| matches!(c, '\u{7}' | '\u{1b}'));
            if end == Some('\u{1b}') {
                chars.next();
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_filled_by_columns() {
        assert_eq!((pad_right("网关", 6), pad_left("网关", 6)), ("网关  ".into(), "  网关".into()));
        assert_eq!((pad_right("网关", 3), width(&pad_right("网关", 2))), ("网…".into(), 2));
    }

    #[test]
    fn lines_break_where_they_are_full() {
        let parts = |text: &'static str, columns| -> Vec<&str> {
            wrapped(text, columns).into_iter().map(|(begin, end)| &text[begin..end]).collect()
        };
        assert_eq!(parts("abcdef", 4), ["abcd", "ef"]);
        assert_eq!(parts("队列服务", 5), ["队列", "服务"]);
        assert_eq!(parts("", 5), [""]);
    }

    #[test]
    fn lines_of_apps_do_not_steer_the_terminal() {
        assert_eq!(sanitize_line("\u{1b}[1;31mred\u{1b}[0m\u{7}"), "red");
        assert_eq!(sanitize_line("a\tb"), "a       b");
        assert_eq!(sanitize_line("\u{1b}]0;title\u{7}x\u{1b}]8;;u\u{1b}\\y\u{1b}[2J"), "xy");
    }
}
