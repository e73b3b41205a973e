//! The keeper: parent of every app and of the daemon.
//!
//! It forks and executes, reaps, stores file descriptors, and restarts the daemon when that exits. It decides
//! nothing and reads no configuration, so that it has little that can fail and seldom needs an upgrade: one
//! thread and one `poll`. While it waits it allocates nothing but the list of descriptors for `poll`. An
//! unsent notice is a flag of its run, so that there is no queue.

mod daemon_process;
mod exit_watch;
pub mod fd_role;
pub mod fd_store;
pub mod handover;
mod lock;
mod positions;
pub mod protocol;
pub mod runs;
mod words;

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use self::daemon_process::DaemonProcess;
use self::exit_watch::Verdict;
use self::fd_store::FdStore;
use self::handover::{HandoverIn, HandoverOut};
use self::lock::KeeperLock;
use self::protocol::{
    FdRole, KeeperNotice, KeeperRequest, MAX_PACKET, Packet, RoleBorrowedFd, RoleFd, UpgradeResult,
    send_packet, take_fd,
};
use self::runs::Runs;
use crate::exit::StartStep;
use crate::paths::Home;
use crate::process::process_ref::ProcessRef;
use crate::process::spawn::LaunchSource;
use crate::process::{fd_channel, oom_score, spawn, wait};

pub use self::lock::KeeperError;

/// A daemon that exits sooner than this probably fails for a reason that the next one will meet, too.
const EARLY_EXIT: Duration = Duration::from_secs(1);
/// After this number of early exits in a row the next start is delayed, by a growing time.
const MAX_EARLY_EXITS: u32 = 4;
/// Maximum delay before a daemon is started again.
const MAX_START_DELAY: Duration = Duration::from_secs(1);
/// How long a daemon may take to exit after it requested the shutdown.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a candidate daemon may take until it serves clients.
const CANDIDATE_TIMEOUT: Duration = Duration::from_secs(10);

/// How a keeper is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartMode {
    /// By a command: it moves to the background once connections are accepted, and the caller's process exits
    /// with success.
    Background,
    /// By a service manager or as the first process of a container: it stays in the foreground.
    Foreground,
    /// By a previous keeper, or a daemon whose keeper died; the descriptor is that of the handover.
    Resume(i32),
}

/// Runs the keeper: acquires the lock, listens, and runs until the daemon requests the shutdown.
///
/// # Errors
/// Another keeper runs in this home, or the socket cannot be created. Nothing is left behind then.
pub fn main(home: &Home, mode: StartMode) -> Result<(), KeeperError> {
    let (mut lock, handover) = match mode {
        StartMode::Background | StartMode::Foreground => {
            spawn::close_inherited_fds();
            (lock::acquire(home)?, None)
        }
        StartMode::Resume(file) => {
            let mut handover = HandoverIn::decode(file).map_err(KeeperError::Os)?;
            (lock::acquire_from_handover(home, &mut handover)?, Some(handover))
        }
    };
    if mode == StartMode::Background {
        lock::daemonize(home)?;
    }
    lock.write_pid();
    let result = Keeper::new(home, &lock, handover).and_then(|mut keeper| keeper.run());
    lock.release();
    result.map_err(KeeperError::Os)
}

struct Keeper<'a> {
    home: &'a Home,
    lock: &'a KeeperLock,
    signals: SignalFd,
    runs: Runs,
    fd_store: FdStore,
    daemon: Option<DaemonProcess>,
    /// When to start the daemon, while none runs.
    start_at: Option<Instant>,
    early_exits: u32,
    nofile: Option<(u64, u64)>,
    /// The binary that the next daemon is started from, on trial.
    candidate: Option<File>,
    /// The stored descriptors before the candidate ran: it may store what the old daemon cannot read.
    fd_store_backup: Option<FdStore>,
    /// The result of the last upgrade, for the daemon.
    upgrade: UpgradeResult,
    /// Apps may run that a previous keeper started and that are not known.
    is_successor: bool,
    /// The daemon has sent `Ready`; handled after all its requests are read.
    is_ready: bool,
    /// A shutdown was requested by signal. The daemon is notified, and the next daemon again.
    is_terminating: bool,
    terminate_sent: bool,
    /// Set once the daemon requested the shutdown: until when it must have exited.
    shutdown_deadline: Option<Instant>,
}

