//! Word lists, such as arguments.

use serde_json::Value;

use crate::config::values::env::javascript_number;
use crate::config::values::{FromValue, Part, ValueError, expected, expected_with_help};

/// A list of words, or one string split at whitespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct WordList(pub(crate) Vec<String>);

impl FromValue for WordList {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        match value {
            Value::String(text) => match split_shell_words(text) {
                Some(words) if !text.contains('\0') => Ok(Self(words)),
                Some(_) => expected("text without NUL characters"),
                None => expected_with_help(
                    "a string with closed quotes",
                    "close the quote, or use a list of strings",
                ),
            },
            Value::Array(items) => items.iter().map(word_from_value).collect::<Result<_, _>>().map(Self),
            _ => expected("a string or a list of strings"),
        }
    }
}

schema!(WordList, {
    "type": ["string", "array"],
    "items": { "type": ["string", "number"] }
});

/// One word of a list. Numbers are accepted too: they are common in argument lists, and unambiguous.
fn word_from_value(item: &Value) -> Result<String, ValueError> {
    match item {
        Value::String(text) if !text.contains('\0') => Ok(text.clone()),
        Value::Number(number) => Ok(javascript_number(number)),
        other => Err(ValueError {
            expected: "a list of strings".into(),
            help: String::new(),
            part: Part::Item(crate::config::values::display_value(other)),
        }),
    }
}

/// Splits at whitespace. Quotes at the start of a word or after `=` group words and are removed. No other character is
/// special, so that JSON (`{"port":80}`), patterns, colors (`#fff`) and backslashes are kept. Returns `None` for an
/// unclosed quote.
fn split_shell_words(text: &str) -> Option<Vec<String>> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in text.chars() {
        match quote {
            Some(open) if c == open => quote = None,
            Some(_) => word.get_or_insert_default().push(c),
            None if (c == '"' || c == '\'')
                && word.as_ref().is_none_or(|word: &String| word.ends_with('=')) =>
            {
                quote = Some(c);
                word.get_or_insert_default();
            }
            None if c.is_whitespace() => words.extend(word.take()),
            None => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

#[cfg(test)]
mod tests {
    use crate::config::values::words::*;
    use serde_json::json;

    #[test]
    fn strings_split_at_whitespace_outside_quotes() {
        let words = |text| split_shell_words(text).unwrap();
        assert_eq!(words("  -a  b\tc\n"), ["-a", "b", "c"]);
        assert_eq!(words(r#"--k="a b" 'c "d"' """#), ["--k=a b", "c \"d\"", ""]);
        assert_eq!(words(r"#fff \d+ a\ b"), ["#fff", r"\d+", r"a\", "b"]);
        assert!(words("").is_empty());
        assert_eq!(words(r#"--json {"port":80} it's"#), ["--json", "{\"port\":80}", "it's"]);
        assert_eq!(split_shell_words("'it s"), None);
    }

    #[test]
    fn lists_accept_words_and_numbers() {
        assert_eq!(WordList::from_value(&json!(["--port", 80, "a b"])).unwrap().0, ["--port", "80", "a b"]);
        assert!(WordList::from_value(&json!([true])).is_err());
        assert!(WordList::from_value(&json!([["a"]])).is_err());
        assert!(WordList::from_value(&json!(5)).is_err());
        assert!(WordList::from_value(&json!("'it s")).unwrap_err().help.contains("quote"));
    }
}
