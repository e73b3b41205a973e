//! A command of another user's.
#![allow(unsafe_code)]

use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::unistd::{Gid, User};

/// Has a command run as this user, with all the user's groups. Takes root.
///
/// # Errors
/// The user's groups cannot be looked up.
pub fn run_as(command: &mut Command, user: &User) -> nix::Result<()> {
    let name = std::ffi::CString::new(user.name.as_str()).map_err(|_| nix::Error::EINVAL)?;
    let groups: Vec<Gid> = nix::unistd::getgrouplist(&name, user.gid)?;
    let (uid, gid) = (user.uid, user.gid);
    let change = move || {
        nix::unistd::setgroups(&groups)?;
        nix::unistd::setgid(gid)?;
        nix::unistd::setuid(uid)?;
        Ok(())
    };
    // SAFETY: between fork and exec there are these three system calls only; nothing is allocated.
    unsafe { command.pre_exec(change) };
    Ok(())
}
