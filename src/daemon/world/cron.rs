//! Waiting for the times of a schedule (`cron_restart`), with a clock that may be set or suspended.

use std::time::Duration;

use jiff::{SignedDuration, Zoned};

use crate::schedule::Schedule;

/// How long the task sleeps at most. Its timer stands still during a suspend and knows nothing of a
/// clock that is set, so only looking at the clock now and then finds out.
const MAX_SLEEP: Duration = Duration::from_secs(60);

/// How far the clock may step back without the time awaited being computed anew. Below it, a step
/// right after a due time would bring that time a second time.
const CLOCK_STEP_TOLERANCE: SignedDuration = SignedDuration::from_secs(60);

/// Calls `due` at each time of `schedule`, from now on. Times missed because the machine slept, or
/// because the clock was set forward, make one call together. Returns when no time is left.
pub async fn run(schedule: Schedule, due: impl FnMut()) {
    run_with_clock(&SystemClock, schedule, due).await;
}

/// What tells the time; tests bring their own.
trait Clock {
    fn now(&self) -> Zoned;
    async fn sleep(&self, time: Duration);
}

struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Zoned {
        Zoned::now()
    }

    async fn sleep(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }
}

async fn run_with_clock(clock: &impl Clock, schedule: Schedule, mut due: impl FnMut()) {
    let mut seen = clock.now();
    let mut next = schedule.next_after(&seen);
    while let Some(time) = &next {
        let now = clock.now();
        if now >= *time {
            due();
            next = schedule.next_after(&now);
        } else if now.duration_until(&seen) > CLOCK_STEP_TOLERANCE {
            // The clock was set back: what was awaited would now come too late.
            next = schedule.next_after(&now);
        } else {
            let left = now.duration_until(time).unsigned_abs();
            clock.sleep(left.clamp(Duration::from_millis(1), MAX_SLEEP)).await;
        }
        seen = now;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use jiff::ToSpan;

    use crate::daemon::world::cron::*;

    fn at(time: &str) -> Zoned {
        format!("{time}[Europe/Berlin]").parse().unwrap()
    }

    fn next(pattern: &str, now: &str) -> String {
        let time = Schedule::parse(pattern).unwrap().next_after(&at(now)).unwrap();
        time.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
    }

    #[test]
    fn five_fields_and_six() {
        assert_eq!(next("30 3 * * *", "2026-01-10T03:30:00"), "2026-01-11T03:30:00+01:00");
        assert_eq!(next("*/15 * * * *", "2026-01-10T03:46:00"), "2026-01-10T04:00:00+01:00");
        assert_eq!(next("*/10 * * * * *", "2026-01-10T03:46:11"), "2026-01-10T03:46:20+01:00");
        assert_eq!(next("0 0 L * *", "2026-02-03T00:00:00"), "2026-02-28T00:00:00+01:00");
    }

    #[test]
    fn day_of_month_or_day_of_week() {
        // The 13th of February 2026 is a Friday; so is the 6th.
        assert_eq!(next("0 0 13 * FRI", "2026-02-01T00:00:00"), "2026-02-06T00:00:00+01:00");
        assert_eq!(next("0 0 13 * +FRI", "2026-02-01T00:00:00"), "2026-02-13T00:00:00+01:00");
    }

    #[test]
    fn summer_time_skips_nothing_and_doubles_nothing() {
        assert_eq!(next("30 2 * * *", "2026-03-28T12:00:00"), "2026-03-29T03:00:00+02:00");
        assert_eq!(next("30 2 * * *", "2026-10-24T12:00:00"), "2026-10-25T02:30:00+02:00");
        assert_eq!(next("30 2 * * *", "2026-10-25T02:30:00+02:00"), "2026-10-26T02:30:00+01:00");
    }

    #[test]
    fn unusable_patterns_say_what_to_do() {
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
        fn no_pattern_breaks_the_parser(pattern in "[-0-9*/,#LWF@+? a-zé]{0,24}") {
            let _ = Schedule::parse(&pattern);
        }
    }

    /// A clock that a sleep moves; `jumps` replaces what the n-th sleep makes of the time. It stops
    /// the task for good when it has slept `sleeps` times.
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

        async fn sleep(&self, time: Duration) {
            let Some(left) = self.sleeps.get().checked_sub(1) else { return std::future::pending().await };
            self.sleeps.set(left);
            self.longest.set(self.longest.get().max(time));
            let then = self.now.borrow().checked_add(time).unwrap();
            let jump = self.jumps.iter().find(|(sleeps_left, _)| *sleeps_left == left);
            *self.now.borrow_mut() = jump.map_or(then, |(_, to)| at(to));
        }
    }

    /// The times at which `due` was called, until the clock slept `sleeps` times.
    fn calls(pattern: &str, start: &str, sleeps: usize, jumps: Vec<(usize, &'static str)>) -> Vec<String> {
        let clock = Simulated {
            now: RefCell::new(at(start)),
            sleeps: Cell::new(sleeps),
            jumps,
            longest: Cell::default(),
        };
        let mut called = Vec::new();
        let due = || called.push(clock.now().strftime("%T").to_string());
        {
            let mut task = std::pin::pin!(run_with_clock(&clock, Schedule::parse(pattern).unwrap(), due));
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(task.as_mut().poll(&mut context).is_pending());
        }
        assert_eq!(clock.sleeps.get(), 0, "the task stopped early");
        assert!(clock.longest.get() <= MAX_SLEEP);
        called
    }

    #[test]
    fn each_time_is_due_once() {
        let times = calls("*/2 * * * *", "2026-01-10T12:00:30", 5, vec![]);
        assert_eq!(times, ["12:02:00", "12:04:00"]);
    }

    #[test]
    fn what_a_suspend_missed_is_due_once() {
        let times = calls("*/2 * * * *", "2026-01-10T12:00:00", 4, vec![(2, "2026-01-10T15:01:10")]);
        assert_eq!(times, ["15:01:10", "15:02:00"]);
    }

    #[test]
    fn a_clock_set_back_is_followed() {
        let times = calls("0 * * * *", "2026-01-10T12:59:30", 3, vec![(1, "2026-01-10T10:59:30")]);
        assert_eq!(times, ["13:00:00", "11:00:00"]);
    }

    #[test]
    fn a_small_step_back_does_not_double_a_time() {
        let times = calls("0 * * * *", "2026-01-10T12:59:30", 3, vec![(1, "2026-01-10T12:59:50")]);
        assert_eq!(times, ["13:00:00"]);
    }

    #[test]
    fn the_end_of_time_ends_the_task() {
        let last = at("2026-01-10T12:00:00").saturating_add(9000.years());
        assert!(Schedule::parse("* * * * *").unwrap().next_after(&last).is_none());
    }
}
