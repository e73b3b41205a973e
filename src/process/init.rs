//! Being the first process of a container: collecting whatever ends without a parent, and passing signals on.
//!
//! The kernel gives signals to the first process of a PID namespace only if it handles them, and its end is
//! the end of all. So it does nothing else: the work is its child's.
#![allow(unsafe_code)]

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::unistd::{ForkResult, Pid};

use super::reap::{self, Ended};

/// Whether this process is the first one of its PID namespace.
pub fn is_first() -> bool {
    std::process::id() == 1
}

/// Forks. The child comes back from this, with signals as they were. The parent, which must be the first
/// process, reaps and passes signals on until the child has ended, and ends with its code, or 128 and the
/// number of the signal that killed it.
///
/// # Errors
/// No process could be made.
pub fn stay_behind() -> nix::Result<()> {
    // Blocked before the fork, so that none is lost between.
    let all = SigSet::all();
    let mut before = SigSet::empty();
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&all), Some(&mut before))?;
    // SAFETY: called first thing, in a process of one thread, so no lock can be held by another one.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Child => sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None),
        ForkResult::Parent { child } => std::process::exit(look_after(child, &all)),
    }
}

fn look_after(child: Pid, all: &SigSet) -> i32 {
    loop {
        while let Some((pid, ended)) = reap::reap_one() {
            if pid == child.as_raw() {
                return code(ended);
            }
        }
        match all.wait() {
            Ok(Signal::SIGCHLD) => {}
            Ok(signal) => drop(kill(child, signal)), // it has ended: that is seen next
            Err(Errno::EINVAL | Errno::EINTR) => {}  // a real-time signal has no name
            Err(_) => return 1,
        }
    }
}

fn code(ended: Ended) -> i32 {
    match ended {
        Ended::Code(code) => code,
        Ended::Signal(number, _) => 128 + number,
        Ended::Unseen => 1,
    }
}
