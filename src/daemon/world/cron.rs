//! Runs a schedule (`cron_restart`) on a clock that may be set or suspended.

use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Zoned};

use crate::schedule::Schedule;

/// Maximum sleep. Timers stop during a suspend and ignore a change of the clock, so the clock is checked at
/// least this often.
const MAX_SLEEP: Duration = Duration::from_secs(60);

/// How far the clock may step back before the next time is computed again. With a smaller value, a step right
/// after a due time would make that time due twice.
const CLOCK_STEP_TOLERANCE: SignedDuration = SignedDuration::from_secs(60);

/// Calls `on_due` at each time of `schedule`. Times that were missed during a suspend, or because the clock was
/// set forward, cause one call together. Returns when the schedule has no more times.
pub async fn run(schedule: Schedule, zone: TimeZone, on_due: impl FnMut()) {
    run_with_clock(&SystemClock { zone }, schedule, on_due).await;
}

/// The clock of the system, or a simulated one in tests.
trait Clock {
    fn now(&self) -> Zoned;
    async fn sleep(&self, duration: Duration);
}

struct SystemClock {
    /// The time zone in which the schedule is read.
    zone: TimeZone,
}

impl Clock for SystemClock {
    fn now(&self) -> Zoned {
        Zoned::now().with_time_zone(self.zone.clone())
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

async fn run_with_clock(clock: &impl Clock, schedule: Schedule, mut on_due: impl FnMut()) {
    let mut last_now = clock.now();
    let mut next = schedule.next_after(&last_now);
    while let Some(time) = &next {
        let now = clock.now();
        if now >= *time {
            on_due();
            next = schedule.next_after(&now);
        } else if now.duration_until(&last_now) > CLOCK_STEP_TOLERANCE {
            // The clock was set back: there may be an earlier time now.
            next = schedule.next_after(&now);
        } else {
            let remaining = now.duration_until(time).unsigned_abs();
            clock.sleep(remaining.clamp(Duration::from_millis(1), MAX_SLEEP)).await;
        }
        last_now = now;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use jiff::ToSpan;

    use super::*;

    fn at(time: &str) -> Zoned {
        format!("{time}[Europe/Berlin]").parse().unwrap()
    }

    fn next(pattern: &str, now: &str) -> String {
        let time = Schedule::parse(pattern).unwrap().next_after(&at(now)).unwrap();
        time.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
    }

    #[test]
    fn patterns_have_five_or_six_fields() {
        assert_eq!(next("30 3 * * *", "2026-01-10T03:30:00"), "2026-01-11T03:30:00+01:00");
        assert_eq!(next("*/15 * * * *", "2026-01-10T03:46:00"), "2026-01-10T04:00:00+01:00");
        assert_eq!(next("*/10 * * * * *", "2026-01-10T03:46:11"), "2026-01-10T03:46:20+01:00");
        assert_eq!(next("0 0 L * *", "2026-02-03T00:00:00"), "2026-02-28T00:00:00+01:00");
    }

    #[test]
    fn either_day_field_is_enough() {
        // The 13th of February 2026 is a Friday; so is the 6th.
        assert_eq!(next("0 0 13 * FRI", "2026-02-01T00:00:00"), "2026-02-06T00:00:00+01:00");
        assert_eq!(next("0 0 13 * +FRI", "2026-02-01T00:00:00"), "2026-02-13T00:00:00+01:00");
    }

    #[test]
    fn dst_change_runs_each_schedule_once() {
        assert_eq!(next("30 2 * * *", "2026-03-28T12:00:00"), "2026-03-29T03:00:00+02:00");
        assert_eq!(next("30 2 * * *", "2026-10-24T12:00:00"), "2026-10-25T02:30:00+02:00");
        assert_eq!(next("30 2 * * *", "2026-10-25T02:30:00+02:00"), "2026-10-26T02:30:00+01:00");
    }

    #[test]
    fn invalid_patterns_report_syntax() {
        for pattern in ["", "*", "* * * *", "61 * * * *", "a b c d e", "0 0 0 1 1 * 2030", "* * * * * é"] {
            let message = Schedule::parse(pattern).unwrap_err().to_string();
            assert!(message.contains(pattern) && message.contains("five fields"), "{message}");
            assert!(!message.contains(".."), "{message}");
        }
        let message = Schedule::parse("0 0 30 2 *").unwrap_err().to_string();
        assert!(message.contains("never matches"), "{message}");
    }

    proptest::proptest! {
        #[test]
        fn parse_never_panics(pattern in "[-0-9*/,#LWF@+? a-zé]{0,24}") {
            let _ = Schedule::parse(&pattern);
        }
    }

    /// A clock that only sleeping advances. After `sleeps` sleeps, the task is blocked forever. `jumps` sets
    /// the clock instead, by the number of remaining sleeps.
    struct Simulated {
        now: RefCell<Zoned>,
        sleeps: Cell<usize>,
        jumps: Vec<(usize, &'static str)>,
        longest: Cell<Duration>,
    }

    impl Clock for Simulated {
        fn now(&self) -> Zoned {
            self.now.borrow().clone()
        }

        async fn sleep(&self, duration: Duration) {
            let Some(remaining) = self.sleeps.get().checked_sub(1) else {
                return std::future::pending().await;
            };
            self.sleeps.set(remaining);
            self.longest.set(self.longest.get().max(duration));
            let end = self.now.borrow().checked_add(duration).unwrap();
            let jump = self.jumps.iter().find(|(sleeps_left, _)| *sleeps_left == remaining);
            *self.now.borrow_mut() = jump.map_or(end, |(_, time)| at(time));
        }
    }

    /// The times at which `on_due` is called before the task is blocked.
    fn calls(pattern: &str, start: &str, sleeps: usize, jumps: Vec<(usize, &'static str)>) -> Vec<String> {
        let clock = Simulated {
            now: RefCell::new(at(start)),
            sleeps: Cell::new(sleeps),
            jumps,
            longest: Cell::default(),
        };
        let mut times = Vec::new();
        let on_due = || times.push(clock.now().strftime("%T").to_string());
        {
            let mut task = std::pin::pin!(run_with_clock(&clock, Schedule::parse(pattern).unwrap(), on_due));
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(task.as_mut().poll(&mut context).is_pending());
        }
        assert_eq!(clock.sleeps.get(), 0, "the task stopped early");
        assert!(clock.longest.get() <= MAX_SLEEP);
        times
    }

    #[test]
    fn each_time_runs_once() {
        let times = calls("*/2 * * * *", "2026-01-10T12:00:30", 5, vec![]);
        assert_eq!(times, ["12:02:00", "12:04:00"]);
    }

    #[test]
    fn missed_schedules_run_once_after_suspend() {
        let times = calls("*/2 * * * *", "2026-01-10T12:00:00", 4, vec![(2, "2026-01-10T15:01:10")]);
        assert_eq!(times, ["15:01:10", "15:02:00"]);
    }

    #[test]
    fn schedule_follows_clock_set_back() {
        let times = calls("0 * * * *", "2026-01-10T12:59:30", 3, vec![(1, "2026-01-10T10:59:30")]);
        assert_eq!(times, ["13:00:00", "11:00:00"]);
    }

    #[test]
    fn clock_step_back_does_not_repeat_schedule() {
        let times = calls("0 * * * *", "2026-01-10T12:59:30", 3, vec![(1, "2026-01-10T12:59:50")]);
        assert_eq!(times, ["13:00:00"]);
    }

    #[test]
    fn last_time_has_no_next() {
        let last = at("2026-01-10T12:00:00").saturating_add(9000.years());
        assert!(Schedule::parse("* * * * *").unwrap().next_after(&last).is_none());
    }
}
