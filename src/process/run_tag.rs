//! Run tags: a number that all processes of a run inherit and keep, whatever they do with their session, parent and
//! environment.
//!
//! The tag is the soft limit `RLIMIT_LOCKS`. Linux has not enforced this limit since version 2.4.25, but processes
//! inherit it, `execve` keeps it, and everybody can read it in `/proc/PID/limits`, also of a process that is exiting.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

/// Set in all tags, so that a limit that somebody else set is not taken for one. The highest bit is not set: some
/// programs read limits as signed numbers.
const TAG_BITS: u64 = 0b011 << 61;

/// Number of the hash that a tag contains.
const HASH_BITS: u64 = (1 << 61) - 1;

/// The tag of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RunTag(u64);

impl RunTag {
    /// The tag for the value of a run marker. The hash is part of the state of running processes, so it must not
    /// change (FNV-1a).
    pub fn new(marker: &str) -> Self {
        let hash = marker.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self(hash & HASH_BITS | TAG_BITS)
    }

    /// The tag of a process, of any instance of rsm.
    pub fn of(pid: i32) -> Option<Self> {
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
        let values = limits.lines().find_map(|line| line.strip_prefix("Max file locks"))?;
        let soft: u64 = values.split_ascii_whitespace().next()?.parse().ok()?;
        (soft & !HASH_BITS == TAG_BITS).then_some(Self(soft))
    }

    /// Sets the tag of this process.
    ///
    /// # Errors
    /// The hard limit was lowered.
    pub fn apply(self) -> nix::Result<()> {
        let (_, hard) = getrlimit(Resource::RLIMIT_LOCKS)?;
        setrlimit(Resource::RLIMIT_LOCKS, self.0, hard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_of_runs_differ() {
        let tag = |marker| RunTag::new(marker);
        assert_eq!(tag("4294967297@/root/.rsm"), RunTag(0x6c32c04746e09f3a), "running processes have it");
        assert_ne!(tag("4294967297@/root/.rsm"), tag("4294967298@/root/.rsm"));
        assert_ne!(tag("4294967297@/root/.rsm"), tag("4294967297@/home/a/.rsm"));
        assert!(i64::try_from(tag("").0).is_ok());
    }

    #[test]
    fn other_limits_are_no_tags() {
        assert_eq!(RunTag::of(std::process::id().cast_signed()), None);
        assert_eq!(RunTag::of(-1), None);
    }
}
