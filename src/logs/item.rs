//! A log line as followers see it.

use std::path::PathBuf;

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
    /// All items before this one are told as a whole. Who asks again, of any daemon, with the latest place
    /// of each file, gets all that follows and nothing twice. Only for those who gave places.
    #[serde(rename = "positions")]
    Places {
        /// Those that have changed since the last time.
        #[serde(rename = "positions")]
        places: Vec<LogPlace>,
    },
}

/// How far a log file was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LogPlace {
    /// The log file; the place may be in one that was rotated since.
    pub path: PathBuf,
    /// Device and inode of the file that was read; none was there yet if absent.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub file: Option<(u64, u64)>,
    /// When its first line was written, in microseconds since the epoch: that stays as it is when the
    /// file is compressed, and becomes another when it is emptied.
    #[serde(rename = "created_at", skip_serializing_if = "Option::is_none", default)]
    pub began: Option<u64>,
    /// Bytes of its text that were read.
    pub offset: u64,
    /// Lines that were read, of it and all before it, where that is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub line: Option<u64>,
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
