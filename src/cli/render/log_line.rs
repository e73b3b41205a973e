//! Formats of log lines: with prefix, as `key=value` pairs, as JSON.

use serde_json::json;

use crate::cli::escape::keep_colors;
use crate::cli::render::style::{Style, Tone, tame, width};
use crate::ipc::message::{LogItem, OutputStream};

/// The prefix `id|name | `, padded to the widest so far.
#[derive(Debug, Default)]
pub(crate) struct LinePrefix {
    widest: usize,
}

impl LinePrefix {
    /// The line with its prefix, without newline.
    pub(crate) fn line(
        &mut self,
        id: u32,
        name: &str,
        stream: OutputStream,
        line: &str,
        style: Style,
    ) -> String {
        let source = format!("{id}|{}", tame(name));
        let columns = width(&source);
        self.widest = self.widest.max(columns);
        let pad = " ".repeat(self.widest - columns);
        let bar = match stream {
            OutputStream::Out => style.paint(Tone::Plain, "|"),
            OutputStream::Err => style.paint(Tone::Error, "|"),
        };
        let line = keep_colors(line);
        format!("{}{pad} {bar} {line}", style.paint_name(name, &source))
    }
}

/// A line as `key=value` pairs, as in PM2.
pub(crate) fn pairs(id: u32, name: &str, stream: OutputStream, line: &str, timestamp: &str) -> String {
    let timestamp = timestamp.trim_end();
    let timestamp = if timestamp.is_empty() { String::new() } else { format!("timestamp={timestamp} ") };
    let stream = match stream {
        OutputStream::Out => "out",
        OutputStream::Err => "err",
    };
    let line = keep_colors(line);
    format!("{timestamp}app={} id={id} type={stream} message={line}", tame(name))
}

/// The text in reverse video.
pub(crate) fn highlighted(text: &str) -> String {
    format!("\u{1b}[7m{text}\u{1b}[27m")
}

/// A line as a JSON object with the keys of PM2.
pub(crate) fn json_line(item: &LogItem) -> String {
    let value = match item {
        LogItem::Line { id, name, stream, at, line } => {
            let mut value = json!({ "message": line, "type": stream, "process_id": id, "app_name": name });
            if let Some(at) = at {
                value["timestamp"] = json!(at);
            }
            value
        }
        LogItem::Missed { lines } => json!({ "type": "missed", "lines": lines }),
        LogItem::Positions { positions } => json!({ "type": "positions", "positions": positions }),
    };
    value.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_is_padded_to_widest() {
        let mut prefix = LinePrefix::default();
        let plain = Style::plain();
        assert_eq!(prefix.line(0, "a", OutputStream::Out, "x", plain), "0|a | x");
        assert_eq!(prefix.line(12, "队列", OutputStream::Out, "x", plain), "12|队列 | x");
        assert_eq!(prefix.line(0, "a", OutputStream::Err, "", plain), "0|a     | ");
        let colored = Style { color: true, width: 80 };
        let line = prefix.line(0, "a", OutputStream::Err, "x", colored);
        assert!(
            line.starts_with("\u{1b}[") && line.ends_with("m0|a\u{1b}[0m     \u{1b}[31m|\u{1b}[0m x"),
            "{line:?}"
        );
        assert_eq!(line, prefix.line(0, "a", OutputStream::Err, "x", colored));
        assert_eq!(
            pairs(1, "a", OutputStream::Err, "x y", "12:00 "),
            "timestamp=12:00 app=a id=1 type=err message=x y"
        );
    }

    #[test]
    fn json_has_keys_of_pm2() {
        let line =
            |at| LogItem::Line { id: 1, name: "a".into(), stream: OutputStream::Err, at, line: "\"x".into() };
        let parsed: serde_json::Value = serde_json::from_str(&json_line(&line(Some(7)))).unwrap();
        let want =
            json!({ "message": "\"x", "type": "err", "process_id": 1, "app_name": "a", "timestamp": 7 });
        assert_eq!(parsed, want);
        assert!(!json_line(&line(None)).contains("timestamp"));
        assert_eq!(json_line(&LogItem::Missed { lines: 3 }), r#"{"lines":3,"type":"missed"}"#);
    }
}
