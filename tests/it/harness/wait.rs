//! Waiting for a condition, with a deadline.

use std::time::{Duration, Instant};

/// How long anything may take before a test fails. Long, because machines are shared.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// How often a condition that has no event is checked.
const INTERVAL: Duration = Duration::from_millis(5);

/// Waits until `found` returns something, and fails at the deadline.
pub fn wait_until<T>(what: &str, found: impl FnMut() -> Option<T>) -> T {
    wait_or_none(found).unwrap_or_else(|| panic!("not within {DEADLINE:?}: {what}"))
}

/// Waits until `found` returns something; `None` at the deadline.
pub fn wait_or_none<T>(mut found: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + DEADLINE;
    while Instant::now() < end {
        if let Some(found) = found() {
            return Some(found);
        }
        std::thread::sleep(INTERVAL);
    }
    None
}