impl<'a> Keeper<'a> {
    fn new(home: &'a Home, lock: &'a KeeperLock, handover: Option<HandoverIn>) -> nix::Result<Self> {
        nix::sys::prctl::set_child_subreaper(true)?;
        let _ = nix::sys::prctl::set_name(c"rsm-keeper");
        oom_score::lower_own_score();
        let mut handled = SigSet::empty();
        for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGPIPE] {
            handled.add(signal);
        }
        handled.thread_block()?;
        let keeper = Self {
            home,
            lock,
            signals: SignalFd::with_flags(&handled, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?,
            runs: Runs::default(),
            fd_store: FdStore::default(),
            daemon: None,
            start_at: Some(Instant::now()),
            early_exits: 0,
            nofile: None,
            candidate: None,
            fd_store_backup: None,
            upgrade: UpgradeResult::None,
            // The lock is free also after a keeper was killed.
            is_successor: true,
            is_ready: false,
            is_terminating: false,
            terminate_sent: false,
            shutdown_deadline: None,
        };
        Ok(match handover {
            Some(handover) => keeper.with_handover(handover),
            None => Self { nofile: spawn::raise_nofile_limit(), ..keeper },
        })
    }

    fn with_handover(self, handover: HandoverIn) -> Self {
        let HandoverIn { daemon, runs, fd_store, terminate, is_successor, upgrade, nofile, .. } = handover;
        let started = Instant::now();
        let daemon = daemon.map(|(pid, channel)| DaemonProcess::new(pid, channel, false));
        let start_at = daemon.is_none().then_some(started);
        let is_terminating = terminate;
        Self { runs, fd_store, daemon, start_at, nofile, is_terminating, is_successor, upgrade, ..self }
    }

    fn run(&mut self) -> nix::Result<()> {
        loop {
            if self.shutdown_deadline.is_some() && self.daemon.is_none() {
                return Ok(());
            }
            self.start_daemon_if_due();
            self.poll_events()?;
            self.read_signals();
            self.reap_children();
            self.runs.check_watched();
            self.handle_requests();
            self.flush_notices();
            self.kill_overdue();
            self.check_daemon();
        }
    }

