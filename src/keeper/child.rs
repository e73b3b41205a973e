//! The daemon as the keeper's child: starting it, telling it everything, trying another binary.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::runs::Runs;
use super::vault::Vault;
use super::wire::{News, PACKET, PROTOCOL, Upgrade};
use super::{CHANNEL_FD, LISTENER_FD};
use crate::paths::Home;
use crate::process::fd_channel;
use crate::process::spawn::{self, LaunchSpec};

/// The daemon while it lives.
#[derive(Debug)]
pub struct Daemon {
    /// Its pid.
    pub pid: i32,
    /// Gone once it hung up and is only waited for.
    pub channel: Option<OwnedFd>,
    /// When it was started.
    pub started: Instant,
    /// It is the first one of another binary, and has yet to show that it serves.
    pub on_trial: bool,
}

impl Daemon {
    /// Ends it for good.
    pub fn kill(&mut self) {
        self.channel = None;
        let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
    }
}

/// Starts a daemon: from the binary on trial if there is one, else from the keeper's own, even
/// after that file was replaced by a newer one.
///
/// # Errors
/// No process or no descriptors could be had.
pub fn start(
    home: &Home,
    listener: BorrowedFd<'_>,
    trial: Option<&File>,
    nofile: Option<(u64, u64)>,
) -> nix::Result<Daemon> {
    let (ours, theirs) = fd_channel::socketpair()?;
    let own = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().map_err(|_| Errno::EMFILE);
    let inherited = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| name != "RSM_HOME");
    let launch = LaunchSpec {
        program: trial.map_or_else(|| PathBuf::from("/proc/self/exe"), spawn::fd_path),
        argv: vec!["rsm".into(), "daemon".into()],
        env: inherited
            .map(|(name, value)| format!("{name}={value}"))
            .chain([format!("RSM_HOME={}", home.dir().display())])
            .collect(),
        cwd: PathBuf::from("/"),
        account: None,
        fds: vec![1, 2, CHANNEL_FD, LISTENER_FD],
        supervised_calls: None,
        limits: None,
        listen_pid: false,
    };
    let fds = vec![own(std::io::stdout().as_fd())?, own(std::io::stderr().as_fd())?, theirs, own(listener)?];
    let forked = spawn::fork_launch(spawn::LaunchSource::Inline(Box::new(launch)), fds, nofile)?;
    let on_trial = trial.is_some();
    Ok(Daemon { pid: forked.pid, channel: Some(ours), started: Instant::now(), on_trial })
}

/// Tells a new daemon everything. Its socket buffer is empty and takes some hundred packets; what
/// it does not take now is waited for: the daemon has nothing else to do either.
///
/// If it is not heard the daemon is dead or stuck; its death tells us, and the next one is
/// introduced anew.
pub fn introduce(channel: BorrowedFd<'_>, succeeds: bool, upgrade: Upgrade, runs: &Runs, vault: &Vault) {
    let keeper = std::process::id().cast_signed();
    let hello = News::Hello { protocol: PROTOCOL, keeper, succeeds, upgrade };
    let mut heard = send_waiting(channel, &hello, &[]);
    for run in runs.iter().filter(|run| run.process.pid > 0) {
        let fds = run.descriptors();
        let child = matches!(run.bond, super::runs::Bond::Child);
        let (pid, start_time) = (run.process.pid, run.process.start_time);
        let news = News::Run { run: run.id, pid, start_time, child };
        heard = heard && send_waiting(channel, &news, &fds);
    }
    for (name, fd) in vault.iter() {
        heard = heard && send_waiting(channel, &News::Stored { name: name.to_owned() }, &[fd]);
    }
    let _ = heard && send_waiting(channel, &News::Attached, &[]);
}

/// Sends one packet, waiting for room up to a second.
fn send_waiting(to: BorrowedFd<'_>, news: &News, fds: &[BorrowedFd<'_>]) -> bool {
    let mut packet = [0; PACKET];
    let bytes = news.write(&mut packet);
    let until = Instant::now() + Duration::from_secs(1);
    loop {
        match fd_channel::send_with_fds(to, bytes, fds) {
            Ok(()) => return true,
            Err(Errno::EAGAIN | Errno::ENOBUFS) if Instant::now() < until => {
                let mut room = [PollFd::new(to, PollFlags::POLLOUT)];
                let _ = poll(&mut room, PollTimeout::from(100u8));
            }
            Err(_) => return false,
        }
    }
}
