//! A log line as followers see it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One element of the log stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum LogItem {
    /// A line.
    Line {
        /// The instance's id.
        id: u32,
        /// The app's name.
        name: String,
        /// Which stream.
        stream: Stream,
        /// When it was read; absent for lines from a file.
        #[serde(skip_serializing_if = "Option::is_none")]
        at: Option<u64>,
        /// The line, without its newline; bytes that are not UTF-8 are replaced.
        line: String,
    },
    /// The client read too slowly: this many lines were left out here.
    Missed {
        /// How many.
        lines: u64,
    },
}

/// Standard output or standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}
