//! How much of all this the kernel, and the container we run in, allow: tried once, in a child.
#![allow(unsafe_code)]

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, pipe2};

use super::caller::{Caller, SocketFd, pidfd_getfd, read_memory};
use super::filter::{SupervisedCalls, install_program, program};
use super::notify::{Notification, Notifier};
use crate::process::bpf::Instruction;
use crate::process::process_ref::pidfd_open;

/// The child does nothing that takes time; a machine that swaps may still keep it waiting.
const TIMEOUT_MS: u16 = 5000;

/// What can be done about the calls of programs that run under a filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Support {
    /// Their sockets can be looked into and acted upon.
    Full,
    /// Their sockets cannot be had, for this reason, but can be replaced by ours.
    InjectOnly(Errno),
    /// Nothing: what failed, and why.
    Unsupported {
        /// The step.
        step: &'static str,
        /// The system's error.
        errno: Errno,
    },
}

impl fmt::Display for Support {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => write!(out, "supported by the kernel"),
            Self::InjectOnly(errno) => {
                write!(out, "pidfd_getfd is not permitted ({})", errno.desc())
            }
            Self::Unsupported { step, errno } => write!(out, "{step} is not available: {}", errno.desc()),
        }
    }
}

/// Tries it on a child, which becomes `user` (uid and gid) if one is given.
///
/// The answer holds for as long as we have our privileges; ask once for each user.
pub fn detect(user: Option<(u32, u32)>) -> Support {
    match run_checks(user) {
        Ok(support) => support,
        Err((step, errno)) => Support::Unsupported { step, errno },
    }
}

type FailedStep = (&'static str, Errno);

fn run_checks(user: Option<(u32, u32)>) -> Result<Support, FailedStep> {
    let failed = |step| move |errno| (step, errno);
    let program = program(SupervisedCalls::BindListenSetsockopt);
    let (said, child_says) = pipe2(OFlag::O_CLOEXEC).map_err(failed("creating a pipe"))?;
    let new_socket = || socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None);
    let sockets = (
        new_socket().map_err(failed("creating a socket"))?,
        new_socket().map_err(failed("creating a socket"))?,
    );
    let child = TestChild::start(&program, user, child_says.as_raw_fd(), sockets.0.as_raw_fd())
        .map_err(failed("creating a process"))?;
    let notifier = receive_notifier(&said).map_err(failed("the seccomp filter"))?;
    wait_readable(notifier.as_fd()).map_err(failed("the seccomp notification"))?;
    let mut call = Notification::default();
    notifier.receive(&mut call).map_err(failed("the seccomp notification"))?;
    let process = Caller::of_thread(call.tid).map_err(failed("the status of the process in /proc"))?.pid;
    // The child has a copy of our memory, so what lies here lies there, too.
    read_memory(call.tid, program.as_ptr() as u64, 8)
        .map_err(failed("reading process memory (process_vm_readv)"))?;
    SocketFd::of(process, sockets.0.as_raw_fd())
        .map_err(failed("the descriptors of the process in /proc"))?;
    let place = notifier.add_fd(call.id, sockets.1.as_fd(), sockets.0.as_raw_fd(), true);
    place.map_err(failed("replacing a socket (SECCOMP_ADDFD, Linux 5.9)"))?;
    let number = sockets.1.as_raw_fd();
    let taken = pidfd_open(process).and_then(|process| pidfd_getfd(process.as_fd(), number));
    notifier.respond(call.id, Ok(())).map_err(failed("the seccomp response"))?;
    drop((child, child_says));
    Ok(taken.map_or_else(Support::InjectOnly, |_| Support::Full))
}

/// The child's first word: the number of its notifier, or its error.
fn receive_notifier(said: &OwnedFd) -> nix::Result<Notifier> {
    let mut word = [0; 4];
    wait_readable(said.as_fd())?;
    if nix::unistd::read(said, &mut word)? != word.len() {
        return Err(Errno::EIO);
    }
    match i32::from_ne_bytes(word) {
        // SAFETY: child and parent have one table of descriptors, and the child leaves this one to us.
        number if number >= 0 => Ok(Notifier::from(unsafe { OwnedFd::from_raw_fd(number) })),
        errno => Err(Errno::from_raw(-errno)),
    }
}

