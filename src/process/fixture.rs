//! Real processes for the tests: scripts that say when they are ready.
//!
//! The test process plays the keeper: it is a child subreaper, so orphans become its children.
#![allow(unsafe_code)]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::process_ref::ProcessRef;

/// Waits for a condition that no event announces, and fails at a deadline.
pub(crate) fn wait_until(mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < end, "not within a minute");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A run as the keeper would start it: leader of a session, marked in its environment.
pub(crate) struct Fixture {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    leader: ProcessRef,
    /// What its environment has as `RSM_RUN`.
    pub(crate) run: String,
    announced: Vec<ProcessRef>,
}

impl Fixture {
    /// Runs a script by `sh`.
    pub(crate) fn sh(script: &str) -> Self {
        Self::start("sh", script)
    }

    /// Runs a script by `python3`.
    pub(crate) fn python(script: &str) -> Self {
        Self::start("python3", script)
    }

    fn start(program: &str, script: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        nix::sys::prctl::set_child_subreaper(true).unwrap();
        // Other test processes look through all of the machine, too.
        let run = u64::from(std::process::id()) << 32 | u64::from(NEXT.fetch_add(1, Ordering::Relaxed));
        let run = run.to_string();
        let mut command = Command::new(program);
        command
            .args(["-c", script])
            .env("RSM_RUN", format!("{run}@/fixture"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        // SAFETY: setsid(2) is async-signal-safe, and all that is done between fork and exec.
        unsafe { command.pre_exec(|| Ok(nix::unistd::setsid().map(drop)?)) };
        let mut child = command.spawn().unwrap();
        let leader = ProcessRef::of(child.id().cast_signed()).unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, input, output: BufReader::new(output), leader, run, announced: Vec::new() }
    }

    /// Its first process.
    pub(crate) fn leader(&self) -> ProcessRef {
        self.leader
    }

    /// The next line it prints.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.output.read_line(&mut line).unwrap() > 0, "the fixture ended early");
        line.trim_end().to_owned()
    }

    /// The next process it announces, by a line that is its pid.
    pub(crate) fn process(&mut self) -> ProcessRef {
        let process = ProcessRef::of(self.line().parse().unwrap()).unwrap();
        self.announced.push(process);
        process
    }

    /// Lets its next `read` return.
    pub(crate) fn tell(&mut self) {
        self.input.write_all(b"go\n").unwrap();
    }

    /// Kills and reaps the leader, and nobody else.
    pub(crate) fn kill_leader(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for the leader's end.
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
            // An orphan is ours to reap; one that is not answers ECHILD.
            let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(process.pid), None);
        }
    }
}
