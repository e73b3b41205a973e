//! The restart policy: whether an app is restarted after an exit, and after which delay. The keys are those of PM2.
//!
//! - An exit is *early* if the run lasted less than `min_uptime` or had not become ready. After `max_restarts` restarts
//!   that followed early exits within a window, the app is errored. The window slides, so one run of a second does not
//!   reset the count (as in PM2).
//! - By default the first restart is immediate, and delays grow until a run was healthy for a while: `min_uptime` is
//!   too short for that, because an app that exits after a few seconds, each time, must not be restarted without end
//!   at full speed.
//! - A signal is not exit code 0: `stop_exit_codes = [0]` does not match a killed process.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::exit::Exit;
use crate::spec::{RestartDelay, RestartPolicy};
use crate::time::Moment;

/// The longest backoff delay (PM2's limit).
pub const MAX_BACKOFF: Duration = Duration::from_secs(15);

/// A run of this duration was healthy: it ends a crash loop, and the next delay is the first one again (as in PM2).
const HEALTHY_UPTIME: Duration = Duration::from_secs(30);

/// The end of a run that was not requested.
#[derive(Clone, Copy, Debug)]
pub struct RunEnd<'a> {
    /// How the process exited.
    pub exit: &'a Exit,
    /// Duration of the run.
    pub uptime: Duration,
    /// The run had become ready.
    pub ready: bool,
}

/// What follows an exit that was not requested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RestartDecision {
    /// Start again after this delay.
    RestartAfter(Duration),
    /// Stay stopped: the policy says that this exit is final.
    Stop,
    /// Too many early exits.
    MarkErrored {
        /// Restarts after early exits within the window.
        restarts: usize,
        /// The window in which they were counted.
        window: Duration,
    },
}

/// Recent failures of an instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FailureHistory {
    /// Times of restarts after early exits, in milliseconds of the monotonic clock; oldest first.
    #[serde(alias = "unstable")]
    pub unstable_exits: VecDeque<u64>,
    /// Exits since the last healthy run: each follows a run that was not.
    #[serde(alias = "in_row")]
    pub consecutive: u32,
}

impl FailureHistory {
    /// Number of restarts after early exits within the window.
    pub fn recent_count(&self, policy: &RestartPolicy, now: Moment) -> usize {
        let window = window(policy).as_millis();
        self.unstable_exits.iter().filter(|at| u128::from(now.mono.saturating_sub(**at)) < window).count()
    }
}

/// The uptime from which on a run counts as healthy.
pub fn healthy_uptime(policy: &RestartPolicy) -> Duration {
    match policy.delay {
        RestartDelay::Fixed(_) | RestartDelay::Backoff { .. } => policy.min_uptime.max(HEALTHY_UPTIME),
        RestartDelay::Pm2Backoff { .. } => HEALTHY_UPTIME,
    }
}

/// Decides what follows the end of a run, and records it in `failures`.
pub fn decide(
    policy: &RestartPolicy,
    failures: &mut FailureHistory,
    RunEnd { exit, uptime, ready }: RunEnd<'_>,
    now: Moment,
) -> RestartDecision {
    if !policy.autorestart || matches!(exit, Exit::Code(code) if policy.stop_exit_codes.contains(code)) {
        return RestartDecision::Stop;
    }
    let early = uptime < policy.min_uptime || !ready;
    let was_healthy = ready && uptime >= healthy_uptime(policy);
    failures.consecutive = if was_healthy { 1 } else { failures.consecutive.saturating_add(1) };
    let restarts = failures.recent_count(policy, now);
    let max_restarts = policy.max_restarts as usize;
    if early && restarts >= max_restarts {
        return RestartDecision::MarkErrored { restarts, window: window(policy) };
    }
    if early {
        failures.unstable_exits.push_back(now.mono);
        while failures.unstable_exits.len() > max_restarts {
            failures.unstable_exits.pop_front();
        }
    }
    RestartDecision::RestartAfter(restart_delay(policy, failures.consecutive))
}

/// The delay after this number of exits since the last healthy run.
fn restart_delay(policy: &RestartPolicy, exits: u32) -> Duration {
    let (initial, immediate) = match policy.delay {
        RestartDelay::Fixed(delay) => return delay,
        RestartDelay::Backoff { initial } => (initial, 1),
        RestartDelay::Pm2Backoff { initial } => (initial, 0),
    };
    match exits.checked_sub(immediate + 1) {
        None => Duration::ZERO,
        Some(steps) => backoff(initial, steps),
    }
}