fn wait_readable(fd: std::os::fd::BorrowedFd<'_>) -> nix::Result<()> {
    match poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], PollTimeout::from(TIMEOUT_MS))? {
        0 => Err(Errno::ETIMEDOUT),
        _ => Ok(()),
    }
}

/// A process that calls `listen` under the filter; killed and reaped when dropped.
struct TestChild(Pid);

impl TestChild {
    /// It has our table of descriptors, so that its notifier needs no way to us.
    fn start(
        program: &[Instruction],
        user: Option<(u32, u32)>,
        tell: RawFd,
        socket: RawFd,
    ) -> nix::Result<Self> {
        let flags = libc::c_long::from(libc::CLONE_FILES | libc::SIGCHLD);
        // SAFETY: a fork but for the shared descriptors. We may have threads, so until its end the
        // child makes system calls only: no allocation, no lock.
        let pid = Errno::result(unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) })?;
        if pid != 0 {
            return Ok(Self(Pid::from_raw(i32::try_from(pid).map_err(|_| Errno::ESRCH)?)));
        }
        let word = match install_program(program) {
            Ok(notifier) => notifier.into_raw_fd(),
            Err(errno) => -(errno as i32),
        };
        // SAFETY: system calls on numbers and on memory of this function. The C library's `setuid`
        // would look for the threads that this process does not have.
        unsafe {
            if let Some((uid, gid)) = user {
                libc::syscall(libc::SYS_setgid, gid);
                libc::syscall(libc::SYS_setuid, uid);
            }
            libc::write(tell, (&raw const word).cast(), 4);
            if word >= 0 {
                libc::listen(socket, 1);
            }
            libc::_exit(0)
        }
    }
}

impl Drop for TestChild {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGKILL);
        while waitpid(self.0, None) == Err(Errno::EINTR) {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::bpf;

    #[test]
    fn a_probe_ends_with_an_answer_and_leaves_nothing_open() {
        let support = detect(None);
        assert!(!matches!(support, Support::Unsupported { .. }), "{support}");
    }

    #[test]
    fn a_probe_can_run_as_another_user() {
        assert!(nix::unistd::geteuid().is_root(), "this test needs root: run it as root, as in CI");
        assert_eq!(detect(Some((65534, 65534))), Support::Full);
    }

    /// In a thread that may not make this call, as in a container that forbids it.
    fn without(call: libc::c_long) -> Support {
        let probe_without = move || {
            let filter = [
                bpf::load_word(0),
                bpf::jump_eq(call as u32, 0, 1),
                bpf::ret(libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
                bpf::ret(libc::SECCOMP_RET_ALLOW),
            ];
            let program = libc::sock_fprog { len: 4, filter: filter.as_ptr().cast_mut().cast() };
            nix::sys::prctl::set_no_new_privs().unwrap();
            // SAFETY: the program is only read. It holds for this thread and its children alone.
            let set = unsafe {
                libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program)
            };
            assert_eq!(set, 0);
            detect(None)
        };
        std::thread::spawn(probe_without).join().unwrap()
    }

    #[test]
    fn what_a_container_forbids_is_found_out() {
        assert_eq!(without(libc::SYS_pidfd_getfd), Support::InjectOnly(Errno::EPERM));
        let Support::Unsupported { errno, .. } = without(libc::SYS_process_vm_readv) else { panic!() };
        assert_eq!(errno, Errno::EPERM);
    }

    #[test]
    fn under_another_supervisor_there_can_be_no_second() {
        let support = std::thread::spawn(|| {
            let _notifier = install_program(&program(SupervisedCalls::BindListen)).unwrap();
            detect(None)
        });
        let nothing = Support::Unsupported { step: "the seccomp filter", errno: Errno::EBUSY };
        assert_eq!(support.join().unwrap(), nothing);
    }

    #[test]
    fn an_answer_says_what_and_why() {
        let nothing = Support::Unsupported { step: "the seccomp filter", errno: Errno::EBUSY };
        assert_eq!(nothing.to_string(), "the seccomp filter is not available: Device or resource busy");
    }
}
