//! The shape of a line in a file: as it came, stamped, or JSON.

use serde::Serialize;

use super::item::Stream;
use super::lines::Piece;
use super::stamp::Stamp;
use crate::spec::LogFormat;

/// Stands before every part of a cut line but the first.
const CONTINUED: &[u8] = b"[continued] ";

/// What becomes of a line.
#[derive(Debug)]
pub(super) enum Shape {
    /// Nothing.
    Raw,
    /// `<stamp>: <text>`.
    Stamped(Stamp),
    /// One object a line.
    Json(Stamp),
}

/// Where a line comes from.
#[derive(Debug)]
pub(super) struct Origin {
    /// The instance's id.
    pub(super) id: u32,
    /// The app's name.
    pub(super) name: String,
    /// Unique number of the run.
    pub(super) run: u64,
    /// What its lines look like.
    pub(super) shape: Shape,
}

#[derive(Serialize)]
struct Object<'a> {
    message: &'a str,
    timestamp: &'a str,
    #[serde(rename = "type")]
    stream: Stream,
    process_id: u32,
    app_name: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    continued: bool,
}

impl Shape {
    /// The shape that a spec asks for.
    pub(super) fn new(format: LogFormat, date_format: Option<&str>) -> Self {
        match (format, date_format.filter(|format| !format.is_empty())) {
            (LogFormat::Raw, None) => Self::Raw,
            (LogFormat::Raw, Some(format)) => Self::Stamped(Stamp::new(format)),
            (LogFormat::Json, None) => Self::Json(Stamp::iso()),
            (LogFormat::Json, Some(format)) => Self::Json(Stamp::new(format)),
        }
    }
}

/// Appends `<stamp>: <text>` for a line read at `at` (milliseconds since the epoch), without a newline.
pub(super) fn stamped(stamp: &Stamp, piece: &Piece<'_>, at: i64, out: &mut Vec<u8>) {
    stamp.write(at, out);
    out.extend_from_slice(b": ");
    if !piece.first {
        out.extend_from_slice(CONTINUED);
    }
    out.extend_from_slice(piece.text);
}

/// Appends the line's object and a newline. PM2's keys; `continued` marks the later parts of a line
/// that was cut. Bytes that are no UTF-8 are replaced: JSON can hold no others.
pub(super) fn json(
    stamp: &Stamp,
    origin: &Origin,
    stream: Stream,
    piece: &Piece<'_>,
    at: i64,
    out: &mut Vec<u8>,
) {
    let mut timestamp = Vec::with_capacity(32);
    stamp.write(at, &mut timestamp);
    let object = Object {
        message: &String::from_utf8_lossy(piece.text),
        timestamp: &String::from_utf8_lossy(&timestamp),
        stream,
        process_id: origin.id,
        app_name: &origin.name,
        continued: !piece.first,
    };
    // Neither strings nor a Vec can fail here.
    let _ = serde_json::to_writer(&mut *out, &object);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_hold_any_bytes() {
        let origin = Origin { id: 7, name: "a\"b".into(), run: 1, shape: Shape::Raw };
        let mut out = Vec::new();
        let piece = Piece { text: b"\x00\xff\"\\\r\x1b[1m", first: true, last: true };
        json(&Stamp::iso(), &origin, Stream::Err, &piece, 0, &mut out);
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
        let piece = Piece { text: b"tail", first: false, last: true };
        let mut out = Vec::new();
        stamped(&Stamp::new("[t]"), &piece, 0, &mut out);
        assert_eq!(out, b"t: [continued] tail");
    }
}
