//! The watched directories and their inotify events.
//!
//! Each directory that is not ignored has a watch. The parent directory of each root has one too: it reports
//! when a root is replaced, and changes of a single file, which editors replace by renaming a new file. If the parent
//! does not exist, the nearest directory above it that does is watched until it is created.

use std::collections::{BTreeMap, HashMap};
use std::fs::DirEntry;
use std::ops::Bound;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};

use crate::daemon::world::watch::error::WatchError;
use crate::daemon::world::watch::filter::{EntryKind, WatchFilter, WatchRoot};

/// Events for new names: created, linked or moved here.
const CREATED_MASK: AddWatchFlags = AddWatchFlags::IN_CREATE.union(AddWatchFlags::IN_MOVED_TO);

/// All watches have the same mask: the kernel has one watch per directory, and the last mask applies.
const WATCH_MASK: AddWatchFlags = AddWatchFlags::IN_MODIFY
    .union(AddWatchFlags::IN_ATTRIB)
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_MOVED_FROM)
    .union(CREATED_MASK)
    .union(AddWatchFlags::IN_ONLYDIR);

/// How often the directories above a root are looked for again because one was created meanwhile.
const MAX_ATTEMPTS: usize = 64;

/// A change in a watched directory.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FsChange {
    /// The file at this path changed or was removed.
    Modified { path: PathBuf, entry: EntryKind },
    /// A file was created at this path, or moved to it.
    Created { path: PathBuf, entry: EntryKind },
    /// The directory at this path was removed, and its watch with it.
    Unwatched { path: PathBuf },
    /// The kernel dropped events.
    Overflow,
}

/// The watched directories.
#[derive(Debug)]
pub(super) struct WatchTree {
    inotify: Inotify,
    /// With links and bind mounts, one directory, and so one watch, can have several paths.
    paths: HashMap<WatchDescriptor, Vec<PathBuf>>,
    watches: BTreeMap<PathBuf, WatchDescriptor>,
}

impl AsFd for WatchTree {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

impl WatchTree {
    pub(super) fn new() -> Result<Self, WatchError> {
        let inotify =
            Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).map_err(|errno| match errno {
                Errno::EMFILE | Errno::ENFILE => WatchError::InstanceLimit,
                errno => WatchError::System { path: "files".into(), problem: errno.into() },
            })?;
        Ok(Self { inotify, paths: HashMap::new(), watches: BTreeMap::new() })
    }

    /// Watches a root, if it exists, and the nearest directory above it.
    pub(super) fn add_root(&mut self, root: &WatchRoot, filter: &WatchFilter) -> Result<(), WatchError> {
        let is_directory = root.path().is_dir();
        // Again from the parent if a directory was created after it had been looked for.
        for _ in 0..MAX_ATTEMPTS {
            let above = self.add_nearest(root.path(), is_directory)?;
            let next = above.and_then(|above| {
                root.path().strip_prefix(above).ok()?.components().next().map(|next| above.join(next))
            });
            if next.is_none_or(|next| next == root.path() || !next.is_dir()) {
                break;
            }
        }
        // Both are errors only where nothing else reports changes: below, directories may come and go.
        match self.add(root.path()) {
            Ok(()) => self.walk(root.path(), filter),
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(()),
            Err(errno) => Err(watch_error(root.path(), errno)),
        }
    }

