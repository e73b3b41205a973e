//! Escape sequences in lines of apps: a line may have colors, but must not control the terminal.
//!
//! With other sequences, a line can write to the clipboard (OSC 52), change the title, clear the screen or move the
//! cursor, and so hide or forge lines.

use std::borrow::Cow;
use std::str::Chars;

const RESET: &str = "\u{1b}[0m";

/// A line with its colors, and without other escape sequences and control characters except tabs. A color ends with
/// the line.
pub(super) fn keep_colors(line: &str) -> Cow<'_, str> {
    let line = line.strip_suffix('\r').unwrap_or(line);
    if !line.contains(|c: char| c.is_control() && c != '\t') {
        return Cow::Borrowed(line);
    }
    let (mut kept, mut is_colored) = (String::with_capacity(line.len()), false);
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => {
                let before = chars.as_str();
                if let Some(parameters) = color_parameters(before) {
                    is_colored = !parameters
                        .split(';')
                        .next_back()
                        .is_none_or(|last| last.trim_matches('0').is_empty());
                    kept.push('\u{1b}');
                    kept.push_str(&before[..parameters.len() + 2]);
                    chars = before[parameters.len() + 2..].chars();
                } else {
                    skip_sequence(&mut chars);
                }
            }
            '\u{9b}' => skip_control_sequence(&mut chars),
            '\u{90}' | '\u{98}' | '\u{9d}'..='\u{9f}' => skip_string(&mut chars),
            '\t' => kept.push(c),
            '\r' => kept.push(' '), // it would overwrite the prefix of the line
            c if c.is_control() => {}
            c => kept.push(c),
        }
    }
    if is_colored {
        kept.push_str(RESET);
    }
    Cow::Owned(kept)
}

/// The parameters of a color sequence (`[` parameters `m`) at the start of `text`.
fn color_parameters(text: &str) -> Option<&str> {
    let parameters = text.strip_prefix('[')?;
    let end = parameters.find(|c: char| !c.is_ascii_digit() && c != ';' && c != ':')?;
    parameters[end..].starts_with('m').then_some(&parameters[..end])
}

/// Skips the rest of an escape sequence (ECMA-48) after ESC.
pub(super) fn skip_sequence(chars: &mut Chars<'_>) {
    match chars.next() {
        Some('[') => skip_control_sequence(chars),
        // Operating system command, device control, and other strings.
        Some(']' | 'P' | 'X' | '^' | '_') => skip_string(chars),
        // Intermediate characters, as in the choice of a character set.
        Some(' '..='/') => drop(chars.find(|c| !(' '..='/').contains(c))),
        _ => {}
    }
}

fn skip_control_sequence(chars: &mut Chars<'_>) {
    chars.find(|c| ('\u{40}'..='\u{7e}').contains(c));
}

/// Skips to BEL, ESC `\\` or ST.
fn skip_string(chars: &mut Chars<'_>) {
    let end = chars.find(|c| matches!(c, '\u{7}' | '\u{1b}' | '\u{9c}'));
    if end == Some('\u{1b}') {
        chars.next();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colors_are_kept_and_end_with_the_line() {
        for (line, kept) in [
            ("plain\ttext", "plain\ttext"),
            ("\u{1b}[1;31mred\u{1b}[0m", "\u{1b}[1;31mred\u{1b}[0m"),
            ("\u{1b}[32mgreen\u{1b}[m", "\u{1b}[32mgreen\u{1b}[m"),
            ("\u{1b}[38:2:1:2:3mopen", "\u{1b}[38:2:1:2:3mopen\u{1b}[0m"),
            ("windows\r", "windows"),
        ] {
            assert_eq!(keep_colors(line), kept, "{line:?}");
        }
    }

    #[test]
    fn other_sequences_are_removed() {
        for line in [
            "a\u{1b}]52;c;aGk=\u{7}b",
            "a\u{1b}]0;title\u{1b}\\b",
            "a\u{1b}[2J\u{1b}[1;1Hb",
            "a\u{1b}[?1049hb",
            "a\u{1b}[>0mb",
            "a\u{1b}Pq#0\u{1b}\\b",
            "a\u{1b}_G\u{1b}\\b",
            "a\u{1b}(0b",
            "a\u{1b}cb",
            "a\u{9d}52;c;aGk=\u{9c}b",
            "a\u{9b}2Jb",
            "a\u{7}\u{8}\u{7f}b",
            "ab\u{1b}",
            "ab\u{1b}]52;c;without an end",
        ] {
            assert_eq!(keep_colors(line), "ab", "{line:?}");
        }
        assert_eq!(keep_colors("real\rforged"), "real forged");
    }
}
