//! Who goes first when the machine runs out of memory: not those who hold everything together.

use std::fs;
use std::sync::OnceLock;

const OOM_SCORE_ADJ: &str = "/proc/self/oom_score_adj";

/// Low enough to be among the last; -1000 would make it immune, and a leak of ours deadly.
const DAEMON_SCORE: &str = "-900";

static INHERITED: OnceLock<i32> = OnceLock::new();

/// Asks the kernel to kill this process among the last. Where that is not permitted (it takes
/// CAP_SYS_RESOURCE), nothing changes.
pub fn lower_own_score() {
    if let Ok(former) = fs::read_to_string(OOM_SCORE_ADJ)
        && fs::write(OOM_SCORE_ADJ, DAEMON_SCORE).is_ok()
        && let Ok(former) = former.trim().parse()
    {
        let _ = INHERITED.set(former); // told already by who was here before us
    }
}

/// How many processes the kernel has ended for want of memory since the machine started, of the whole
/// machine or of a group; 0 before Linux 4.13.
pub fn system_oom_kills() -> u64 {
    let counts = fs::read_to_string("/proc/vmstat").unwrap_or_default();
    let count = counts.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count.and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// What it was before, if it was changed.
pub fn inherited_score() -> Option<i32> {
    INHERITED.get().copied()
}

/// This process goes on from another, which had changed it from this.
pub fn set_inherited_score(former: Option<i32>) {
    if let Some(former) = former {
        let _ = INHERITED.set(former);
    }
}

/// For a child: as it was before. Apps do not inherit our preference.
pub fn restore_own_score() {
    if let Some(former) = INHERITED.get() {
        let _ = fs::write(OOM_SCORE_ADJ, former.to_string());
    }
}

/// The same for a child that was started without that.
pub fn restore_score_of(pid: i32) {
    if let Some(former) = INHERITED.get() {
        let _ = fs::write(format!("/proc/{pid}/oom_score_adj"), former.to_string());
    }
}
