//! Work that must not be in anyone's way.
#![allow(unsafe_code)]

use nix::errno::Errno;

/// `IOPRIO_WHO_PROCESS`, and the idle class in the place where `ioprio_set` expects it.
const IOPRIO_WHO_PROCESS: libc::c_int = 1;
const IOPRIO_IDLE: libc::c_int = 3 << 13;

/// Puts the calling thread behind all others, for the processor and for the disk.
///
/// # Errors
/// The system does not allow it, or its kernel has no classes for the disk.
pub fn set_idle_priority() -> nix::Result<()> {
    let parameters: libc::c_int = 0; // all that the kernel's `sched_param` has
    // The call itself: musl's function of that name always fails, for the sake of a standard.
    // SAFETY: on Linux pid 0 means the calling thread here, and the parameters outlive the call.
    Errno::result(unsafe {
        libc::syscall(libc::SYS_sched_setscheduler, 0, libc::SCHED_IDLE, &raw const parameters)
    })?;
    // SAFETY: three numbers, 0 being the calling thread.
    Errno::result(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_IDLE) })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn only_the_calling_thread_steps_back() {
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
