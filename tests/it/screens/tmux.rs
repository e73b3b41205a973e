//! A terminal of its own for a test: tmux with a bash in it, typed into and read.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::harness::{Rsm, wait_until};

/// The number of the next terminal.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// The terminal.
pub struct Terminal {
    socket: std::path::PathBuf,
}

impl Terminal {
    /// One of this size, where `rsm` is the binary under test.
    pub fn new(rsm: &Rsm, (width, height): (u16, u16)) -> Self {
        let binary = std::path::Path::new(env!("CARGO_BIN_EXE_rsm"));
        let path = format!("{}:{}", binary.parent().unwrap().display(), std::env::var("PATH").unwrap());
        // A server of its own: that of a terminal before may still be about to end.
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let terminal = Self { socket: rsm.home().parent().unwrap().join(format!("tmux-{number}")) };
        let mut command = rsm.command_of("tmux", &["-u", "-f", "/dev/null", "-S"]);
        command.arg(&terminal.socket).args(["new-session", "-d"]);
        command.args([
            "-x",
            &width.to_string(),
            "-y",
            &height.to_string(),
            "exec bash --norc --noprofile -i",
        ]);
        command.env("PATH", path).env("LC_ALL", "C.UTF-8").env("TERM", "xterm-256color");
        command.env_remove("NO_COLOR").env_remove("TMUX");
        assert!(command.status().unwrap().success(), "tmux does not start: tests/run installs it");
        terminal.until_so("a prompt", |screen| !screen.trim().is_empty());
        terminal.line("PS1='ready> '; clear");
        terminal.until_so("a clear screen", |screen| screen.trim() == "ready>");
        terminal
    }

    fn tmux(&self, args: &[&str]) -> String {
        let mut command = Command::new("tmux");
        command.arg("-S").arg(&self.socket).args(args).stdin(Stdio::null()).env_remove("TMUX");
        String::from_utf8_lossy(&command.output().unwrap().stdout).into_owned()
    }

    /// Types a text as it is.
    pub fn types(&self, text: &str) {
        self.tmux(&["send-keys", "-t", ":", "-l", text]);
    }

    /// Presses keys by tmux's names: `Down`, `Enter`, `C-c`.
    pub fn press(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys", "-t", ":"], keys].concat());
    }

    /// Types a line and Enter.
    pub fn line(&self, line: &str) {
        self.types(line);
        self.press(&["Enter"]);
    }

    /// What is on the screen.
    pub fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-t", ":"])
    }

    /// Another size.
    pub fn resize(&self, width: u16, height: u16) {
        self.tmux(&["resize-window", "-t", ":", "-x", &width.to_string(), "-y", &height.to_string()]);
    }

    /// Waits until this is on the screen; returns the screen.
    pub fn until(&self, text: &str) -> String {
        self.until_so(text, |screen| screen.contains(text))
    }

    /// Waits until the screen is as it should be; returns it.
    pub fn until_so(&self, what: &str, so: impl Fn(&str) -> bool) -> String {
        let seen = std::cell::RefCell::new(String::new());
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_until(what, || {
                *seen.borrow_mut() = self.screen();
                so(&seen.borrow()).then(|| seen.borrow().clone())
            })
        }));
        found.unwrap_or_else(|_| panic!("never on the screen: {what}\n{}", seen.borrow()))
    }

    /// Whether a program has taken the whole screen.
    pub fn is_taken(&self) -> bool {
        self.tmux(&["display-message", "-p", "-t", ":", "#{alternate_on}"]).trim() == "1"
    }

    /// All settings of the terminal, as `stty -a` tells, but for its size.
    pub fn settings(&self, rsm: &Rsm, name: &str) -> String {
        let file = rsm.dir().join(name);
        self.line(&format!(
            "clear; stty -a > {name}.new; mv {name}.new {name}; echo told $((1000 + 1)) {name}"
        ));
        self.until(&format!("told 1001 {name}"));
        let text = std::fs::read_to_string(file).unwrap();
        let settings: String = text.lines().skip(1).collect();
        assert!(settings.contains("icanon"), "{text}");
        settings
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}
