//! Resolves a path component by component, and decides which directories are trusted.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, fstat, mkdirat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use nix::unistd::{Gid, Uid, fchownat};

use super::user::{FileUser, is_own};

/// As many as the kernel follows.
const MAX_LINKS: u32 = 40;

/// Why a file is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} {reason}", path.display())]
pub struct Refusal {
    pub(super) path: PathBuf,
    pub(super) reason: String,
}

impl Refusal {
    pub(super) fn error(path: impl Into<PathBuf>, reason: impl Into<String>) -> io::Error {
        let refusal = Self { path: path.into(), reason: reason.into() };
        io::Error::new(io::ErrorKind::PermissionDenied, refusal)
    }
}

/// Whether an operation was refused because another user could have prepared the path.
pub fn is_refused(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Refusal>())
}

/// Who can change the entries of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    /// Only root and the user of this process.
    Trusted,
    /// Other users can add entries, but not rename those of root and of the user of this process.
    Sticky,
    Untrusted,
}

/// An open directory.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) fd: OwnedFd,
    /// Without symbolic links, except those of `/proc`.
    pub(super) path: PathBuf,
    pub(super) trust: Trust,
    pub(super) owner: u32,
    /// It belongs to root or the user of this process, and nobody else can write to it.
    pub(super) is_private: bool,
    /// It, or one above it, belongs to another user or lets everybody rename files. Otherwise, only members of a group
    /// can change what lies outside of trusted directories.
    pub(super) is_foreign: bool,
    /// A symbolic link of this user was followed in an untrusted directory: it may lead only to directories that
    /// belong to the same user, who could do all the same without it.
    link_owner: Option<u32>,
}

/// A path resolved up to its last component.
#[derive(Debug)]
pub(super) struct Resolved {
    pub(super) directory: Directory,
    pub(super) name: OsString,
    /// The last component is a link of `/proc` to an open file, which only the kernel can follow.
    pub(super) is_magic_link: bool,
}

/// Resolves an absolute path. `create`: creates missing directories; those that are not in a trusted directory
/// belong to this user.
pub(super) fn resolve(path: &Path, create: Option<FileUser>) -> io::Result<Resolved> {
    let path = std::path::absolute(path)?;
    let mut directory = Directory::root()?;
    let mut pending = Vec::new();
    push_components(&path, &mut pending);
    let mut links = 0;
    while let Some(name) = pending.pop() {
        if name == ".." {
            directory = directory.parent()?;
            continue;
        }
        let is_last = pending.is_empty();
        let opened = match openat(&directory.fd, name.as_os_str(), path_flags(), Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::ENOENT) if is_last => return directory.with_name(name, false),
            Err(Errno::ENOENT) => {
                directory.create(&name, create.ok_or(Errno::ENOENT)?)?;
                pending.push(name);
                continue;
            }
            Err(errno) => return Err(errno.into()),
        };
        let stat = fstat(&opened)?;
        match stat.st_mode & libc::S_IFMT {
            libc::S_IFLNK if is_last && directory.trust != Trust::Trusted => {
                return directory.with_name(name, false);
            }
            libc::S_IFLNK if is_last && is_on_procfs(&opened) && !is_dir(&directory, &name) => {
                if is_of_this_process(&directory.path) {
                    let reason = "is an open file of rsm, such as its standard output";
                    return Err(Refusal::error(directory.path.join(name), reason));
                }
                return directory.with_name(name, true);
            }
            libc::S_IFLNK => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Errno::ELOOP.into());
                }
                let link_owner = directory.check_link(&stat, &name)?;
                let target = PathBuf::from(readlinkat(&opened, "")?);
                push_components(&target, &mut pending);
                if target.is_absolute() {
                    let before = directory;
                    directory = Directory::root()?;
                    directory.is_foreign |= before.is_foreign;
                    if before.trust != Trust::Trusted {
                        directory.trust = Trust::Untrusted;
                    }
                }
                directory.link_owner = link_owner;
            }
            _ if is_last => return directory.with_name(name, false),
            libc::S_IFDIR => directory = directory.enter(name, opened, &stat),
            _ => return Err(Errno::ENOTDIR.into()),
        }
    }
    Err(Errno::EISDIR.into())
}

fn path_flags() -> OFlag {
    OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC
}

/// Adds the components of a path in reverse order: the next one is popped.
fn push_components(path: &Path, pending: &mut Vec<OsString>) {
    pending.extend(path.components().rev().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    }));
}

fn is_on_procfs(fd: &OwnedFd) -> bool {
    fstatfs(fd).is_ok_and(|stat| stat.filesystem_type() == PROC_SUPER_MAGIC)
}

/// Whether a directory lists the open files of this process: `/proc/PID/fd`.
fn is_of_this_process(directory: &Path) -> bool {
    directory.starts_with(format!("/proc/{}", std::process::id()))
}

/// Whether a link of a trusted directory leads to a directory, such as `/proc/self/cwd`.
fn is_dir(directory: &Directory, name: &OsStr) -> bool {
    std::fs::metadata(directory.path.join(name)).is_ok_and(|meta| meta.is_dir())
}

