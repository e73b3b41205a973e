//! The probe `exec`: a shell command that runs as the user, and in the directory and environment, of the app.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use nix::fcntl::OFlag;
use tokio::net::unix::pipe::Receiver;

use crate::exit::Exit;
use crate::process::helper::{HelperCommand, HelperProcess};
use crate::spec::{Account, EnvVars};

/// Only the last part of the output is kept. Bytes.
const OUTPUT_LIMIT: usize = 4096;

/// Maximum length of the line in an error. Characters.
const MAX_MESSAGE: usize = 200;

/// The user, directory and environment of commands.
#[derive(Clone)]
pub struct ExecContext {
    /// The user to run as, if not the user of rsm.
    pub account: Option<Account>,
    pub cwd: PathBuf,
    /// The complete environment.
    pub env: EnvVars,
}

impl ExecContext {
    /// Runs a shell command. It is killed with its child processes after `timeout`, and if the future is
    /// dropped.
    ///
    /// # Errors
    /// The exit code is not 0; the error has the exit status and the last line of the output.
    pub(super) async fn run(&self, line: &str, timeout: Duration) -> Result<(), String> {
        let (out, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|errno| errno.desc().to_owned())?;
        let command = HelperCommand {
            program: "/bin/sh".into(),
            args: vec!["-c".into(), line.into()],
            env: self.env.clone(),
            cwd: self.cwd.clone(),
            account: self.account.clone(),
        };
        let running = command.spawn(writer).map_err(|error| format!("cannot start: {error}"))?;
        match tokio::time::timeout(timeout, collect_output(running, out)).await {
            Err(_) => Err(format!("timed out after {} s", timeout.as_secs_f64())),
            Ok(Err(error)) => Err(error.to_string()),
            Ok(Ok((status, _))) if status.success() => Ok(()),
            Ok(Ok((status, output))) => Err(format!("{}{}", exit_of(status), last_line(&output))),
        }
    }
}

/// Waits for the exit, and returns the last part of the output.
async fn collect_output(mut running: HelperProcess, out: OwnedFd) -> io::Result<(ExitStatus, Vec<u8>)> {
    let (out, mut output) = (Receiver::from_owned_fd(out)?, Vec::new());
    let mut open = true;
    let status = loop {
        tokio::select! {
            ended = running.wait() => break ended?,
            readable = out.readable(), if open => {
                readable?;
                open = read(&out, &mut output).is_some();
            }
        }
    };
    // Only what is already in the pipe: remaining child processes may keep it open.
    while open && read(&out, &mut output) == Some(true) {}
    Ok((status, output))
}

/// Reads what is available: whether there was anything, or `None` at the end of file.
fn read(out: &Receiver, output: &mut Vec<u8>) -> Option<bool> {
    let mut buffer = [0; OUTPUT_LIMIT];
    match out.try_read(&mut buffer) {
        Ok(0) => None,
        Ok(length) => {
            output.extend_from_slice(&buffer[..length]);
            output.drain(..output.len().saturating_sub(OUTPUT_LIMIT));
            Some(true)
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Some(false),
        Err(_) => None,
    }
}

fn exit_of(status: ExitStatus) -> Exit {
    use std::os::unix::process::ExitStatusExt;
    match status.signal() {
        Some(number) => Exit::Signal { number, core: status.core_dumped(), oom: false },
        None => Exit::Code(status.code().unwrap_or(-1)),
    }
}

fn last_line(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let cut: String = last.trim().chars().filter(|c| !c.is_control()).take(MAX_MESSAGE).collect();
    if cut.is_empty() { cut } else { format!(": {cut}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> ExecContext {
        let path = std::env::var("PATH").unwrap();
        let env = EnvVars::from([("PATH".into(), path), ("WORD".into(), "well".into())]);
        ExecContext { account: None, cwd: "/".into(), env }
    }

    async fn run(line: &str) -> Result<(), String> {
        context().run(line, Duration::from_secs(60)).await
    }

    #[tokio::test]
    async fn runs_with_environment_and_directory() {
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
    async fn does_not_wait_for_remaining_children() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        assert_eq!(run(&format!("sleep 1000 & echo $! > {}", file.display())).await, Ok(()));
        let pid: i32 = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    }

    #[tokio::test]
    async fn timeout_kills_command_with_children() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let line = format!("sleep 1000 & echo $! > {}; wait", file.display());
        let result = context().run(&line, Duration::from_millis(300)).await;
        assert!(result.unwrap_err().contains("timed out after 0.3 s"));
        let pid: i32 = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
        // Dead is enough: the new parent may not have reaped it yet.
        let stat = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        crate::process::fixture::wait_until(|| stat().is_empty() || stat().contains(") Z"));
    }
}
