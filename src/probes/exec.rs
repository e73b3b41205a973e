//! Asking by a command, run as the app is run.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use nix::fcntl::OFlag;
use tokio::net::unix::pipe::Receiver;

use crate::exit::Exit;
use crate::process::command::{Command, Running};
use crate::spec::{Account, Vars};

/// So many of the last bytes that a command says are looked at.
const SAID: usize = 4096;

/// A line of them longer than this is cut.
const LONGEST: usize = 200;

/// How lines are run: as who, where, with which environment.
#[derive(Clone)]
pub struct Shell {
    /// The user to become.
    pub account: Option<Account>,
    /// The directory.
    pub cwd: PathBuf,
    /// The whole environment.
    pub env: Vars,
}

impl Shell {
    /// Runs a line to its end. What takes longer than `timeout` is killed with all that it has started, as it
    /// is when nobody waits for it any more.
    ///
    /// # Errors
    /// It did not end with 0; how instead, and the last that it said.
    pub(super) async fn run(&self, line: &str, timeout: Duration) -> Result<(), String> {
        let (out, said) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|errno| errno.desc().to_owned())?;
        let command = Command {
            program: "/bin/sh".into(),
            args: vec!["-c".into(), line.into()],
            env: self.env.clone(),
            cwd: self.cwd.clone(),
            account: self.account.clone(),
        };
        let running = command.spawn(said).map_err(|error| format!("cannot start: {error}"))?;
        match tokio::time::timeout(timeout, listen(running, out)).await {
            Err(_) => Err(format!("timed out after {} s", timeout.as_secs_f64())),
            Ok(Err(error)) => Err(error.to_string()),
            Ok(Ok((status, _))) if status.success() => Ok(()),
            Ok(Ok((status, said))) => Err(format!("{}{}", how(status), last_line(&said))),
        }
    }
}

/// Waits for its end, and keeps the last that it has said.
async fn listen(mut running: Running, out: OwnedFd) -> io::Result<(ExitStatus, Vec<u8>)> {
    let (out, mut said) = (Receiver::from_owned_fd(out)?, Vec::new());
    let mut open = true;
    let status = loop {
        tokio::select! {
            ended = running.ended() => break ended?,
            readable = out.readable(), if open => {
                readable?;
                open = read(&out, &mut said).is_some();
            }
        }
    };
    // What it left behind may go on to talk.
    while open && read(&out, &mut said) == Some(true) {}
    Ok((status, said))
}

/// Reads what is there: whether that was something; `None` if nothing will come any more.
fn read(out: &Receiver, said: &mut Vec<u8>) -> Option<bool> {
    let mut buffer = [0; SAID];
    match out.try_read(&mut buffer) {
        Ok(0) => None,
        Ok(length) => {
            said.extend_from_slice(&buffer[..length]);
            said.drain(..said.len().saturating_sub(SAID));
            Some(true)
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Some(false),
        Err(_) => None,
    }
}

fn how(status: ExitStatus) -> Exit {
    use std::os::unix::process::ExitStatusExt;
    match status.signal() {
        Some(number) => Exit::Signal { number, core: status.core_dumped(), oom: false },
        None => Exit::Code(status.code().unwrap_or(-1)),
    }
}

fn last_line(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let cut: String = last.trim().chars().filter(|c| !c.is_control()).take(LONGEST).collect();
    if cut.is_empty() { cut } else { format!(": {cut}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell() -> Shell {
        let path = std::env::var("PATH").unwrap();
        let env = Vars::from([("PATH".into(), path), ("WORD".into(), "well".into())]);
        Shell { account: None, cwd: "/".into(), env }
    }

    async fn run(line: &str) -> Result<(), String> {
        shell().run(line, Duration::from_secs(60)).await
    }

    #[tokio::test]
    async fn a_line_has_the_apps_environment_and_directory() {
        assert_eq!(run("test $WORD = well && test $PWD = / && test -z \"$HOME\"").await, Ok(()));
        assert_eq!(
            run("echo one; echo 'no database' >&2; exit 3").await.unwrap_err(),
            "exit code 3: no database"
        );
        assert!(run("kill -9 $$").await.unwrap_err().contains("SIGKILL"));
        let endless = run("i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; exit 1").await;
        assert_eq!(endless.unwrap_err(), "exit code 1: line 19999");
    }

    #[tokio::test]
    async fn one_that_leaves_something_behind_is_not_waited_for_longer() {
        assert_eq!(run("sleep 1000 & exit 0").await, Ok(()));
    }

    #[tokio::test]
    async fn what_takes_too_long_is_killed_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let line = format!("sleep 1000 & echo $! > {}; wait", file.display());
        let answer = shell().run(&line, Duration::from_millis(300)).await;
        assert!(answer.unwrap_err().contains("within 0.3 s"));
        let pid: i32 = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
        let pid = nix::unistd::Pid::from_raw(pid);
        while let Ok(()) = nix::sys::signal::kill(pid, None) {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            if stat.is_empty() || stat.contains(") Z") {
                break; // dead, and whoever is its parent now will know
            }
            tokio::task::yield_now().await;
        }
    }
}
