//! Text for terminals and shells, and suggestions for misspelled words.

use std::borrow::Cow;

/// `text` without control characters and marks that change its direction, each replaced by `U+FFFD`: a name must not
/// control the terminal, or reorder what follows it.
pub fn sanitize(text: &str) -> Cow<'_, str> {
    replace_controls(text, |_| false)
}

/// As [`sanitize`], for text of several lines: newlines and tabs stay.
pub fn sanitize_lines(text: &str) -> Cow<'_, str> {
    replace_controls(text, |c| matches!(c, '\n' | '\t'))
}

fn replace_controls(text: &str, is_allowed: impl Fn(char) -> bool) -> Cow<'_, str> {
    let is_removed = |c: char| (c.is_control() || is_direction_mark(c)) && !is_allowed(c);
    match text.contains(is_removed) {
        true => text.chars().map(|c| if is_removed(c) { char::REPLACEMENT_CHARACTER } else { c }).collect(),
        false => Cow::Borrowed(text),
    }
}

/// Embeddings, overrides and isolates of bidirectional text.
fn is_direction_mark(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The known name that a misspelled word was most likely meant to be, if one is close enough.
pub fn closest_match<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|name| (strsim::damerau_levenshtein(name, word), name))
        .filter(|(distance, name)| *distance <= name.chars().count().max(word.chars().count()).max(3) / 3)
        .min()
        .map(|(_, name)| name)
}

/// `word` quoted for a POSIX shell. A word with a zero byte, which no shell can express, becomes empty.
pub fn quote_shell(word: &str) -> Cow<'_, str> {
    shlex::try_quote(word).unwrap_or(Cow::Borrowed("''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sanitize_replaces_control_characters() {
        assert_eq!(sanitize("a\u{1b}[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
        assert_eq!(sanitize_lines("a\u{1b}b\n\t"), "a\u{fffd}b\n\t");
        assert_eq!(sanitize("a\u{202e}b\u{2066}c"), "a\u{fffd}b\u{fffd}c");
        assert!(matches!(sanitize("plain"), Cow::Borrowed(_)));
    }

    #[test]
    fn closest_match_ignores_distant_words() {
        let known = || ["autorestart", "instances", "port"].into_iter();
        assert_eq!(closest_match("instnaces", known()), Some("instances"));
        assert_eq!(closest_match("prot", known()), Some("port"));
        assert_eq!(closest_match("something", known()), None);
    }

    #[test]
    fn quote_shell_quotes_only_what_needs_it() {
        assert_eq!(quote_shell("plain"), "plain");
        assert_eq!(quote_shell("a b"), "'a b'");
    }
}