    /// Watches the nearest existing directory above `path`, and returns it.
    fn add_nearest<'a>(
        &mut self,
        path: &'a Path,
        is_directory: bool,
    ) -> Result<Option<&'a Path>, WatchError> {
        for above in path.ancestors().skip(1) {
            match self.add(above) {
                Ok(()) => return Ok(Some(above)),
                Err(Errno::ENOENT | Errno::ENOTDIR) => {}
                // Without a watch on the parent, only a replacement of the directory is missed.
                Err(Errno::EACCES) if is_directory => return Ok(None),
                Err(errno) => return Err(watch_error(above, errno)),
            }
        }
        Ok(None)
    }

    /// Watches a directory and all its subdirectories that are not ignored. Skips directories that are removed
    /// meanwhile or not readable.
    pub(super) fn walk(&mut self, top: &Path, filter: &WatchFilter) -> Result<(), WatchError> {
        let mut open = vec![top.to_owned()];
        while let Some(directory) = open.pop() {
            // The watch is added before the listing, so that no change in between is missed.
            match self.add(&directory) {
                Ok(()) => {}
                Err(Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES | Errno::ELOOP) => continue,
                Err(errno) => return Err(watch_error(&directory, errno)),
            }
            let Ok(entries) = std::fs::read_dir(&directory) else { continue };
            let below = entries.flatten().filter(is_directory).map(|entry| entry.path());
            open.extend(below.filter(|path| filter.is_under_root(path)));
        }
        Ok(())
    }

    /// Removes the watches of a path and of all paths below it.
    pub(super) fn remove_subtree(&mut self, top: &Path) {
        let gone: Vec<_> = self
            .watches
            .range::<Path, _>((Bound::Included(top), Bound::Unbounded))
            .take_while(|(path, _)| path.starts_with(top))
            .map(|(path, watch)| (path.clone(), *watch))
            .collect();
        for (path, watch) in gone {
            self.watches.remove(&path);
            let Some(paths) = self.paths.get_mut(&watch) else { continue };
            paths.retain(|other| *other != path);
            if paths.is_empty() {
                self.paths.remove(&watch);
                // Fails if the directory was removed, which also removes the watch.
                let _ = self.inotify.rm_watch(watch);
            }
        }
    }

    /// The changes since the last call.
    pub(super) fn read(&mut self) -> Vec<FsChange> {
        let events = self.inotify.read_events().unwrap_or_default();
        events.into_iter().flat_map(|event| self.translate(&event)).collect()
    }

    fn translate(&mut self, event: &InotifyEvent) -> Vec<FsChange> {
        let is = |flags| event.mask.intersects(flags);
        if is(AddWatchFlags::IN_Q_OVERFLOW) {
            return vec![FsChange::Overflow];
        }
        if is(AddWatchFlags::IN_IGNORED) {
            return self.on_watch_removed(event.wd);
        }
        // An event without a name concerns the watched directory itself; its parent reports it too.
        let (Some(name), Some(parents)) = (&event.name, self.paths.get(&event.wd)) else {
            return Vec::new();
        };
        let entry = if is(AddWatchFlags::IN_ISDIR) { EntryKind::Directory } else { EntryKind::Other };
        let paths: Vec<PathBuf> = parents.iter().map(|parent| parent.join(name)).collect();
        let change = |path| {
            if is(CREATED_MASK) {
                FsChange::Created { path, entry }
            } else {
                FsChange::Modified { path, entry }
            }
        };
        if is(AddWatchFlags::IN_MOVED_FROM) {
            // The watches would move with the directory, and report the former path.
            paths.iter().for_each(|path| self.remove_subtree(path));
        }
        paths.into_iter().map(change).collect()
    }

    /// The kernel removed a watch, because its directory was removed.
    fn on_watch_removed(&mut self, watch: WatchDescriptor) -> Vec<FsChange> {
        let mut removed = self.paths.remove(&watch).unwrap_or_default();
        // A path may already have a new watch.
        removed.retain(|path| self.watches.get(path) == Some(&watch));
        for path in &removed {
            self.watches.remove(path);
        }
        removed.into_iter().map(|path| FsChange::Unwatched { path }).collect()
    }

    fn add(&mut self, directory: &Path) -> Result<(), Errno> {
        let watch = self.inotify.add_watch(directory, WATCH_MASK)?;
        if let Some(former) = self.watches.insert(directory.to_owned(), watch)
            && former != watch
            && let Some(paths) = self.paths.get_mut(&former)
        {
            paths.retain(|path| path != directory);
        }
        let paths = self.paths.entry(watch).or_default();
        if !paths.iter().any(|path| path == directory) {
            paths.push(directory.to_owned());
        }
        Ok(())
    }
}

/// Links are not followed: they may be circular, or lead to large trees.
fn is_directory(entry: &DirEntry) -> bool {
    entry.file_type().is_ok_and(|kind| kind.is_dir())
}

