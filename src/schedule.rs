//! Schedules: recurring times, given as a cron pattern. The only user of the cron parser.
//!
//! A pattern has five fields, or six with leading seconds, read in the local time zone. If both day of month
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
    #[error("schedule \"{pattern}\" never matches")]
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
        parser.parse(pattern).map(Self).map_err(|error| error.to_string())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_after_ms_advances() {
        let hourly = Schedule::parse("0 * * * *").unwrap();
        let first = hourly.next_after_ms(1).unwrap();
        assert!(first > 1 && hourly.next_after_ms(first).unwrap() == first + 3_600_000);
        assert!(Schedule::parse_syntax("nonsense").is_err());
    }
}
