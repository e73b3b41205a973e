//! Times on the command line: a duration before now, a date, or a time of day.

use jiff::civil::{Date, DateTime, Time};
use jiff::{SignedDuration, Timestamp, Zoned};

/// Parses a time in the local time zone, as milliseconds since the epoch.
pub(super) fn parse_time(text: &str) -> Result<u64, String> {
    parse(text, &Zoned::now())
}

fn parse(text: &str, now: &Zoned) -> Result<u64, String> {
    let text = text.trim();
    let time = parse_ago(text, now).or_else(|| parse_date(text, now)).ok_or_else(|| {
        "expected a duration (\"10m\", \"2h 30m\", \"3d\"), a time (\"14:05\") or a date (\"2026-11-21 14:05\")"
            .to_owned()
    })?;
    Ok(u64::try_from(time.as_millisecond()).unwrap_or(0))
}

fn parse_ago(text: &str, now: &Zoned) -> Option<Timestamp> {
    let text = text.strip_suffix("ago").unwrap_or(text).trim();
    let days = text.strip_suffix(['d', 'D']).and_then(|days| days.trim().parse::<i64>().ok());
    let elapsed = match days {
        Some(days) => SignedDuration::from_hours(days.checked_mul(24).filter(|hours| *hours < 1 << 32)?),
        None => text.parse::<SignedDuration>().ok()?,
    };
    now.timestamp().checked_sub(elapsed.abs()).ok()
}

fn parse_date(text: &str, now: &Zoned) -> Option<Timestamp> {
    let zone = now.time_zone();
    let local = |time: DateTime| zone.to_timestamp(time).ok();
    let midnight = |date: Date| local(date.at(0, 0, 0, 0));
    let today = |time: Time| local(now.date().to_datetime(time));
    match text {
        "today" => midnight(now.date()),
        "yesterday" => midnight(now.date().yesterday().ok()?),
        text if text.contains(':') => {
            let absolute = text.parse::<Timestamp>().ok();
            let time_of_day = || text.parse::<Time>().ok().and_then(today);
            absolute.or_else(time_of_day).or_else(|| text.parse::<DateTime>().ok().and_then(local))
        }
        text => text.parse::<Date>().ok().and_then(midnight),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_durations_dates_and_times() {
        let now: Zoned = "2026-11-21T12:00:00+01:00[Europe/Vienna]".parse().unwrap();
        let minute = 60_000;
        let at = now.timestamp().as_millisecond() as u64;
        for (text, expected) in [
            ("10m", at - 10 * minute),
            ("2h 30m", at - 150 * minute),
            ("90s ago", at - 90_000),
            ("3d", at - 3 * 24 * 60 * minute),
            ("11:30", at - 30 * minute),
            ("2026-11-21 11:00", at - 60 * minute),
            ("2026-11-21T10:00:00Z", at - 60 * minute),
            ("2026-11-21", at - 12 * 60 * minute),
            ("yesterday", at - 36 * 60 * minute),
        ] {
            assert_eq!(parse(text, &now), Ok(expected), "{text}");
        }
        for invalid in ["", "soon", "10", "25:00", "2026-13-01", "999999999999999999d"] {
            assert!(parse(invalid, &now).is_err(), "{invalid}");
        }
    }
}
