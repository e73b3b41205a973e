//! Files that are replaced as a whole: a reader, and the next process after a crash, finds the old contents
//! or the new ones, never a part.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

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
    let new = with_suffix(path, "new");
    let written = write(&new, bytes, mode, durability).and_then(|()| std::fs::rename(&new, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&new);
    } else if let (Durability::Disk, Some(dir)) = (durability, path.parent()) {
        File::open(dir)?.sync_all()?;
    }
    written
}

/// Replaces a private file and keeps the previous one as [`previous`]. A crash between the two renames leaves
/// only the previous one, which is enough.
///
/// # Errors
/// The new contents could not be written.
pub fn replace_keeping_previous(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = with_suffix(path, "new");
    write(&new, bytes, 0o600, Durability::Process)?;
    let _ = std::fs::rename(path, previous(path)); // it may not exist
    std::fs::rename(&new, path)
}

/// Renames a file that cannot be used to `.unusable`; describes the result for users.
pub fn quarantine(path: &Path) -> String {
    let aside = with_suffix(path, "unusable");
    match std::fs::rename(path, &aside) {
        Ok(()) => format!("moved to {}", aside.display()),
        Err(error) => format!("cannot move it to {}: {error}", aside.display()),
    }
}

fn write(path: &Path, bytes: &[u8], mode: u32, durability: Durability) -> io::Result<()> {
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path)?;
        file.set_permissions(Permissions::from_mode(mode))?; // an older file, or the umask, may differ
        file.write_all(bytes)?;
        if durability == Durability::Disk { file.sync_all() } else { Ok(()) }
    })();
    if written.is_err() {
        let _ = std::fs::remove_file(path);
    }
    written
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
