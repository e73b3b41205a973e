//! Schedules: recurring times, given as a cron pattern. The only user of the cron parser.
//!
//! A pattern has five fields, or six with leading seconds, read in the time zone of the app or of the machine. If both day of month
//! and day of week are restricted, either is enough, as in crontab (PM2 requires both); a `+` before the day
//! of week (`0 0 13 * +FRI`) requires both. Times that the start of daylight saving time skips match right
//! after the gap; a fixed time that is repeated at its end matches once.

use croner::Cron;
use croner::parser::{CronParser, Year};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

/// Why a pattern cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ScheduleError {
    /// The pattern cannot be read.
    #[error(
        "invalid schedule \"{pattern}\": {problem} Use five fields (minute hour day month weekday), or six \
        with leading seconds, for example \"0 3 * * *\""
    )]
    Pattern {
        pattern: String,
        /// The reason, as a sentence.
        problem: String,
    },
    /// The pattern matches no time, such as 30 February.
    #[error("schedule \"{pattern}\" never matches a time")]
    Never { pattern: String },
}

/// Recurring times.
#[derive(Clone, Debug)]
pub struct Schedule(Cron);

impl Schedule {
    /// Parses a pattern that matches some time after now.
    ///
    /// # Errors
    /// It cannot be read, or matches no time after now.
    pub fn parse(pattern: &str) -> Result<Self, ScheduleError> {
        let schedule = Self::parse_syntax(pattern).map_err(|error| {
            let problem = format!("{}.", error.trim_end_matches('.'));
            ScheduleError::Pattern { pattern: pattern.into(), problem }
        })?;
        match schedule.next_after(&Zoned::now()) {
            Some(_) => Ok(schedule),
            None => Err(ScheduleError::Never { pattern: pattern.into() }),
        }
    }

    /// Parses a pattern, also one that never matches.
    ///
    /// # Errors
    /// The pattern is invalid; the error is text.
    pub fn parse_syntax(pattern: &str) -> Result<Self, String> {
        let parser = CronParser::builder().year(Year::Disallowed).build();
        parser.parse(&expand_steps(pattern)).map(Self).map_err(|error| error.to_string())
    }

    /// The first time after `now`, in its time zone; `None` if there is none.
    pub fn next_after(&self, now: &Zoned) -> Option<Zoned> {
        self.0.find_next_occurrence(now, false).ok()
    }

    /// The first time after `from` in local time; both are milliseconds since the epoch.
    pub fn next_after_ms(&self, from: i64) -> Option<i64> {
        let from = Zoned::new(Timestamp::from_millisecond(from).ok()?, TimeZone::system());
        Some(self.next_after(&from)?.timestamp().as_millisecond())
    }
}

/// The largest values of the fields: seconds, minutes, hours, days, months, weekdays.
const LARGEST: [&str; 6] = ["59", "59", "23", "31", "12", "6"];

/// Writes `5/15` as `5-59/15`, as other implementations of cron (and PM2) read it.
fn expand_steps(pattern: &str) -> String {
    let fields: Vec<&str> = pattern.split_whitespace().collect();
    let largest = LARGEST.iter().skip(LARGEST.len().saturating_sub(fields.len()));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let expand = |item: &str, largest: &str| match item.split_once('/') {
        Some((start, step)) if is_number(start) && is_number(step) => format!("{start}-{largest}/{step}"),
        _ => item.to_owned(),
    };
    let field = |(field, largest): (&&str, &&str)| {
        field.split(',').map(|item| expand(item, largest)).collect::<Vec<_>>().join(",")
    };
    match fields.len() {
        5 | 6 => fields.iter().zip(largest).map(field).collect::<Vec<_>>().join(" "),
        _ => pattern.to_owned(),
    }
}

/// The time zone of this name, or that of the machine.
///
/// # Errors
/// There is no such time zone; the error is text.
pub fn time_zone(name: Option<&str>) -> Result<TimeZone, String> {
    match name {
        Some(name) => TimeZone::get(name).map_err(|_| format!("unknown time zone \"{name}\"")),
        None => Ok(machine_zone()),
    }
}

/// The time zone of the machine. It is not that of the shell that started the daemon: schedules must not depend on it.
/// `TZ` of the first process is that of a container.
fn machine_zone() -> TimeZone {
    let environment = std::fs::read("/proc/1/environ").unwrap_or_default();
    let variable = environment.split(|byte| *byte == 0).find_map(|pair| pair.strip_prefix(b"TZ="));
    let container = variable.and_then(|name| TimeZone::get(std::str::from_utf8(name).ok()?).ok());
    let machine = || TimeZone::tzif("machine", &std::fs::read("/etc/localtime").ok()?).ok();
    container.or_else(machine).unwrap_or(TimeZone::UTC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_start_at_a_number() {
        let times = |pattern: &str, now: &str| {
            let (schedule, mut now) =
                (Schedule::parse(pattern).unwrap(), format!("{now}[UTC]").parse().unwrap());
            let mut next = || {
                now = schedule.next_after(&now).unwrap();
                now.strftime("%d %H:%M").to_string()
            };
            [next(), next(), next(), next()]
        };
        let quarters = ["10 03:05", "10 03:20", "10 03:35", "10 03:50"];
        assert_eq!(times("5/15 * * * *", "2026-01-10T03:00:00"), quarters);
        assert_eq!(times("0 5/15 * * * *", "2026-01-10T03:00:00"), quarters);
        let hours = ["10 04:00", "10 12:00", "10 20:00", "11 02:00"];
        assert_eq!(times("0 2,4/8 * * *", "2026-01-10T03:00:00"), hours);
        assert_eq!(expand_steps("*/5 1-9/2 * * 1"), "*/5 1-9/2 * * 1");
        assert_eq!(expand_steps("5/15"), "5/15");
    }

    #[test]
    fn unknown_time_zone_is_an_error() {
        assert_eq!(time_zone(Some("Europe/Berlin")).unwrap().iana_name(), Some("Europe/Berlin"));
        assert_eq!(time_zone(Some("Mars/Base")).unwrap_err(), "unknown time zone \"Mars/Base\"");
        assert!(time_zone(None).is_ok());
    }

    #[test]
    fn next_after_ms_advances() {
        let hourly = Schedule::parse("0 * * * *").unwrap();
        let first = hourly.next_after_ms(1).unwrap();
        assert!(first > 1 && hourly.next_after_ms(first).unwrap() == first + 3_600_000);
        assert!(Schedule::parse_syntax("nonsense").is_err());
    }
}
