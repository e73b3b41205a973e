//! Keys with paths: log files and watched files.

use serde_json::Value;

use super::{Reading, Wrong, wants};

/// A log file, before its path is resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum LogTo {
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
pub(in super::super) enum Watch {
    /// Disabled.
    Off,
    /// The working directory.
    WorkingDirectory,
    /// These paths, not yet resolved.
    Paths(Vec<String>),
}

impl Reading for LogTo {
    fn read(value: &Value) -> Result<Self, Wrong> {
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

impl Reading for Watch {
    fn read(value: &Value) -> Result<Self, Wrong> {
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

schema!(LogTo, { "type": ["string", "boolean"], "minLength": 1 });

schema!(Watch, { "type": ["boolean", "string", "array"], "minLength": 1, "items": { "type": "string", "minLength": 1 } });

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn log_target_is_file_or_discarded() {
        assert_eq!(LogTo::read(&json!("NULL")), Ok(LogTo::Nowhere));
        assert_eq!(LogTo::read(&json!("/dev/null")), Ok(LogTo::Nowhere));
        assert_eq!(LogTo::read(&json!("./a.log")), Ok(LogTo::Path("./a.log".into())));
        assert!(LogTo::read(&json!("logs/")).is_err() && LogTo::read(&json!("")).is_err());
    }

    #[test]
    fn watch_accepts_boolean_or_paths() {
        assert_eq!(Watch::read(&json!([])), Ok(Watch::WorkingDirectory));
        assert_eq!(Watch::read(&json!("my dir")), Ok(Watch::Paths(vec!["my dir".into()])));
        assert!(Watch::read(&json!([1])).is_err() && Watch::read(&json!("")).is_err());
    }
}
