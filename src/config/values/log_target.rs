//! Keys with paths: log files and watched files.

use serde_json::Value;

use crate::config::values::{FromValue, ValueError, expected};

/// A log file, before its path is resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LogTarget {
    /// No log.
    Off,
    /// The default path.
    Default,
    /// Not written to a file; can be followed.
    Discard,
    /// Standard output or standard error of rsm: in the foreground all output goes there anyway, and in the
    /// background it is the log of the daemon.
    Standard,
    /// This path, not yet resolved.
    Path(String),
}

/// The watched paths, before they are resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WatchValue {
    /// Disabled.
    Off,
    /// The working directory.
    WorkingDirectory,
    /// These paths, not yet resolved.
    Paths(Vec<String>),
}

impl FromValue for LogTarget {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        match value {
            Value::Bool(true) => Ok(Self::Default),
            Value::Bool(false) => Ok(Self::Off),
            Value::String(text) if text == "/dev/null" || text == "NULL" => Ok(Self::Discard),
            Value::String(text) if is_standard_stream(text) => Ok(Self::Standard),
            Value::String(text) if text.ends_with('/') => expected("a file path"),
            Value::String(_) => String::from_value(value).map(Self::Path).or_else(|_| expected("a path")),
            _ => expected("a path"),
        }
    }
}

fn is_standard_stream(path: &str) -> bool {
    const DIRECTORIES: [&str; 3] = ["/dev/fd/", "/proc/self/fd/", "/proc/thread-self/fd/"];
    path == "-"
        || ["/dev/stdout", "/dev/stderr"].contains(&path)
        || DIRECTORIES.iter().any(|directory| path.starts_with(directory))
}

impl FromValue for WatchValue {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        let path = |item: &Value| String::from_value(item).or_else(|_| expected("paths"));
        match value {
            Value::Bool(false) => Ok(Self::Off),
            Value::Bool(true) => Ok(Self::WorkingDirectory),
            Value::Array(items) if items.is_empty() => Ok(Self::WorkingDirectory),
            Value::Array(items) => items.iter().map(path).collect::<Result<_, _>>().map(Self::Paths),
            Value::String(_) => Ok(Self::Paths(vec![path(value)?])),
            _ => expected("true, a path or a list of paths"),
        }
    }
}

schema!(LogTarget, { "type": ["string", "boolean"], "minLength": 1 });

schema!(WatchValue, { "type": ["boolean", "string", "array"], "minLength": 1, "items": { "type": "string", "minLength": 1 } });

#[cfg(test)]
mod tests {
    use crate::config::values::log_target::*;
    use serde_json::json;

    #[test]
    fn log_target_is_file_or_discarded() {
        assert_eq!(LogTarget::from_value(&json!("NULL")), Ok(LogTarget::Discard));
        assert_eq!(LogTarget::from_value(&json!("/dev/null")), Ok(LogTarget::Discard));
        for stream in ["/dev/stdout", "/dev/stderr", "/dev/fd/1", "/proc/self/fd/2"] {
            assert_eq!(LogTarget::from_value(&json!(stream)), Ok(LogTarget::Standard));
        }
        assert_eq!(LogTarget::from_value(&json!("./a.log")), Ok(LogTarget::Path("./a.log".into())));
        assert!(
            LogTarget::from_value(&json!("logs/")).is_err() && LogTarget::from_value(&json!("")).is_err()
        );
    }

    #[test]
    fn watch_accepts_boolean_or_paths() {
        assert_eq!(WatchValue::from_value(&json!([])), Ok(WatchValue::WorkingDirectory));
        assert_eq!(WatchValue::from_value(&json!("my dir")), Ok(WatchValue::Paths(vec!["my dir".into()])));
        assert!(WatchValue::from_value(&json!([1])).is_err() && WatchValue::from_value(&json!("")).is_err());
    }
}