/// `initial`, longer by half with each step, at most [`MAX_BACKOFF`].
fn backoff(initial: Duration, steps: u32) -> Duration {
    let mut delay = initial;
    for _ in 0..steps {
        if delay >= MAX_BACKOFF || delay.is_zero() {
            break;
        }
        delay += delay / 2;
    }
    delay.min(MAX_BACKOFF.max(initial))
}

/// The configured window, extended to the time that `max_restarts` restarts take with the delays of the policy:
/// otherwise a crash loop with long delays would never become errored.
fn window(policy: &RestartPolicy) -> Duration {
    let max_delay = match policy.delay {
        RestartDelay::Fixed(delay) => delay,
        RestartDelay::Backoff { initial } | RestartDelay::Pm2Backoff { initial } => MAX_BACKOFF.max(initial),
    };
    let needed = (max_delay + policy.min_uptime).saturating_mul(policy.max_restarts.saturating_add(1));
    policy.window.max(needed)
}

#[cfg(test)]
mod tests {
    use crate::instance::restart_policy::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn at(mono: u64) -> Moment {
        Moment { mono, wall: 0 }
    }

    fn end(exit: &Exit, uptime: Duration) -> RunEnd<'_> {
        RunEnd { exit, uptime, ready: true }
    }

    /// The delays of at most `count` runs that each last `uptime`, and the decision that ends them.
    fn crash_loop(
        policy: &RestartPolicy,
        uptime: Duration,
        count: usize,
    ) -> (Vec<Duration>, Option<RestartDecision>) {
        let (mut failures, mut now, mut delays) = (FailureHistory::default(), 0, Vec::new());
        while delays.len() < count {
            now += u64::try_from(uptime.as_millis()).unwrap();
            match decide(policy, &mut failures, end(&Exit::Code(1), uptime), at(now)) {
                RestartDecision::RestartAfter(delay) => {
                    now += u64::try_from(delay.as_millis()).unwrap();
                    delays.push(delay);
                }
                other => return (delays, Some(other)),
            }
        }
        (delays, None)
    }

    #[test]
    fn delays_grow_after_immediate_first_restart() {
        let (delays, end) = crash_loop(&RestartPolicy::default(), MS(10), 100);
        let shown: Vec<u128> = delays.iter().take(5).map(Duration::as_millis).collect();
        assert_eq!(shown, [0, 100, 150, 225, 337]);
        assert_eq!(delays.len(), 16);
        assert!(matches!(end, Some(RestartDecision::MarkErrored { restarts: 16, .. })));
        assert!(delays.iter().all(|delay| *delay <= MAX_BACKOFF));
    }

    #[test]
    fn app_is_errored_after_max_restarts() {
        let policy = RestartPolicy { max_restarts: 10, min_uptime: MS(10_000), ..RestartPolicy::default() };
        let (delays, end) = crash_loop(&policy, MS(50), 100);
        assert_eq!(delays.len(), 10);
        assert!(matches!(end, Some(RestartDecision::MarkErrored { restarts: 10, .. })));
    }

    #[test]
    fn app_is_errored_at_first_early_exit_if_max_restarts_is_zero() {
        let policy = RestartPolicy { max_restarts: 0, ..RestartPolicy::default() };
        let (delays, end) = crash_loop(&policy, MS(1), 3);
        assert!(delays.is_empty() && matches!(end, Some(RestartDecision::MarkErrored { restarts: 0, .. })));
    }

    #[test]
    fn healthy_runs_restart_immediately_without_limit() {
        let (delays, end) = crash_loop(&RestartPolicy::default(), HEALTHY_UPTIME, 500);
        assert!(end.is_none() && delays.iter().all(Duration::is_zero));
    }

    #[test]
    fn slow_crash_loop_backs_off_and_is_never_errored() {
        for uptime in [1000, 1300, 5000, 29_000] {
            let (delays, end) = crash_loop(&RestartPolicy::default(), MS(uptime), 500);
            assert!(end.is_none(), "{uptime}: {end:?}");
            assert_eq!((delays[0], delays[1], delays[499]), (Duration::ZERO, MS(100), MAX_BACKOFF));
        }
        let ten_minutes = |delays: &[Duration]| {
            let mut left = Duration::from_secs(600);
            delays
                .iter()
                .take_while(|delay| {
                    left = left.saturating_sub(**delay + MS(1300));
                    !left.is_zero()
                })
                .count()
        };
        let (delays, _) = crash_loop(&RestartPolicy::default(), MS(1300), 500);
        assert!(ten_minutes(&delays) < 50, "{}", ten_minutes(&delays));
    }

    #[test]
    fn healthy_run_ends_crash_loop() {
        let (policy, mut failures) = (RestartPolicy::default(), FailureHistory::default());
        let mut after = |uptime| decide(&policy, &mut failures, end(&Exit::Code(1), uptime), at(0));
        let delay = |millis| RestartDecision::RestartAfter(MS(millis));
        assert_eq!([after(MS(5000)), after(MS(5000)), after(MS(5000))], [delay(0), delay(100), delay(150)]);
        assert_eq!([after(HEALTHY_UPTIME), after(MS(5000))], [delay(0), delay(100)]);
    }

    #[test]
    fn exit_before_readiness_is_early_whatever_its_uptime() {
        let policy = RestartPolicy { max_restarts: 1, ..RestartPolicy::default() };
        let mut failures = FailureHistory::default();
        let end = RunEnd { exit: &Exit::Code(1), uptime: MS(50_000), ready: false };
        assert_eq!(decide(&policy, &mut failures, end, at(50_000)), RestartDecision::RestartAfter(MS(0)));
        let second = decide(&policy, &mut failures, end, at(100_000));
        assert!(matches!(second, RestartDecision::MarkErrored { restarts: 1, .. }), "{second:?}");
    }

    #[test]
    fn stable_run_does_not_reset_count() {
        let policy = RestartPolicy { max_restarts: 4, ..RestartPolicy::default() };
        let (mut failures, mut ends) = (FailureHistory::default(), Vec::new());
        for (index, uptime) in [10, 10, 2000, 10, 10, 2000, 10].into_iter().enumerate() {
            let now = at(index as u64 * 3000);
            ends.push(decide(&policy, &mut failures, end(&Exit::Code(1), MS(uptime)), now));
        }
        assert!(matches!(ends[5], RestartDecision::RestartAfter(_)), "a stable run restarts: {ends:?}");
        assert!(matches!(ends[6], RestartDecision::MarkErrored { restarts: 4, .. }), "{ends:?}");
    }

    #[test]
    fn failures_outside_window_are_not_counted() {
        let policy = RestartPolicy { max_restarts: 1, window: MS(60_000), ..RestartPolicy::default() };
        let mut failures = FailureHistory::default();
        let mut fail = |now| decide(&policy, &mut failures, end(&Exit::Code(1), MS(1)), at(now));
        assert_eq!(fail(0), RestartDecision::RestartAfter(MS(0)));
        assert_eq!(fail(100_000), RestartDecision::RestartAfter(MS(100)));
        assert!(matches!(fail(101_000), RestartDecision::MarkErrored { .. }));
    }

    #[test]
    fn window_is_extended_for_fixed_delay() {
        let policy = RestartPolicy {
            delay: RestartDelay::Fixed(Duration::from_secs(3600)),
            max_restarts: 3,
            ..RestartPolicy::default()
        };
        let (delays, end) = crash_loop(&policy, MS(1), 100);
        assert_eq!(delays, [Duration::from_secs(3600); 3]);
        assert!(matches!(end, Some(RestartDecision::MarkErrored { .. })));
    }

    #[test]
    fn pm2_backoff_starts_with_initial_delay() {
        let delay = RestartDelay::Pm2Backoff { initial: MS(100) };
        let policy = RestartPolicy { delay, ..RestartPolicy::default() };
        let (delays, _) = crash_loop(&policy, MS(5000), 8);
        let shown: Vec<u128> = delays.iter().map(Duration::as_millis).collect();
        assert_eq!(shown, [100, 150, 225, 337, 506, 759, 1139, 1708]);
        let (delays, _) = crash_loop(&policy, MS(31_000), 3);
        assert_eq!(delays, [MS(100); 3]);
    }

    #[test]
    fn stop_exit_codes_and_autorestart_end_app() {
        let mut policy = RestartPolicy { stop_exit_codes: vec![0, 3], ..RestartPolicy::default() };
        let mut failures = FailureHistory::default();
        let mut on =
            |policy: &RestartPolicy, exit| decide(policy, &mut failures, end(&exit, MS(5000)), at(0));
        assert_eq!(on(&policy, Exit::Code(3)), RestartDecision::Stop);
        let killed = Exit::Signal { number: 9, core: false, oom: false };
        assert!(matches!(on(&policy, killed.clone()), RestartDecision::RestartAfter(_)));
        policy.autorestart = false;
        assert_eq!(on(&policy, killed), RestartDecision::Stop);
    }
}
