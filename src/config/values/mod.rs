//! The kinds of values settings have, each with how it is read and its part of the schema.
//!
//! Values arrive as JSON: that is what TOML, PM2's other formats and flags all become. Numbers
//! may be given as strings, as in PM2 and because flags are text; booleans are never guessed.

/// Implements the schema of a kind of value; it is written out where the value is used.
macro_rules! schema {
    ($kind:ident, { $($schema:tt)* }) => {
        schema!($kind, serde_json::json!({ $($schema)* }));
    };
    ($kind:ident, $schema:expr) => {
        impl schemars::JsonSchema for $kind {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($kind).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                match $schema {
                    serde_json::Value::Object(schema) => schema.into(),
                    _ => schemars::Schema::default(),
                }
            }
        }
    };
}

mod dependency;
mod duration;
mod env;
mod log_rules;
mod log_target;
mod name;
mod number;
mod probe;
mod size;
mod table;
mod words;

use schemars::JsonSchema;
use serde_json::Value;

pub(super) use crate::config::values::dependency::DependencyList;
pub(super) use crate::config::values::duration::DurationValue;
pub(super) use crate::config::values::env::{EnvFilterValue, EnvValue, VarName};
pub(super) use crate::config::values::log_rules::LogRules;
pub(super) use crate::config::values::log_target::{LogTarget, WatchValue};
pub(super) use crate::config::values::name::{
    AppName, BalanceValue, CronValue, ExecModeValue, KillModeValue, LogFormatValue, OverlapValue, SignalName,
    TimeZoneName, UserOrGroup,
};
pub(super) use crate::config::values::number::{CountValue, CpuQuota, ExitCodes, InstanceCount, PortValue};
pub(super) use crate::config::values::probe::{
    AutoscaleValue, LivenessProbe, PortOptionsValue, ReadinessProbe,
};
pub(super) use crate::config::values::size::ByteSize;
pub(super) use crate::config::values::words::WordList;

pub use crate::config::values::size::parse_size;

/// A kind of value.
pub(super) trait FromValue: Sized + JsonSchema {
    /// Reads a value as given.
    fn from_value(value: &Value) -> Result<Self, ValueError>;
}

/// Why a value is invalid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ValueError {
    /// What is expected, worded to follow "expected".
    pub(super) expected: String,
    /// What to do; may be empty.
    pub(super) help: String,
    /// Which part of the value is invalid.
    pub(super) part: Part,
}

/// The part of a value that is invalid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The value itself.
    Whole,
    /// An item of a list, as displayed.
    Item(String),
    /// The value of a key in a table, displayed in `found`.
    Key { name: String, found: String },
    /// A key that such a table does not have.
    UnknownKey(String),
    /// A key that such a table must have.
    MissingKey(&'static str),
}

impl ValueError {
    /// The error message for the value of `key`; `found` displays the value unless it is secret.
    pub(super) fn message(&self, key: &str, found: Option<&str>) -> String {
        match &self.part {
            Part::Whole | Part::Item(_) => format!("invalid value for `{key}`: {}", self.expectation(found)),
            Part::Key { name, found } => {
                format!("invalid value for `{key}.{name}`: {}", self.expectation(Some(found)))
            }
            Part::UnknownKey(name) => format!("unknown key `{key}.{name}`"),
            Part::MissingKey(name) => format!("missing key `{key}.{name}`"),
        }
    }

    /// "expected X, found Y".
    pub(super) fn expectation(&self, found: Option<&str>) -> String {
        let found = match &self.part {
            Part::Item(item) => Some(item.as_str()),
            _ => found,
        };
        match found {
            Some(found) => format!("expected {}, found {found}", self.expected),
            None => format!("expected {}", self.expected),
        }
    }

    /// The same error, of the value of a key in a table.
    fn inside(self, name: &str, found: &Value) -> Self {
        Self { part: Part::Key { name: name.to_owned(), found: display_value(found) }, ..self }
    }
}

/// An invalid value.
pub(super) fn expected<T>(wants: impl Into<String>) -> Result<T, ValueError> {
    expected_with_help(wants, "")
}

/// An invalid value, and what to do.
pub(super) fn expected_with_help<T>(
    wants: impl Into<String>,
    help: impl Into<String>,
) -> Result<T, ValueError> {
    Err(ValueError { expected: wants.into(), help: help.into(), part: Part::Whole })
}

/// A key that a table does not have.
fn unknown_key<T>(name: &str, help: impl Into<String>) -> Result<T, ValueError> {
    Err(ValueError { expected: String::new(), help: help.into(), part: Part::UnknownKey(name.to_owned()) })
}

/// Reads the value of a key in a table.
fn named<T>(
    name: &str,
    value: &Value,
    read: impl FnOnce(&Value) -> Result<T, ValueError>,
) -> Result<T, ValueError> {
    read(value).map_err(|wrong| wrong.inside(name, value))
}

/// A value as shown in a message: short, and never more than one line.
pub(super) fn display_value(value: &Value) -> String {
    match value {
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "a table".into(),
        Value::String(text) if text.chars().count() > 60 => {
            format!("{:?}…", text.chars().take(60).collect::<String>())
        }
        other => other.to_string(),
    }
}

/// A whole number, also from a string of digits.
fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// `max_restarts` → `maxRestarts`; `None` for a single word.
pub(super) fn to_camel_case(name: &str) -> Option<String> {
    let (first, rest) = name.split_once('_')?;
    let mut camel = first.to_owned();
    for word in rest.split('_') {
        camel.extend(word.chars().next().map(|c| c.to_ascii_uppercase()));
        camel.push_str(word.get(1..).unwrap_or_default());
    }
    Some(camel)
}

impl FromValue for bool {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        match value {
            Value::Bool(flag) => Ok(*flag),
            Value::String(text) if text == "true" || text == "false" => {
                expected_with_help("true or false", format!("remove the quotes: {text}"))
            }
            _ => expected("true or false"),
        }
    }
}

impl FromValue for String {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        match value {
            Value::String(text) if text.trim().is_empty() => expected_with_help("text", "remove the key"),
            Value::String(text) if text.contains('\0') => expected("text without NUL characters"),
            Value::String(text) => Ok(text.clone()),
            Value::Number(number) => expected_with_help("text", format!("add quotes: \"{number}\"")),
            _ => expected("text"),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::values::*;
    use serde_json::json;

    #[test]
    fn booleans_are_not_guessed() {
        assert_eq!(bool::from_value(&json!(true)), Ok(true));
        assert_eq!(bool::from_value(&json!("false")).unwrap_err().help, "remove the quotes: false");
        assert!(bool::from_value(&json!(1)).is_err());
    }

    #[test]
    fn text_is_something_to_read() {
        assert_eq!(String::from_value(&json!("x y")), Ok("x y".into()));
        assert_eq!(String::from_value(&json!(5)).unwrap_err().help, "add quotes: \"5\"");
        assert!(String::from_value(&json!(" ")).is_err() && String::from_value(&json!("a\0")).is_err());
    }

    #[test]
    fn long_values_are_cut() {
        assert_eq!(display_value(&json!("a\nb")), r#""a\nb""#);
        assert!(display_value(&json!("é".repeat(1000))).chars().count() < 70);
    }
}
