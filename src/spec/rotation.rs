//! When a log file makes way for a new one, and what becomes of the old ones.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// When the log files of an app are rotated, and how many rotated ones are kept. Defaults are
/// those of pm2-logrotate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Rotation {
    /// Rotate before a file grows beyond this. Bytes.
    pub max_size: Option<u64>,
    /// Rotate at these times: five fields, or six with leading seconds.
    pub schedule: Option<String>,
    /// Rotated files kept of each file.
    pub keep: Option<u32>,
    /// Rotated files older than this are removed. Milliseconds.
    pub max_age: Option<u64>,
    /// Rotated files of the whole app beyond this are removed, the oldest first. Bytes.
    pub max_total: Option<u64>,
    /// Rotated files are compressed with gzip.
    pub compress: bool,
    /// The newest rotated file stays as it is.
    pub delay_compress: bool,
    /// Empty files are rotated too.
    pub rotate_empty: bool,
    /// The date in the name of a rotated file, in PM2's (day.js) tokens.
    pub date_format: String,
    /// What happens to lines while a file cannot be written.
    pub when_full: WhenFull,
}

impl Default for Rotation {
    fn default() -> Self {
        Self {
            max_size: Some(10 << 20),
            schedule: Some("0 0 * * *".into()),
            keep: Some(30),
            max_age: None,
            max_total: None,
            compress: false,
            delay_compress: false,
            rotate_empty: false,
            date_format: "YYYY-MM-DD_HH-mm-ss".into(),
            when_full: WhenFull::Block,
        }
    }
}

/// What happens to lines while their file cannot be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// They wait in the app's pipe; once that is full, the app waits.
    #[default]
    Block,
    /// They are dropped and counted; the count is written to the file once that is possible.
    Drop,
}
