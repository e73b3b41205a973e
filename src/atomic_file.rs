//! Files that are replaced as a whole: a reader, and the next process after a crash, finds the old contents
//! or the new ones, never a part.

use std::fs::Permissions;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use crate::secure_fs::{FileUser, Location};

/// Whether a replaced file must survive a power failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// It survives a crash of the process.
    Process,
    /// File and directory are synced: it survives a power failure, too.
    Disk,
}

/// `path` with `.suffix` appended to its name.
pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

/// The file that keeps the previous contents of `path`.
pub fn previous(path: &Path) -> PathBuf {
    with_suffix(path, "prev")
}

/// Replaces a file; only its owner can read and write it.
///
/// # Errors
/// The file is unchanged then.
pub fn replace(path: &Path, bytes: &[u8], durability: Durability) -> io::Result<()> {
    replace_with_mode(path, bytes, 0o600, durability)
}

/// Replaces a file, with these permissions whatever the umask is.
///
/// # Errors
/// The file is unchanged then.
pub fn replace_with_mode(path: &Path, bytes: &[u8], mode: u32, durability: Durability) -> io::Result<()> {
    let target = find(path)?;
    write_new(&target, bytes, mode, durability)?.rename_over(target.name())?;
    if durability == Durability::Disk { target.open_directory()?.sync_all() } else { Ok(()) }
}

/// Replaces a private file and keeps the previous one as [`previous`]. A crash between the two renames leaves
/// only the previous one, which is enough.
///
/// # Errors
/// The new contents could not be written.
pub fn replace_keeping_previous(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let target = find(path)?;
    let new = write_new(&target, bytes, 0o600, Durability::Process)?;
    let _ = target.rename_over(previous(Path::new(target.name())).as_os_str()); // it may not exist
    new.rename_over(target.name())
}

/// Removes a file, if it exists.
///
/// # Errors
/// It cannot be removed, or another user could have prepared its directory.
pub fn remove(path: &Path) -> io::Result<()> {
    match find(path).and_then(|file| file.remove_entry()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Renames a file that cannot be used to `.unusable`; describes the result for users.
pub fn quarantine(path: &Path) -> String {
    let aside = with_suffix(path, "unusable");
    let renamed = find(path).and_then(|file| file.rename_over(aside.file_name().unwrap_or_default()));
    match renamed {
        Ok(()) => format!("moved to {}", aside.display()),
        Err(error) => format!("cannot move it to {}: {error}", aside.display()),
    }
}

/// A file in a directory that only the user of this process can write to, so that nobody else can prepare what is
/// written, wherever that directory is.
fn find(path: &Path) -> io::Result<Location> {
    let location = Location::find(path)?;
    location.check_private()?;
    Ok(location)
}

/// Writes the new contents beside the file; nothing is left after an error.
fn write_new(target: &Location, bytes: &[u8], mode: u32, durability: Durability) -> io::Result<Location> {
    let new = target.sibling(with_suffix(Path::new(target.name()), "new"));
    let _ = new.remove_entry(); // of a process that was killed
    let mut file = new.create_new(OFlag::O_WRONLY, mode, FileUser::own())?;
    let written = (|| {
        file.set_permissions(Permissions::from_mode(mode))?; // the umask may differ
        file.write_all(bytes)?;
        if durability == Durability::Disk { file.sync_all() } else { Ok(()) }
    })();
    if let Err(error) = written {
        let _ = new.remove_entry();
        return Err(error);
    }
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_replace_keeps_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dump.json");
        replace(&path, b"good", Durability::Disk).unwrap();
        std::fs::create_dir(dir.path().join("dump.json.new")).unwrap(); // the new file cannot be created
        assert!(replace(&path, b"bad", Durability::Disk).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "good");
    }

    #[test]
    fn files_in_directories_of_other_users_are_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        std::fs::write(&victim, "private").unwrap();
        std::os::unix::fs::symlink(&victim, dir.path().join("state.json.new")).unwrap();
        replace(&dir.path().join("state.json"), b"{}", Durability::Process).unwrap();
        std::os::unix::fs::chown(dir.path(), Some(65534), None).unwrap();
        replace(&dir.path().join("state.json"), b"{}", Durability::Process).unwrap_err();
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "private");
    }

    #[test]
    fn replace_sets_permissions() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("script");
        let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        replace_with_mode(&path, b"#!/bin/sh\n", 0o755, Durability::Process).unwrap();
        assert_eq!(mode(), 0o755);
        replace(&path, b"", Durability::Process).unwrap();
        assert_eq!(mode(), 0o600);
    }
}
