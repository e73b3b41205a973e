//! The keeper: parent of every app and of the daemon.
//!
//! It forks and executes, reaps, keeps file descriptors, and starts the daemon again when that
//! dies. It decides nothing and reads no config, so that there is nothing in it to crash or to
//! upgrade: one thread, one `poll`, no allocation while nothing starts or ends. Whatever the
//! daemon must hear is kept as a mark on the run until it is told, never as a queue.

mod child;
pub mod handover;
mod listen;
pub mod runs;
pub mod vault;
pub mod wire;

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use self::child::Daemon;
use self::handover::{Arrived, Leaving};
use self::runs::Runs;
use self::vault::Vault;
use self::wire::{News, Order, PACKET, Upgrade};
use crate::exit::StartStep;
use crate::paths::Home;
use crate::process::process_ref::ProcessRef;
use crate::process::{fd_channel, oom_score, spawn, wait};

pub use self::listen::KeeperError;

/// The daemon finds its end of the channel at this number.
pub const CHANNEL_FD: i32 = 3;
/// And the listening API socket at this one.
pub const LISTENER_FD: i32 = 4;

/// A daemon that lived less than this died of something that may hit the next one, too.
const QUICK_DEATH: Duration = Duration::from_secs(1);
/// From so many of these in a row on there is a pause before the next, a growing one.
const MOST_QUICK_DEATHS: u32 = 4;
/// The longest pause before a daemon that keeps dying is started again.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long a daemon may take to end after it asked for the shutdown.
const LAST_GRACE: Duration = Duration::from_secs(10);
/// How long the first daemon of another binary may take until it answers clients.
const TRIAL: Duration = Duration::from_secs(10);

/// How a keeper comes to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Began {
    /// By a command: it goes to the background once connections are accepted, and the caller's
    /// process ends with success.
    InBackground,
    /// By a service manager or as the first process of a container: it stays where it is.
    InForeground,
    /// By another keeper, or a daemon whose keeper died; the descriptor holds what is left to us.
    BySuccession(i32),
}

/// Runs the keeper: takes the lock, listens, and stays until it is told to shut down.
///
/// # Errors
/// Another keeper runs in this home, or the socket cannot be made. Nothing is left behind then.
pub fn main(home: &Home, began: Began) -> Result<(), KeeperError> {
    let (mut place, left) = match began {
        Began::InBackground | Began::InForeground => {
            spawn::close_inherited_fds();
            (listen::take(home)?, None)
        }
        Began::BySuccession(file) => {
            let mut left = Arrived::read(file).map_err(KeeperError::System)?;
            (listen::take_over(home, &mut left)?, Some(left))
        }
    };
    if began == Began::InBackground {
        listen::go_to_background(home)?;
    }
    place.sign();
    let result = Keeper::new(home, &place, left).and_then(|mut keeper| keeper.run());
    place.leave();
    result.map_err(KeeperError::System)
}

struct Keeper<'a> {
    home: &'a Home,
    place: &'a listen::Place,
    signals: SignalFd,
    runs: Runs,
    vault: Vault,
    daemon: Option<Daemon>,
    /// When to start the daemon, while there is none.
    start_at: Option<Instant>,
    quick_deaths: u32,
    nofile: Option<(u64, u64)>,
    /// The binary that the next daemon is tried from.
    trial: Option<File>,
    /// What the daemon before it had stored: the new one may store what the old one cannot read.
    before_trial: Option<Vault>,
    /// What came of the last one, for the daemon to tell.
    upgrade: Upgrade,
    /// Apps may run that another keeper began and nobody told us of.
    succeeds: bool,
    /// The daemon has said so; what follows waits until its orders are read.
    serves: bool,
    /// Told to end; the daemon must hear of it, and the next one again.
    terminate: bool,
    terminate_told: bool,
    /// Set once the daemon asked for the shutdown: until when it may take.
    last_grace: Option<Instant>,
}

impl<'a> Keeper<'a> {
    fn new(home: &'a Home, place: &'a listen::Place, left: Option<Arrived>) -> nix::Result<Self> {
        nix::sys::prctl::set_child_subreaper(true)?;
        let _ = nix::sys::prctl::set_name(c"rsm-keeper");
        oom_score::lower_own_score();
        let mut watched = SigSet::empty();
        for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGPIPE] {
            watched.add(signal);
        }
        watched.thread_block()?;
        let keeper = Self {
            home,
            place,
            signals: SignalFd::with_flags(&watched, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?,
            runs: Runs::default(),
            vault: Vault::default(),
            daemon: None,
            start_at: Some(Instant::now()),
            quick_deaths: 0,
            nofile: None,
            trial: None,
            before_trial: None,
            upgrade: Upgrade::None,
            // A lock that nobody holds may be that of a keeper that was killed.
            succeeds: true,
            serves: false,
            terminate: false,
            terminate_told: false,
            last_grace: None,
        };
        Ok(match left {
            Some(left) => keeper.taking_over(left),
            None => Self { nofile: spawn::raise_nofile_limit(), ..keeper },
        })
    }

