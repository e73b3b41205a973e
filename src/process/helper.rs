//! Helper processes: short commands that rsm runs for an app, with the app's user, directory and environment.
//!
//! A helper process is not part of the app. When its handle is dropped, it is killed with all its
//! descendants.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Gid, Pid, Uid, User};

use super::process_ref::ProcessRef;
use super::{oom_score, tree};
use crate::spec::{Account, EnvVars};

/// Makes a command run as this user, with all the user's groups. Requires root.
///
/// # Errors
/// The user's groups cannot be looked up.
pub fn set_user(command: &mut std::process::Command, user: &User) -> nix::Result<()> {
    let name = CString::new(user.name.as_str()).map_err(|_| Errno::EINVAL)?;
    let groups: Vec<Gid> = nix::unistd::getgrouplist(&name, user.gid)?;
    let (uid, gid) = (user.uid, user.gid);
    let become_user = move || {
        nix::unistd::setgroups(&groups)?;
        nix::unistd::setgid(gid)?;
        nix::unistd::setuid(uid)?;
        Ok(())
    };
    // SAFETY: between fork and exec this makes only three system calls, and does not allocate.
    unsafe { command.pre_exec(become_user) };
    Ok(())
}

/// A command to run.
pub struct HelperCommand {
    /// Absolute path.
    pub program: PathBuf,
    /// Without the program's name.
    pub args: Vec<String>,
    /// The complete environment.
    pub env: EnvVars,
    pub cwd: PathBuf,
    /// The user to run as, if not the user of rsm.
    pub account: Option<Account>,
}

/// A running helper process; killed when dropped.
#[derive(Debug)]
pub struct HelperProcess {
    child: Child,
    process: Option<ProcessRef>,
    is_reaped: bool,
}

impl HelperCommand {
    /// Starts the command; `output` receives both output streams. Its directory can block this call, and it is
    /// killed when this thread ends: run the whole command [detached](super::detached).
    ///
    /// # Errors
    /// The directory, the user or the program cannot be used.
    pub fn spawn(self, output: OwnedFd) -> io::Result<HelperProcess> {
        let cwd = CString::new(self.cwd.as_os_str().as_bytes())?;
        let account = self.account;
        let groups: Vec<Gid> = account.iter().flat_map(|to| &to.groups).copied().map(Gid::from_raw).collect();
        let parent = nix::unistd::getpid();
        let mut command = std::process::Command::new(self.program);
        command.args(self.args).env_clear().envs(self.env).process_group(0);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let prepare_child = move || {
            // The directory before the user, as for apps: only root may have access to it.
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
        // SAFETY: between fork and exec this makes only system calls, and does not allocate.
        unsafe { command.pre_exec(prepare_child) };
        let child = command.spawn()?;
        let pid = child.id().cast_signed();
        oom_score::restore_score_of(pid);
        Ok(HelperProcess { child, process: ProcessRef::of(pid), is_reaped: false })
    }
}

impl HelperProcess {
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Its exit status, if it has exited.
    ///
    /// # Errors
    /// The system does not report its status.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        let status = self.child.try_wait()?;
        self.is_reaped |= status.is_some();
        Ok(status)
    }
}

impl Drop for HelperProcess {
    fn drop(&mut self) {
        // After it is reaped, its pid may belong to another process.
        if self.is_reaped {
            return;
        }
        let members = self.process.map(tree::tree_members).unwrap_or_default();
        let _ = killpg(Pid::from_raw(self.pid()), Signal::SIGKILL); // it may have exited, or changed its user
        for member in members {
            let _ = member.process.signal(libc::SIGKILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
