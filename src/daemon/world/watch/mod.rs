//! File watching: restarts an app when its files change (`watch`).
//!
//! Each watcher has a thread that waits for inotify events, so that reading a slow disk does not delay the
//! loop of the daemon. Ignored directories have no watch. Only changes of names, contents and attributes
//! count: events for opening and reading are not requested, so that a busy file server causes no load. The
//! `.gitignore` of a project does not apply: build output is often what an app runs.

mod debounce;
mod error;
mod filter;
pub mod own_files;
#[cfg(test)]
mod tests;
mod tree;

use std::io::{PipeReader, PipeWriter};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::mpsc::UnboundedSender;

use crate::daemon::world::watch::debounce::Debounce;
use crate::daemon::world::watch::error::WatchError;
use crate::daemon::world::watch::filter::{EntryKind, WatchFilter};
use crate::daemon::world::watch::own_files::OwnFiles;
use crate::daemon::world::watch::tree::{FsChange, WatchTree};
use crate::spec::WatchSpec;

/// Watches the files of one app until it is dropped.
#[derive(Debug)]
pub struct Watcher {
    /// Closing it ends the thread.
    _stop: PipeWriter,
}

impl Watcher {
    /// Starts to watch the paths of `spec`; ignore patterns are relative to `cwd`. After each burst of changes, when
    /// nothing has changed for the delay (at least 100 ms), the first changed path is sent to `changed`. Changes of
    /// `own` files are ignored. A path that does not exist is watched once it is created.
    ///
    /// Reads all directories before it returns, which may block. After the drop, at most one more path is sent.
    ///
    /// # Errors
    /// A pattern is invalid, or a limit of the system is reached.
    pub fn start(
        spec: &WatchSpec,
        cwd: &Path,
        own: OwnFiles,
        changed: UnboundedSender<PathBuf>,
    ) -> Result<Self, WatchError> {
        let filter = WatchFilter::new(spec, cwd, own)?;
        let mut tree = WatchTree::new()?;
        for root in filter.roots() {
            tree.add_root(root, &filter)?;
        }
        let thread = |problem| WatchError::System { path: "files".into(), problem };
        let (stopped, stop) = std::io::pipe().map_err(thread)?;
        let watching =
            WatchLoop { filter, tree, debounce: Debounce::new(spec.delay), warned: false, changed };
        std::thread::Builder::new()
            .name("rsm-watch".into())
            .stack_size(256 * 1024)
            .spawn(move || watching.run(&stopped))
            .map_err(thread)?;
        Ok(Self { _stop: stop })
    }
}

/// The state of the thread.
struct WatchLoop {
    filter: WatchFilter,
    tree: WatchTree,
    debounce: Debounce,
    /// Whether an error for a part of the tree was reported.
    warned: bool,
    changed: UnboundedSender<PathBuf>,
}

impl WatchLoop {
    /// Runs until `stopped` or the receiver of `changed` is closed.
    fn run(mut self, stopped: &PipeReader) {
        loop {
            match self.wait_wakeup(stopped) {
                Ok(Wakeup::Stopped) => return,
                Ok(Wakeup::Changes) => self.read_changes(),
                Ok(Wakeup::DebounceElapsed) | Err(Errno::EINTR) => {}
                Err(errno) => return tracing::error!("file watching stopped: {}", errno.desc()),
            }
            if let Some(path) = self.debounce.take(Instant::now())
                && self.changed.send(path).is_err()
            {
                return;
            }
        }
    }

    fn wait_wakeup(&self, stopped: &PipeReader) -> nix::Result<Wakeup> {
        let timeout = self.debounce.remaining(Instant::now()).map_or(PollTimeout::NONE, |left| {
            // Rounded up: a timeout that is a fraction of a millisecond too short would loop.
            PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
        });
        let mut fds = [stopped.as_fd(), self.tree.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        poll(&mut fds, timeout)?;
        let [stop, changes] = fds.map(|fd| fd.any() != Some(false));
        Ok(match (stop, changes) {
            (true, _) => Wakeup::Stopped,
            (false, true) => Wakeup::Changes,
            (false, false) => Wakeup::DebounceElapsed,
        })
    }

    fn read_changes(&mut self) {
        self.filter.refresh();
        for change in self.tree.read() {
            match change {
                FsChange::Modified { path, entry } => {
                    self.follow_roots(&path, false);
                    self.on_entry(path, entry);
                }
                FsChange::Unwatched { path } => self.follow_roots(&path, false),
                FsChange::Created { path, entry } => {
                    let followed = self.add_watches(&path, entry);
                    self.log_outcome(followed);
                    self.follow_roots(&path, true);
                    self.on_entry(path, entry);
                }
                FsChange::Overflow => self.on_overflow(),
            }
        }
    }

    fn on_entry(&mut self, path: PathBuf, entry: EntryKind) {
        if self.filter.matches(&path, entry) {
            self.debounce.changed(path, Instant::now());
        }
        if let Some(path) = self.debounce.unsettled_path(Instant::now()) {
            tracing::warn!(
                "restart delayed: files keep changing (for example {}); add it to ignore_watch if the app \
                writes it",
                path.display()
            );
        }
    }

    /// Watches a new directory, or a new target of a root.
    fn add_watches(&mut self, path: &Path, entry: EntryKind) -> Result<(), WatchError> {
        if let Some(root) = self.filter.roots().find(|root| root.path() == path) {
            // A replaced root, such as a link to a new release, is another directory with the same name.
            self.tree.remove_subtree(path);
            return self.tree.walk(root.path(), &self.filter);
        }
        if entry == EntryKind::Directory && self.filter.is_under_root(path) {
            self.tree.walk(path, &self.filter)?;
        }
        Ok(())
    }

    /// A directory above a root was created or removed: watches what exists now. A root that exists again has changed.
    fn follow_roots(&mut self, path: &Path, created: bool) {
        for root in self.filter.roots().filter(|root| root.path() != path && root.path().starts_with(path)) {
            if created {
                self.tree.remove_subtree(path);
            }
            if let Err(error) = self.tree.add_root(root, &self.filter)
                && !std::mem::replace(&mut self.warned, true)
            {
                tracing::warn!("{error}");
            }
            if created && root.path().exists() {
                self.debounce.changed(root.path().to_owned(), Instant::now());
            }
        }
    }

    /// The kernel dropped events: reads all directories again, and reports a change.
    fn on_overflow(&mut self) {
        let roots: Vec<PathBuf> = self.filter.roots().map(|root| root.path().to_owned()).collect();
        for root in self.filter.roots() {
            if let Err(error) = self.tree.add_root(root, &self.filter)
                && !std::mem::replace(&mut self.warned, true)
            {
                tracing::warn!("{error}");
            }
        }
        if let Some(root) = roots.into_iter().next() {
            self.debounce.changed(root, Instant::now());
        }
    }

    /// Reports once that a part of the tree is not watched.
    fn log_outcome(&mut self, outcome: Result<(), WatchError>) {
        if let Err(error) = outcome
            && !std::mem::replace(&mut self.warned, true)
        {
            tracing::warn!("{error}");
        }
    }
}

/// The reason why the thread woke up.
enum Wakeup {
    Stopped,
    Changes,
    DebounceElapsed,
}
