//! Operations on a file whose directory is open.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, RenameFlags, openat, renameat, renameat2};
use nix::sys::stat::{FileStat, Mode, fstatat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, unlinkat};

use super::user::{FileUser, is_own};
use super::walk::{Directory, Refusal, Resolved, Trust, resolve};

/// How often a file is opened again that appears and disappears.
const MAX_ATTEMPTS: u32 = 8;

/// Device and inode.
pub type FileId = (u64, u64);

/// Which files are used outside of trusted directories.
#[derive(Clone, Copy)]
pub struct Access<'a> {
    /// Users whose files are used. New files belong to the first.
    pub users: &'a [FileUser],
    /// Whether an open file of the user of this process was made by it.
    pub is_known: &'a dyn Fn(&File) -> bool,
}

impl Access<'_> {
    fn creator(&self) -> FileUser {
        self.users.first().copied().unwrap_or_else(FileUser::own)
    }
}

/// A file, existing or not, in an open directory.
#[derive(Debug)]
pub struct Location {
    directory: Arc<Directory>,
    name: OsString,
    /// The name is a link of `/proc`, which only the kernel can follow.
    is_magic_link: bool,
}

impl From<Resolved> for Location {
    fn from(Resolved { directory, name, is_magic_link }: Resolved) -> Self {
        Self { directory: Arc::new(directory), name, is_magic_link }
    }
}

impl Location {
    /// Finds a file in an existing directory.
    ///
    /// # Errors
    /// The directory does not exist, or the path is refused.
    pub fn find(path: &Path) -> io::Result<Self> {
        resolve(path, None).map(Self::from)
    }

    /// Finds a file, and creates missing directories for a user.
    ///
    /// # Errors
    /// A directory cannot be created, or the path is refused.
    pub fn find_or_create(path: &Path, user: FileUser) -> io::Result<Self> {
        resolve(path, Some(user)).map(Self::from)
    }

    /// The path without symbolic links.
    pub fn path(&self) -> PathBuf {
        self.directory.path.join(&self.name)
    }

    /// The name in its directory.
    pub fn name(&self) -> &OsStr {
        &self.name
    }

    /// Whether no other user can replace the file.
    pub fn is_trusted(&self) -> bool {
        self.directory.trust == Trust::Trusted
    }

