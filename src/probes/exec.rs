//! The probe `exec`: a shell command that runs as the user, and in the directory and environment, of the app.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::exit::Exit;
use crate::process::helper::HelperCommand;
use crate::process::{detached, process_ref};
use crate::spec::{Account, EnvVars};

/// Only the last part of the output is kept. Bytes.
const OUTPUT_LIMIT: usize = 4096;

/// Maximum length of the line in an error. Characters.
const MAX_MESSAGE: usize = 200;

/// How long a command may take beyond its timeout. Then it is blocked in the kernel, usually by its directory.
const START_MARGIN: Duration = Duration::from_secs(1);

/// How often to check for the exit of a command on kernels without pidfd.
const RECHECK_INTERVAL: Duration = Duration::from_millis(20);

/// The user, directory and environment of commands.
#[derive(Clone)]
pub struct ExecContext {
    /// Name of the app, for messages.
    pub app: String,
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
        let command = HelperCommand {
            program: "/bin/sh".into(),
            args: vec!["-c".into(), line.into()],
            env: self.env.clone(),
            cwd: self.cwd.clone(),
            account: self.account.clone(),
        };
        let (cancelled, _cancel) =
            nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|errno| errno.desc().to_owned())?;
        let subject = format!("exec check of app {} (directory {})", self.app, self.cwd.display());
        let run = move || run_command(command, timeout, &cancelled);
        match detached::run(subject, timeout + START_MARGIN, run)
            .await
            .map_err(|error| error.to_string())??
        {
            (status, _) if status.success() => Ok(()),
            (status, output) => Err(format!("{}{}", exit_of(status), last_line(&output))),
        }
    }
}

/// Runs a command to its end, at most for `timeout` and until the other end of `cancelled` is closed. Returns its
/// status and the last part of its output.
fn run_command(
    command: HelperCommand,
    timeout: Duration,
    cancelled: &OwnedFd,
) -> Result<(ExitStatus, Vec<u8>), String> {
    let deadline = Instant::now() + timeout;
    let (out, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|errno| errno.desc().to_owned())?;
    let _ = fcntl(&out, FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
    let mut running = command.spawn(writer).map_err(|error| format!("cannot start: {error}"))?;
    let exit = process_ref::pidfd_open(running.pid()).ok();
    let (mut output, mut open) = (Vec::new(), true);
    loop {
        if let Some(status) = running.try_wait().map_err(|error| error.to_string())? {
            // Only what is already in the pipe: remaining child processes may keep it open.
            while open && read(&out, &mut output) == Some(true) {}
            return Ok((status, output));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(format!("timed out after {} s", timeout.as_secs_f64()));
        }
        let mut fds = vec![PollFd::new(cancelled.as_fd(), PollFlags::POLLIN)];
        fds.extend(exit.iter().map(|exit| PollFd::new(exit.as_fd(), PollFlags::POLLIN)));
        let pause = if exit.is_some() { left } else { left.min(RECHECK_INTERVAL) };
        if open {
            fds.push(PollFd::new(out.as_fd(), PollFlags::POLLIN));
        }
        let _ = poll(&mut fds, PollTimeout::try_from(pause.as_millis() + 1).unwrap_or(PollTimeout::MAX));
        if fds[0].any() == Some(true) {
            return Err("cancelled".into());
        }
        open = open && read(&out, &mut output).is_some();
    }
}

/// Reads what is available: whether there was anything, or `None` at the end of file.
fn read(out: &OwnedFd, output: &mut Vec<u8>) -> Option<bool> {
    let mut buffer = [0; OUTPUT_LIMIT];
    match nix::unistd::read(out, &mut buffer) {
        Ok(0) => None,
        Ok(length) => {
            output.extend_from_slice(&buffer[..length]);
            output.drain(..output.len().saturating_sub(OUTPUT_LIMIT));
            Some(true)
        }
        Err(Errno::EAGAIN | Errno::EINTR) => Some(false),
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
        ExecContext { app: "app".into(), account: None, cwd: "/".into(), env }
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