    fn taking_over(self, left: Arrived) -> Self {
        let Arrived { daemon, runs, vault, terminate, succeeds, upgrade, nofile, .. } = left;
        let started = Instant::now();
        let daemon =
            daemon.map(|(pid, channel)| Daemon { pid, channel: Some(channel), started, on_trial: false });
        let start_at = daemon.is_none().then_some(started);
        Self { runs, vault, daemon, start_at, nofile, terminate, succeeds, upgrade, ..self }
    }

    fn run(&mut self) -> nix::Result<()> {
        loop {
            if self.last_grace.is_some() && self.daemon.is_none() {
                return Ok(());
            }
            self.start_daemon_if_due();
            self.wait()?;
            self.read_signals();
            self.reap();
            self.runs.look();
            self.obey();
            self.tell();
            self.end_what_is_overdue();
        }
    }

    /// Sleeps until a signal, an order, a report of a start, an end, or a time that matters.
    fn wait(&mut self) -> nix::Result<()> {
        let owes = !self.tell();
        let mut fds = Vec::with_capacity(2);
        fds.push(PollFd::new(self.signals.as_fd(), PollFlags::POLLIN));
        if let Some(channel) = self.channel() {
            let wanted = if owes { PollFlags::POLLIN | PollFlags::POLLOUT } else { PollFlags::POLLIN };
            fds.push(PollFd::new(channel, wanted));
        }
        self.runs.wait_for(&mut fds);
        let times = [self.daemon_is_due(), self.runs.look_at()];
        let timeout = times.into_iter().flatten().min().map_or(PollTimeout::NONE, |until| {
            let left = until.saturating_duration_since(Instant::now()).as_millis();
            PollTimeout::try_from(left + 1).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR | Errno::EAGAIN | Errno::ENOMEM) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// When the daemon must have come, served, or gone.
    fn daemon_is_due(&self) -> Option<Instant> {
        match &self.daemon {
            None => self.start_at,
            Some(daemon) if daemon.on_trial => Some(daemon.started + TRIAL),
            Some(_) => self.last_grace,
        }
    }

    fn end_what_is_overdue(&mut self) {
        let Some(daemon) = &mut self.daemon else { return };
        let now = Instant::now();
        if daemon.on_trial && now >= daemon.started + TRIAL && self.upgrade == Upgrade::Done {
            self.upgrade = Upgrade::Silent;
            daemon.kill();
        } else if self.last_grace.is_some_and(|until| now >= until) {
            daemon.kill();
        }
    }

    fn read_signals(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            let signal = info.ssi_signo.cast_signed();
            self.terminate |= signal == Signal::SIGTERM as i32 || signal == Signal::SIGINT as i32;
        }
    }

    fn reap(&mut self) {
        while let Some((pid, ended)) = wait::try_wait_any() {
            if self.daemon.as_ref().is_some_and(|daemon| daemon.pid == pid) {
                self.daemon_ended();
            } else {
                self.runs.ended(pid, ended); // or an orphan: reaped, and of no concern here
            }
        }
    }

    fn daemon_ended(&mut self) {
        let Some(mut daemon) = self.daemon.take() else { return };
        // Its last words, the shutdown above all, may still be in the channel.
        if let Some(channel) = daemon.channel.take() {
            self.obey_from(channel.as_fd());
        }
        if daemon.on_trial {
            // Back to the binary that served.
            self.trial = None;
            self.vault = self.before_trial.take().unwrap_or_default();
            if self.upgrade == Upgrade::Done {
                self.upgrade = Upgrade::Died;
            }
        }
        let quick = daemon.started.elapsed() < QUICK_DEATH && !daemon.on_trial && self.trial.is_none();
        self.quick_deaths = if quick { self.quick_deaths + 1 } else { 0 };
        let beyond = self.quick_deaths.saturating_sub(MOST_QUICK_DEATHS).min(7);
        let pause = if beyond == 0 { Duration::ZERO } else { Duration::from_millis(10) * (1 << beyond) };
        self.start_at = Some(Instant::now() + pause.min(LONGEST_PAUSE));
    }

    fn start_daemon_if_due(&mut self) {
        if self.daemon.is_some() || self.start_at.is_some_and(|at| Instant::now() < at) {
            return;
        }
        match child::start(self.home, self.place.listener.as_fd(), self.trial.as_ref(), self.nofile) {
            Ok(daemon) => {
                if daemon.on_trial {
                    self.upgrade = Upgrade::Done;
                    self.before_trial = Some(self.vault.copy());
                }
                if let Some(channel) = &daemon.channel {
                    let (runs, vault) = (&self.runs, &self.vault);
                    child::introduce(channel.as_fd(), self.succeeds, self.upgrade, runs, vault);
                }
                self.daemon = Some(daemon);
                self.start_at = None;
                self.runs.attached();
                self.terminate_told = false;
            }
            // Out of processes or descriptors: it may pass.
            Err(_) => self.start_at = Some(Instant::now() + LONGEST_PAUSE),
        }
    }

    /// The daemon answers clients: all that ran before is known to it, and a new binary has proved
    /// itself. The keeper follows it, in the same process.
    fn serving(&mut self) {
        self.succeeds = false;
        let Some(daemon) = self.daemon.as_mut().filter(|daemon| daemon.on_trial) else { return };
        daemon.on_trial = false;
        self.before_trial = None;
        let (pid, Some(program)) = (daemon.pid, self.trial.take()) else { return };
        let leaving = Leaving {
            listener: self.place.listener.as_fd(),
            lock: Some(self.place.lock()),
            daemon: self.channel().map(|channel| (pid, channel)),
            runs: &self.runs,
            vault: &self.vault,
            terminate: self.terminate,
            upgrade: self.upgrade,
            nofile: self.nofile,
        };
        let errno = leaving.become_keeper(&spawn::fd_path(&program), true);
        // The new daemon has shown that it speaks our protocol: the old keeper will do.
        let _ = writeln!(
            std::io::stderr(),
            "rsm keeper: upgrade failed, continuing with the current \
            version: {errno}"
        );
    }

    fn channel(&self) -> Option<BorrowedFd<'_>> {
        self.daemon.as_ref()?.channel.as_ref().map(AsFd::as_fd)
    }

