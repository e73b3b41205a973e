//! Counter of dropped lines, until a file records them.

use std::io;

use memchr::memchr_iter;

/// Lines dropped because a file could not be written and the app must not block (`when_full = "drop"`).
#[derive(Debug, Default)]
pub(super) struct DroppedLines {
    lines: u64,
    bytes: u64,
    /// The last error.
    reason: String,
}

impl DroppedLines {
    pub(super) fn add(&mut self, text: &[u8], reason: &io::Error) {
        self.lines += memchr_iter(b'\n', text).count() as u64;
        self.bytes += text.len() as u64;
        self.reason = reason.to_string();
    }

    /// The line for the file.
    pub(super) fn message(&self) -> String {
        let Self { lines, bytes, reason } = self;
        format!("[rsm] {lines} lines ({bytes} bytes) dropped: {reason}\n")
    }
}

#[cfg(test)]
mod tests {
    use crate::logs::capture::dropped::*;

    #[test]
    fn message_contains_all_dropped_lines() {
        let mut dropped = DroppedLines::default();
        for text in ["one\ntwo\n", "three\n"] {
            dropped.add(text.as_bytes(), &io::ErrorKind::StorageFull.into());
        }
        assert!(dropped.message().starts_with("[rsm] 3 lines (14 bytes) dropped: "));
    }
}
