//! Whether and how late a run follows an exit: PM2's keys and their meaning, without its warts.
//!
//! - An exit is *early* when the run lived less than `min_uptime`. After `max_restarts` restarts
//!   that followed early exits within a window the app is given up. The window slides, so a run
//!   that lives a second does not wipe the count (PM2's does), and a slow crash loop is seen.
//! - By default the first restart is immediate, and delays grow only while runs keep failing
//!   early.
//! - Death by signal is not exit code 0: `stop_exit_codes = [0]` does not match a kill.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::exit::Exit;
use crate::spec::{RestartDelay, RestartPolicy};
use crate::time::Moment;

/// No automatic restart waits longer than this for its backoff (PM2's limit).
pub const MAX_BACKOFF: Duration = Duration::from_secs(15);

/// PM2's back-off starts anew after this uptime, whatever `min_uptime` says.
const BACKOFF_RESET: Duration = Duration::from_secs(30);

/// What follows an exit that nobody asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RestartDecision {
    /// Start again after this pause.
    RestartAfter(Duration),
    /// It shall stay down: its policy says that this was its end.
    Stop,
    /// It failed too often.
    MarkErrored {
        /// Restarts after early exits within the window.
        restarts: usize,
        /// The window they were counted in.
        window: Duration,
    },
}

/// What is remembered of former failures.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FailureHistory {
    /// When restarts followed an early exit, on the monotonic clock in ms; oldest first.
    #[serde(alias = "unstable")]
    pub unstable_exits: VecDeque<u64>,
    /// Exits in a row that count for the backoff.
    #[serde(alias = "in_row")]
    pub consecutive: u32,
}

impl FailureHistory {
    /// Restarts that followed an early exit and lie within the window.
    pub fn recent_count(&self, policy: &RestartPolicy, now: Moment) -> usize {
        let window = window(policy).as_millis();
        self.unstable_exits.iter().filter(|at| u128::from(now.mono.saturating_sub(**at)) < window).count()
    }
}

/// Decides what follows `exit` of a run that lived `uptime`, and remembers it in `failures`.
pub fn decide(
    policy: &RestartPolicy,
    failures: &mut FailureHistory,
    exit: &Exit,
    uptime: Duration,
    now: Moment,
) -> RestartDecision {
    if !policy.autorestart || matches!(exit, Exit::Code(code) if policy.stop_exit_codes.contains(code)) {
        return RestartDecision::Stop;
    }
    let early = uptime < policy.min_uptime;
    let restarts = failures.recent_count(policy, now);
    let most = policy.max_restarts as usize;
    if early && restarts >= most {
        return RestartDecision::MarkErrored { restarts, window: window(policy) };
    }
    if early {
        failures.unstable_exits.push_back(now.mono);
        while failures.unstable_exits.len() > most {
            failures.unstable_exits.pop_front();
        }
    }
    RestartDecision::RestartAfter(restart_delay(policy, failures, uptime))
}

fn restart_delay(policy: &RestartPolicy, failures: &mut FailureHistory, uptime: Duration) -> Duration {
    let (initial, reset, free) = match policy.delay {
        RestartDelay::Fixed(delay) => return delay,
        RestartDelay::Backoff { initial } => (initial, policy.min_uptime, 1),
        RestartDelay::Pm2Backoff { initial } => (initial, BACKOFF_RESET, 0),
    };
    failures.consecutive = if uptime < reset { failures.consecutive.saturating_add(1) } else { 1 - free };
    match failures.consecutive.checked_sub(free + 1) {
        None => Duration::ZERO,
        Some(steps) => backoff(initial, steps),
    }
}

/// `initial`, half as long again with each step, at most [`LONGEST_BACKOFF`].
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

/// The configured window, widened so that the policy's own delays cannot outlast it: otherwise a
/// crash loop with long pauses would never be given up.
fn window(policy: &RestartPolicy) -> Duration {
    let longest = match policy.delay {
        RestartDelay::Fixed(delay) => delay,
        RestartDelay::Backoff { initial } | RestartDelay::Pm2Backoff { initial } => MAX_BACKOFF.max(initial),
    };
    let needed = (longest + policy.min_uptime).saturating_mul(policy.max_restarts.saturating_add(1));
    policy.window.max(needed)
}

#[cfg(test)]
mod tests {
    use crate::instance::restart_policy::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn at(mono: u64) -> Moment {
        Moment { mono, wall: 0 }
    }

