//! Whether a home is safe to use: who can write into it decides which programs the daemon executes.

use std::fmt;
use std::fs::Metadata;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid, User};

use crate::text::quote_shell;

/// A home that this user must not use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsafeHome {
    home: PathBuf,
    problem: HomeProblem,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum HomeProblem {
    /// The home, or the directory in which it would be created, belongs to another user.
    OtherOwner { owner: u32 },
    /// Other users could have changed the content of the home.
    Writable { mode: u32 },
    /// A file of the home belongs to another user.
    FileOfOther { file: PathBuf, owner: u32 },
    /// Other users could have changed a file of the home.
    FileWritable { file: PathBuf, mode: u32 },
}

impl UnsafeHome {
    /// What to do about it.
    pub fn help(&self) -> String {
        let home = quote_path(&self.home);
        match &self.problem {
            HomeProblem::OtherOwner { owner } if sudo_user() == Some(*owner) => {
                format!(
                    "run it without sudo: {}; for apps of root: sudo -H env -u RSM_HOME rsm …",
                    self.own_command("")
                )
            }
            HomeProblem::OtherOwner { owner } if Uid::effective().is_root() => {
                format!("run it as that user: {}", self.own_command(&become_user(*owner)))
            }
            HomeProblem::OtherOwner { .. } => {
                "switch to that user, or set RSM_HOME to a directory of your own".into()
            }
            HomeProblem::Writable { .. } => {
                format!("check the files in it, then run: chmod 700 {home}")
            }
            HomeProblem::FileOfOther { file, .. } => {
                let file = quote_path(file);
                format!(
                    "remove the file, or check its content and run: chown {} {file}",
                    user_name(me().as_raw())
                )
            }
            HomeProblem::FileWritable { file, .. } => {
                format!("check its content, then run: chmod 600 {}", quote_path(file))
            }
        }
    }

    /// The command line of this process for the home's owner. `prefix` changes the user.
    fn own_command(&self, prefix: &str) -> String {
        let set_home = format!("RSM_HOME={}", quote_path(&self.home));
        let mut args = std::env::args_os().map(|arg| arg.to_string_lossy().into_owned());
        let program = args.next().unwrap_or_default();
        let name = Path::new(&program).file_name().map_or("rsm".into(), |name| name.to_string_lossy());
        let words = std::iter::once(name.into_owned()).chain(args);
        let words: Vec<String> = words.map(|word| quote_shell(&word).into_owned()).collect();
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix} env ") };
        format!("{prefix}{set_home} {}", words.join(" "))
    }
}

impl fmt::Display for UnsafeHome {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (home, user) = (self.home.display(), user_name(me().as_raw()));
        match &self.problem {
            HomeProblem::OtherOwner { owner } => {
                let owner = user_name(*owner);
                write!(out, "{home} belongs to user {owner}, and this command runs as {user}")
            }
            HomeProblem::Writable { mode } => {
                write!(out, "{home} can be written by other users (mode {mode:04o})")
            }
            HomeProblem::FileOfOther { file, owner } => {
                let owner = user_name(*owner);
                write!(out, "{} belongs to user {owner}, and this command runs as {user}", file.display())
            }
            HomeProblem::FileWritable { file, mode } => {
                write!(out, "{} can be written by other users (mode {mode:04o})", file.display())
            }
        }
    }
}

impl std::error::Error for UnsafeHome {}

impl From<UnsafeHome> for io::Error {
    fn from(error: UnsafeHome) -> Self {
        Self::new(ErrorKind::PermissionDenied, format!("{error}; {}", error.help()))
    }
}

/// Checks the owner of a home, if it exists.
pub(super) fn check_owner(home: &Path) -> Result<(), UnsafeHome> {
    let unsafe_home = |problem| UnsafeHome { home: home.to_owned(), problem };
    match std::fs::metadata(home) {
        Ok(meta) if meta.uid() == me().as_raw() => Ok(()),
        Ok(meta) => Err(unsafe_home(HomeProblem::OtherOwner { owner: meta.uid() })),
        // With `sudo`, HOME may be that of the user, in whose directory root must not create files.
        Err(_) => match home.ancestors().skip(1).find_map(|dir| std::fs::metadata(dir).ok()) {
            Some(parent) if sudo_user() == Some(parent.uid()) => {
                Err(unsafe_home(HomeProblem::OtherOwner { owner: parent.uid() }))
            }
            _ => Ok(()),
        },
    }
}

