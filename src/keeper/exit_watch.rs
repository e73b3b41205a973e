//! Detects a daemon that cannot exit, or that does not run any more, because a thread of it is blocked in the kernel.
//!
//! A thread that waits for a lock of the kernel, such as that of a pipe whose writer waits for a dead disk, is not
//! ended by SIGKILL. The process then stays, with all its descriptors, and its parent gets no SIGCHLD. It executes
//! no instruction of its program any more, so another daemon can run beside it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use crate::process::proc::status;

/// Interval of the checks: the kernel has no event for this.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How long a killed daemon may take to exit.
const EXIT_TIMEOUT: Duration = Duration::from_secs(3);
/// After this time in one system call that cannot be interrupted, the daemon is killed. It does nothing that takes
/// this long on its main thread.
const HANG_TIMEOUT: Duration = Duration::from_secs(20);
/// The bit of SIGKILL in a mask of pending signals.
const SIGKILL_BIT: u64 = 1 << (libc::SIGKILL - 1);

/// What to do with a daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is running, or exits.
    None,
    /// It hangs: kill it.
    Kill,
    /// It was killed and does not exit: start another.
    Abandon,
}

/// The watch of one daemon.
#[derive(Debug)]
pub struct ExitWatch {
    pid: i32,
    /// `/proc/PID/status`, which always refers to the same process.
    status: Option<File>,
    next_check: Instant,
    dying_since: Option<Instant>,
    /// Since when the main thread is in one call, and its number of context switches.
    blocked: Option<(Instant, u64)>,
}

/// The facts of a check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct MainThread {
    /// It was killed, or has exited while other threads have not.
    is_dying: bool,
    is_uninterruptible: bool,
    switches: u64,
}

impl ExitWatch {
    pub fn new(pid: i32, now: Instant) -> Self {
        let status = File::open(format!("/proc/{pid}/status")).ok();
        Self { pid, status, next_check: now + CHECK_INTERVAL, dying_since: None, blocked: None }
    }

    /// When [`check`](Self::check) is due.
    pub fn next_check(&self) -> Instant {
        self.next_check
    }

    /// Checks the daemon, if that is due.
    pub fn check(&mut self, now: Instant) -> Verdict {
        if now < self.next_check {
            return Verdict::None;
        }
        self.next_check = now + CHECK_INTERVAL;
        match self.read() {
            Some(thread) => self.judge(thread, now),
            None => Verdict::None, // it was reaped, or /proc is not mounted
        }
    }

    fn judge(&mut self, thread: MainThread, now: Instant) -> Verdict {
        let is_over = |since: Instant, limit| now.saturating_duration_since(since) >= limit;
        if thread.is_dying {
            let since = *self.dying_since.get_or_insert(now);
            return if is_over(since, EXIT_TIMEOUT) { Verdict::Abandon } else { Verdict::None };
        }
        self.dying_since = None;
        self.blocked = match self.blocked {
            _ if !thread.is_uninterruptible => None,
            Some((since, switches)) if switches == thread.switches => Some((since, switches)),
            _ => Some((now, thread.switches)),
        };
        let is_hung = self.blocked.is_some_and(|(since, _)| is_over(since, HANG_TIMEOUT));
        if is_hung { Verdict::Kill } else { Verdict::None }
    }

    /// Reads into the stack: the keeper does not allocate while it waits.
    fn read(&self) -> Option<MainThread> {
        let mut buffer = [0; 4096];
        let length = self.status.as_ref()?.read_at(&mut buffer, 0).ok()?;
        // The name of the process comes first and may have been cut inside a character.
        let text = std::str::from_utf8(&buffer[..length]).ok()?;
        MainThread::parse(text)
    }

    /// The blocked threads and the function of the kernel that each waits in, for the log.
    pub fn describe_blocked(&self) -> String {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid)).into_iter().flatten().flatten();
        let blocked = tasks.filter_map(|task| {
            let read = |name| std::fs::read_to_string(task.path().join(name)).ok();
            let text = read("status")?;
            let state = status::field(&text, "State")?;
            let name = status::field(&text, "Name")?.to_owned();
            let function = read("wchan").filter(|function| function != "0").unwrap_or_default();
            state.starts_with('D').then(|| format!("thread {name} {function}").trim_end().to_owned())
        });
        blocked.collect::<Vec<_>>().join(", ")
    }
}

impl MainThread {
    fn parse(text: &str) -> Option<Self> {
        let state = status::field(text, "State")?;
        let pending =
            |name| u64::from_str_radix(status::field(text, name).unwrap_or_default(), 16).unwrap_or(0);
        let count = |name| status::field(text, name).and_then(|count| count.parse::<u64>().ok()).unwrap_or(0);
        Some(Self {
            is_dying: state.starts_with(['Z', 'X'])
                || (pending("SigPnd") | pending("ShdPnd")) & SIGKILL_BIT != 0,
            is_uninterruptible: state.starts_with('D'),
            switches: count("voluntary_ctxt_switches").wrapping_add(count("nonvoluntary_ctxt_switches")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINE: MainThread = MainThread { is_dying: false, is_uninterruptible: false, switches: 1 };

    fn watch() -> (ExitWatch, Instant) {
        let now = Instant::now();
        (ExitWatch::new(std::process::id().cast_signed(), now), now)
    }

    #[test]
    fn parses_killed_and_blocked_threads() {
        let text = "Name:\trsm-daemon\nState:\tD (disk sleep)\nSigPnd:\t0000000000000100\n\
                    ShdPnd:\t0000000000000000\nvoluntary_ctxt_switches:\t7\nnonvoluntary_ctxt_switches:\t2\n";
        let killed = MainThread { is_dying: true, is_uninterruptible: true, switches: 9 };
        assert_eq!(MainThread::parse(text), Some(killed));
        let hung = text.replace("0100", "0000");
        assert_eq!(MainThread::parse(&hung), Some(MainThread { is_dying: false, ..killed }));
        let exited = text.replace("D (disk sleep)", "Z (zombie)").replace("0100", "0000");
        assert!(MainThread::parse(&exited).unwrap().is_dying);
        let (mut watch, now) = watch();
        assert_eq!(watch.check(now + CHECK_INTERVAL), Verdict::None, "this process");
        assert!(watch.read().unwrap().switches > 0);
    }

    #[test]
    fn killed_daemon_that_stays_is_abandoned() {
        let (mut watch, now) = watch();
        let dying = MainThread { is_dying: true, ..FINE };
        assert_eq!(watch.judge(dying, now), Verdict::None);
        assert_eq!(watch.judge(dying, now + EXIT_TIMEOUT / 2), Verdict::None);
        assert_eq!(watch.judge(dying, now + EXIT_TIMEOUT), Verdict::Abandon);
    }

    #[test]
    fn daemon_in_one_endless_call_is_killed() {
        let (mut watch, now) = watch();
        let blocked = |switches| MainThread { is_uninterruptible: true, switches, ..FINE };
        assert_eq!(watch.judge(blocked(5), now), Verdict::None);
        assert_eq!(watch.judge(blocked(6), now + HANG_TIMEOUT), Verdict::None, "another call");
        assert_eq!(watch.judge(FINE, now + HANG_TIMEOUT), Verdict::None);
        assert_eq!(watch.judge(blocked(7), now + HANG_TIMEOUT), Verdict::None);
        assert_eq!(watch.judge(blocked(7), now + HANG_TIMEOUT * 2), Verdict::Kill);
    }
}
