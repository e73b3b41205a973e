//! Parser for TOML.

use std::ops::Range;

use serde_json::{Number, Value};
use toml::de::{DeFloat, DeInteger, DeTable, DeValue};

use crate::config::parse::tree::{ConfigNode, NodeContent, SyntaxError, TableEntry};

impl ConfigNode {
    /// Parses TOML. Returns all syntax errors from which the parser can recover.
    pub(crate) fn from_toml(text: &str) -> Result<Self, Vec<SyntaxError>> {
        let (table, errors) = DeTable::parse_recoverable(text);
        if errors.is_empty() {
            let at = table.span();
            Ok(Self { span: at, content: entries(table.into_inner()) })
        } else {
            let broken =
                |error: toml::de::Error| SyntaxError::new(error.span().unwrap_or(0..0), error.message());
            Err(errors.into_iter().map(broken).collect())
        }
    }
}

fn entries(table: DeTable<'_>) -> NodeContent {
    let mut entries: Vec<TableEntry> = table
        .into_iter()
        .map(|(key, value)| TableEntry {
            key_span: key.span(),
            key: key.into_inner().into_owned(),
            node: node(value.span(), value.into_inner()),
        })
        .collect();
    entries.sort_by_key(|entry| entry.key_span.start);
    NodeContent::Table(entries)
}

// Recursion is safe: the parser limits the nesting to about 80 levels.
fn node(at: Range<usize>, value: DeValue<'_>) -> ConfigNode {
    let content = match value {
        DeValue::String(text) => NodeContent::Scalar(Value::String(text.into_owned())),
        DeValue::Integer(number) => NodeContent::Scalar(integer(&number)),
        DeValue::Float(number) => NodeContent::Scalar(float(&number)),
        DeValue::Boolean(flag) => NodeContent::Scalar(Value::Bool(flag)),
        DeValue::Datetime(time) => NodeContent::Scalar(Value::String(time.to_string())),
        DeValue::Array(items) => {
            let items = items.into_iter();
            NodeContent::List(items.map(|item| node(item.span(), item.into_inner())).collect())
        }
        DeValue::Table(table) => entries(table),
    };
    ConfigNode { span: at, content }
}

/// Numbers out of range become strings: these are valid as environment variables, and rejected elsewhere.
fn integer(number: &DeInteger<'_>) -> Value {
    let (digits, radix) = (number.as_str(), number.radix());
    let signed = i64::from_str_radix(digits, radix).map(Number::from);
    match signed.or_else(|_| u64::from_str_radix(digits, radix).map(Number::from)) {
        Ok(number) => Value::Number(number),
        Err(_) => Value::String(number.to_string()),
    }
}

fn float(number: &DeFloat<'_>) -> Value {
    match number.as_str().parse().ok().and_then(Number::from_f64) {
        Some(number) => Value::Number(number),
        None => Value::String(number.as_str().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use crate::config::parse::tree::toml::*;
    use serde_json::json;

    #[test]
    fn keeps_order_of_keys() {
        let text =
            "z = 1\na = [0x1F, 1_000, -2.5, inf, 2026-01-02]\n[b]\nc = 'x'\nbig = 99999999999999999999\n";
        let Ok(node) = ConfigNode::from_toml(text) else { panic!() };
        let NodeContent::Table(entries) = &node.content else { panic!() };
        let keys: Vec<&str> = entries.iter().map(|entry| entry.key.as_str()).collect();
        assert_eq!(keys, ["z", "a", "b"]);
        let want = json!({
            "z": 1,
            "a": [31, 1000, -2.5, "inf", "2026-01-02"],
            "b": { "c": "x", "big": "99999999999999999999" }
        });
        assert_eq!(node.value(), want);
        assert_eq!(&text[entries[1].node.span.clone()], "[0x1F, 1_000, -2.5, inf, 2026-01-02]");
    }

    #[test]
    fn rejects_deep_nesting() {
        let deep = |open: &str, close: &str| format!("a = {}{}", open.repeat(50_000), close.repeat(50_000));
        assert!(ConfigNode::from_toml(&deep("[", "]")).is_err());
        assert!(ConfigNode::from_toml(&deep("{a=", "}")).is_err());
        assert!(ConfigNode::from_toml(&format!("[{}a]\n", "a.".repeat(400_000))).is_err());
        assert!(ConfigNode::from_toml(&format!("{}a = 1\n", "a.".repeat(400_000))).is_err());
    }
}
