//! Log lines with the prefix that says whose they are.

use serde_json::json;

use crate::cli::render::style::{Style, Tone, tame, width};
use crate::ipc::message::{LogItem, OutputStream};

/// Puts `id|name | ` before each line, as wide as the widest seen so far.
#[derive(Debug, Default)]
pub(in crate::cli) struct LinePrefix {
    widest: usize,
}

impl LinePrefix {
    /// The line as shown, without newline.
    pub(in crate::cli) fn line(
        &mut self,
        id: u32,
        name: &str,
        stream: OutputStream,
        line: &str,
        style: Style,
    ) -> String {
        let who = format!("{id}|{}", tame(name));
        let own = width(&who);
        self.widest = self.widest.max(own);
        let pad = " ".repeat(self.widest - own);
        let bar = match stream {
            OutputStream::Out => style.paint(Tone::Plain, "|"),
            OutputStream::Err => style.paint(Tone::Error, "|"),
        };
        format!("{}{pad} {bar} {line}", style.paint_name(name, &who))
    }
}

/// A line as `key=value` pairs, as PM2 writes them.
pub(in crate::cli) fn pairs(id: u32, name: &str, stream: OutputStream, line: &str, stamp: &str) -> String {
    let stamp = stamp.trim_end();
    let stamp = if stamp.is_empty() { String::new() } else { format!("timestamp={stamp} ") };
    let stream = match stream {
        OutputStream::Out => "out",
        OutputStream::Err => "err",
    };
    format!("{stamp}app={} id={id} type={stream} message={line}", tame(name))
}

/// A text marked so that it is seen.
pub(in crate::cli) fn highlighted(text: &str) -> String {
    format!("\u{1b}[7m{text}\u{1b}[27m")
}

/// A line as one JSON object with PM2's keys.
pub(in crate::cli) fn json_line(item: &LogItem) -> String {
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
    use crate::cli::render::log_line::*;

    #[test]
    fn prefixes_align_with_the_widest_seen() {
        let mut prefix = LinePrefix::default();
        let plain = Style::plain();
        assert_eq!(prefix.line(0, "a", OutputStream::Out, "x", plain), "0|a | x");
        assert_eq!(prefix.line(12, "队列", OutputStream::Out, "x", plain), "12|队列 | x");
        assert_eq!(prefix.line(0, "a", OutputStream::Err, "", plain), "0|a     | ");
        let coloured = Style { colour: true, width: 80 };
        let line = prefix.line(0, "a", OutputStream::Err, "x", coloured);
        assert!(
            line.starts_with("\u{1b}[3") && line.ends_with("m0|a\u{1b}[0m     \u{1b}[31m|\u{1b}[0m x"),
            "{line:?}"
        );
        assert_eq!(line, prefix.line(0, "a", OutputStream::Err, "x", coloured));
        assert_eq!(
            pairs(1, "a", OutputStream::Err, "x y", "12:00 "),
            "timestamp=12:00 app=a id=1 type=err message=x y"
        );
    }

    #[test]
    fn json_has_pm2s_keys() {
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
