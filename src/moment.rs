//! Points in time, as the decisions see them: passed in, never read from a clock.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A point in time on two clocks.
///
/// Decisions use `mono`, which no one can set back and which goes on during suspend; people are
/// shown `wall`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Moment {
    /// Milliseconds since boot (`CLOCK_BOOTTIME`).
    pub mono: u64,
    /// Milliseconds since the epoch.
    pub wall: u64,
}

impl Moment {
    /// The time passed since `earlier`; zero if that lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.mono.saturating_sub(earlier.mono))
    }

    /// The point `after` this one, on the monotonic clock.
    pub fn plus(self, after: Duration) -> u64 {
        self.mono.saturating_add(u64::try_from(after.as_millis()).unwrap_or(u64::MAX))
    }
}
