//! OOM score adjustment: the OOM killer should kill daemon and keeper only after the apps.
//!
//! Children are started with the previous score, which a keeper hands over to the next one.

use std::fs;
use std::sync::OnceLock;

const OOM_SCORE_ADJ: &str = "/proc/self/oom_score_adj";

/// Close to the minimum. With -1000 the kernel would never kill this process, even if it leaks memory.
const DAEMON_SCORE: &str = "-900";

/// The score before [`lower_own_score`]. Global because it belongs to the process, like the score itself.
static INHERITED: OnceLock<i32> = OnceLock::new();

/// Lowers the score of this process. Does nothing without permission (CAP_SYS_RESOURCE).
pub fn lower_own_score() {
    if let Ok(previous) = fs::read_to_string(OOM_SCORE_ADJ)
        && fs::write(OOM_SCORE_ADJ, DAEMON_SCORE).is_ok()
        && let Ok(previous) = previous.trim().parse()
    {
        let _ = INHERITED.set(previous); // keeps one that a previous keeper has handed over
    }
}

/// Number of OOM kills since boot, for lack of memory in the machine or in a cgroup; 0 before Linux 4.13.
pub fn system_oom_kills() -> u64 {
    let counts = fs::read_to_string("/proc/vmstat").unwrap_or_default();
    let count = counts.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count.and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// The score before it was lowered; `None` if it was not.
pub fn inherited_score() -> Option<i32> {
    INHERITED.get().copied()
}

/// Takes over the previous score from a keeper that had lowered it.
pub fn set_inherited_score(previous: Option<i32>) {
    if let Some(previous) = previous {
        let _ = INHERITED.set(previous);
    }
}

/// Restores the previous score of this process, a forked child: apps must not inherit the low score.
pub fn restore_own_score() {
    if let Some(previous) = INHERITED.get() {
        let _ = fs::write(OOM_SCORE_ADJ, previous.to_string());
    }
}

/// Restores the previous score of a child that was started without [`restore_own_score`].
pub fn restore_score_of(pid: i32) {
    if let Some(previous) = INHERITED.get() {
        let _ = fs::write(format!("/proc/{pid}/oom_score_adj"), previous.to_string());
    }
}
