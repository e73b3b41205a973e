//! Init process of a container (pid 1): reaps orphans and forwards signals.
//!
//! The kernel delivers signals to the first process of a PID namespace only if it handles them, and when it
//! exits, the kernel kills all others. So it does nothing else: its child does the work.
#![allow(unsafe_code)]

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::unistd::{ForkResult, Pid};

use super::wait::{self, WaitStatus};

/// Whether this process is the first one of its PID namespace.
pub fn is_pid1() -> bool {
    std::process::id() == 1
}

/// Forks and returns in the child, with the signal mask restored. The parent, which must be the first
/// process, reaps and forwards signals until the child exits, and exits with its code, or 128 plus the number
/// of the signal that killed it.
///
/// # Errors
/// The process could not be forked.
pub fn fork_init() -> nix::Result<()> {
    // Blocked before the fork, so that none is lost in between.
    let all = SigSet::all();
    let mut before = SigSet::empty();
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&all), Some(&mut before))?;
    // SAFETY: called first, in a process with one thread, so no other thread can hold a lock.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Child => sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None),
        ForkResult::Parent { child } => std::process::exit(run_init(child, &all)),
    }
}

fn run_init(child: Pid, all: &SigSet) -> i32 {
    loop {
        while let Some((pid, status)) = wait::try_wait_any() {
            if pid == child.as_raw() {
                return exit_code(status);
            }
        }
        match all.wait() {
            Ok(Signal::SIGCHLD) => {}
            Ok(signal) => drop(kill(child, signal)), // if it has exited, the next iteration finds that
            Err(Errno::EINVAL | Errno::EINTR) => {}  // a real-time signal has no name
            Err(_) => return 1,
        }
    }
}

fn exit_code(status: WaitStatus) -> i32 {
    match status {
        WaitStatus::Exited(code) => code,
        WaitStatus::Signaled(number, _) => 128 + number,
        WaitStatus::Unknown => 1,
    }
}