    /// Waits for a signal, a request, a start report, an exit, or the next deadline.
    fn poll_events(&mut self) -> nix::Result<()> {
        let has_unsent = !self.flush_notices();
        let mut fds = Vec::with_capacity(2);
        fds.push(PollFd::new(self.signals.as_fd(), PollFlags::POLLIN));
        if let Some(channel) = self.channel() {
            let flags = if has_unsent { PollFlags::POLLIN | PollFlags::POLLOUT } else { PollFlags::POLLIN };
            fds.push(PollFd::new(channel, flags));
        }
        self.runs.poll_fds(&mut fds);
        let watch = self.daemon.as_ref().map(|daemon| daemon.exit_watch.next_check());
        let deadlines = [self.next_daemon_deadline(), self.runs.next_check(), watch];
        let timeout = deadlines.into_iter().flatten().min().map_or(PollTimeout::NONE, |until| {
            let left = until.saturating_duration_since(Instant::now()).as_millis();
            PollTimeout::try_from(left + 1).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR | Errno::EAGAIN | Errno::ENOMEM) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// When the daemon is started, must serve clients, or must have exited.
    fn next_daemon_deadline(&self) -> Option<Instant> {
        match &self.daemon {
            None => self.start_at,
            Some(daemon) if daemon.is_candidate => Some(daemon.started + CANDIDATE_TIMEOUT),
            Some(_) => self.shutdown_deadline,
        }
    }

    fn kill_overdue(&mut self) {
        let Some(daemon) = &mut self.daemon else { return };
        let now = Instant::now();
        let is_late = daemon.is_candidate && now >= daemon.started + CANDIDATE_TIMEOUT;
        if is_late && self.upgrade == UpgradeResult::Succeeded {
            self.upgrade = UpgradeResult::TimedOut;
            daemon.kill();
        } else if self.shutdown_deadline.is_some_and(|until| now >= until) {
            daemon.kill();
        }
    }

    /// Kills a daemon that hangs in the kernel, and continues without one that cannot exit.
    fn check_daemon(&mut self) {
        let Some(daemon) = &mut self.daemon else { return };
        match daemon.exit_watch.check(Instant::now()) {
            Verdict::None => {}
            Verdict::Kill => {
                log_blocked_daemon(daemon, "is killed");
                daemon.kill();
            }
            Verdict::Abandon => {
                log_blocked_daemon(daemon, "was killed and does not exit");
                self.on_daemon_exited();
            }
        }
    }

    fn read_signals(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            let signal = info.ssi_signo.cast_signed();
            self.is_terminating |= signal == Signal::SIGTERM as i32 || signal == Signal::SIGINT as i32;
        }
    }

    fn reap_children(&mut self) {
        while let Some((pid, status)) = wait::try_wait_any() {
            if self.daemon.as_ref().is_some_and(|daemon| daemon.pid == pid) {
                self.on_daemon_exited();
            } else {
                self.runs.on_reaped(pid, status); // ignores orphans
            }
        }
    }

    fn on_daemon_exited(&mut self) {
        let Some(mut daemon) = self.daemon.take() else { return };
        // Its last requests, such as the shutdown, may still be in the channel.
        if let Some(channel) = daemon.channel.take() {
            self.receive_requests(channel.as_fd());
        }
        if daemon.is_candidate {
            // Back to the previous binary.
            self.candidate = None;
            self.fd_store = self.fd_store_backup.take().unwrap_or_default();
            if self.upgrade == UpgradeResult::Succeeded {
                self.upgrade = UpgradeResult::Crashed;
            }
        }
        let is_early =
            daemon.started.elapsed() < EARLY_EXIT && !daemon.is_candidate && self.candidate.is_none();
        self.early_exits = if is_early { self.early_exits + 1 } else { 0 };
        let excess = self.early_exits.saturating_sub(MAX_EARLY_EXITS).min(7);
        let delay = if excess == 0 { Duration::ZERO } else { Duration::from_millis(10) * (1 << excess) };
        self.start_at = Some(Instant::now() + delay.min(MAX_START_DELAY));
    }

    fn start_daemon_if_due(&mut self) {
        if self.daemon.is_some() || self.start_at.is_some_and(|at| Instant::now() < at) {
            return;
        }
        let listener = self.lock.listener.as_fd();
        match daemon_process::start(self.home, listener, self.candidate.as_ref(), self.nofile) {
            Ok(daemon) => {
                if daemon.is_candidate {
                    self.upgrade = UpgradeResult::Succeeded;
                    self.fd_store_backup = Some(self.fd_store.try_clone());
                }
                if let Some(channel) = &daemon.channel {
                    let (runs, fd_store) = (&self.runs, &self.fd_store);
                    let (is_successor, upgrade) = (self.is_successor, self.upgrade);
                    daemon_process::send_state(channel.as_fd(), is_successor, upgrade, runs, fd_store);
                }
                self.daemon = Some(daemon);
                self.start_at = None;
                self.runs.mark_all_unreported();
                self.terminate_sent = false;
            }
            // Out of processes or descriptors, which may pass.
            Err(_) => self.start_at = Some(Instant::now() + MAX_START_DELAY),
        }
    }

    /// The daemon serves clients: it knows all runs, and a candidate has proved itself. The keeper then
    /// executes the candidate's binary in the same process.
    fn on_daemon_ready(&mut self) {
        self.is_successor = false;
        let Some(daemon) = self.daemon.as_mut().filter(|daemon| daemon.is_candidate) else { return };
        daemon.is_candidate = false;
        self.fd_store_backup = None;
        let (pid, Some(program)) = (daemon.pid, self.candidate.take()) else { return };
        let handover = HandoverOut {
            listener: self.lock.listener.as_fd(),
            lock: Some(self.lock.lock()),
            daemon: self.channel().map(|channel| (pid, channel)),
            runs: &self.runs,
            fd_store: &self.fd_store,
            terminate: self.is_terminating,
            upgrade: self.upgrade,
            nofile: self.nofile,
        };
        let errno = handover.exec_keeper(&spawn::fd_path(&program), true);
        // The new daemon understands this keeper's protocol, so this keeper can continue.
        let _ = writeln!(
            std::io::stderr(),
            "rsm keeper: upgrade failed, continuing with the current version: {errno}"
        );
    }

    fn channel(&self) -> Option<BorrowedFd<'_>> {
        self.daemon.as_ref()?.channel.as_ref().map(AsFd::as_fd)
    }

    fn handle_requests(&mut self) {
        let Some(channel) = self.daemon.as_mut().and_then(|daemon| daemon.channel.take()) else { return };
        // A daemon that closed the channel is exiting; one that does not exit is useless.
        let is_open = self.receive_requests(channel.as_fd());
        let Some(daemon) = &mut self.daemon else { return };
        if !is_open {
            return daemon.kill();
        }
        daemon.channel = Some(channel);
        if std::mem::take(&mut self.is_ready) {
            self.on_daemon_ready();
        }
    }

