//! Timestamps in the (day.js) tokens of PM2.

use std::cell::RefCell;
use std::fmt::Write as _;

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

/// All tokens. Of tokens with a common prefix, the longest comes first.
const TOKENS: [&str; 24] = [
    "YYYY", "YY", "MMMM", "MMM", "MM", "M", "DD", "D", "dddd", "ddd", "dd", "d", "HH", "H", "hh", "h", "A",
    "a", "mm", "m", "ss", "s", "ZZ", "Z",
];

/// Inserted for each timestamp, while the rest is cached for a second.
const MILLIS: &str = "SSS";

#[derive(Clone, Debug, PartialEq, Eq)]
enum FormatPart {
    Text(String),
    Token(&'static str),
    Millis,
}

/// A timestamp format. The text of the last second is cached.
#[derive(Debug)]
pub struct TimestampFormat {
    parts: Vec<FormatPart>,
    zone: TimeZone,
    last: RefCell<CachedSecond>,
}

/// The timestamp of one second, and the offsets of its milliseconds.
#[derive(Debug, Default)]
struct CachedSecond {
    unix_seconds: Option<i64>,
    text: String,
    millis_offsets: Vec<usize>,
}

impl TimestampFormat {
    /// A format in the local time zone. Any text is valid: what is not a token is copied.
    pub fn new(format: &str) -> Self {
        Self::with_zone(format, TimeZone::system())
    }

    fn with_zone(format: &str, zone: TimeZone) -> Self {
        Self { parts: parse(format), zone, last: RefCell::default() }
    }

    /// ISO 8601 in UTC with milliseconds, as in JavaScript.
    pub fn iso() -> Self {
        Self::with_zone("YYYY-MM-DD[T]HH:mm:ss.SSS[Z]", TimeZone::UTC)
    }

    /// A regular expression of the timestamps, in which `map` was applied to the text between tokens.
    pub(super) fn regex(&self, map: &dyn Fn(&str) -> String) -> String {
        let parts = self.parts.iter().map(|part| match part {
            FormatPart::Text(text) => regex::escape(&map(text)),
            FormatPart::Token(token) => token_regex(token).to_owned(),
            FormatPart::Millis => "[0-9]{3}".to_owned(),
        });
        format!("^{}$", parts.collect::<String>())
    }

    /// Appends the timestamp of `at`, in milliseconds since the epoch.
    pub fn write(&self, at: i64, out: &mut Vec<u8>) {
        let mut last = self.last.borrow_mut();
        if last.unix_seconds != Some(at.div_euclid(1000)) {
            self.refresh(&mut last, at);
        }
        let start = out.len();
        out.extend_from_slice(last.text.as_bytes());
        let millis = at.rem_euclid(1000);
        for position in &last.millis_offsets {
            for (offset, unit) in [100, 10, 1].into_iter().enumerate() {
                out[start + position + offset] = b'0' + (millis / unit % 10) as u8;
            }
        }
    }

    fn refresh(&self, second: &mut CachedSecond, at: i64) {
        let time = Timestamp::from_millisecond(at).unwrap_or_default().to_zoned(self.zone.clone());
        second.unix_seconds = Some(at.div_euclid(1000));
        second.text.clear();
        second.millis_offsets.clear();
        for part in &self.parts {
            match part {
                FormatPart::Text(text) => second.text.push_str(text),
                FormatPart::Token(token) => write_token(token, &time, &mut second.text),
                FormatPart::Millis => {
                    second.millis_offsets.push(second.text.len());
                    second.text.push_str("000");
                }
            }
        }
    }
}

fn parse(format: &str) -> Vec<FormatPart> {
    let mut parts: Vec<FormatPart> = Vec::new();
    let mut left = format;
    while let Some(next) = left.chars().next() {
        let (part, length) = next_part(left, next);
        match (parts.last_mut(), part) {
            (Some(FormatPart::Text(before)), FormatPart::Text(text)) => before.push_str(&text),
            (_, part) => parts.push(part),
        }
        left = &left[length..];
    }
    parts
}

/// The first part of `left`, which starts with `next`, and its length in bytes.
fn next_part(left: &str, next: char) -> (FormatPart, usize) {
    if let Some((literal, _)) = left.strip_prefix('[').and_then(|inside| inside.split_once(']'))
        && !literal.is_empty()
    {
        return (FormatPart::Text(literal.to_owned()), literal.len() + 2);
    }
    if left.starts_with(MILLIS) {
        return (FormatPart::Millis, MILLIS.len());
    }
    match TOKENS.into_iter().find(|token| left.starts_with(token)) {
        Some(token) => (FormatPart::Token(token), token.len()),
        None => (FormatPart::Text(next.to_string()), next.len_utf8()),
    }
}

/// What [`write_token`] writes.
fn token_regex(token: &str) -> &'static str {
    match token {
        "YYYY" => "[0-9]{4}",
        "YY" | "MM" | "DD" | "HH" | "hh" | "mm" | "ss" => "[0-9]{2}",
        "M" | "D" | "H" | "h" | "m" | "s" | "d" => "[0-9]{1,2}",
        "A" => "[AP]M",
        "a" => "[ap]m",
        "Z" | "ZZ" => "[+-][0-9]{2}:?[0-9]{2}",
        _ => "[A-Za-z]+", // names of days and months
    }
}

