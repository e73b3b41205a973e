//! From a launch order to a running program; names the step that failed.
//!
//! Runs in the keeper, which has one thread: after the fork the child may allocate. How the start
//! went is told through a [`report`].
#![allow(unsafe_code)]

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
use serde::{Deserialize, Serialize};

use super::limits::Means;
use super::oom;
use super::report::{self, Report, Teller};
use super::seccomp::{self, Calls};
use crate::exit::StartStep;
use crate::spec::Account;

/// Everything the child must know to become the program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// Absolute path of what is executed.
    pub program: PathBuf,
    /// Arguments, the program's name first.
    pub argv: Vec<String>,
    /// The whole environment, `NAME=value`.
    pub env: Vec<String>,
    /// Working directory.
    pub cwd: PathBuf,
    /// User to become.
    pub account: Option<Account>,
    /// The numbers that the passed descriptors shall have, in their order.
    pub fds: Vec<RawFd>,
    /// Which calls it has to ask for before they happen. The notifier is reported.
    #[serde(default)]
    pub asks: Option<Calls>,
    /// How it is limited, if it is.
    #[serde(default)]
    pub limits: Option<Means>,
    /// Its environment names its own process as the one that descriptors are passed to.
    #[serde(default)]
    pub listen_pid: bool,
}

/// Reads the launch order in the child: decoding there keeps the keeper small and unharmed by
/// whatever is in it.
pub enum Order {
    /// A memory file with the JSON of a [`Launch`], as the daemon sends it.
    File(OwnedFd),
    /// The order itself.
    Ready(Box<Launch>),
}

/// A child was forked; whether it came to `exec` is told by `report`.
#[derive(Debug)]
pub struct Forked {
    /// The child's pid.
    pub pid: i32,
    /// Tells how it went on.
    pub report: Report,
}

/// Forks a child that carries out `order` with the descriptors `fds`.
///
/// `nofile` is the soft and hard limit of open files to restore: the keeper raises its own.
///
/// # Errors
/// No pipe or no process could be made.
pub fn fork(order: Order, fds: Vec<OwnedFd>, nofile: Option<(u64, u64)>) -> nix::Result<Forked> {
    let (report, mut teller) = report::pair()?;
    let parent = nix::unistd::getpid();
    // SAFETY: the caller has one thread (the keeper's contract), so no lock can be held across the
    // fork by a thread that is not copied.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(Forked { pid: child.as_raw(), report }),
        ForkResult::Child => {
            let (step, errno) = become_program(parent, order, fds, nofile, &mut teller);
            teller.failed(step, errno);
            // SAFETY: leaves at once, without running the parent's exit handlers a second time.
            unsafe { libc::_exit(127) }
        }
    }
}

/// Goes on in a new process with a session of its own; the calling one ends with success.
///
/// # Errors
/// No process could be made.
pub fn leave_caller() -> nix::Result<()> {
    // SAFETY: as above, one thread.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { .. } => std::process::exit(0),
        ForkResult::Child => nix::unistd::setsid().map(drop),
    }
}

/// Executes another program in this very process, which goes on to have the descriptors `passed`.
/// All other threads end.
///
/// Only returns if that fails; the descriptors are close-on-exec then.
pub fn become_another(program: &Path, argv: &[&str], passed: &[RawFd]) -> Errno {
    let strings = || argv.iter().map(|text| CString::new(*text)).collect::<Result<Vec<_>, _>>();
    let (Ok(argv), Ok(program)) = (strings(), CString::new(program.as_os_str().as_bytes())) else {
        return Errno::EINVAL;
    };
    let mark = |flags: libc::c_int| {
        passed.iter().for_each(|fd| {
            // SAFETY: only the flags of this number are changed, which is open by the contract.
            let _ = unsafe { libc::fcntl(*fd, libc::F_SETFD, flags) };
        });
    };
    mark(0);
    let Err(errno) = nix::unistd::execv(&program, &argv);
    mark(libc::FD_CLOEXEC);
    errno
}

/// Closes whatever the caller had open besides the standard three: a lock it holds, or a pipe that
/// someone reads to its end, must not last as long as we do. For a process that has opened nothing.
pub fn close_inherited() {
    const FIRST: RawFd = 3;
    // SAFETY: only numbers are closed, and by the contract above nothing here owns one of them.
    if unsafe { libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, 0) } == 0 {
        return;
    }
    // A kernel before 5.9. The list is read to its end first: reading it opens one, too.
    let open = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let open: Vec<RawFd> = open.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for fd in open.into_iter().filter(|fd| *fd >= FIRST) {
        // SAFETY: as above.
        unsafe { libc::close(fd) };
    }
}

/// Does all steps in turn; returns only when one failed.
fn become_program(
    parent: Pid,
    order: Order,
    fds: Vec<OwnedFd>,
    nofile: Option<(u64, u64)>,
    teller: &mut Teller,
) -> (StartStep, Errno) {
    // Should the keeper die before the program runs, nobody would know of this process.
    if let Err(errno) = die_with(parent) {
        return (StartStep::Fork, errno);
    }
    let launch = match order {
        Order::Ready(launch) => *launch,
        Order::File(file) => match read_order(file) {
            Ok(launch) => launch,
            Err(errno) => return (StartStep::Fork, errno),
        },
    };
    let above = above(&launch.fds);
    if let Err(errno) = teller.move_above(above).and_then(|()| place_descriptors(fds, &launch.fds, above)) {
        return (StartStep::Stdio, errno);
    }
    let steps: [(StartStep, &dyn Fn() -> nix::Result<()>); 6] = [
        (StartStep::Session, &open_session),
        (StartStep::Limits, &|| limit(nofile, launch.limits.as_ref())),
        // As in PM2 (and Node) the directory comes before the user: it may be open to root only.
        (StartStep::Directory, &|| nix::unistd::chdir(&launch.cwd)),
        // While we may still do so without giving up privileges.
        (StartStep::Filter, &|| install_filter(launch.asks, teller)),
        (StartStep::Group, &|| change_group(launch.account.as_ref())),
        (StartStep::User, &|| {
            launch.account.as_ref().map_or(Ok(()), |to| nix::unistd::setuid(Uid::from_raw(to.uid)))
        }),
    ];
    for (step, act) in steps {
        if let Err(errno) = act() {
            return (step, errno);
        }
    }
    // A change of user has taken the promise back.
    if let Err(errno) = die_with(parent) {
        return (StartStep::Fork, errno);
    }
    (StartStep::Exec, exec(&launch))
}

