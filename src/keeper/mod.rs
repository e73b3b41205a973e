//! The keeper: parent of every app and of the daemon.
//!
//! It forks and executes, reaps, keeps file descriptors, and starts the daemon again when that
//! dies. It decides nothing and reads no config, so that there is nothing in it to crash or to
//! upgrade: one thread, one `poll`, no allocation while nothing starts or ends. Whatever the
//! daemon must hear is kept as a mark on the run until it is told, never as a queue.

mod listen;
mod runs;
mod vault;
pub mod wire;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

use self::runs::Runs;
use self::vault::Vault;
use self::wire::{News, Order, PACKET, PROTOCOL};
use crate::exit::StartStep;
use crate::paths::Home;
use crate::process::spawn::{self, Launch};
use crate::process::{channel, reap};

pub use self::listen::KeeperError;

/// The daemon finds its end of the channel at this number.
pub const CHANNEL_FD: i32 = 3;
/// And the listening API socket at this one.
pub const LISTENER_FD: i32 = 4;

/// A daemon that lived less than this is started again with a growing pause.
const QUICK_DEATH: Duration = Duration::from_secs(1);
/// The longest pause before a daemon that keeps dying is started again.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long a daemon may take to end after it asked for the shutdown.
const LAST_GRACE: Duration = Duration::from_secs(10);

/// Runs the keeper: takes the lock, listens, goes to the background (the caller's process ends
/// with success once connections are accepted), and stays until it is told to shut down.
///
/// # Errors
/// Another keeper runs in this home, or the socket cannot be made. Nothing is left behind then.
pub fn main(home: &Home, foreground: bool) -> Result<(), KeeperError> {
    spawn::close_inherited();
    let mut place = listen::take(home)?;
    if !foreground {
        listen::go_to_background(home)?;
    }
    place.sign();
    let result = Keeper::new(home, &place).and_then(|mut keeper| keeper.run());
    place.leave();
    result.map_err(KeeperError::System)
}

struct Keeper<'a> {
    home: &'a Home,
    listener: BorrowedFd<'a>,
    signals: SignalFd,
    runs: Runs,
    vault: Vault,
    daemon: Option<Daemon>,
    /// When to start the daemon, while there is none.
    start_at: Option<Instant>,
    pause: Duration,
    nofile: Option<(u64, u64)>,
    /// Told to end; the daemon must hear of it, and the next one again.
    terminate: bool,
    terminate_told: bool,
    /// Set once the daemon asked for the shutdown: until when it may take.
    last_grace: Option<Instant>,
}

/// The daemon while it lives.
struct Daemon {
    pid: i32,
    /// Gone once it hung up and is only waited for.
    channel: Option<OwnedFd>,
    started: Instant,
}

