//! Durations, sizes, times and the state of the host as text, in the units of PM2.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::ipc::message::HostInfo;

const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// A duration in milliseconds, in the largest unit that gives at least two: `119s`, `2m`, `47h`, `2D`.
pub(crate) fn age(ms: u64) -> String {
    let units = [(365 * DAY, "Y"), (30 * DAY, "M"), (DAY, "D"), (HOUR, "h"), (MINUTE, "m")];
    let fits = units.into_iter().find(|(unit, _)| ms / unit >= 2);
    let (unit, name) = fits.unwrap_or((SECOND, "s"));
    format!("{}{name}", ms / unit)
}

/// A duration in milliseconds, exact below 10 s: `12 ms` tells more than `0s`.
pub(crate) fn duration(ms: u64) -> String {
    if ms < 10 * SECOND { format!("{ms} ms") } else { age(ms) }
}

/// A size in bytes with one decimal, in units of 1024: `0 B`, `51.4 MB`.
pub(crate) fn size(bytes: u64) -> String {
    let units = [(1 << 40, "TB"), (1 << 30, "GB"), (1 << 20, "MB"), (1 << 10, "KB")];
    match units.into_iter().find(|(unit, _): &(u64, _)| bytes >= *unit) {
        #[allow(clippy::cast_precision_loss, reason = "one decimal is shown")]
        Some((unit, name)) => format!("{:.1} {name}", bytes as f64 / unit as f64),
        None => format!("{bytes} B"),
    }
}

/// CPU usage in percent of one core, with at most one decimal.
pub(crate) fn percent(cpu: f32) -> String {
    let text = format!("{cpu:.1}");
    format!("{}%", text.strip_suffix(".0").unwrap_or(&text))
}

/// A time in milliseconds since the epoch, as local time in `zone`.
pub(crate) fn local_time(ms: u64, zone: &TimeZone) -> String {
    match i64::try_from(ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok()) {
        Some(at) => at.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        None => "?".into(),
    }
}

/// The time of day of a time in milliseconds since the epoch, in `zone`.
pub(crate) fn time_of_day(ms: u64, zone: &TimeZone) -> String {
    local_time(ms, zone).split(' ').nth(1).unwrap_or("?").to_owned()
}

/// The used part in percent; `0%` if the total is unknown.
pub(crate) fn share(used: u64, total: u64) -> String {
    format!("{}%", (used * 100).checked_div(total).unwrap_or(0))
}

/// The load averages of the host over 1, 5 and 15 minutes: `load 0.50 0.25 0.00`.
pub(crate) fn load_averages(host: &HostInfo) -> String {
    let [one, five, fifteen] = host.load;
    format!("load {one:.2} {five:.2} {fifteen:.2}")
}

/// A count with its noun: `1 app`, `2 apps`.
pub(crate) fn pluralize(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn age_changes_unit_at_two() {
        let ages = [
            (0, "0s"),
            (119_999, "119s"),
            (120_000, "2m"),
            (119 * MINUTE, "119m"),
            (2 * HOUR, "2h"),
            (47 * HOUR, "47h"),
            (2 * DAY, "2D"),
            (59 * DAY, "59D"),
            (60 * DAY, "2M"),
            (730 * DAY, "2Y"),
        ];
        for (ms, shown) in ages {
            assert_eq!(age(ms), shown);
        }
        assert_eq!((duration(12).as_str(), duration(12_000).as_str()), ("12 ms", "12s"));
    }

    #[test]
    fn size_has_one_decimal() {
        let sizes =
            [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KB"), (53_896_806, "51.4 MB"), (3 << 30, "3.0 GB")];
        for (bytes, shown) in sizes {
            assert_eq!(size(bytes), shown);
        }
        assert_eq!(size(u64::MAX), "16777216.0 TB");
    }

    #[test]
    fn percent_has_at_most_one_decimal() {
        assert_eq!([percent(0.0), percent(12.34), percent(99.96)], ["0%", "12.3%", "100%"]);
    }

    #[test]
    fn local_time_is_that_of_zone() {
        assert_eq!(local_time(1_700_000_000_000, &TimeZone::UTC), "2023-11-14 22:13:20");
        assert_eq!(local_time(u64::MAX, &TimeZone::UTC), "?");
    }
}