/// Ends this process as soon as its parent does.
fn die_with(parent: Pid) -> nix::Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    if nix::unistd::getppid() == parent { Ok(()) } else { Err(Errno::ESRCH) }
}

fn read_order(file: OwnedFd) -> nix::Result<Launch> {
    // The memory file's position is shared with whoever wrote it, hence `pread`.
    let file = File::from(file);
    let size =
        file.metadata().map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?.len();
    let mut bytes = vec![0; usize::try_from(size).map_err(|_| Errno::EFBIG)?];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, 0).map_err(|_| Errno::EIO)?;
    serde_json::from_slice(&bytes).map_err(|_| Errno::EBADMSG)
}

/// A session and process group of its own, and signals as a program expects to find them: the
/// keeper's blocked and ignored ones would pass through `exec`.
fn open_session() -> nix::Result<()> {
    nix::unistd::setsid()?;
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for signal in Signal::iterator().filter(|signal| !matches!(signal, Signal::SIGKILL | Signal::SIGSTOP)) {
        // SAFETY: installs no handler.
        unsafe { sigaction(signal, &default) }?;
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
}

/// Raises our own limit of open files as far as allowed (daemon and keeper keep some descriptors
/// for each run), and returns the former one for the children.
pub fn raise_open_files() -> Option<(u64, u64)> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).ok()?;
    Some((soft, hard))
}

fn limit(nofile: Option<(u64, u64)>, means: Option<&Means>) -> nix::Result<()> {
    oom::as_before();
    nofile.map_or(Ok(()), |(soft, hard)| setrlimit(Resource::RLIMIT_NOFILE, soft, hard))?;
    means.map_or(Ok(()), Means::apply)
}

fn install_filter(asks: Option<Calls>, teller: &Teller) -> nix::Result<()> {
    let Some(calls) = asks else { return Ok(()) };
    teller.notifier(seccomp::install(calls)?.as_fd())
}

fn change_group(account: Option<&Account>) -> nix::Result<()> {
    let Some(account) = account else { return Ok(()) };
    // Only root may, and a user who runs its own daemon has its groups already.
    if Uid::effective().is_root() {
        let groups: Vec<Gid> = account.groups.iter().copied().map(Gid::from_raw).collect();
        nix::unistd::setgroups(&groups)?;
    }
    nix::unistd::setgid(Gid::from_raw(account.gid))
}

/// The first number that none of the passed descriptors shall have.
fn above(numbers: &[RawFd]) -> RawFd {
    numbers.iter().max().map_or(3, |most| most + 1).max(3)
}

/// Gives the passed descriptors their numbers; standard input is `/dev/null` unless passed.
fn place_descriptors(fds: Vec<OwnedFd>, numbers: &[RawFd], above: RawFd) -> nix::Result<()> {
    if fds.len() != numbers.len() {
        return Err(Errno::EBADMSG);
    }
    // First out of the way, so that no number is taken while its turn has not come.
    let mut moved = Vec::with_capacity(fds.len());
    for fd in fds {
        // SAFETY: duplicates an open descriptor to a free number.
        let copy = Errno::result(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, above) })?;
        moved.push(copy);
    }
    if !numbers.contains(&libc::STDIN_FILENO) {
        let null =
            nix::fcntl::open("/dev/null", OFlag::O_RDONLY, nix::sys::stat::Mode::empty())?.into_raw_fd();
        if null != libc::STDIN_FILENO {
            place(null, libc::STDIN_FILENO)?;
        }
    }
    moved.into_iter().zip(numbers).try_for_each(|(from, to)| place(from, *to))
}

fn place(from: RawFd, to: RawFd) -> nix::Result<()> {
    // SAFETY: `dup2` clears close-on-exec on `to`; `from` is ours and closed right after.
    Errno::result(unsafe { libc::dup2(from, to) })?;
    // SAFETY: `from` was made in this function's caller and is used by nobody else.
    drop(unsafe { OwnedFd::from_raw_fd(from) });
    Ok(())
}

/// Only ever returns an error.
fn exec(launch: &Launch) -> Errno {
    let strings =
        |list: &[String]| list.iter().map(|text| CString::new(text.as_str())).collect::<Result<Vec<_>, _>>();
    let (Ok(argv), Ok(mut env)) = (strings(&launch.argv), strings(&launch.env)) else { return Errno::EINVAL };
    if launch.listen_pid {
        env.extend(CString::new(format!("LISTEN_PID={}", std::process::id())));
    }
    let Ok(program) = CString::new(launch.program.as_os_str().as_bytes()) else { return Errno::EINVAL };
    // From here on it lives by itself: its mark tells whose it is.
    let _ = nix::sys::prctl::set_pdeathsig(None);
    match nix::unistd::execve(&program, &argv, &env) {
        Err(errno) => errno,
    }
}