impl<'a> Keeper<'a> {
    fn new(home: &'a Home, place: &'a listen::Place) -> nix::Result<Self> {
        nix::sys::prctl::set_child_subreaper(true)?;
        let _ = nix::sys::prctl::set_name(c"rsm-keeper");
        let mut watched = SigSet::empty();
        for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGPIPE] {
            watched.add(signal);
        }
        watched.thread_block()?;
        Ok(Self {
            home,
            listener: place.listener.as_fd(),
            signals: SignalFd::with_flags(&watched, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?,
            runs: Runs::default(),
            vault: Vault::default(),
            daemon: None,
            start_at: Some(Instant::now()),
            pause: Duration::ZERO,
            nofile: spawn::raise_open_files(),
            terminate: false,
            terminate_told: false,
            last_grace: None,
        })
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
            self.runs.read_reports();
            self.obey();
            self.tell();
        }
    }

    /// Sleeps until a signal, an order, a report of a start, or a time that matters.
    fn wait(&mut self) -> nix::Result<()> {
        let owes = !self.tell();
        let mut fds = Vec::with_capacity(2);
        fds.push(PollFd::new(self.signals.as_fd(), PollFlags::POLLIN));
        if let Some(channel) = self.channel() {
            let wanted = if owes { PollFlags::POLLIN | PollFlags::POLLOUT } else { PollFlags::POLLIN };
            fds.push(PollFd::new(channel, wanted));
        }
        let reports = self.runs.iter().filter_map(|run| run.report.as_ref());
        fds.extend(reports.map(|report| PollFd::new(report.as_fd(), PollFlags::POLLIN)));
        let until = if self.daemon.is_some() { self.last_grace } else { self.start_at };
        let timeout = until.map_or(PollTimeout::NONE, |until| {
            let left = until.saturating_duration_since(Instant::now()).as_millis();
            PollTimeout::try_from(left + 1).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR | Errno::EAGAIN | Errno::ENOMEM) => {}
            Err(errno) => return Err(errno),
        }
        if let (Some(until), Some(daemon)) = (self.last_grace, &self.daemon)
            && Instant::now() >= until
        {
            let _ = kill(Pid::from_raw(daemon.pid), Signal::SIGKILL);
        }
        Ok(())
    }

    fn read_signals(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            let signal = info.ssi_signo.cast_signed();
            self.terminate |= signal == Signal::SIGTERM as i32 || signal == Signal::SIGINT as i32;
        }
    }

    fn reap(&mut self) {
        while let Some((pid, ended)) = reap::reap_one() {
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
        if daemon.started.elapsed() >= QUICK_DEATH {
            self.pause = Duration::ZERO;
        }
        self.start_at = Some(Instant::now() + self.pause);
        self.pause = (self.pause * 2).clamp(Duration::from_millis(10), LONGEST_PAUSE);
    }

    fn start_daemon_if_due(&mut self) {
        if self.daemon.is_some() || self.start_at.is_some_and(|at| Instant::now() < at) {
            return;
        }
        match self.start_daemon() {
            Ok(daemon) => {
                self.daemon = Some(daemon);
                self.start_at = None;
                self.introduce();
            }
            // Out of processes or descriptors: it may pass.
            Err(_) => self.start_at = Some(Instant::now() + LONGEST_PAUSE),
        }
    }

    fn start_daemon(&self) -> nix::Result<Daemon> {
        let (ours, theirs) = channel::pair()?;
        let listener = self.listener.try_clone_to_owned().map_err(|_| Errno::EMFILE)?;
        let inherited = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| name != "RSM_HOME");
        let launch = Launch {
            // The same binary as ours even after the file was replaced by a newer one.
            program: PathBuf::from("/proc/self/exe"),
            argv: vec!["rsm".into(), "daemon".into()],
            env: inherited
                .map(|(name, value)| format!("{name}={value}"))
                .chain([format!("RSM_HOME={}", self.home.dir().display())])
                .collect(),
            cwd: PathBuf::from("/"),
            account: None,
            fds: vec![1, 2, CHANNEL_FD, LISTENER_FD],
            asks: None,
            listen_pid: false,
        };
        let own = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().map_err(|_| Errno::EMFILE);
        let fds = vec![own(std::io::stdout().as_fd())?, own(std::io::stderr().as_fd())?, theirs, listener];
        let forked = spawn::fork(spawn::Order::Ready(Box::new(launch)), fds, self.nofile)?;
        Ok(Daemon { pid: forked.pid, channel: Some(ours), started: Instant::now() })
    }

    /// Tells a new daemon everything. Its socket buffer is empty and takes some hundred packets;
    /// what it does not take now is waited for: the daemon has nothing else to do either.
    fn introduce(&mut self) {
        let Some(channel) = self.channel() else { return };
        let hello = News::Hello { protocol: PROTOCOL, keeper: std::process::id().cast_signed() };
        let mut heard = send_waiting(channel, &hello, &[]);
        for run in self.runs.iter().filter(|run| run.pid > 0) {
            let fds = run.descriptors();
            let news = News::Run { run: run.id, pid: run.pid, start_time: run.start_time };
            heard = heard && send_waiting(channel, &news, &fds);
        }
        for (name, fd) in self.vault.iter() {
            heard = heard && send_waiting(channel, &News::Stored { name: name.to_owned() }, &[fd]);
        }
        // If it was not heard the daemon is dead or stuck; its death tells us, and the next one
        // is introduced anew.
        let _ = heard && send_waiting(channel, &News::Attached, &[]);
        self.runs.attached();
        self.terminate_told = false;
    }

    fn channel(&self) -> Option<BorrowedFd<'_>> {
        self.daemon.as_ref()?.channel.as_ref().map(AsFd::as_fd)
    }

    fn hang_up(&mut self) {
        if let Some(daemon) = &mut self.daemon {
            daemon.channel = None;
            let _ = kill(Pid::from_raw(daemon.pid), Signal::SIGKILL);
        }
    }

    /// Carries out what the daemon has asked for.
    fn obey(&mut self) {
        let Some(channel) = self.daemon.as_mut().and_then(|daemon| daemon.channel.take()) else { return };
        // A daemon that hung up is ending; one that does not end is of no use.
        if !self.obey_from(channel.as_fd()) {
            return self.hang_up();
        }
        if let Some(daemon) = &mut self.daemon {
            daemon.channel = Some(channel);
        }
    }

    /// Carries out all that lies in the channel; false if its other end is gone.
    fn obey_from(&mut self, channel: BorrowedFd<'_>) -> bool {
        let mut packet = [0; PACKET];
        loop {
            match channel::receive(channel, &mut packet) {
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
        let mut kept = fds.split_off(1 + given);
        let for_child = fds.split_off(1);
        let Some(order) = fds.pop() else { return };
        let copy = order.try_clone();
        match spawn::fork(spawn::Order::File(order), for_child, self.nofile) {
            Ok(forked) => {
                kept.splice(0..0, copy);
                self.runs.add(run, forked, kept);
            }
            Err(errno) => self.runs.add_failed(run, StartStep::Fork, errno),
        }
    }

    /// Tells the daemon what it has yet to hear; true if nothing is left.
    fn tell(&mut self) -> bool {
        let Some(channel) = self.daemon.as_ref().and_then(|daemon| daemon.channel.as_ref()) else {
            return true;
        };
        let mut packet = [0; PACKET];
        let mut tell = |news: &News, fds: &[BorrowedFd<'_>]| match channel::send(
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

/// Sends one packet, waiting for room up to a second.
fn send_waiting(to: BorrowedFd<'_>, news: &News, fds: &[BorrowedFd<'_>]) -> bool {
    let mut packet = [0; PACKET];
    let bytes = news.write(&mut packet);
    let until = Instant::now() + Duration::from_secs(1);
    loop {
        match channel::send(to, bytes, fds) {
            Ok(()) => return true,
            Err(Errno::EAGAIN | Errno::ENOBUFS) if Instant::now() < until => {
                let mut room = [PollFd::new(to, PollFlags::POLLOUT)];
                let _ = poll(&mut room, PollTimeout::from(100u8));
            }
            Err(_) => return false,
        }
    }
}
