//! `rsm monit` under load: how long a key takes to show, and what it costs when nothing goes on.
//!
//! A pseudo-terminal takes the place of a person: a key is written into it, and the time is taken until
//! the screen that follows from it is written back. Prints; judges nothing.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{OpenptyResult, Winsize, openpty};

const RSM: &str = env!("CARGO_BIN_EXE_rsm");

fn main() {
    flooded(1000);
    idle(100);
}

fn rsm(home: &Path, args: &[&str]) {
    let mut command = Command::new(RSM);
    command.args(args).env("RSM_HOME", home).stdout(Stdio::null()).stderr(Stdio::null());
    assert!(command.status().unwrap().success(), "{args:?}");
}

/// A screen of 160 by 50 with the program in it.
struct Screen {
    terminal: File,
    program: Child,
}

impl Screen {
    fn open(home: &Path) -> Self {
        let size = Winsize { ws_row: 50, ws_col: 160, ws_xpixel: 0, ws_ypixel: 0 };
        let OpenptyResult { master, slave } = openpty(Some(&size), None).unwrap();
        let end = |fd: &OwnedFd| Stdio::from(fd.try_clone().unwrap());
        let mut command = Command::new("setsid");
        command.args(["--ctty", RSM, "monit"]).env("RSM_HOME", home).env("TERM", "xterm-256color");
        let program = command.stdin(end(&slave)).stdout(end(&slave)).stderr(end(&slave)).spawn().unwrap();
        Self { terminal: File::from(master), program }
    }

    /// Reads until a text comes by; the time that took.
    fn until(&mut self, text: &str) -> Duration {
        let (begin, mut seen, mut buffer) = (Instant::now(), Vec::new(), vec![0; 1 << 16]);
        while memchr::memmem::find(&seen, text.as_bytes()).is_none() {
            assert!(begin.elapsed() < Duration::from_secs(30), "never: {text}");
            let count = self.terminal.read(&mut buffer).unwrap();
            seen.extend_from_slice(&buffer[..count]);
        }
        begin.elapsed()
    }

    /// Reads whatever comes for so long.
    fn drain(&mut self, time: Duration) {
        let (end, mut buffer) = (Instant::now() + time, vec![0; 1 << 16]);
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            let timeout = PollTimeout::try_from(left).unwrap();
            let mut readable = [PollFd::new(self.terminal.as_fd(), PollFlags::POLLIN)];
            // A terminal whose program has ended gives an error.
            if poll(&mut readable, timeout).unwrap() > 0 && self.terminal.read(&mut buffer).is_err() {
                return;
            }
        }
    }

    fn press(&mut self, key: &str) {
        self.terminal.write_all(key.as_bytes()).unwrap();
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.press("\u{3}");
        self.drain(Duration::from_millis(500));
        let _ = self.program.wait();
    }
}

/// A home with so many instances that sleep.
fn home(instances: usize) -> tempfile::TempDir {
    let home = tempfile::Builder::new().prefix("rsm-bench-").tempdir().unwrap();
    rsm(home.path(), &["start", "sleep", "--name", "idle", "-i", &instances.to_string(), "--", "100000"]);
    home
}

fn flooded(instances: usize) {
    let home = home(instances);
    rsm(
        home.path(),
        &["start", "exec yes a line of the flood that fills the pane and never ends", "--name", "flood"],
    );
    let mut screen = Screen::open(home.path());
    screen.until("a line of the flood");
    let mut times = Vec::new();
    for round in 0..200 {
        // The help, which opens and closes, is not on the screen for any other reason.
        screen.drain(Duration::from_millis(20 + round % 7 * 13));
        screen.press("?");
        times.push(screen.until("Lower pane"));
        screen.press("?");
        screen.drain(Duration::from_millis(30));
    }
    times.sort();
    println!(
        "key to screen, {instances} instances and a flood: median {:.1} ms, 99 % {:.1} ms, maximum {:.1} ms",
        millis(times[times.len() / 2]),
        millis(times[times.len() * 99 / 100]),
        millis(times[times.len() - 1])
    );
    drop(screen);
    rsm(home.path(), &["kill"]);
}

fn idle(instances: usize) {
    let home = home(instances);
    let mut screen = Screen::open(home.path());
    screen.until("online");
    screen.drain(Duration::from_secs(3));
    let daemon = daemon(home.path());
    let watched = i32::try_from(screen.program.id()).unwrap();
    let before = (cpu(watched), cpu(daemon));
    let time = Duration::from_secs(30);
    screen.drain(time);
    let share = |before: Duration, pid| (cpu(pid) - before).as_secs_f64() / time.as_secs_f64() * 100.0;
    let (monit, daemon) = (share(before.0, watched), share(before.1, daemon));
    println!("idle, {instances} instances: monit {monit:.2} %, daemon {daemon:.2} % of a core");
    drop(screen);
    rsm(home.path(), &["kill"]);
}

fn daemon(home: &Path) -> i32 {
    let output = Command::new(RSM).args(["info", "--json"]).env("RSM_HOME", home).output().unwrap();
    let info: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    i32::try_from(info["daemon"]["pid"].as_i64().unwrap()).unwrap()
}

/// Processor time that a process has used.
fn cpu(pid: i32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
