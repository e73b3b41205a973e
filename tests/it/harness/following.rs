//! A command that goes on until it is told to end, such as `rsm logs`, and its lines as they come.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{DEADLINE, Rsm, wait_until};

/// One such command.
pub struct Following {
    child: Child,
    lines: Receiver<String>,
    stderr: Option<JoinHandle<String>>,
}

impl Rsm {
    /// Runs a command that goes on, with its output read line by line.
    pub fn follow(&self, args: &[&str]) -> Following {
        let mut command = self.command(args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (tell, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| tell.send(line)));
        let mut errors = child.stderr.take().unwrap();
        let read = move || {
            let mut text = String::new();
            let _ = errors.read_to_string(&mut text);
            text
        };
        Following { child, lines, stderr: Some(std::thread::spawn(read)) }
    }
}

impl Following {
    /// The lines up to the first one that ends so, that one included.
    pub fn until(&mut self, end: &str) -> Vec<String> {
        let (begin, mut seen) = (Instant::now(), Vec::new());
        loop {
            match self.lines.recv_timeout(DEADLINE.saturating_sub(begin.elapsed())) {
                Ok(line) if line.ends_with(end) => {
                    seen.push(line);
                    return seen;
                }
                Ok(line) => seen.push(line),
                Err(error) => panic!("no line that ends with \"{end}\" ({error}): {seen:#?}"),
            }
        }
    }

    /// Presses Ctrl-C; then as [`Self::ended`].
    pub fn interrupt(self) -> (Option<i32>, Vec<String>, String) {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGINT).unwrap();
        self.ended()
    }

    /// Waits for its end. Returns exit code, lines not yet taken, standard error.
    pub fn ended(mut self) -> (Option<i32>, Vec<String>, String) {
        let status = wait_until("the end of a command", || self.child.try_wait().unwrap());
        let stderr = self.stderr.take().unwrap().join().unwrap();
        (status.code(), self.lines.iter().collect(), stderr)
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