fn write_token(token: &str, time: &Zoned, out: &mut String) {
    let hour12 = (time.hour() + 11) % 12 + 1;
    let noon = time.hour() >= 12;
    // Writing to a `String` cannot fail.
    let _ = match token {
        "YYYY" => write!(out, "{:04}", time.year()),
        "YY" => write!(out, "{:02}", time.year().rem_euclid(100)),
        "MMMM" => write!(out, "{}", time.strftime("%B")),
        "MMM" => write!(out, "{}", time.strftime("%b")),
        "MM" => write!(out, "{:02}", time.month()),
        "M" => write!(out, "{}", time.month()),
        "DD" => write!(out, "{:02}", time.day()),
        "D" => write!(out, "{}", time.day()),
        "dddd" => write!(out, "{}", time.strftime("%A")),
        "ddd" => write!(out, "{}", time.strftime("%a")),
        "dd" => out.write_str(&time.strftime("%a").to_string()[..2]),
        "d" => write!(out, "{}", time.weekday().to_sunday_zero_offset()),
        "HH" => write!(out, "{:02}", time.hour()),
        "H" => write!(out, "{}", time.hour()),
        "hh" => write!(out, "{hour12:02}"),
        "h" => write!(out, "{hour12}"),
        "A" => out.write_str(if noon { "PM" } else { "AM" }),
        "a" => out.write_str(if noon { "pm" } else { "am" }),
        "mm" => write!(out, "{:02}", time.minute()),
        "m" => write!(out, "{}", time.minute()),
        "ss" => write!(out, "{:02}", time.second()),
        "s" => write!(out, "{}", time.second()),
        "ZZ" => write!(out, "{}", time.strftime("%z")),
        "Z" => write!(out, "{}", time.strftime("%:z")),
        other => out.write_str(other),
    };
}

#[cfg(test)]
mod tests {
    use crate::logs::timestamp::*;
    use jiff::civil::date;
    use proptest::prelude::*;

    fn format_time(format: &str, at: i64) -> String {
        let zone = TimeZone::fixed(jiff::tz::offset(5).saturating_add(jiff::Span::new().minutes(30)));
        let mut out = Vec::new();
        TimestampFormat::with_zone(format, zone).write(at, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn time() -> i64 {
        // 2026-03-01 was a Sunday.
        date(2026, 3, 1).at(4, 7, 9, 45_000_000).in_tz("UTC").unwrap().timestamp().as_millisecond()
    }

    #[test]
    fn formats_every_token() {
        let table = [
            ("YYYY", "2026"),
            ("YY", "26"),
            ("M", "3"),
            ("MM", "03"),
            ("MMM", "Mar"),
            ("MMMM", "March"),
            ("D", "1"),
            ("DD", "01"),
            ("d", "0"),
            ("dd", "Su"),
            ("ddd", "Sun"),
            ("dddd", "Sunday"),
            ("H", "9"),
            ("HH", "09"),
            ("h", "9"),
            ("hh", "09"),
            ("A", "AM"),
            ("a", "am"),
            ("m", "37"),
            ("mm", "37"),
            ("s", "9"),
            ("ss", "09"),
            ("SSS", "045"),
            ("Z", "+05:30"),
            ("ZZ", "+0530"),
        ];
        for (format, text) in table {
            assert_eq!(format_time(format, time()), text, "{format}");
        }
    }

    #[test]
    fn formats_12_hour_clock() {
        let hour = 3_600_000;
        let midnight = time() - 9 * hour;
        for (after, text) in [(0, "12 AM"), (1, "1 AM"), (12, "12 PM"), (13, "1 PM")] {
            assert_eq!(format_time("h A", midnight + after * hour), text);
        }
    }

    #[test]
    fn copies_literals_and_other_text() {
        assert_eq!(format_time("[YYYY] YYYY", time()), "YYYY 2026");
        assert_eq!(format_time("YYYY-MM-DDTHH:mm:ss", time()), "2026-03-01T09:37:09");
        assert_eq!(format_time("[] [open S é", time()), "[] [open S é");
    }

    #[test]
    fn cache_follows_time_changes() {
        let format = TimestampFormat::iso();
        let mut out = Vec::new();
        for at in [0, 7, 999, 1000, 1999, 0, -1] {
            format.write(at, &mut out);
            out.push(b' ');
        }
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "1970-01-01T00:00:00.000Z 1970-01-01T00:00:00.007Z 1970-01-01T00:00:00.999Z \
             1970-01-01T00:00:01.000Z 1970-01-01T00:00:01.999Z 1970-01-01T00:00:00.000Z \
             1969-12-31T23:59:59.999Z "
        );
    }

    proptest! {
        #[test]
        fn accepts_any_format_and_time(format in ".{0,40}", at in any::<i64>()) {
            format_time(&format, at);
        }

        #[test]
        fn parse_separates_tokens_and_literals(
            parts in proptest::collection::vec(
                prop_oneof![
                    proptest::sample::select(TOKENS.as_slice()).prop_map(FormatPart::Token),
                    Just(FormatPart::Millis),
                ],
                0..12,
            ),
        ) {
            // A literal between any two tokens keeps them apart.
            let format: String = parts.iter().map(|part| match part {
                FormatPart::Token(token) => format!("{token}[YYYY]"),
                _ => "SSS[YYYY]".into(),
            }).collect();
            let expected: Vec<FormatPart> =
                parts.into_iter().flat_map(|part| [part, FormatPart::Text("YYYY".into())]).collect();
            prop_assert_eq!(parse(&format), expected);
        }
    }
}
