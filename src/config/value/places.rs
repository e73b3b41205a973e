//! Keys with paths: log files and watched files.

use serde_json::Value;

use super::{FromValue, ValueError, wants};

/// A log file, before its path is resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum LogTarget {
    /// No log.
    Off,
    /// The default path.
    Default,
    /// Not written to a file; can be followed.
    Nowhere,
    /// This path, not yet resolved.
    Path(String),
}

/// The watched paths, before they are resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum WatchValue {
    /// Disabled.
    Off,
    /// The working directory.
    WorkingDirectory,
    /// These paths, not yet resolved.
    Paths(Vec<String>),
}

impl FromValue for LogTarget {
    fn read(value: &Value) -> Result<Self, ValueError> {
        match value {
            Value::Bool(true) => Ok(Self::Default),
            Value::Bool(false) => Ok(Self::Off),
            Value::String(text) if text == "/dev/null" || text == "NULL" => Ok(Self::Nowhere),
            Value::String(text) if text.ends_with('/') => wants("a file path"),
            Value::String(_) => String::read(value).map(Self::Path).or_else(|_| wants("a path")),
            _ => wants("a path"),
        }
    }
}

impl FromValue for WatchValue {
    fn read(value: &Value) -> Result<Self, ValueError> {
        let path = |item: &Value| String::read(item).or_else(|_| wants("paths"));
        match value {
            Value::Bool(false) => Ok(Self::Off),
            Value::Bool(true) => Ok(Self::WorkingDirectory),
            Value::Array(items) if items.is_empty() => Ok(Self::WorkingDirectory),
            Value::Array(items) => items.iter().map(path).collect::<Result<_, _>>().map(Self::Paths),
            Value::String(_) => Ok(Self::Paths(vec![path(value)?])),
            _ => wants("true, a path or a list of paths"),
        }
    }
}

schema!(LogTarget, { "type": ["string", "boolean"], "minLength": 1 });

schema!(WatchValue, { "type": ["boolean", "string", "array"], "minLength": 1, "items": { "type": "string", "minLength": 1 } });

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn log_target_is_file_or_discarded() {
        assert_eq!(LogTarget::read(&json!("NULL")), Ok(LogTarget::Nowhere));
        assert_eq!(LogTarget::read(&json!("/dev/null")), Ok(LogTarget::Nowhere));
        assert_eq!(LogTarget::read(&json!("./a.log")), Ok(LogTarget::Path("./a.log".into())));
        assert!(LogTarget::read(&json!("logs/")).is_err() && LogTarget::read(&json!("")).is_err());
    }

    #[test]
    fn watch_accepts_boolean_or_paths() {
        assert_eq!(WatchValue::read(&json!([])), Ok(WatchValue::WorkingDirectory));
        assert_eq!(WatchValue::read(&json!("my dir")), Ok(WatchValue::Paths(vec!["my dir".into()])));
        assert!(WatchValue::read(&json!([1])).is_err() && WatchValue::read(&json!("")).is_err());
    }
}
