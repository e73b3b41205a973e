//! The two clocks.

use nix::time::{ClockId, clock_gettime};

use crate::moment::Moment;

/// Now, on both.
pub fn now() -> Moment {
    Moment { mono: read(ClockId::CLOCK_BOOTTIME), wall: read(ClockId::CLOCK_REALTIME) }
}

fn read(clock: ClockId) -> u64 {
    // Both clocks exist on every Linux since 2.6.39; a failure would be a broken kernel.
    clock_gettime(clock).map_or(0, |time| {
        let (seconds, nanos) = (time.tv_sec().cast_unsigned(), time.tv_nsec().cast_unsigned());
        seconds * 1000 + nanos / 1_000_000
    })
}
