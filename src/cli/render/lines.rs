//! Log lines with the prefix that says whose they are.

use serde_json::json;

use super::style::{Style, Tone, tame, width};
use crate::ipc::message::{LogItem, Stream};

/// Puts `id|name | ` before each line, as wide as the widest seen so far.
#[derive(Debug, Default)]
pub(in crate::cli) struct Prefix {
    widest: usize,
}

impl Prefix {
    /// The line as shown, without newline.
    pub(in crate::cli) fn line(
        &mut self,
        id: u32,
        name: &str,
        stream: Stream,
        line: &str,
        style: Style,
    ) -> String {
        let who = format!("{id}|{}", tame(name));
        let own = width(&who);
        self.widest = self.widest.max(own);
        let pad = " ".repeat(self.widest - own);
        let tone = match stream {
            Stream::Out => Tone::Good,
            Stream::Err => Tone::Bad,
        };
        format!("{} {line}", style.paint(tone, &format!("{who}{pad} |")))
    }
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
    };
    value.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_align_with_the_widest_seen() {
        let mut prefix = Prefix::default();
        let plain = Style::plain();
        assert_eq!(prefix.line(0, "a", Stream::Out, "x", plain), "0|a | x");
        assert_eq!(prefix.line(12, "队列", Stream::Out, "x", plain), "12|队列 | x");
        assert_eq!(prefix.line(0, "a", Stream::Err, "", plain), "0|a     | ");
        let coloured = Style { colour: true, width: 80 };
        assert_eq!(prefix.line(0, "a", Stream::Err, "x", coloured), "\u{1b}[31m0|a     |\u{1b}[0m x");
    }

    #[test]
    fn json_has_pm2s_keys() {
        let line =
            |at| LogItem::Line { id: 1, name: "a".into(), stream: Stream::Err, at, line: "\"x".into() };
        let parsed: serde_json::Value = serde_json::from_str(&json_line(&line(Some(7)))).unwrap();
        let want =
            json!({ "message": "\"x", "type": "err", "process_id": 1, "app_name": "a", "timestamp": 7 });
        assert_eq!(parsed, want);
        assert!(!json_line(&line(None)).contains("timestamp"));
        assert_eq!(json_line(&LogItem::Missed { lines: 3 }), r#"{"lines":3,"type":"missed"}"#);
    }
}