    /// Carries out what the daemon has asked for.
    fn obey(&mut self) {
        let Some(channel) = self.daemon.as_mut().and_then(|daemon| daemon.channel.take()) else { return };
        // A daemon that hung up is ending; one that does not end is of no use.
        let open = self.obey_from(channel.as_fd());
        let Some(daemon) = &mut self.daemon else { return };
        if !open {
            return daemon.kill();
        }
        daemon.channel = Some(channel);
        if std::mem::take(&mut self.serves) {
            self.serving();
        }
    }

    /// Carries out all that lies in the channel; false if its other end is gone.
    fn obey_from(&mut self, channel: BorrowedFd<'_>) -> bool {
        let mut packet = [0; PACKET];
        loop {
            match fd_channel::receive_with_fds(channel, &mut packet) {
                Err(Errno::EAGAIN) => return true,
                // Said once, before what is still to be read: the other end left news unread.
                Err(Errno::ECONNRESET) => {}
                Ok((0, _)) | Err(_) => return false,
                Ok((length, fds)) => {
                    if let Some(order) = Order::read(&packet[..length]) {
                        self.carry_out(order, fds);
                    }
                }
            }
        }
    }

    fn carry_out(&mut self, order: Order, mut fds: Vec<OwnedFd>) {
        match order {
            Order::Spawn { run, given } => self.spawn(run, given, fds),
            Order::Signal { run, signal, group } => self.runs.signal(run, signal, group),
            Order::Store { name } => self.vault.store(name, fds.pop()),
            Order::Drop { name } => self.vault.drop(&name),
            Order::Release { run } => self.runs.release(run),
            Order::Closing => (self.terminate, self.terminate_told) = (true, true),
            Order::Shutdown => self.last_grace = Some(Instant::now() + LAST_GRACE),
            Order::Adopt { run, pid, start_time } if !self.runs.contains(run) => {
                self.runs.adopt(run, ProcessRef { pid, start_time }, fds);
            }
            Order::Adopt { .. } => {} // asked twice
            Order::Replace => self.trial = fds.pop().map(File::from),
            Order::Serving => self.serves = true,
        }
    }

    fn spawn(&mut self, run: u64, given: u64, mut fds: Vec<OwnedFd>) {
        let given = usize::try_from(given).unwrap_or(usize::MAX);
        if self.runs.contains(run) {
            return; // asked twice: a daemon that died before it heard the answer
        }
        if fds.len() < given.saturating_add(1) {
            return self.runs.add_failed(run, StartStep::Fork, Errno::EMFILE);
        }
        let kept = fds.split_off(1 + given);
        let for_child = fds.split_off(1);
        let Some(order) = fds.pop() else { return };
        match spawn::fork_launch(spawn::LaunchSource::Memfd(order), for_child, self.nofile) {
            Ok(forked) => self.runs.add(run, forked, kept),
            Err(errno) => self.runs.add_failed(run, StartStep::Fork, errno),
        }
    }

    /// Tells the daemon what it has yet to hear; true if nothing is left.
    fn tell(&mut self) -> bool {
        let Some(channel) = self.daemon.as_ref().and_then(|daemon| daemon.channel.as_ref()) else {
            return true;
        };
        let mut packet = [0; PACKET];
        let mut tell = |news: &News, fds: &[BorrowedFd<'_>]| match fd_channel::send_with_fds(
            channel.as_fd(),
            news.write(&mut packet),
            fds,
        ) {
            Ok(()) => true,
            Err(errno) => errno != Errno::EAGAIN && errno != Errno::ENOBUFS,
        };
        if !self.runs.tell(&mut tell) {
            return false;
        }
        self.terminate_told = self.terminate_told || self.terminate && tell(&News::Terminate, &[]);
        self.terminate == self.terminate_told
    }
}