/// Checks the owner of a home, who can write into it, and the owner and mode of these files in it.
pub(super) fn check_content(home: &Path, files: &[PathBuf]) -> Result<(), UnsafeHome> {
    check_owner(home)?;
    let unsafe_home = |problem| UnsafeHome { home: home.to_owned(), problem };
    let Ok(meta) = std::fs::metadata(home) else { return Ok(()) };
    // A directory that was prepared for rsm can be made private, as long as nobody has put anything into it.
    let is_empty = || std::fs::read_dir(home).is_ok_and(|mut entries| entries.next().is_none());
    if is_writable_by_others(&meta) && !is_empty() {
        return Err(unsafe_home(HomeProblem::Writable { mode: mode(&meta) }));
    }
    for file in files {
        // The link and its target: each decides about the content.
        let metas = [std::fs::symlink_metadata(file), std::fs::metadata(file)];
        for meta in metas.into_iter().flatten() {
            if ![me().as_raw(), 0].contains(&meta.uid()) {
                let problem = HomeProblem::FileOfOther { file: file.clone(), owner: meta.uid() };
                return Err(unsafe_home(problem));
            }
            if !meta.is_symlink() && is_writable_by_others(&meta) {
                let problem = HomeProblem::FileWritable { file: file.clone(), mode: mode(&meta) };
                return Err(unsafe_home(problem));
            }
        }
    }
    Ok(())
}

fn me() -> Uid {
    Uid::effective()
}

fn mode(meta: &Metadata) -> u32 {
    meta.permissions().mode() & 0o7777
}

/// A group that this process is in may write: the user has given it that right, or Kubernetes has (`fsGroup`).
fn is_writable_by_others(meta: &Metadata) -> bool {
    let is_own_group = || {
        let group = Gid::from_raw(meta.gid());
        group == Gid::effective() || nix::unistd::getgroups().is_ok_and(|groups| groups.contains(&group))
    };
    mode(meta) & 0o002 != 0 || mode(meta) & 0o020 != 0 && !is_own_group()
}

/// The user who ran `sudo`, if this process runs as root.
fn sudo_user() -> Option<u32> {
    let uid = std::env::var("SUDO_UID").ok()?.parse().ok()?;
    (me().is_root() && uid != 0).then_some(uid)
}

/// The command that runs another command as this user.
fn become_user(uid: u32) -> String {
    match User::from_uid(Uid::from_raw(uid)) {
        Ok(Some(user)) if is_installed("sudo") => format!("sudo -u {}", quote_shell(&user.name)),
        Ok(Some(user)) if is_installed("runuser") => format!("runuser -u {} --", quote_shell(&user.name)),
        _ => format!("setpriv --reuid={uid} --regid={uid} --clear-groups"),
    }
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    crate::program::search_path(program, path, Path::new("/")).is_some()
}

fn user_name(uid: u32) -> String {
    match User::from_uid(Uid::from_raw(uid)) {
        Ok(Some(user)) => user.name,
        _ => uid.to_string(),
    }
}

fn quote_path(path: &Path) -> String {
    quote_shell(&path.to_string_lossy()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set_mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn writable_home_is_refused_unless_it_is_empty() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(check_content(dir.path(), &[]), Ok(()));
        set_mode(dir.path(), 0o777);
        assert_eq!(check_content(dir.path(), &[]), Ok(()), "nothing can have been planted");
        std::fs::write(dir.path().join("state.json"), "{}").unwrap();
        let error = check_content(dir.path(), &[]).unwrap_err();
        assert!(error.to_string().contains("can be written by other users (mode 0777)"), "{error}");
        assert!(error.help().contains("chmod 700 /"), "{}", error.help());
        set_mode(dir.path(), 0o770);
        assert_eq!(check_content(dir.path(), &[]), Ok(()), "the group of this process");
    }

    #[test]
    fn writable_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("state.json");
        assert_eq!(check_content(dir.path(), std::slice::from_ref(&file)), Ok(()), "it does not exist");
        std::fs::write(&file, "{}").unwrap();
        assert_eq!(check_content(dir.path(), std::slice::from_ref(&file)), Ok(()));
        set_mode(&file, 0o646);
        let error = check_content(dir.path(), std::slice::from_ref(&file)).unwrap_err();
        assert!(error.help().contains("chmod 600"), "{}", error.help());
        let link = dir.path().join("dump.json");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert!(check_content(dir.path(), &[link]).is_err(), "the target of a link counts");
    }

    #[test]
    fn missing_home_is_accepted() {
        assert_eq!(check_content(Path::new("/nowhere/at/all"), &[]), Ok(()));
    }
}
