//! How the files of a log are found, opened and recognized, for the users whose apps write to it.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::OFlag;

use crate::logs::files::index::{FileId, file_id, has_index, is_rotated_index};
use crate::secure_fs::{Access, FileUser, Location};
use crate::spec::Rotation;

/// Mode of new files, reduced by the umask.
const DEFAULT_MODE: u32 = 0o640;

/// The directories of rsm for logs.
#[derive(Debug, PartialEq, Eq)]
pub struct LogHome {
    /// Default directory of logs. All files in it are rsm's.
    pub logs: PathBuf,
    /// Directory of the indexes.
    pub indexes: PathBuf,
}

impl LogHome {
    /// Whether rsm has an index of the file: it has written it.
    pub(crate) fn has_index(&self, id: FileId) -> bool {
        has_index(&self.indexes, id)
    }

    /// Whether rsm has rotated the file.
    pub(crate) fn is_rotated(&self, id: FileId) -> bool {
        is_rotated_index(&self.indexes, id)
    }
}

/// How the files of one log are opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogAccess {
    pub(crate) home: Arc<LogHome>,
    /// Users of the apps that write to it. New files in directories of other users belong to the first.
    users: Vec<FileUser>,
    pub(crate) rotation: Arc<Rotation>,
}

impl LogAccess {
    /// Access to a log of an app that runs as `user`.
    pub fn new(home: Arc<LogHome>, user: FileUser, rotation: Arc<Rotation>) -> Self {
        Self { home, users: vec![user], rotation }
    }

    /// Another app writes to the same log: its user is added, and its settings apply.
    pub fn add(&mut self, other: &Self) {
        self.rotation = Arc::clone(&other.rotation);
        for user in &other.users {
            if !self.users.contains(user) {
                self.users.push(*user);
            }
        }
    }

    fn with_access<T>(&self, open: impl FnOnce(Access<'_>) -> io::Result<T>) -> io::Result<T> {
        let is_known = |file: &File| file.metadata().is_ok_and(|meta| self.home.has_index(file_id(&meta)));
        open(Access { users: &self.users, is_known: &is_known })
    }

    /// The user to whom new files and directories belong.
    pub(crate) fn creator(&self) -> FileUser {
        self.users.first().copied().unwrap_or_else(FileUser::own)
    }

    /// Opens a log file for appending; creates it and its directories if they are missing. Returns whether it was
    /// created.
    pub(crate) fn open_append(&self, path: &Path) -> io::Result<(File, bool)> {
        let location = Location::find_or_create(path, self.creator())?;
        let (flags, mode) = (OFlag::O_WRONLY | OFlag::O_APPEND, self.rotation.mode);
        let (file, is_new) = self.with_access(|access| {
            location.open_or_create(flags, mode.map_or(DEFAULT_MODE, |mode| mode & DEFAULT_MODE), access)
        })?;
        if let (true, Some(mode)) = (is_new, mode) {
            use std::os::unix::fs::PermissionsExt;
            file.set_permissions(std::fs::Permissions::from_mode(mode))?; // whatever the umask is
        }
        Ok((file, is_new))
    }

    /// Opens an existing log file for writing.
    pub(crate) fn open_write(&self, path: &Path) -> io::Result<File> {
        let location = Location::find(path)?;
        self.with_access(|access| location.open(OFlag::O_WRONLY, access))
    }

    /// Opens an existing file of the log for reading.
    pub(crate) fn open_read(&self, path: &Path) -> io::Result<File> {
        self.open_read_at(&Location::find(path)?)
    }

    /// Opens an existing file of the log for reading.
    pub(crate) fn open_read_at(&self, location: &Location) -> io::Result<File> {
        self.with_access(|access| location.open(OFlag::O_RDONLY, access))
    }

    /// Whether a file found in a directory of the log is used.
    pub(crate) fn accepts(&self, location: &Location, meta: &std::fs::Metadata) -> bool {
        location.accepts(meta, &self.users, || self.home.has_index(file_id(meta)))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use crate::logs::files::access::*;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    pub(crate) fn access(logs: &Path) -> LogAccess {
        access_with(logs, Rotation::default())
    }

    pub(crate) fn access_with(logs: &Path, rotation: Rotation) -> LogAccess {
        let home = LogHome { logs: logs.to_owned(), indexes: logs.join("index") };
        LogAccess::new(Arc::new(home), FileUser::own(), Arc::new(rotation))
    }

    #[test]
    fn open_creates_directories_and_private_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/er/a.log");
        access(dir.path()).open_append(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o137, 0);
        let public = dir.path().join("b.log");
        let rotation = Rotation { mode: Some(0o644), ..Rotation::default() };
        access_with(dir.path(), rotation).open_append(&public).unwrap();
        assert_eq!(std::fs::metadata(&public).unwrap().permissions().mode() & 0o777, 0o644);
    }

    #[test]
    fn rejects_paths_that_cannot_be_files() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        assert!(access(dir.path()).open_append(&dir.path().join("file/a.log")).is_err());
        assert!(access(dir.path()).open_append(dir.path()).is_err());
    }

    #[test]
    fn files_that_another_user_has_prepared_are_refused() {
        use crate::secure_fs::is_refused;
        let dir = tempfile::tempdir().unwrap();
        let (secret, logs) = (dir.path().join("secret"), dir.path().join("app"));
        std::fs::write(&secret, "private").unwrap();
        std::fs::create_dir(&logs).unwrap();
        chown(&logs, Some(65534), Some(65534)).unwrap();
        let mut access = access(dir.path());
        access.users = vec![FileUser { uid: 65534, gid: 65534 }];
        let path = logs.join("a.log");
        let refused = || {
            let errors = [
                access.open_append(&path).map(|(file, _)| file).unwrap_err(),
                access.open_write(&path).unwrap_err(),
                access.open_read(&path).unwrap_err(),
            ];
            std::fs::remove_file(&path).unwrap();
            errors.iter().all(is_refused)
        };
        symlink(&secret, &path).unwrap();
        assert!(refused(), "a symbolic link");
        std::fs::hard_link(&secret, &path).unwrap();
        assert!(refused(), "a hard link");
        std::fs::copy(&secret, &path).unwrap();
        assert!(refused(), "a file of root that rsm did not make");
        std::fs::write(&path, "").unwrap();
        chown(&path, Some(1), None).unwrap();
        assert!(refused(), "a file of a third user");

        let (file, is_new) = access.open_append(&path).unwrap();
        use std::os::unix::fs::MetadataExt;
        assert!(is_new && file.metadata().unwrap().uid() == 65534);
        // As an earlier version created it, with an index.
        chown(&path, Some(0), Some(0)).unwrap();
        std::fs::create_dir(&access.home.indexes).unwrap();
        let id = file_id(&file.metadata().unwrap());
        let index = crate::logs::files::index::index_path(&access.home.indexes, id);
        std::fs::write(index, "").unwrap();
        access.open_append(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&secret).unwrap(), "private");
    }
}
