//! Idle priority, for background work such as compression.
#![allow(unsafe_code)]

use nix::errno::Errno;

/// Constants of `linux/ioprio.h`: the idle class is shifted as `ioprio_set(2)` expects.
const IOPRIO_WHO_PROCESS: libc::c_int = 1;
const IOPRIO_IDLE: libc::c_int = 3 << 13;

/// Gives the calling thread the lowest priority for CPU and disk.
///
/// # Errors
/// Not permitted, or the kernel has no I/O scheduling classes.
pub fn set_idle_priority() -> nix::Result<()> {
    let parameters: libc::c_int = 0; // the kernel's `sched_param` has only this field
    // The system call itself: `sched_setscheduler` of musl always fails with ENOSYS.
    // SAFETY: on Linux, pid 0 is the calling thread here, and the parameters outlive the call.
    Errno::result(unsafe {
        libc::syscall(libc::SYS_sched_setscheduler, 0, libc::SCHED_IDLE, &raw const parameters)
    })?;
    // SAFETY: takes three numbers; 0 is the calling thread.
    Errno::result(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_IDLE) })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn only_calling_thread_becomes_idle() {
        let class = || {
            let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
            stat.rsplit(')').next().unwrap().split_whitespace().nth(38).unwrap().to_owned()
        };
        let before = class();
        let inside = std::thread::spawn(move || super::set_idle_priority().map(|()| class())).join().unwrap();
        assert_eq!(inside.as_deref(), Ok("5"));
        assert_eq!(class(), before);
    }
}
