//! Pid files of instances.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use crate::instance::Instance;
use crate::paths::{self, Home};
use crate::secure_fs::{Access, FileUser, Location};

/// The file for the pid of an instance.
pub fn pid_file(instance: &Instance, home: &Home) -> PathBuf {
    let default = || home.pids().join(format!("{}.pid", paths::sanitize_file_name(&instance.spec().name)));
    let base = instance.spec().pid_file.clone().unwrap_or_else(default);
    paths::with_instance_id(&base, instance.id())
}

/// Writes a pid file.
///
/// # Errors
/// It cannot be written, or its path is refused.
pub(super) fn write_pid_file(path: &Path, pid: i32, user: FileUser) -> io::Result<()> {
    let access = Access { users: &[user], is_known: &contains_pid };
    let location = Location::find_or_create(path, user)?;
    let (mut file, _) = location.open_or_create(OFlag::O_RDWR, 0o666, access)?;
    if file.metadata()?.is_file() {
        file.set_len(0)?;
    }
    file.write_all(pid.to_string().as_bytes())
}

/// Removes a pid file, if there is one.
///
/// # Errors
/// It cannot be removed, or its path is refused.
pub(super) fn remove_pid_file(path: &Path, user: FileUser) -> io::Result<()> {
    let access = Access { users: &[user], is_known: &contains_pid };
    let removed = (|| {
        let location = Location::find(path)?;
        if location.is_trusted() {
            return location.remove_entry();
        }
        let meta = location.open(OFlag::O_RDONLY, access)?.metadata()?;
        location.remove((meta.dev(), meta.ino()))
    })();
    match removed {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(())
        }
        result => result,
    }
}

/// Whether a file contains a pid and nothing else: a pid file of an earlier daemon.
fn contains_pid(file: &File) -> bool {
    let mut text = [0; 16];
    let count = file.read_at(&mut text, 0).unwrap_or(text.len());
    count < text.len() && text[..count].trim_ascii().iter().all(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{chown, symlink};

    const NOBODY: FileUser = FileUser { uid: 65534, gid: 65534 };

    #[test]
    fn pid_file_in_directory_of_another_user_is_not_written_through_links() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        std::fs::write(&victim, "private").unwrap();
        let run = dir.path().join("run");
        std::fs::create_dir(&run).unwrap();
        chown(&run, Some(NOBODY.uid), None).unwrap();
        let path = run.join("a.pid");
        for prepare in [
            (|victim, path| symlink(victim, path)) as fn(&Path, &Path) -> io::Result<()>,
            |victim, path| std::fs::hard_link(victim, path),
            |victim, path| std::fs::copy(victim, path).map(drop),
        ] {
            prepare(&victim, &path).unwrap();
            write_pid_file(&path, 42, NOBODY).unwrap_err();
            remove_pid_file(&path, NOBODY).unwrap_err();
            std::fs::remove_file(&path).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "private");
        write_pid_file(&path, 42, NOBODY).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().uid(), NOBODY.uid);
        write_pid_file(&path, 7, NOBODY).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "7");
        chown(&path, Some(0), None).unwrap(); // as an earlier version left it
        remove_pid_file(&path, NOBODY).unwrap();
        assert!(!path.exists());
        remove_pid_file(&path, NOBODY).unwrap();
    }
}