    /// Decisions for runs that all live `uptime`, until one is not a restart.
    fn loop_of(
        policy: &RestartPolicy,
        uptime: Duration,
        most: usize,
    ) -> (Vec<Duration>, Option<RestartDecision>) {
        let (mut failures, mut now, mut delays) = (FailureHistory::default(), 0, Vec::new());
        while delays.len() < most {
            now += u64::try_from(uptime.as_millis()).unwrap();
            match decide(policy, &mut failures, &Exit::Code(1), uptime, at(now)) {
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
    fn the_first_restart_is_immediate_then_delays_grow() {
        let (delays, end) = loop_of(&RestartPolicy::default(), MS(10), 100);
        let shown: Vec<u128> = delays.iter().take(5).map(Duration::as_millis).collect();
        assert_eq!(shown, [0, 100, 150, 225, 337]);
        assert_eq!(delays.len(), 16);
        assert!(matches!(end, Some(RestartDecision::MarkErrored { restarts: 16, .. })));
        assert!(delays.iter().all(|delay| *delay <= MAX_BACKOFF));
    }

    #[test]
    fn ten_unstable_restarts_and_no_more() {
        let policy = RestartPolicy { max_restarts: 10, min_uptime: MS(10_000), ..RestartPolicy::default() };
        let (delays, end) = loop_of(&policy, MS(50), 100);
        assert_eq!(delays.len(), 10);
        assert!(matches!(end, Some(RestartDecision::MarkErrored { restarts: 10, .. })));
    }

    #[test]
    fn no_restart_allowed_means_given_up_at_the_first_early_exit() {
        let policy = RestartPolicy { max_restarts: 0, ..RestartPolicy::default() };
        let (delays, end) = loop_of(&policy, MS(1), 3);
        assert!(delays.is_empty() && matches!(end, Some(RestartDecision::MarkErrored { restarts: 0, .. })));
    }

    #[test]
    fn stable_runs_restart_at_once_for_ever() {
        let (delays, end) = loop_of(&RestartPolicy::default(), MS(1000), 500);
        assert!(end.is_none() && delays.iter().all(Duration::is_zero));
    }

    #[test]
    fn one_stable_run_does_not_wipe_the_count() {
        let policy = RestartPolicy { max_restarts: 4, ..RestartPolicy::default() };
        let (mut failures, mut ends) = (FailureHistory::default(), Vec::new());
        for (index, uptime) in [10, 10, 2000, 10, 10, 2000, 10].into_iter().enumerate() {
            let now = at(index as u64 * 3000);
            ends.push(decide(&policy, &mut failures, &Exit::Code(1), MS(uptime), now));
        }
        assert!(matches!(ends[5], RestartDecision::RestartAfter(_)), "a stable run restarts: {ends:?}");
        assert!(matches!(ends[6], RestartDecision::MarkErrored { restarts: 4, .. }), "{ends:?}");
    }

    #[test]
    fn old_failures_leave_the_window() {
        let policy = RestartPolicy { max_restarts: 1, window: MS(60_000), ..RestartPolicy::default() };
        let mut failures = FailureHistory::default();
        let mut fail = |now| decide(&policy, &mut failures, &Exit::Code(1), MS(1), at(now));
        assert_eq!(fail(0), RestartDecision::RestartAfter(MS(0)));
        assert_eq!(fail(100_000), RestartDecision::RestartAfter(MS(100)));
        assert!(matches!(fail(101_000), RestartDecision::MarkErrored { .. }));
    }

    #[test]
    fn a_fixed_delay_is_kept_and_cannot_outlast_the_window() {
        let policy = RestartPolicy {
            delay: RestartDelay::Fixed(Duration::from_secs(3600)),
            max_restarts: 3,
            ..RestartPolicy::default()
        };
        let (delays, end) = loop_of(&policy, MS(1), 100);
        assert_eq!(delays, [Duration::from_secs(3600); 3]);
        assert!(matches!(end, Some(RestartDecision::MarkErrored { .. })));
    }

    #[test]
    fn pm2_backoff_starts_with_its_initial_delay() {
        let delay = RestartDelay::Pm2Backoff { initial: MS(100) };
        let policy = RestartPolicy { delay, ..RestartPolicy::default() };
        let (delays, _) = loop_of(&policy, MS(5000), 8);
        let shown: Vec<u128> = delays.iter().map(Duration::as_millis).collect();
        assert_eq!(shown, [100, 150, 225, 337, 506, 759, 1139, 1708]);
        let (delays, _) = loop_of(&policy, MS(31_000), 3);
        assert_eq!(delays, [MS(100); 3]);
    }

    #[test]
    fn some_exits_are_the_end() {
        let mut policy = RestartPolicy { stop_exit_codes: vec![0, 3], ..RestartPolicy::default() };
        let mut failures = FailureHistory::default();
        let mut on = |policy: &RestartPolicy, exit| decide(policy, &mut failures, &exit, MS(5000), at(0));
        assert_eq!(on(&policy, Exit::Code(3)), RestartDecision::Stop);
        let killed = Exit::Signal { number: 9, core: false, oom: false };
        assert!(matches!(on(&policy, killed.clone()), RestartDecision::RestartAfter(_)));
        policy.autorestart = false;
        assert_eq!(on(&policy, killed), RestartDecision::Stop);
    }
}
