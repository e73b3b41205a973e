//! Detection of what kernel and container allow: each operation is tested once, on a child process.
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

/// The child needs milliseconds, but a machine that swaps may delay it.
const TIMEOUT_MS: u16 = 5000;

/// What rsm can do with the supervised calls of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Support {
    /// The sockets of the program can be duplicated.
    Full,
    /// The sockets of the program cannot be duplicated, for this reason, but they can be replaced.
    InjectOnly(Errno),
    /// Calls cannot be supervised.
    Unsupported {
        /// The step of the test that failed.
        step: &'static str,
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

/// Tests it on a child process, which becomes `user` (uid and gid) if one is given.
///
/// The result is valid as long as this process keeps its privileges: once per user is enough.
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
    let (output, child_output) = pipe2(OFlag::O_CLOEXEC).map_err(failed("creating a pipe"))?;
    let new_socket = || socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None);
    let sockets = (
        new_socket().map_err(failed("creating a socket"))?,
        new_socket().map_err(failed("creating a socket"))?,
    );
    let child = TestChild::start(&program, user, child_output.as_raw_fd(), sockets.0.as_raw_fd())
        .map_err(failed("creating a process"))?;
    let notifier = receive_notifier(&output).map_err(failed("the seccomp filter"))?;
    wait_readable(notifier.as_fd()).map_err(failed("the seccomp notification"))?;
    let mut call = Notification::default();
    notifier.receive(&mut call).map_err(failed("the seccomp notification"))?;
    let process = Caller::of_thread(call.tid).map_err(failed("the status of the process in /proc"))?.pid;
    // The child has a copy of the memory of this process, so the address is valid there, too.
    read_memory(call.tid, program.as_ptr() as u64, 8)
        .map_err(failed("reading process memory (process_vm_readv)"))?;
    SocketFd::of(process, sockets.0.as_raw_fd())
        .map_err(failed("the descriptors of the process in /proc"))?;
    let replaced = notifier.add_fd(call.id, sockets.1.as_fd(), sockets.0.as_raw_fd(), true);
    replaced.map_err(failed("replacing a socket (SECCOMP_ADDFD, Linux 5.9)"))?;
    let number = sockets.1.as_raw_fd();
    let duplicated = pidfd_open(process).and_then(|process| pidfd_getfd(process.as_fd(), number));
    notifier.respond(call.id, Ok(())).map_err(failed("the seccomp response"))?;
    drop((child, child_output));
    Ok(duplicated.map_or_else(Support::InjectOnly, |_| Support::Full))
}

/// Reads the number of the notifier from the child, or its error.
fn receive_notifier(output: &OwnedFd) -> nix::Result<Notifier> {
    let mut word = [0; 4];
    wait_readable(output.as_fd())?;
    if nix::unistd::read(output, &mut word)? != word.len() {
        return Err(Errno::EIO);
    }
    match i32::from_ne_bytes(word) {
        // SAFETY: child and parent share the descriptor table, and the child does not close this descriptor.
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
    /// The child shares the descriptor table of this process, so that its notifier need not be sent.
    fn start(
        program: &[Instruction],
        user: Option<(u32, u32)>,
        output: RawFd,
        socket: RawFd,
    ) -> nix::Result<Self> {
        let flags = libc::c_long::from(libc::CLONE_FILES | libc::SIGCHLD);
        // SAFETY: like a fork, with shared descriptors. This process may have threads, so the child makes
        // only system calls until it exits: no allocation, no lock.
        let pid = Errno::result(unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) })?;
        if pid != 0 {
            return Ok(Self(Pid::from_raw(i32::try_from(pid).map_err(|_| Errno::ESRCH)?)));
        }
        let word = match install_program(program) {
            Ok(notifier) => notifier.into_raw_fd(),
            Err(errno) => -(errno as i32),
        };
        // SAFETY: system calls with numbers and with memory of this function. Not the `setuid` of the C
        // library, which would wait for the threads that exist only in the parent.
        unsafe {
            if let Some((uid, gid)) = user {
                libc::syscall(libc::SYS_setgid, gid);
                libc::syscall(libc::SYS_setuid, uid);
            }
            libc::write(output, (&raw const word).cast(), 4);
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
    fn detects_support() {
        let support = detect(None);
        assert!(!matches!(support, Support::Unsupported { .. }), "{support}");
    }

    #[test]
    fn detects_support_as_another_user() {
        assert!(nix::unistd::geteuid().is_root(), "this test needs root: run it as root, as in CI");
        assert_eq!(detect(Some((65534, 65534))), Support::Full);
    }

    /// Detects in a thread that may not make a system call, as in a container that forbids it.
    fn without(call: libc::c_long) -> Support {
        let detect_without = move || {
            let filter = [
                bpf::load_word(0),
                bpf::jump_eq(call as u32, 0, 1),
                bpf::ret(libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
                bpf::ret(libc::SECCOMP_RET_ALLOW),
            ];
            let program = libc::sock_fprog { len: 4, filter: filter.as_ptr().cast_mut().cast() };
            nix::sys::prctl::set_no_new_privs().unwrap();
            // SAFETY: the program is only read. The filter applies to this thread and its children only.
            let set = unsafe {
                libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program)
            };
            assert_eq!(set, 0);
            detect(None)
        };
        std::thread::spawn(detect_without).join().unwrap()
    }

    #[test]
    fn detects_calls_forbidden_by_container() {
        assert_eq!(without(libc::SYS_pidfd_getfd), Support::InjectOnly(Errno::EPERM));
        let Support::Unsupported { errno, .. } = without(libc::SYS_process_vm_readv) else { panic!() };
        assert_eq!(errno, Errno::EPERM);
    }

    #[test]
    fn second_filter_is_unsupported() {
        let support = std::thread::spawn(|| {
            let _notifier = install_program(&program(SupervisedCalls::BindListen)).unwrap();
            detect(None)
        });
        let unsupported = Support::Unsupported { step: "the seccomp filter", errno: Errno::EBUSY };
        assert_eq!(support.join().unwrap(), unsupported);
    }

    #[test]
    fn message_has_step_and_cause() {
        let unsupported = Support::Unsupported { step: "the seccomp filter", errno: Errno::EBUSY };
        assert_eq!(unsupported.to_string(), "the seccomp filter is not available: Device or resource busy");
    }
}
