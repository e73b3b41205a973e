//! The daemon as a child of the keeper: starting it, and sending it the keeper's state.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::exit_watch::ExitWatch;
use super::fd_store::FdStore;
use super::protocol::{
    CHANNEL_FD, FdRole, KeeperNotice, LISTENER_FD, MAX_PACKET, RoleBorrowedFd, UpgradeResult, VERSION,
    send_packet,
};
use super::runs::{Runs, WaitMethod};
use crate::paths::Home;
use crate::process::fd_channel;
use crate::process::spawn::{self, LaunchSource, LaunchSpec};

#[derive(Debug)]
pub struct DaemonProcess {
    pub pid: i32,
    /// `None` once the daemon has closed its end; its exit is awaited then.
    pub channel: Option<OwnedFd>,
    pub started: Instant,
    /// It is the first daemon of a new binary and does not serve clients yet.
    pub is_candidate: bool,
    pub exit_watch: ExitWatch,
}

impl DaemonProcess {
    pub fn new(pid: i32, channel: OwnedFd, is_candidate: bool) -> Self {
        let started = Instant::now();
        Self { pid, channel: Some(channel), started, is_candidate, exit_watch: ExitWatch::new(pid, started) }
    }

    pub fn kill(&mut self) {
        self.channel = None;
        let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
    }
}

/// Starts a daemon: from the candidate binary if there is one, else from the keeper's own, even if that file
/// has been replaced since.
///
/// # Errors
/// Out of processes or descriptors.
pub fn start(
    home: &Home,
    listener: BorrowedFd<'_>,
    candidate: Option<&File>,
    nofile: Option<(u64, u64)>,
) -> nix::Result<DaemonProcess> {
    let (keeper_end, daemon_end) = fd_channel::socketpair()?;
    let copy = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().map_err(|_| Errno::EMFILE);
    let inherited = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| name != "RSM_HOME");
    let launch = LaunchSpec {
        program: candidate.map_or_else(|| PathBuf::from("/proc/self/exe"), spawn::fd_path),
        argv: vec!["rsm".into(), "daemon".into()],
        env: inherited
            .map(|(name, value)| format!("{name}={value}"))
            .chain([format!("RSM_HOME={}", home.path().display())])
            .collect(),
        cwd: PathBuf::from("/"),
        account: None,
        fds: vec![1, 2, CHANNEL_FD, LISTENER_FD],
        supervised_calls: None,
        limits: None,
        tag: None,
        listen_pid: false,
    };
    let fds =
        vec![copy(std::io::stdout().as_fd())?, copy(std::io::stderr().as_fd())?, daemon_end, copy(listener)?];
    let forked = spawn::fork_launch(LaunchSource::Inline(Box::new(launch)), fds, nofile)?;
    Ok(DaemonProcess::new(forked.pid, keeper_end, candidate.is_some()))
}

/// Sends all runs and stored descriptors to a new daemon. Its socket buffer is empty and holds some hundred
/// packets; if it is full the keeper waits, since the daemon does nothing else either.
///
/// If a packet cannot be sent, the daemon has died or hangs. Its exit is noticed, and the next daemon gets
/// the state again.
pub fn send_state(
    channel: BorrowedFd<'_>,
    is_successor: bool,
    upgrade: UpgradeResult,
    runs: &Runs,
    fd_store: &FdStore,
) {
    let keeper = std::process::id().cast_signed();
    let hello = KeeperNotice::Hello { protocol: VERSION, keeper, is_successor, upgrade };
    let mut sent = send_blocking(channel, &hello, &[]);
    for run in runs.iter().filter(|run| run.process.pid > 0) {
        let fds = run.all_fds();
        let is_child = matches!(run.wait_method, WaitMethod::Reap);
        let (pid, start_time) = (run.process.pid, run.process.start_time);
        let notice = KeeperNotice::Run { run: run.id, pid, start_time, is_child };
        sent = sent && send_blocking(channel, &notice, &fds);
    }
    for (name, fd) in fd_store.iter() {
        let notice = KeeperNotice::StoredFd { name: name.to_owned() };
        sent = sent && send_blocking(channel, &notice, &[(FdRole::Stored, fd)]);
    }
    let _ = sent && send_blocking(channel, &KeeperNotice::SyncDone, &[]);
}

/// Sends one packet; waits up to a second while the buffer is full.
fn send_blocking(to: BorrowedFd<'_>, notice: &KeeperNotice, fds: &[RoleBorrowedFd<'_>]) -> bool {
    let mut packet = [0; MAX_PACKET];
    let bytes = notice.encode(fds, &mut packet);
    let until = Instant::now() + Duration::from_secs(1);
    loop {
        match send_packet(to, bytes, fds) {
            Ok(()) => return true,
            Err(Errno::EAGAIN | Errno::ENOBUFS) if Instant::now() < until => {
                let mut writable = [PollFd::new(to, PollFlags::POLLOUT)];
                let _ = poll(&mut writable, PollTimeout::from(100u8));
            }
            Err(_) => return false,
        }
    }
}