    /// The entries of the directory.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn siblings(&self) -> io::Result<std::fs::ReadDir> {
        self.directory.entries()
    }

    /// # Errors
    /// The directory belongs to another user, or another user can write to it.
    pub fn check_private(&self) -> io::Result<()> {
        if self.is_trusted() || self.directory.is_private {
            return Ok(());
        }
        Err(Refusal::error(&self.directory.path, "belongs to another user, or another user can write to it"))
    }

    fn stat(&self) -> io::Result<FileStat> {
        Ok(fstatat(&self.directory.fd, self.name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW)?)
    }

    /// Device and inode of the file itself, not of what it links to.
    ///
    /// # Errors
    /// It does not exist.
    pub fn id(&self) -> io::Result<FileId> {
        self.stat().map(|stat| (stat.st_dev, stat.st_ino))
    }

    fn refuse(&self, reason: &str) -> io::Error {
        Refusal::error(self.path(), reason)
    }

    fn open_with(&self, flags: OFlag, mode: u32) -> io::Result<File> {
        // Opening a named pipe does not block, and a terminal does not become the controlling one.
        let mut flags = flags | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        if !self.is_magic_link {
            flags |= OFlag::O_NOFOLLOW;
        }
        match openat(&self.directory.fd, self.name.as_os_str(), flags, Mode::from_bits_truncate(mode)) {
            Ok(fd) => Ok(fd.into()),
            Err(Errno::ELOOP) => {
                Err(self.refuse("is a symbolic link in a directory that other users can write to"))
            }
            Err(errno) => Err(errno.into()),
        }
    }

    /// Opens an existing file. `flags` are those of the access: `O_RDONLY`, `O_WRONLY | O_APPEND`.
    ///
    /// # Errors
    /// The file cannot be opened, or is refused.
    pub fn open(&self, flags: OFlag, access: Access<'_>) -> io::Result<File> {
        if self.is_trusted() {
            return self.open_with(flags, 0);
        }
        // Opening a device may have an effect already.
        self.check_type(self.stat()?.st_mode)?;
        let file = self.open_with(flags, 0)?;
        self.check(&file, access)?;
        Ok(file)
    }

    /// Opens a file, and creates it for the first user of `access` if it does not exist. Returns whether it was
    /// created.
    ///
    /// # Errors
    /// The file cannot be opened or created, or is refused.
    pub fn open_or_create(&self, flags: OFlag, mode: u32, access: Access<'_>) -> io::Result<(File, bool)> {
        for _ in 0..MAX_ATTEMPTS {
            match self.open(flags, access) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                opened => return opened.map(|file| (file, false)),
            }
            match self.create_new(flags, mode, access.creator()) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                created => return created.map(|file| (file, true)),
            }
        }
        Err(self.refuse("appears and disappears"))
    }

    /// Creates a file that does not exist yet. Outside of trusted directories it belongs to `user`.
    ///
    /// # Errors
    /// It exists, or cannot be created.
    pub fn create_new(&self, flags: OFlag, mode: u32, user: FileUser) -> io::Result<File> {
        let file = self.open_with(flags | OFlag::O_CREAT | OFlag::O_EXCL, mode)?;
        if !self.is_trusted() && !user.is_own() {
            fchown(&file, Some(Uid::from_raw(user.uid)), Some(Gid::from_raw(user.gid)))?;
        }
        Ok(file)
    }

    /// Whether an open file at this location may be used.
    fn check(&self, file: &File, access: Access<'_>) -> io::Result<()> {
        let meta = file.metadata()?;
        self.check_type(meta.mode())?;
        if meta.nlink() > 1 {
            return Err(self.refuse("has several hard links, in a directory that other users can write to"));
        }
        match self.is_usable(meta.uid(), access.users) {
            Some(true) => Ok(()),
            None if (access.is_known)(file) => Ok(()),
            _ => Err(self.refuse(&format!(
                "belongs to user {}, in a directory that other users can write to",
                meta.uid()
            ))),
        }
    }

    fn check_type(&self, mode: libc::mode_t) -> io::Result<()> {
        match mode & libc::S_IFMT {
            libc::S_IFREG | libc::S_IFIFO => Ok(()),
            libc::S_IFLNK => {
                Err(self.refuse("is a symbolic link in a directory that other users can write to"))
            }
            libc::S_IFDIR => Err(Errno::EISDIR.into()),
            _ => Err(self.refuse("is a special file in a directory that other users can write to")),
        }
    }

    /// Whether a file of this owner may be used; `None` only if it is known to have been made by this process's
    /// user.
    fn is_usable(&self, owner: u32, users: &[FileUser]) -> Option<bool> {
        let is_of_user = users.iter().any(|user| user.uid == owner);
        match (is_of_user, is_own(owner)) {
            (true, false) => Some(true),
            // Root's own app, in directories of root: a sticky one, or one for a group, as /var/log of some systems.
            (true, true) if !self.directory.is_foreign => Some(true),
            // Another user could have moved it there.
            (_, true) => None,
            (false, false) => Some(false),
        }
    }

    /// Whether a file found in the directory may be used. `is_known` is asked for files of this process's user.
    pub fn accepts(&self, meta: &Metadata, users: &[FileUser], is_known: impl FnOnce() -> bool) -> bool {
        self.is_trusted() || meta.nlink() == 1 && self.is_usable(meta.uid(), users).unwrap_or_else(is_known)
    }

    /// Renames the file within its directory if it is still this one and the new name is free.
    ///
    /// # Errors
    /// It is another file, or cannot be renamed.
    pub fn rename(&self, id: FileId, name: &OsStr) -> io::Result<()> {
        self.check_id(id)?;
        let directory = &self.directory.fd;
        let rename = |flags| renameat2(directory, self.name.as_os_str(), directory, name, flags);
        match rename(RenameFlags::RENAME_NOREPLACE) {
            // The file system cannot check it.
            Err(Errno::EINVAL | Errno::ENOSYS) => Ok(rename(RenameFlags::empty())?),
            result => Ok(result?),
        }
    }

    /// Removes the file if it is still this one.
    ///
    /// # Errors
    /// It is another file, or cannot be removed.
    pub fn remove(&self, id: FileId) -> io::Result<()> {
        self.check_id(id)?;
        Ok(unlinkat(&self.directory.fd, self.name.as_os_str(), UnlinkatFlags::NoRemoveDir)?)
    }

    fn check_id(&self, id: FileId) -> io::Result<()> {
        match self.id()? {
            found if found == id => Ok(()),
            _ => Err(io::Error::new(io::ErrorKind::NotFound, "it was replaced by another file")),
        }
    }

    /// Renames the file over another one in its directory.
    ///
    /// # Errors
    /// It cannot be renamed.
    pub fn rename_over(&self, name: &OsStr) -> io::Result<()> {
        let directory = &self.directory.fd;
        Ok(renameat(directory, self.name.as_os_str(), directory, name)?)
    }

    /// The file of this name in the same directory.
    pub fn sibling(&self, name: impl Into<OsString>) -> Self {
        Self { directory: Arc::clone(&self.directory), name: name.into(), is_magic_link: false }
    }

    /// The directory, to sync it.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open_directory(&self) -> io::Result<File> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(openat(&self.directory.fd, ".", flags, Mode::empty())?.into())
    }

    /// Removes the entry, whatever it is.
    ///
    /// # Errors
    /// It is a directory, or cannot be removed.
    pub fn remove_entry(&self) -> io::Result<()> {
        Ok(unlinkat(&self.directory.fd, self.name.as_os_str(), UnlinkatFlags::NoRemoveDir)?)
    }
}

