//! Points in time, and the clocks that they are read from.
//!
//! Pure code never reads a clock: it gets a [`Moment`] as an argument.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// A point in time on two clocks.
///
/// Decisions use `mono`, which cannot be set back and continues during suspend; users see `wall`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Moment {
    /// Milliseconds since boot (`CLOCK_BOOTTIME`).
    pub mono: u64,
    /// Milliseconds since the epoch.
    pub wall: u64,
}

impl Moment {
    /// The time passed since `earlier`; zero if that is later than this.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.mono.saturating_sub(earlier.mono))
    }

    /// The time `after` this one, on the monotonic clock.
    pub fn plus(self, after: Duration) -> u64 {
        self.mono.saturating_add(u64::try_from(after.as_millis()).unwrap_or(u64::MAX))
    }
}

pub fn now() -> Moment {
    Moment { mono: read_clock_ms(ClockId::CLOCK_BOOTTIME), wall: read_clock_ms(ClockId::CLOCK_REALTIME) }
}

fn read_clock_ms(clock: ClockId) -> u64 {
    // Both clocks exist on every Linux since 2.6.39.
    clock_gettime(clock).map_or(0, |time| {
        let (seconds, nanos) = (time.tv_sec().cast_unsigned(), time.tv_nsec().cast_unsigned());
        seconds * 1000 + nanos / 1_000_000
    })
}
