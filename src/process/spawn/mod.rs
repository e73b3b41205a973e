//! Starting a program: fork, prepare the child, execute. A failure names the step.
//!
//! Runs in the keeper, which has one thread, so the child may allocate after the fork. The child reports
//! through a [`report`] how far it got.
#![allow(unsafe_code)]

mod launch;
pub mod report;
pub mod stdio;

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction, sigprocmask};
use nix::unistd::{ForkResult, Gid, Pid, Uid};

pub use self::launch::{LaunchSource, LaunchSpec};
use self::report::{StartReport, StartReporter};
use super::limits::LimitEnforcement;
use super::oom_score;
use super::run_tag::RunTag;
use super::seccomp::{self, SupervisedCalls};
use crate::exit::StartStep;
use crate::spec::Account;

/// A forked child; `report` shows whether it reached `exec`.
#[derive(Debug)]
pub struct ForkedChild {
    /// The pid of the child.
    pub pid: i32,
    /// The parent's end of the start report.
    pub report: StartReport,
}

/// Forks a child that executes `source` with the descriptors `fds`.
///
/// `nofile` is the soft and hard limit of open files to restore in the child: the keeper raises its own.
///
/// # Errors
/// The pipe or the process could not be created.
pub fn fork_launch(
    source: LaunchSource,
    fds: Vec<OwnedFd>,
    nofile: Option<(u64, u64)>,
) -> nix::Result<ForkedChild> {
    let (report, mut reporter) = report::start_report_pair()?;
    let parent = nix::unistd::getpid();
    // SAFETY: the caller has one thread (the keeper's contract), so no lock can be held across the
    // fork by a thread that is not copied.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(ForkedChild { pid: child.as_raw(), report }),
        ForkResult::Child => {
            let (step, errno) = exec_child(parent, source, fds, nofile, &mut reporter);
            reporter.send_failure(step, errno);
            // SAFETY: exits at once, without running the parent's exit handlers a second time.
            unsafe { libc::_exit(127) }
        }
    }
}

/// Continues in a new process with its own session; the calling process exits with success.
///
/// # Errors
/// The process could not be forked.
pub fn daemonize_fork() -> nix::Result<()> {
    // SAFETY: as above, the caller has one thread.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { .. } => std::process::exit(0),
        ForkResult::Child => nix::unistd::setsid().map(drop),
    }
}

/// Continues in a child, and exits in this process: a thread that is blocked in the kernel would block `execve`.
///
/// # Errors
/// The process could not be forked.
pub fn leave_blocked_threads() -> nix::Result<()> {
    // SAFETY: the child only executes another program. Until then it may allocate, for which the C library makes its
    // allocator usable in the child; other threads hold no lock that it needs.
    match unsafe { nix::unistd::fork() }? {
        // SAFETY: exits at once; handlers of `exit` could wait for the blocked threads.
        ForkResult::Parent { .. } => unsafe { libc::_exit(0) },
        ForkResult::Child => Ok(()),
    }
}

/// An open file as a path that also works in a child, where its number may refer to another file.
pub fn fd_path(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()))
}

/// Executes another program in this process, which inherits the descriptors `passed`. All other threads end.
///
/// Only returns if that fails; the descriptors are close-on-exec then.
pub fn exec_with_fds(program: &Path, argv: &[&str], passed: &[RawFd]) -> Errno {
    let strings = || argv.iter().map(|text| CString::new(*text)).collect::<Result<Vec<_>, _>>();
    let (Ok(argv), Ok(program)) = (strings(), CString::new(program.as_os_str().as_bytes())) else {
        return Errno::EINVAL;
    };
    let set_flags = |flags: libc::c_int| {
        passed.iter().for_each(|fd| {
            // SAFETY: only the flags of this number are changed, which is open by the contract.
            let _ = unsafe { libc::fcntl(*fd, libc::F_SETFD, flags) };
        });
    };
    set_flags(0);
    let Err(errno) = nix::unistd::execv(&program, &argv);
    set_flags(libc::FD_CLOEXEC);
    errno
}

/// Closes all descriptors but the standard three. Otherwise a lock of the caller, or a pipe whose reader
/// waits for its end, would stay open as long as this process. Call it before anything is opened.
pub fn close_inherited_fds() {
    const FIRST_FD: RawFd = 3;
    // SAFETY: only numbers are closed, and by the contract above nothing here owns one of them.
    if unsafe { libc::syscall(libc::SYS_close_range, FIRST_FD, libc::c_uint::MAX, 0) } == 0 {
        return;
    }
    // Linux before 5.9. The list is read completely first: reading it opens a descriptor, too.
    let open = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let open: Vec<RawFd> = open.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for fd in open.into_iter().filter(|fd| *fd >= FIRST_FD) {
        // SAFETY: as above.
        unsafe { libc::close(fd) };
    }
}