impl Directory {
    fn new(fd: OwnedFd, path: PathBuf, trust: Trust, stat: &FileStat, above: Option<&Self>) -> Self {
        let is_open = stat.st_mode & 0o002 != 0 && stat.st_mode & libc::S_ISVTX == 0;
        Self {
            fd,
            path,
            trust,
            owner: stat.st_uid,
            is_private: is_private(stat),
            is_foreign: !is_own(stat.st_uid) || is_open || above.is_some_and(|above| above.is_foreign),
            link_owner: above.and_then(|above| above.link_owner),
        }
    }

    fn root() -> io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fd = nix::fcntl::open("/", flags, Mode::empty())?;
        let stat = fstat(&fd)?;
        let trust = trust_of(&stat, Trust::Trusted);
        Ok(Self::new(fd, "/".into(), trust, &stat, None))
    }

    fn enter(&self, name: OsString, fd: OwnedFd, stat: &FileStat) -> Self {
        let trust = trust_of(stat, self.trust);
        Self::new(fd, self.path.join(name), trust, stat, Some(self))
    }

    fn parent(&self) -> io::Result<Self> {
        // All directories above a trusted one are trusted; above another one, none is again.
        let fd = openat(&self.fd, "..", path_flags() | OFlag::O_DIRECTORY, Mode::empty())?;
        let stat = fstat(&fd)?;
        let above = if self.trust == Trust::Untrusted { Trust::Untrusted } else { Trust::Trusted };
        let trust = trust_of(&stat, above);
        let path = self.path.parent().unwrap_or(Path::new("/")).to_owned();
        Ok(Self::new(fd, path, trust, &stat, Some(self)))
    }

    /// Ends the resolution in this directory.
    fn with_name(self, name: OsString, is_magic_link: bool) -> io::Result<Resolved> {
        match self.link_owner {
            Some(user) if user != self.owner => {
                let reason = format!(
                    "does not belong to user {user}, but a symbolic link in a directory of that user leads to it"
                );
                Err(Refusal::error(self.path, reason))
            }
            _ => Ok(Resolved { directory: self, name, is_magic_link }),
        }
    }

    /// Whether a symbolic link may be followed. Returns the user whose directories it may lead to, if limited.
    fn check_link(&self, link: &FileStat, name: &OsStr) -> io::Result<Option<u32>> {
        if self.trust == Trust::Trusted {
            return Ok(self.link_owner);
        }
        let user = self.owner;
        let own = is_own(user) || self.link_owner.is_some_and(|other| other != user);
        if own || (link.st_uid != user && !is_own(link.st_uid)) {
            let reason = "is a symbolic link in a directory that other users can write to";
            return Err(Refusal::error(self.path.join(name), reason));
        }
        Ok(Some(user))
    }

    /// Creates a subdirectory; one that exists meanwhile is fine.
    fn create(&self, name: &OsStr, user: FileUser) -> io::Result<()> {
        if let Some(link_owner) = self.link_owner.filter(|link_owner| *link_owner != self.owner) {
            let reason = format!("is not created: a symbolic link of user {link_owner} leads to it");
            return Err(Refusal::error(self.path.join(name), reason));
        }
        match mkdirat(&self.fd, name, Mode::from_bits_truncate(0o777)) {
            Ok(()) => {}
            Err(Errno::EEXIST) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
        if self.trust == Trust::Trusted || user.is_own() {
            return Ok(());
        }
        // Another directory may be there by now: one that is not new, thus not empty, is left alone.
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = openat(&self.fd, name, flags, Mode::empty())?;
        if is_own(fstat(&fd)?.st_uid) && entries(&fd)?.next().is_none() {
            let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
            fchownat(&fd, "", Some(uid), Some(gid), AtFlags::AT_EMPTY_PATH)?;
        }
        Ok(())
    }

    /// The entries. Their metadata are those of the entry itself, never of what a link leads to.
    pub(super) fn entries(&self) -> io::Result<std::fs::ReadDir> {
        entries(&self.fd)
    }
}

fn entries(directory: &OwnedFd) -> io::Result<std::fs::ReadDir> {
    std::fs::read_dir(format!("/proc/self/fd/{}", directory.as_raw_fd()))
}

/// The trust in a directory whose parent is trusted like `parent`.
fn trust_of(stat: &FileStat, parent: Trust) -> Trust {
    if parent == Trust::Untrusted || !is_own(stat.st_uid) {
        return Trust::Untrusted;
    }
    match (is_private(stat), stat.st_mode & libc::S_ISVTX != 0) {
        (true, _) => Trust::Trusted,
        (false, true) => Trust::Sticky,
        (false, false) => Trust::Untrusted,
    }
}

fn is_private(stat: &FileStat) -> bool {
    let is_shared = stat.st_mode & 0o002 != 0 || (stat.st_mode & 0o020 != 0 && !is_private_group(stat));
    is_own(stat.st_uid) && !is_shared
}

