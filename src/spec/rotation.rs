//! Rotation and retention of log files.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Rotation and retention of the log files of an app. Defaults are those of pm2-logrotate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Rotation {
    /// Maximum size of a file before rotation, in bytes.
    pub max_size: Option<u64>,
    /// Cron schedule for rotation: five fields, or six with leading seconds.
    pub schedule: Option<String>,
    /// Number of rotated files to keep of each file.
    #[serde(alias = "keep")]
    pub retain: Option<u32>,
    /// Maximum age of rotated files, in milliseconds.
    pub max_age: Option<u64>,
    /// Maximum total size of the rotated files of the app, in bytes; the oldest are removed first.
    pub max_total: Option<u64>,
    /// Compress rotated files with gzip.
    pub compress: bool,
    /// Do not compress the newest rotated file.
    pub delay_compress: bool,
    /// Rotate empty files as well.
    pub rotate_empty: bool,
    /// Date format in the names of rotated files, in the (day.js) tokens of PM2.
    pub date_format: String,
    /// Behavior while a file cannot be written.
    pub when_full: WhenFull,
    /// Mode of new log files; 0640 reduced by the umask if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
}

impl Default for Rotation {
    fn default() -> Self {
        Self {
            max_size: Some(10 << 20),
            schedule: Some("0 0 * * *".into()),
            retain: Some(30),
            max_age: None,
            max_total: None,
            compress: false,
            delay_compress: false,
            rotate_empty: false,
            date_format: "YYYY-MM-DD_HH-mm-ss".into(),
            mode: None,
            when_full: WhenFull::Block,
        }
    }
}

/// Behavior while a log file cannot be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// Block the app: output stays in its pipe (backpressure).
    #[default]
    Block,
    /// Drop lines, and record their number once the file can be written.
    Drop,
}
