//! Real processes for tests: scripts that print a line when they are ready.
//!
//! The test process acts as the keeper: it is a child subreaper, so orphans become its children.
#![allow(unsafe_code)]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::process_ref::ProcessRef;

/// Polls a condition for which there is no event; fails after a minute.
pub(crate) fn wait_until(mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "the condition was not met within a minute");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A process as the keeper starts it: a session leader with a run marker in its environment.
pub(crate) struct Fixture {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    leader: ProcessRef,
    /// The run number in `RSM_RUN`.
    pub(crate) run: String,
    announced: Vec<ProcessRef>,
}

impl Fixture {
    /// Runs a script with `sh`.
    pub(crate) fn sh(script: &str) -> Self {
        Self::start("sh", script)
    }

    /// Runs a script with `python3`.
    pub(crate) fn python(script: &str) -> Self {
        Self::start("python3", script)
    }

    fn start(program: &str, script: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        nix::sys::prctl::set_child_subreaper(true).unwrap();
        // Unique on this machine: other test processes search all processes, too.
        let run = u64::from(std::process::id()) << 32 | u64::from(NEXT.fetch_add(1, Ordering::Relaxed));
        let run = run.to_string();
        let mut command = Command::new(program);
        command
            .args(["-c", script])
            .env("RSM_RUN", format!("{run}@/fixture"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        // SAFETY: setsid(2) is async-signal-safe, and the only call between fork and exec.
        unsafe { command.pre_exec(|| Ok(nix::unistd::setsid().map(drop)?)) };
        let mut child = command.spawn().unwrap();
        let leader = ProcessRef::of(child.id().cast_signed()).unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, input, output: BufReader::new(output), leader, run, announced: Vec::new() }
    }

    pub(crate) fn leader(&self) -> ProcessRef {
        self.leader
    }

    /// The next line of its output.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.output.read_line(&mut line).unwrap() > 0, "the fixture exited early");
        line.trim_end().to_owned()
    }

    /// The process whose pid is the next line of its output.
    pub(crate) fn process(&mut self) -> ProcessRef {
        let process = ProcessRef::of(self.line().parse().unwrap()).unwrap();
        self.announced.push(process);
        process
    }

    /// Writes a line to its standard input.
    pub(crate) fn send_line(&mut self) {
        self.input.write_all(b"go\n").unwrap();
    }

    /// Kills and reaps the leader only.
    pub(crate) fn kill_leader(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits until the leader exits.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        for process in &self.announced {
            let _ = process.signal(libc::SIGKILL);
            // Reaps an orphan, which is a child of this process; for others this returns ECHILD.
            let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(process.pid), None);
        }
    }
}