    /// Executes all requests in the channel; false if its other end is closed.
    fn receive_requests(&mut self, channel: BorrowedFd<'_>) -> bool {
        let mut packet = [0; MAX_PACKET];
        loop {
            match fd_channel::receive_with_fds(channel, &mut packet) {
                Err(Errno::EAGAIN) => return true,
                // Reported once, before the packets that are left: the other end did not read all notices.
                Err(Errno::ECONNRESET) => {}
                Ok((0, _)) | Err(_) => return false,
                Ok((length, fds)) => {
                    if let Some(Packet { message, fds, .. }) = KeeperRequest::decode(&packet[..length], fds) {
                        self.execute(message, fds);
                    }
                }
            }
        }
    }

    fn execute(&mut self, request: KeeperRequest, fds: Vec<RoleFd>) {
        match request {
            KeeperRequest::Spawn { run, child_fds } => self.spawn(run, child_fds, fds),
            KeeperRequest::Signal { run, signal, group } => self.runs.signal(run, signal, group),
            KeeperRequest::StoreFd { name } => self.fd_store.store(name, take_fd(fds, FdRole::Stored)),
            KeeperRequest::RemoveFd { name } => self.fd_store.remove(&name),
            KeeperRequest::Release { run } => self.runs.release(run),
            KeeperRequest::BeginShutdown => (self.is_terminating, self.terminate_sent) = (true, true),
            KeeperRequest::Exit => self.shutdown_deadline = Some(Instant::now() + SHUTDOWN_TIMEOUT),
            KeeperRequest::Adopt { run, pid, start_time } if !self.runs.contains(run) => {
                self.runs.adopt(run, ProcessRef { pid, start_time }, fds);
            }
            KeeperRequest::Adopt { .. } => {} // a repeated request
            KeeperRequest::Upgrade => self.candidate = take_fd(fds, FdRole::Binary).map(File::from),
            KeeperRequest::Ready => self.is_ready = true,
        }
    }

    fn spawn(&mut self, run: u64, child_fds: u64, mut fds: Vec<RoleFd>) {
        let child_fds = usize::try_from(child_fds).unwrap_or(usize::MAX);
        if self.runs.contains(run) {
            return; // a repeated request: the previous daemon died before it received the reply
        }
        if fds.len() < child_fds.saturating_add(1) {
            return self.runs.add_failed(run, StartStep::Fork, Errno::EMFILE);
        }
        let kept = fds.split_off(1 + child_fds);
        let for_child: Vec<OwnedFd> = fds.split_off(1).into_iter().map(|(_, fd)| fd).collect();
        let Some((_, launch)) = fds.pop() else { return };
        match spawn::fork_launch(LaunchSource::Memfd(launch), for_child, self.nofile) {
            Ok(forked) => self.runs.add(run, forked, kept),
            Err(errno) => self.runs.add_failed(run, StartStep::Fork, errno),
        }
    }

    /// Sends unsent notices to the daemon; true if none is left.
    fn flush_notices(&mut self) -> bool {
        let Some(channel) = self.daemon.as_ref().and_then(|daemon| daemon.channel.as_ref()) else {
            return true;
        };
        let mut packet = [0; MAX_PACKET];
        let mut send = |notice: &KeeperNotice, fds: &[RoleBorrowedFd<'_>]| match send_packet(
            channel.as_fd(),
            notice.encode(fds, &mut packet),
            fds,
        ) {
            Ok(()) => true,
            Err(errno) => errno != Errno::EAGAIN && errno != Errno::ENOBUFS,
        };
        if !self.runs.send_notices(&mut send) {
            return false;
        }
        self.terminate_sent =
            self.terminate_sent || self.is_terminating && send(&KeeperNotice::Terminate, &[]);
        self.is_terminating == self.terminate_sent
    }
}

fn log_blocked_daemon(daemon: &DaemonProcess, what: &str) {
    let (pid, blocked) = (daemon.pid, daemon.exit_watch.describe_blocked());
    let _ = writeln!(
        std::io::stderr(),
        "rsm keeper: daemon (pid {pid}) {what}: blocked in the kernel ({blocked}); starting another daemon"
    );
}