/// Whether the group that can write to a directory is the one of the user of this process, as with a umask of 002
/// and a group for each user. The group of root is no exception: it may have members.
fn is_private_group(stat: &FileStat) -> bool {
    let (user, group) = (nix::unistd::geteuid(), nix::unistd::getegid());
    !user.is_root() && stat.st_uid == user.as_raw() && stat.st_gid == group.as_raw()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    const NOBODY: FileUser = FileUser { uid: 65534, gid: 65534 };

    fn trust(path: &Path) -> Trust {
        resolve(&path.join("file"), None).unwrap().directory.trust
    }

    fn private_dir() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    fn make(path: &Path, owner: u32, mode: u32) -> PathBuf {
        std::fs::create_dir(path).unwrap();
        chown(path, Some(owner), Some(owner)).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        path.to_owned()
    }

    #[test]
    fn a_directory_is_trusted_until_another_user_can_write_to_it() {
        let dir = private_dir();
        assert_eq!(trust(dir.path()), Trust::Trusted, "a private directory in /tmp");
        let shared = make(&dir.path().join("group"), 0, 0o775);
        assert_eq!(trust(&shared), Trust::Untrusted);
        assert_eq!(trust(&make(&shared.join("own"), 0, 0o755)), Trust::Untrusted, "below an untrusted one");
        let sticky = make(&dir.path().join("sticky"), 0, 0o1777);
        assert_eq!(trust(&sticky), Trust::Sticky);
        assert_eq!(trust(&make(&sticky.join("own"), 0, 0o700)), Trust::Trusted);
        assert_eq!(trust(&make(&sticky.join("foreign"), 65534, 0o700)), Trust::Untrusted);
    }

    #[test]
    fn links_are_followed_in_trusted_directories_only() {
        let dir = private_dir();
        let target = make(&dir.path().join("target"), 0, 0o755);
        symlink("target", dir.path().join("link")).unwrap();
        let found = resolve(&dir.path().join("link/../link/a.log"), None).unwrap();
        assert_eq!((found.directory.path, found.name), (target.clone(), OsString::from("a.log")));
        symlink("target/b.log", dir.path().join("a.log")).unwrap();
        let found = resolve(&dir.path().join("a.log"), None).unwrap();
        assert_eq!((found.directory.path, found.name), (target.clone(), OsString::from("b.log")));

        let foreign = make(&dir.path().join("foreign"), 65534, 0o755);
        symlink(&target, foreign.join("link")).unwrap();
        assert!(is_refused(&resolve(&foreign.join("link/a.log"), None).unwrap_err()));
        symlink(target.join("b.log"), foreign.join("a.log")).unwrap();
        let found = resolve(&foreign.join("a.log"), None).unwrap();
        assert_eq!((found.directory.path, found.name), (foreign, OsString::from("a.log")), "the link itself");
    }

    #[test]
    fn a_link_of_a_user_leads_only_to_directories_of_that_user() {
        let dir = private_dir();
        let foreign = make(&dir.path().join("foreign"), 65534, 0o755);
        make(&foreign.join("releases"), 65534, 0o755);
        symlink("releases", foreign.join("current")).unwrap();
        let found = resolve(&foreign.join("current/logs/a.log"), Some(NOBODY)).unwrap();
        assert_eq!(found.directory.path, foreign.join("releases/logs"));
        assert_eq!(found.directory.owner, 65534);
        let private = make(&dir.path().join("private"), 0, 0o755);
        symlink(&private, foreign.join("escape")).unwrap();
        for path in ["escape/a.log", "escape/new/a.log"] {
            assert!(is_refused(&resolve(&foreign.join(path), Some(NOBODY)).unwrap_err()), "{path}");
        }
        assert!(!private.join("new").exists());
    }

    #[test]
    fn created_directories_belong_to_the_user() {
        use std::os::unix::fs::MetadataExt;
        let dir = private_dir();
        let owner = |path: &Path| std::fs::metadata(path).unwrap().uid();
        resolve(&dir.path().join("a/b/c.log"), Some(NOBODY)).unwrap();
        assert_eq!(owner(&dir.path().join("a/b")), 0);
        let foreign = make(&dir.path().join("foreign"), 65534, 0o755);
        resolve(&foreign.join("a/b/c.log"), Some(NOBODY)).unwrap();
        assert_eq!(owner(&foreign.join("a")), 65534);
        assert_eq!(owner(&foreign.join("a/b")), 65534);
        assert!(resolve(&foreign.join("x/y.log"), None).is_err_and(|error| !is_refused(&error)));
    }

    #[test]
    fn links_of_proc_and_loops_end() {
        for path in ["/proc/self/fd/1", "/dev/stdout", "/proc/thread-self/fd/2"] {
            assert!(is_refused(&resolve(Path::new(path), None).unwrap_err()), "{path}");
        }
        let parent = format!("/proc/{}/fd/1", std::os::unix::process::parent_id());
        assert!(resolve(Path::new(&parent), None).unwrap().is_magic_link);
        let dir = private_dir();
        symlink("loop", dir.path().join("loop")).unwrap();
        let error = resolve(&dir.path().join("loop"), None).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
    }
}
