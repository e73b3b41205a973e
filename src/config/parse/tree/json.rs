//! Parser for JSON5: accepts comments, trailing commas, single quotes and unquoted keys.

use std::ops::Range;

use jsonc_parser::ast::{ObjectPropName, Value as Parsed};
use jsonc_parser::common::Ranged;
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};
use serde_json::{Number, Value};

use crate::config::parse::tree::{ConfigNode, NodeContent, SyntaxError, TableEntry};

impl ConfigNode {
    /// Parses JSON5.
    pub(crate) fn from_json(text: &str) -> Result<Self, SyntaxError> {
        // The defaults accept JSON5, and also missing commas, which are an error here.
        let options = ParseOptions { allow_missing_commas: false, ..ParseOptions::default() };
        match parse_to_ast(text, &CollectOptions::default(), &options) {
            Ok(parsed) => parsed.value.map(node).ok_or_else(|| SyntaxError::new(0..0, "empty file")),
            Err(error) => {
                let range = error.range();
                Err(SyntaxError::new(range.start..range.end, error.kind().to_string()))
            }
        }
    }
}

// Recursion is safe: the parser limits the nesting to about 500 levels.
fn node(value: Parsed<'_>) -> ConfigNode {
    let at = bytes(&value);
    let content = match value {
        Parsed::StringLit(text) => NodeContent::Scalar(Value::String(text.value.into_owned())),
        Parsed::NumberLit(number) => {
            NodeContent::Scalar(crate::config::parse::tree::json::number(number.value))
        }
        Parsed::BooleanLit(flag) => NodeContent::Scalar(Value::Bool(flag.value)),
        Parsed::NullKeyword(_) => NodeContent::Scalar(Value::Null),
        Parsed::Array(list) => NodeContent::List(list.elements.into_iter().map(node).collect()),
        Parsed::Object(table) => {
            let entries = table.properties.into_iter().map(|property| TableEntry {
                key_span: match &property.name {
                    ObjectPropName::String(name) => bytes(name),
                    ObjectPropName::Word(name) => bytes(name),
                },
                key: property.name.into_string(),
                node: node(property.value),
            });
            NodeContent::Table(entries.collect())
        }
    };
    ConfigNode { span: at, content }
}

fn bytes(part: &impl Ranged) -> Range<usize> {
    part.start()..part.end()
}

/// Numbers out of range become strings: these are valid as environment variables, and rejected elsewhere.
fn number(written: &str) -> Value {
    let plain = written.strip_prefix('+').unwrap_or(written);
    let (sign, digits) = plain.strip_prefix('-').map_or(("", plain), |digits| ("-", digits));
    let hex = digits.strip_prefix("0x").or(digits.strip_prefix("0X"));
    let whole = match hex {
        Some(hex) => i64::from_str_radix(&format!("{sign}{hex}"), 16).ok().map(Number::from),
        None => plain.parse().map(|n: i64| n.into()).or_else(|_| plain.parse().map(|n: u64| n.into())).ok(),
    };
    let real = || plain.parse().ok().filter(|_| hex.is_none()).and_then(Number::from_f64);
    whole.or_else(real).map_or_else(|| Value::String(written.to_owned()), Value::Number)
}

#[cfg(test)]
mod tests {
    use crate::config::parse::tree::json::*;
    use serde_json::json;

    #[test]
    fn accepts_json5() {
        let text = "// apps\n{ a: 'x', \"b\": [1, +2, -0x10, .5, 1e400,], /* c */ '__proto__': null, }";
        let Ok(node) = ConfigNode::from_json(text) else { panic!() };
        let want = json!({ "a": "x", "b": [1, 2, -16, 0.5, "1e400"], "__proto__": null });
        assert_eq!(node.value(), want);
        let NodeContent::Table(entries) = &node.content else { panic!() };
        assert_eq!(&text[entries[1].key_span.clone()], "\"b\"");
        assert_eq!(&text[entries[0].node.span.clone()], "'x'");
    }

    #[test]
    fn reports_span_of_errors_and_limits_depth() {
        let broken = |text: &str| ConfigNode::from_json(text).err().map(|broken| broken.span.start);
        assert_eq!(broken("{ \"a\": 1\n  \"b\": 2 }"), Some(8), "behind the value that lacks a comma");
        for text in ["", "{", "{]", "[1, 2", "require('fs')", "{} {}"] {
            assert!(broken(text).is_some(), "{text}");
        }
        assert!(broken(&"[".repeat(500_000)).is_some());
        assert!(broken(&"{a:".repeat(300_000)).is_some());
    }
}
