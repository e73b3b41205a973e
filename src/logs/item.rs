//! Items of the log stream, as the API sends them to followers.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Item of a log stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum LogItem {
    /// A line.
    Line {
        /// Instance id.
        id: u32,
        /// App name.
        name: String,
        /// Standard output or standard error.
        stream: OutputStream,
        /// Time the line was captured, in milliseconds since the epoch; for a file without an index, the time
        /// of its last write.
        #[serde(skip_serializing_if = "Option::is_none")]
        at: Option<u64>,
        /// Text of the line, without the newline; invalid UTF-8 is replaced.
        line: String,
    },
    /// Lines skipped because the client was too slow.
    Missed {
        /// Number of lines.
        lines: u64,
    },
    /// Commit point: a client that resumes with the latest position of each file gets all following lines
    /// exactly once. Only for requests with positions.
    Positions {
        /// Positions that have changed since the last commit point.
        positions: Vec<LogPosition>,
    },
}

/// Read position in a log file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LogPosition {
    /// Log file, possibly rotated since.
    pub path: PathBuf,
    /// Device and inode of the file; absent if it did not exist.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub file: Option<(u64, u64)>,
    /// Time of its first line, in microseconds since the epoch. Not changed by compression; changed by
    /// truncation.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub created_at: Option<u64>,
    /// Bytes of text read.
    pub offset: u64,
    /// Number of lines read, including all files before this one, if known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub line: Option<u64>,
}

/// Standard output or standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OutputStream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}