/// Access to files in a private directory ([`Location::check_private`]), where only this process's user puts files.
pub const PRIVATE_ACCESS: Access<'static> = Access { users: &[], is_known: &|_| true };

/// Opens or creates a private file of the user of this process. Its directory may lie in one that other users can
/// write to, but must itself be private.
///
/// # Errors
/// It cannot be opened, or another user could have prepared it.
pub fn open_private(path: &Path, flags: OFlag) -> io::Result<File> {
    let location = Location::find(path)?;
    location.check_private()?;
    location.open_or_create(flags, 0o600, PRIVATE_ACCESS).map(|(file, _)| file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, chown};

    #[test]
    fn files_of_root_are_used_for_its_apps_in_directories_of_root() {
        let dir = tempfile::tempdir().unwrap();
        let nobody = FileUser { uid: 65534, gid: 65534 };
        let make = |name: &str, owner: u32, mode: u32| {
            let path = dir.path().join(name);
            std::fs::create_dir(&path).unwrap();
            std::fs::write(path.join("a.log"), "").unwrap();
            chown(&path, Some(owner), None).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            path.join("a.log")
        };
        let is_used = |path: &Path, user: FileUser| {
            let access = Access { users: &[user], is_known: &|_| false };
            Location::find(path).unwrap().open(OFlag::O_WRONLY, access).is_ok()
        };
        for (name, owner, mode, for_root) in [
            ("group", 0, 0o775, true),
            ("sticky", 0, 0o1777, true),
            ("everybody", 0, 0o777, false),
            ("foreign", 65534, 0o755, false),
        ] {
            let path = make(name, owner, mode);
            assert_eq!(is_used(&path, FileUser::own()), for_root, "{name}");
            assert!(!is_used(&path, nobody), "{name}");
        }
    }
}
