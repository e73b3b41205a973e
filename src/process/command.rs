//! A command of ours, run on behalf of an app: as its user, in its directory, with its environment. It is no
//! part of the app: it ends when nobody waits for it any more, with all that it has started.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Gid, Pid, Uid};
use tokio::process::Child;

use super::pidfd::ProcessRef;
use super::proc_fs::Stat;
use super::{oom, tree};
use crate::spec::{Account, Vars};

/// What is run.
pub struct Command {
    /// Absolute path.
    pub program: PathBuf,
    /// Arguments.
    pub args: Vec<String>,
    /// The whole environment.
    pub env: Vars,
    /// Directory.
    pub cwd: PathBuf,
    /// User to become.
    pub account: Option<Account>,
}

/// It runs. Dropped before its end, it is killed.
#[derive(Debug)]
pub struct Running {
    child: Child,
    process: Option<ProcessRef>,
}

impl Command {
    /// Starts it; `output` takes what it says on both streams.
    ///
    /// # Errors
    /// A step failed: the directory, the user, the program.
    pub fn spawn(self, output: OwnedFd) -> io::Result<Running> {
        let cwd = CString::new(self.cwd.as_os_str().as_bytes())?;
        let account = self.account;
        let groups: Vec<Gid> = account.iter().flat_map(|to| &to.groups).copied().map(Gid::from_raw).collect();
        let parent = nix::unistd::getpid();
        let mut command = tokio::process::Command::new(self.program);
        command.args(self.args).env_clear().envs(self.env).process_group(0);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let become_app = move || {
            // The directory comes before the user, as for apps: it may be open to root only.
            nix::unistd::chdir(cwd.as_c_str())?;
            if let Some(to) = &account {
                if Uid::effective().is_root() {
                    nix::unistd::setgroups(&groups)?;
                }
                nix::unistd::setgid(Gid::from_raw(to.gid))?;
                nix::unistd::setuid(Uid::from_raw(to.uid))?;
            }
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            if nix::unistd::getppid() == parent { Ok(()) } else { Err(Errno::ESRCH.into()) }
        };
        // SAFETY: between fork and exec it makes system calls only, and allocates nothing.
        unsafe { command.pre_exec(become_app) };
        let child = command.spawn()?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        let process = pid.and_then(|pid| {
            oom::as_before_for(pid);
            Some(ProcessRef { pid, start_time: Stat::of(pid).ok()?.start_time })
        });
        Ok(Running { child, process })
    }
}

impl Running {
    /// Waits for its end.
    ///
    /// # Errors
    /// The system does not tell.
    pub async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Once its end is known its number may be another's.
        let Some(process) = self.process.filter(|_| self.child.id().is_some()) else { return };
        let members = tree::members(process);
        let _ = killpg(Pid::from_raw(process.pid), Signal::SIGKILL); // gone already, or of another user
        for member in members {
            let _ = member.process.signal(libc::SIGKILL);
        }
        let _ = self.child.start_kill(); // tokio reaps it
    }
}
