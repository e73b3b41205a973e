//! The shape of a line in a file: as it came, stamped, or JSON.

use serde::Serialize;

use crate::logs::capture::lines::LinePiece;
use crate::logs::item::OutputStream;
use crate::logs::timestamp::TimestampFormat;
use crate::spec::LogFormat;

/// Stands before every part of a cut line but the first.
const CONTINUED_PREFIX: &[u8] = b"[continued] ";

/// What becomes of a line.
#[derive(Debug)]
pub(in crate::logs) enum LineFormat {
    /// Nothing.
    Raw,
    /// `<stamp>: <text>`.
    Timestamped(TimestampFormat),
    /// One object a line.
    Json(TimestampFormat),
}

/// Where a line comes from.
#[derive(Debug)]
pub(in crate::logs) struct LineSource {
    /// The instance's id.
    pub(in crate::logs) id: u32,
    /// The app's name.
    pub(in crate::logs) name: String,
    /// Unique number of the run.
    pub(in crate::logs) run: u64,
    /// What its lines look like.
    pub(in crate::logs) format: LineFormat,
}

/// What stands around the text of every line that is written at one time.
#[derive(Debug, Default)]
pub(in crate::logs) struct LineFrame {
    prefix: Vec<u8>,
    suffix: Vec<u8>,
}

/// What follows the message in an object.
#[derive(Serialize)]
struct JsonFields<'a> {
    timestamp: &'a str,
    #[serde(rename = "type")]
    stream: OutputStream,
    process_id: u32,
    app_name: &'a str,
}

impl LineFormat {
    /// The shape that a spec asks for.
    pub(in crate::logs) fn new(format: LogFormat, date_format: Option<&str>) -> Self {
        match (format, date_format.filter(|format| !format.is_empty())) {
            (LogFormat::Raw, None) => Self::Raw,
            (LogFormat::Raw, Some(format)) => Self::Timestamped(TimestampFormat::new(format)),
            (LogFormat::Json, None) => Self::Json(TimestampFormat::iso()),
            (LogFormat::Json, Some(format)) => Self::Json(TimestampFormat::new(format)),
        }
    }
}

impl LineFrame {
    /// The frame of lines read at `at` (milliseconds since the epoch). An object has PM2's keys.
    pub(in crate::logs) fn new(origin: &LineSource, stream: OutputStream, at: i64) -> Self {
        let mut frame = Self::default();
        match &origin.format {
            LineFormat::Raw => {}
            LineFormat::Timestamped(stamp) => {
                stamp.write(at, &mut frame.prefix);
                frame.prefix.extend_from_slice(b": ");
            }
            LineFormat::Json(stamp) => {
                let mut timestamp = Vec::with_capacity(32);
                stamp.write(at, &mut timestamp);
                let timestamp = &String::from_utf8_lossy(&timestamp);
                let about = JsonFields { timestamp, stream, process_id: origin.id, app_name: &origin.name };
                frame.prefix.extend_from_slice(b"{\"message\":");
                // Neither strings nor a Vec can fail here.
                let _ = serde_json::to_writer(&mut frame.suffix, &about);
                frame.suffix[0] = b',';
                frame.suffix.pop();
            }
        }
        frame
    }

    /// Bytes that it adds to a line, the newline not counted.
    pub(in crate::logs) fn length(&self) -> usize {
        self.prefix.len() + self.suffix.len()
    }

    /// Appends a stamped line, without a newline.
    pub(in crate::logs) fn write_timestamped(&self, piece: &LinePiece<'_>, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.prefix);
        if !piece.first {
            out.extend_from_slice(CONTINUED_PREFIX);
        }
        out.extend_from_slice(piece.text);
    }

    /// Appends a line's object and a newline. `continued` marks the later parts of a line that was cut.
    /// Bytes that are no UTF-8 are replaced: JSON can hold no others.
    pub(in crate::logs) fn write_json(&self, piece: &LinePiece<'_>, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.prefix);
        write_json_string(&String::from_utf8_lossy(piece.text), out);
        out.extend_from_slice(&self.suffix);
        out.extend_from_slice(if piece.first { b"}\n" } else { b",\"continued\":true}\n" });
    }
}

/// Appends a text as a string of JSON.
fn write_json_string(text: &str, out: &mut Vec<u8>) {
    // Without an early end, so that many bytes are looked at in one instruction: most lines are plain.
    let special = |found, byte: &u8| found | (*byte < b' ') | (*byte == b'"') | (*byte == b'\\');
    if text.as_bytes().iter().fold(false, special) {
        // Neither a string nor a Vec can fail here.
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
    fn objects_hold_any_bytes() {
        let origin = LineSource {
            id: 7,
            name: "a\"b".into(),
            run: 1,
            format: LineFormat::Json(TimestampFormat::iso()),
        };
        let mut out = Vec::new();
        let piece = LinePiece { text: b"\x00\xff\"\\\r\x1b[1m", first: true, last: true };
        LineFrame::new(&origin, OutputStream::Err, 0).write_json(&piece, &mut out);
        let read: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(
            read,
            serde_json::json!({
                "message": "\0\u{FFFD}\"\\\r\u{1b}[1m", "timestamp": "1970-01-01T00:00:00.000Z",
                "type": "err", "process_id": 7, "app_name": "a\"b",
            })
        );
        assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 1);
    }

    #[test]
    fn later_parts_are_marked() {
        let piece = LinePiece { text: b"tail", first: false, last: true };
        let framed = |shape, put: fn(&LineFrame, &LinePiece<'_>, &mut Vec<u8>)| {
            let mut out = Vec::new();
            let origin = LineSource { id: 7, name: "a".into(), run: 1, format: shape };
            put(&LineFrame::new(&origin, OutputStream::Out, 0), &piece, &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            framed(LineFormat::Timestamped(TimestampFormat::new("[t]")), LineFrame::write_timestamped),
            "t: [continued] tail"
        );
        let object = framed(LineFormat::Json(TimestampFormat::new("[t]")), LineFrame::write_json);
        assert_eq!(
            object,
            "{\"message\":\"tail\",\"timestamp\":\"t\",\"type\":\"out\",\"process_id\":7,\
             \"app_name\":\"a\",\"continued\":true}\n"
        );
    }
}