fn watch_error(path: &Path, errno: Errno) -> WatchError {
    let path = path.to_owned();
    match errno {
        Errno::ENOSPC => WatchError::WatchLimit { path },
        errno => WatchError::System { path, problem: errno.into() },
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::daemon::world::watch::own_files::OwnFiles;
    use crate::spec::WatchSpec;

    /// A directory in a temporary directory: its parent is watched too, and must not change.
    fn app() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let app = dir.path().join("app");
        std::fs::create_dir(&app).unwrap();
        (dir, app)
    }

    fn tree(root: &Path) -> (WatchTree, WatchFilter) {
        let spec = WatchSpec { paths: vec![root.into()], ignore: vec!["tmp".into()], delay: Duration::ZERO };
        let filter = WatchFilter::new(&spec, root, OwnFiles::default()).unwrap();
        let mut tree = WatchTree::new().unwrap();
        for root in filter.roots() {
            tree.add_root(root, &filter).unwrap();
        }
        (tree, filter)
    }

    fn below(tree: &WatchTree, root: &Path) -> Vec<PathBuf> {
        tree.watches.keys().filter_map(|path| path.strip_prefix(root).ok()).map(Path::to_owned).collect()
    }

    #[test]
    fn ignored_directories_have_no_watch() {
        let (_dir, app) = app();
        for path in ["src/deep", ".git/objects", "node_modules/a/lib", "tmp/x", "src/tmp/y"] {
            std::fs::create_dir_all(app.join(path)).unwrap();
        }
        std::os::unix::fs::symlink("/", app.join("src/everything")).unwrap();
        let (tree, _) = tree(&app);
        assert_eq!(below(&tree, &app), [Path::new(""), Path::new("src"), Path::new("src/deep")]);
    }

    #[test]
    fn moved_directory_gets_new_watches() {
        let (_dir, app) = app();
        std::fs::create_dir_all(app.join("a/b")).unwrap();
        let (mut tree, filter) = tree(&app);
        std::fs::rename(app.join("a"), app.join("c")).unwrap();
        let [from, to] = ["a", "c"].map(|name| app.join(name));
        let entry = EntryKind::Directory;
        assert_eq!(
            tree.read(),
            [FsChange::Modified { path: from, entry }, FsChange::Created { path: to.clone(), entry }]
        );
        assert_eq!(below(&tree, &app), [Path::new("")]);
        tree.walk(&to, &filter).unwrap();
        assert_eq!(below(&tree, &app), [Path::new(""), Path::new("c"), Path::new("c/b")]);
        assert_eq!(tree.read(), [], "removing watches is not a change");
    }

    #[test]
    fn removed_directory_loses_its_watches() {
        let (_dir, app) = app();
        std::fs::create_dir_all(app.join("a/b")).unwrap();
        let (mut tree, _) = tree(&app);
        std::fs::remove_dir_all(app.join("a")).unwrap();
        let path = |name| FsChange::Modified { path: app.join(name), entry: EntryKind::Directory };
        let unwatched = |name| FsChange::Unwatched { path: app.join(name) };
        assert_eq!(tree.read(), [unwatched("a/b"), path("a/b"), unwatched("a"), path("a")]);
        assert_eq!(below(&tree, &app), [Path::new("")]);
    }

    #[test]
    fn reading_is_not_a_change() {
        let (_dir, app) = app();
        let file = app.join("a.js");
        std::fs::create_dir(app.join("app")).unwrap();
        std::fs::write(&file, "x").unwrap();
        let (mut tree, _) = tree(&app);
        std::fs::read(&file).unwrap();
        drop(std::fs::OpenOptions::new().append(true).open(&file).unwrap());
        std::fs::read_dir(&app).unwrap().for_each(drop);
        assert_eq!(tree.read(), []);
        std::fs::OpenOptions::new().append(true).open(&file).unwrap().set_len(9).unwrap();
        assert_eq!(tree.read(), [FsChange::Modified { path: file, entry: EntryKind::Other }]);
    }

    #[test]
    fn limit_errors_name_the_sysctl() {
        let watches = watch_error(Path::new("/srv"), Errno::ENOSPC).to_string();
        assert!(watches.contains("fs.inotify.max_user_watches") && watches.contains("/srv"), "{watches}");
        assert!(WatchError::InstanceLimit.to_string().contains("max_user_instances"));
    }
}
