//! Formats of a line in a file: raw, with a timestamp, or JSON.

use serde::Serialize;

use crate::logs::capture::lines::LinePiece;
use crate::logs::item::OutputStream;
use crate::logs::timestamp::TimestampFormat;
use crate::spec::LogFormat;

/// Precedes each part of a split line except the first.
const CONTINUED_PREFIX: &[u8] = b"[continued] ";

#[derive(Debug)]
pub(crate) enum LineFormat {
    Raw,
    /// `<timestamp>: <text>`.
    Timestamped(TimestampFormat),
    /// One object per line, with the keys of PM2.
    Json(TimestampFormat),
}

/// The run that writes a line, and its format.
#[derive(Debug)]
pub(crate) struct LineSource {
    /// Instance id.
    pub(crate) id: u32,
    /// App name.
    pub(crate) name: String,
    /// Unique number of the run.
    pub(crate) run: u64,
    pub(crate) format: LineFormat,
}

/// Text before and after the message, the same for all lines of one moment.
#[derive(Debug, Default)]
pub(crate) struct LineFrame {
    prefix: Vec<u8>,
    suffix: Vec<u8>,
}

/// Fields after the message of a JSON line.
#[derive(Serialize)]
struct JsonFields<'a> {
    timestamp: &'a str,
    #[serde(rename = "type")]
    stream: OutputStream,
    process_id: u32,
    app_name: &'a str,
}

impl LineFormat {
    pub(crate) fn new(format: LogFormat, date_format: Option<&str>) -> Self {
        match (format, date_format.filter(|format| !format.is_empty())) {
            (LogFormat::Raw, None) => Self::Raw,
            (LogFormat::Raw, Some(format)) => Self::Timestamped(TimestampFormat::new(format)),
            (LogFormat::Json, None) => Self::Json(TimestampFormat::iso()),
            (LogFormat::Json, Some(format)) => Self::Json(TimestampFormat::new(format)),
        }
    }
}

impl LineFrame {
    /// The frame of lines read at `at`, in milliseconds since the epoch.
    pub(crate) fn new(source: &LineSource, stream: OutputStream, at: i64) -> Self {
        let mut frame = Self::default();
        match &source.format {
            LineFormat::Raw => {}
            LineFormat::Timestamped(format) => {
                format.write(at, &mut frame.prefix);
                frame.prefix.extend_from_slice(b": ");
            }
            LineFormat::Json(format) => {
                let mut timestamp = Vec::with_capacity(32);
                format.write(at, &mut timestamp);
                let timestamp = &String::from_utf8_lossy(&timestamp);
                let fields = JsonFields { timestamp, stream, process_id: source.id, app_name: &source.name };
                frame.prefix.extend_from_slice(b"{\"message\":");
                // Serializing strings into a Vec cannot fail.
                let _ = serde_json::to_writer(&mut frame.suffix, &fields);
                // Continue the object of the prefix: `{"a":1}` becomes `,"a":1`.
                frame.suffix[0] = b',';
                frame.suffix.pop();
            }
        }
        frame
    }

    /// Bytes added to a line, without the newline.
    pub(crate) fn length(&self) -> usize {
        self.prefix.len() + self.suffix.len()
    }

    /// Appends a line with its timestamp, without a newline.
    pub(crate) fn write_timestamped(&self, piece: &LinePiece<'_>, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.prefix);
        if !piece.first {
            out.extend_from_slice(CONTINUED_PREFIX);
        }
        out.extend_from_slice(piece.text);
    }

    /// Appends a line as an object, and a newline. Parts of a split line except the first have `continued`.
    /// Invalid UTF-8 is replaced, because JSON cannot contain it.
    pub(crate) fn write_json(&self, piece: &LinePiece<'_>, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.prefix);
        write_json_string(&String::from_utf8_lossy(piece.text), out);
        out.extend_from_slice(&self.suffix);
        out.extend_from_slice(if piece.first { b"}\n" } else { b",\"continued\":true}\n" });
    }
}

/// Appends text as a JSON string.
fn write_json_string(text: &str, out: &mut Vec<u8>) {
    // No early exit, so that the compiler vectorizes the loop: most lines need no escapes.
    let needs_escape = |found, byte: &u8| found | (*byte < b' ') | (*byte == b'"') | (*byte == b'\\');
    if text.as_bytes().iter().fold(false, needs_escape) {
        // Serializing a string into a Vec cannot fail.
        let _ = serde_json::to_writer(out, text);
    } else {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    }
}

#[cfg(test)]
mod tests {
    use crate::logs::capture::format::*;

    #[test]
    fn json_line_accepts_any_bytes() {
        let source = LineSource {
            id: 7,
            name: "a\"b".into(),
            run: 1,
            format: LineFormat::Json(TimestampFormat::iso()),
        };
        let mut out = Vec::new();
        let piece = LinePiece { text: b"\x00\xff\"\\\r\x1b[1m", first: true, last: true };
        LineFrame::new(&source, OutputStream::Err, 0).write_json(&piece, &mut out);
        let object: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(
            object,
            serde_json::json!({
                "message": "\0\u{FFFD}\"\\\r\u{1b}[1m", "timestamp": "1970-01-01T00:00:00.000Z",
                "type": "err", "process_id": 7, "app_name": "a\"b",
            })
        );
        assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 1);
    }

    #[test]
    fn later_parts_are_marked_as_continued() {
        let piece = LinePiece { text: b"tail", first: false, last: true };
        let format_line = |format, write: fn(&LineFrame, &LinePiece<'_>, &mut Vec<u8>)| {
            let mut out = Vec::new();
            let source = LineSource { id: 7, name: "a".into(), run: 1, format };
            write(&LineFrame::new(&source, OutputStream::Out, 0), &piece, &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            format_line(LineFormat::Timestamped(TimestampFormat::new("[t]")), LineFrame::write_timestamped),
            "t: [continued] tail"
        );
        let object = format_line(LineFormat::Json(TimestampFormat::new("[t]")), LineFrame::write_json);
        assert_eq!(
            object,
            "{\"message\":\"tail\",\"timestamp\":\"t\",\"type\":\"out\",\"process_id\":7,\
             \"app_name\":\"a\",\"continued\":true}\n"
        );
    }
}
