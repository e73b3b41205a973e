//! Durations.

use std::time::Duration;

use serde_json::Value;

use crate::config::values::{FromValue, ValueError, expected};

/// A duration: milliseconds, as everywhere in PM2, or numbers with units (`1m30s`). The parsers of jiff and
/// humantime accept other units and spellings than the schema below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DurationValue(pub(crate) Duration);

/// One year. A longer duration is a mistake, and could overflow a clock.
const MAX_MS: u64 = 365 * 24 * 3_600_000;

impl FromValue for DurationValue {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        let millis = match value {
            Value::Number(number) => number.as_u64(),
            Value::String(text) => parse(text),
            _ => None,
        };
        match millis {
            Some(millis) if millis <= MAX_MS => Ok(Self(Duration::from_millis(millis))),
            Some(_) => expected("at most 365d"),
            None => {
                expected("a duration such as \"10s\", \"1m30s\" or \"500ms\", or a number of milliseconds")
            }
        }
    }
}

schema!(DurationValue, {
    "type": ["string", "integer"],
    "pattern": r"^\s*([0-9]+|([0-9]+(\.[0-9]+)?\s*([Mm][Ss]|[SsMmHhDd])\s*)+)\s*$",
    "minimum": 0,
    "maximum": MAX_MS
});

/// The number of milliseconds; saturates on overflow.
fn parse(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    if !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit()) {
        return Some(text.parse().unwrap_or(u64::MAX));
    }
    let (mut rest, mut total) = (text.as_str(), 0_u64);
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let after = rest[number..].trim_start();
        let unit = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        total = total.saturating_add(parse_part(&rest[..number], &after[..unit])?);
        rest = after[unit..].trim_start();
    }
    (!text.is_empty()).then_some(total)
}

/// The milliseconds of a number with a unit.
fn parse_part(number: &str, unit: &str) -> Option<u64> {
    let scale: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
    if !digits(whole) || !digits(fraction) {
        return None;
    }
    let micro: u64 = format!("{fraction:0<6}").get(..6)?.parse().ok()?;
    Some(
        whole
            .parse::<u64>()
            .unwrap_or(u64::MAX)
            .saturating_mul(scale)
            .saturating_add(micro * scale / 1_000_000),
    )
}

#[cfg(test)]
mod tests {
    use crate::config::values::duration::*;
    use serde_json::json;

    #[test]
    fn accepts_all_duration_units() {
        for (value, millis) in [
            (json!(1600), 1600),
            (json!(0), 0),
            (json!("1600"), 1600),
            (json!("500ms"), 500),
            (json!("10s"), 10_000),
            (json!("1m"), 60_000),
            (json!("2H"), 7_200_000),
            (json!("1m30s"), 90_000),
            (json!("1h 30m"), 5_400_000),
            (json!("1.5 s"), 1_500),
            (json!("365d"), MAX_MS),
        ] {
            assert_eq!(
                DurationValue::from_value(&value),
                Ok(DurationValue(Duration::from_millis(millis))),
                "{value}"
            );
        }
    }

    #[test]
    fn rejects_invalid_durations() {
        for bad in
            ["", "s", "10x", "1s5", "-1s", "1..5s", ".5s", "5.s", "1e3s", "366d", "99999999999999999999d"]
        {
            assert!(DurationValue::from_value(&json!(bad)).is_err(), "{bad}");
        }
        for bad in [json!(-1), json!(1.5), json!(true), json!(u64::MAX)] {
            assert!(DurationValue::from_value(&bad).is_err(), "{bad}");
        }
    }
}