/// Executes all steps; only returns if one fails.
fn exec_child(
    parent: Pid,
    source: LaunchSource,
    fds: Vec<OwnedFd>,
    nofile: Option<(u64, u64)>,
    reporter: &mut StartReporter,
) -> (StartStep, Errno) {
    // If the keeper died before the program runs, no process would know this one.
    if let Err(errno) = set_parent_death_signal(parent) {
        return (StartStep::Fork, errno);
    }
    let launch = match source.read() {
        Ok(launch) => launch,
        Err(errno) => return (StartStep::Fork, errno),
    };
    let first_free = first_free_fd(&launch.fds);
    if let Err(errno) =
        reporter.dup_above(first_free).and_then(|()| arrange_fds(fds, &launch.fds, first_free))
    {
        return (StartStep::Stdio, errno);
    }
    let steps: [(StartStep, &dyn Fn() -> nix::Result<()>); 6] = [
        (StartStep::Session, &new_session),
        (StartStep::Limits, &|| apply_limits(nofile, &launch)),
        // As in PM2 (and Node) the directory comes before the user: it may be open to root only.
        (StartStep::Chdir, &|| nix::unistd::chdir(&launch.cwd)),
        // Before the user changes: later it would require `no_new_privs`.
        (StartStep::Seccomp, &|| install_seccomp_filter(launch.supervised_calls, reporter)),
        (StartStep::Group, &|| set_groups(launch.account.as_ref())),
        (StartStep::User, &|| {
            let account = launch.account.as_ref();
            account.map_or(Ok(()), |account| nix::unistd::setuid(Uid::from_raw(account.uid)))
        }),
    ];
    for (step, execute) in steps {
        if let Err(errno) = execute() {
            return (step, errno);
        }
    }
    // A change of the user clears the setting.
    if let Err(errno) = set_parent_death_signal(parent) {
        return (StartStep::Fork, errno);
    }
    (StartStep::Exec, exec(&launch))
}

/// Makes the kernel kill this process when its parent dies.
fn set_parent_death_signal(parent: Pid) -> nix::Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    if nix::unistd::getppid() == parent { Ok(()) } else { Err(Errno::ESRCH) }
}

/// A new session and process group, and default signal handling: the signals that the keeper blocks and
/// ignores would stay so after `exec`.
fn new_session() -> nix::Result<()> {
    nix::unistd::setsid()?;
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for signal in Signal::iterator().filter(|signal| !matches!(signal, Signal::SIGKILL | Signal::SIGSTOP)) {
        // SAFETY: installs no handler.
        unsafe { sigaction(signal, &default) }?;
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
}

/// Raises this process's limit of open files to the hard limit (daemon and keeper hold several descriptors
/// for each run), and returns the previous limits for its children.
pub fn raise_nofile_limit() -> Option<(u64, u64)> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).ok()?;
    Some((soft, hard))
}

fn apply_limits(nofile: Option<(u64, u64)>, launch: &LaunchSpec) -> nix::Result<()> {
    oom_score::restore_own_score();
    // Without the tag, session and run marker still identify most processes.
    let _ = launch.tag.map(RunTag::apply);
    nofile.map_or(Ok(()), |(soft, hard)| setrlimit(Resource::RLIMIT_NOFILE, soft, hard))?;
    launch.limits.as_ref().map_or(Ok(()), LimitEnforcement::apply)
}

fn install_seccomp_filter(calls: Option<SupervisedCalls>, reporter: &StartReporter) -> nix::Result<()> {
    let Some(calls) = calls else { return Ok(()) };
    reporter.send_notifier(seccomp::install(calls)?.as_fd())
}

fn set_groups(account: Option<&Account>) -> nix::Result<()> {
    let Some(account) = account else { return Ok(()) };
    // Only root may, and a user's own daemon already has the user's groups.
    if Uid::effective().is_root() {
        let groups: Vec<Gid> = account.groups.iter().copied().map(Gid::from_raw).collect();
        nix::unistd::setgroups(&groups)?;
    }
    nix::unistd::setgid(Gid::from_raw(account.gid))
}

/// The first number above those that the passed descriptors get.
fn first_free_fd(numbers: &[RawFd]) -> RawFd {
    numbers.iter().max().map_or(3, |max| max + 1).max(3)
}

/// Moves the passed descriptors to their numbers; standard input is `/dev/null` unless passed.
fn arrange_fds(fds: Vec<OwnedFd>, numbers: &[RawFd], first_free: RawFd) -> nix::Result<()> {
    if fds.len() != numbers.len() {
        return Err(Errno::EBADMSG);
    }
    // First to free numbers above, so that no descriptor is overwritten before it is moved.
    let mut moved = Vec::with_capacity(fds.len());
    for fd in fds {
        // SAFETY: duplicates an open descriptor to a free number.
        let copy = Errno::result(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, first_free) })?;
        moved.push(copy);
    }
    if !numbers.contains(&libc::STDIN_FILENO) {
        let null =
            nix::fcntl::open("/dev/null", OFlag::O_RDONLY, nix::sys::stat::Mode::empty())?.into_raw_fd();
        if null != libc::STDIN_FILENO {
            dup_to(null, libc::STDIN_FILENO)?;
        }
    }
    moved.into_iter().zip(numbers).try_for_each(|(from, to)| dup_to(from, *to))
}

fn dup_to(from: RawFd, to: RawFd) -> nix::Result<()> {
    // SAFETY: `dup2` clears close-on-exec on `to`; `from` belongs to this process and is closed next.
    Errno::result(unsafe { libc::dup2(from, to) })?;
    // SAFETY: `from` was duplicated by the caller of this function and has no other owner.
    drop(unsafe { OwnedFd::from_raw_fd(from) });
    Ok(())
}

/// Only returns if it fails.
fn exec(launch: &LaunchSpec) -> Errno {
    let strings =
        |list: &[String]| list.iter().map(|text| CString::new(text.as_str())).collect::<Result<Vec<_>, _>>();
    let (Ok(argv), Ok(mut env)) = (strings(&launch.argv), strings(&launch.env)) else { return Errno::EINVAL };
    if launch.listen_pid {
        env.extend(CString::new(format!("LISTEN_PID={}", std::process::id())));
    }
    let Ok(program) = CString::new(launch.program.as_os_str().as_bytes()) else { return Errno::EINVAL };
    // The program survives the keeper; its run marker identifies it.
    let _ = nix::sys::prctl::set_pdeathsig(None);
    match nix::unistd::execve(&program, &argv, &env) {
        Err(errno) => errno,
    }
}
