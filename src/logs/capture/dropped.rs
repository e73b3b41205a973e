//! What was lost because a file could not be written, until the file says so.

use std::io;

use memchr::memchr_iter;

/// Lines that no file took, where an app is not to wait for its disk.
#[derive(Debug, Default)]
pub(in crate::logs) struct DroppedLines {
    lines: u64,
    bytes: u64,
    reason: String,
}

impl DroppedLines {
    /// This text is lost, too.
    pub(in crate::logs) fn add(&mut self, text: &[u8], why: &io::Error) {
        self.lines += memchr_iter(b'\n', text).count() as u64;
        self.bytes += text.len() as u64;
        self.reason = why.to_string();
    }

    /// What the file is to say, a line.
    pub(in crate::logs) fn message(&self) -> String {
        let Self { lines, bytes, reason: why } = self;
        format!("[rsm] {lines} lines ({bytes} bytes) dropped: {why}\n")
    }
}

#[cfg(test)]
mod tests {
    use crate::logs::capture::dropped::*;

    #[test]
    fn what_is_lost_adds_up() {
        let mut dropped = DroppedLines::default();
        for text in ["one\ntwo\n", "three\n"] {
            dropped.add(text.as_bytes(), &io::ErrorKind::StorageFull.into());
        }
        assert!(dropped.message().starts_with("[rsm] 3 lines (14 bytes) dropped: "));
    }
}
