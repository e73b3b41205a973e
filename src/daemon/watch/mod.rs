//! File changes: when an app is restarted because its files changed (`watch`).
//!
//! One thread a watcher waits for the kernel's word (inotify), so that walking a slow disk never
//! holds up the daemon's loop. Ignored directories are never entered and take no watch. Only what
//! changes names, contents or attributes counts; opening and reading does not, and is not even
//! asked for, so that a busy file server costs nothing. The project's own `.gitignore` is not
//! heeded: what is built is often what runs.

mod filter;
mod quiet;
mod tree;

use std::io::{PipeReader, PipeWriter};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::mpsc::UnboundedSender;

use crate::spec::WatchSpec;
use filter::{Entry, Filter};
use quiet::Quiet;
use tree::{Change, Tree};

/// Why files cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// A path to watch is not there.
    #[error("cannot watch {path}: no such file or directory")]
    Missing {
        /// The path.
        path: PathBuf,
    },
    /// The user's limit on watched directories is reached.
    #[error(
        "cannot watch {path}: inotify watch limit reached; exclude large directories with ignore_watch, or \
        raise fs.inotify.max_user_watches"
    )]
    Watches {
        /// The directory that was one too many.
        path: PathBuf,
    },
    /// The user's limit on watchers, or the daemon's on open files, is reached.
    #[error(
        "cannot watch files: too many inotify instances or open files; raise fs.inotify.max_user_instances \
        or `ulimit -n`"
    )]
    Watchers,
    /// A pattern to ignore is not one.
    #[error("invalid ignore_watch pattern \"{pattern}\": {problem}")]
    Pattern {
        /// As given.
        pattern: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The system refused.
    #[error("cannot watch {path}: {problem}")]
    System {
        /// What was to be watched.
        path: PathBuf,
        /// The system's reason.
        problem: std::io::Error,
    },
}

/// Watches the files of one app until it is dropped.
#[derive(Debug)]
pub struct Watcher {
    /// Closing it ends the thread.
    _stop: PipeWriter,
}

impl Watcher {
    /// Starts to watch what `spec` names. After each burst of changes, once they have rested for
    /// the spec's delay (at least 100 ms), the first path that changed is sent to `changed`.
    /// Changes of the `exempt` files and of what was rotated from them are passed over: the app's
    /// own logs.
    ///
    /// Walks the directories before it returns: call it where that may take a while. After the
    /// drop, at most one report that was already on its way arrives.
    ///
    /// # Errors
    /// When a path is missing, a pattern is wrong or the system's limits are reached.
    pub fn start(
        spec: &WatchSpec,
        exempt: &[PathBuf],
        changed: UnboundedSender<PathBuf>,
    ) -> Result<Self, WatchError> {
        let filter = Filter::new(spec, exempt)?;
        let mut tree = Tree::new()?;
        for root in filter.roots() {
            tree.add_root(root, &filter)?;
        }
        let thread = |problem| WatchError::System { path: "files".into(), problem };
        let (stopped, stop) = std::io::pipe().map_err(thread)?;
        let watching = Watching { filter, tree, quiet: Quiet::new(spec.delay), warned: false, changed };
        std::thread::Builder::new()
            .name("rsm-watch".into())
            .stack_size(256 * 1024)
            .spawn(move || watching.run(&stopped))
            .map_err(thread)?;
        Ok(Self { _stop: stop })
    }
}

/// What the thread owns.
struct Watching {
    filter: Filter,
    tree: Tree,
    quiet: Quiet,
    /// Running out of watches was reported.
    warned: bool,
    changed: UnboundedSender<PathBuf>,
}

impl Watching {
    /// Until `stopped` closes or nobody listens any more.
    fn run(mut self, stopped: &PipeReader) {
        loop {
            match self.wait(stopped) {
                Ok(Woken::Stopped) => return,
                Ok(Woken::Changes) => self.read(),
                Ok(Woken::Quiet) | Err(Errno::EINTR) => {}
                Err(errno) => return tracing::error!("file watching stopped: {}", errno.desc()),
            }
            if let Some(path) = self.quiet.take(Instant::now())
                && self.changed.send(path).is_err()
            {
                return;
            }
        }
    }

    fn wait(&self, stopped: &PipeReader) -> nix::Result<Woken> {
        let timeout = self.quiet.left(Instant::now()).map_or(PollTimeout::NONE, |left| {
            // Rounded up: waking a fraction of a millisecond early would spin.
            PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
        });
        let mut fds = [stopped.as_fd(), self.tree.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        poll(&mut fds, timeout)?;
        let [stop, changes] = fds.map(|fd| fd.any() != Some(false));
        Ok(match (stop, changes) {
            (true, _) => Woken::Stopped,
            (false, true) => Woken::Changes,
            (false, false) => Woken::Quiet,
        })
    }

    fn read(&mut self) {
        for change in self.tree.read() {
            match change {
                Change::Entry { path, entry } => self.entry(path, entry),
                Change::Appeared { path, entry } => {
                    let followed = self.follow(&path, entry);
                    self.note(followed);
                    self.entry(path, entry);
                }
                Change::Overflow => self.overflow(),
            }
        }
    }

    fn entry(&mut self, path: PathBuf, entry: Entry) {
        if self.filter.concerns(&path, entry) {
            self.quiet.changed(path, Instant::now());
        }
        if let Some(path) = self.quiet.restless(Instant::now()) {
            tracing::warn!(
                "restart delayed: files keep changing (for example {}); add it to ignore_watch if the app \
                writes it",
                path.display()
            );
        }
    }

    /// Watches what newly bears a name.
    fn follow(&mut self, path: &Path, entry: Entry) -> Result<(), WatchError> {
        if let Some(root) = self.filter.roots().find(|root| root.path() == path) {
            // A root that was swapped (a link to a new release, a directory built anew) is another
            // directory under the same name.
            self.tree.forget(path);
            return self.tree.walk(root.path(), &self.filter);
        }
        if entry == Entry::Directory && self.filter.inside(path) {
            self.tree.walk(path, &self.filter)?;
        }
        Ok(())
    }

    /// The kernel dropped events: look at everything again, and take it that something changed.
    fn overflow(&mut self) {
        let roots: Vec<PathBuf> = self.filter.roots().map(|root| root.path().to_owned()).collect();
        for root in &roots {
            let walked = self.tree.walk(root, &self.filter);
            self.note(walked);
        }
        if let Some(root) = roots.into_iter().next() {
            self.quiet.changed(root, Instant::now());
        }
    }

    /// Says once that part of the tree is not watched: the rest still is.
    fn note(&mut self, outcome: Result<(), WatchError>) {
        if let Err(error) = outcome
            && !std::mem::replace(&mut self.warned, true)
        {
            tracing::warn!("{error}");
        }
    }
}

/// Why the thread woke.
enum Woken {
    Stopped,
    Changes,
    Quiet,
}

#[cfg(test)]
mod tests;
