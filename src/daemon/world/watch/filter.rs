//! Which changes count: those of paths below a root that are not ignored.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::daemon::world::watch::error::WatchError;
use crate::spec::WatchSpec;

/// Default patterns; a later pattern can negate them (`!.env`).
const DEFAULT_IGNORED: [&str; 2] = [".*", "node_modules"];

/// The type of a file, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EntryKind {
    /// A directory.
    Directory,
    /// A file, a link or any other type.
    Other,
}

/// A configured path.
#[derive(Debug)]
pub(super) struct WatchRoot {
    path: PathBuf,
    /// Patterns for the paths below a directory; `None` for a file, which is never ignored.
    ignored: Option<Gitignore>,
}

impl WatchRoot {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A directory, or a link to one.
    pub(super) fn is_directory(&self) -> bool {
        self.ignored.is_some()
    }

    fn new(path: &Path, patterns: &[String]) -> Result<Self, WatchError> {
        let found = std::fs::metadata(path).map_err(|problem| match problem.kind() {
            std::io::ErrorKind::NotFound => WatchError::NotFound { path: path.into() },
            _ => WatchError::System { path: path.into(), problem },
        })?;
        let ignored = if found.is_dir() { Some(matcher(path, patterns)?) } else { None };
        Ok(Self { path: path.into(), ignored })
    }

    /// Whether `path` is below this directory, and not ignored.
    fn contains(&self, path: &Path, entry: EntryKind) -> bool {
        let (Some(ignored), Ok(below)) = (&self.ignored, path.strip_prefix(&self.path)) else {
            return false;
        };
        let directory = entry == EntryKind::Directory;
        !below.as_os_str().is_empty() && !ignored.matched_path_or_any_parents(below, directory).is_ignore()
    }
}

/// The default patterns and `patterns`, for paths below `root`.
fn matcher(root: &Path, patterns: &[String]) -> Result<Gitignore, WatchError> {
    let mut builder = GitignoreBuilder::new(root);
    let lines = DEFAULT_IGNORED.iter().map(|line| (*line).to_owned());
    for line in lines.chain(patterns.iter().map(|pattern| relative_pattern(root, pattern))) {
        builder
            .add_line(None, &line)
            .map_err(|error| WatchError::Pattern { pattern: line, problem: error.to_string() })?;
    }
    builder
        .build()
        .map_err(|error| WatchError::Pattern { pattern: patterns.join(", "), problem: error.to_string() })
}

/// PM2 accepts `./logs` and absolute paths, which are not gitignore syntax.
fn relative_pattern(root: &Path, pattern: &str) -> String {
    if let Some(rest) = pattern.strip_prefix("./") {
        return format!("/{rest}");
    }
    let rest = root.to_str().and_then(|root| pattern.strip_prefix(root.trim_end_matches('/')));
    rest.filter(|rest| rest.starts_with('/')).unwrap_or(pattern).to_owned()
}

/// The roots, ignore patterns and exempt files of one app.
#[derive(Debug)]
pub(super) struct WatchFilter {
    roots: Vec<WatchRoot>,
    exempt: Vec<PathBuf>,
}

impl WatchFilter {
    pub(super) fn new(spec: &WatchSpec, exempt: &[PathBuf]) -> Result<Self, WatchError> {
        let roots =
            spec.paths.iter().map(|path| WatchRoot::new(path, &spec.ignore)).collect::<Result<_, _>>()?;
        Ok(Self { roots, exempt: exempt.to_vec() })
    }

    pub(super) fn roots(&self) -> impl Iterator<Item = &WatchRoot> {
        self.roots.iter()
    }

    /// Whether a change of `path` counts.
    pub(super) fn matches(&self, path: &Path, entry: EntryKind) -> bool {
        let wanted = |root: &WatchRoot| root.path == path || root.contains(path, entry);
        self.roots.iter().any(wanted) && !self.is_exempt(path)
    }

    /// Whether the directory `path` must be watched, as part of a root.
    pub(super) fn is_under_root(&self, path: &Path) -> bool {
        self.roots.iter().any(|root| root.contains(path, EntryKind::Directory))
    }

    /// An exempt file or a rotated one: `out.log`, `out.log.1`, `out.log.2.gz`.
    fn is_exempt(&self, path: &Path) -> bool {
        let name = |path: &Path| path.file_name().map(OsStr::as_bytes).unwrap_or_default().to_vec();
        self.exempt
            .iter()
            .any(|exempt| exempt.parent() == path.parent() && name(path).starts_with(&name(exempt)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn filter(root: &Path, ignore: &[&str], exempt: &[&str]) -> WatchFilter {
        let spec = WatchSpec {
            paths: vec![root.into()],
            ignore: ignore.iter().map(|&line| line.into()).collect(),
            delay: Duration::ZERO,
        };
        let exempt: Vec<PathBuf> = exempt.iter().map(|name| root.join(name)).collect();
        WatchFilter::new(&spec, &exempt).unwrap()
    }

    #[test]
    fn patterns_extend_defaults() {
        let dir = tempfile::tempdir().unwrap();
        let filter = filter(dir.path(), &["*.tmp", "build/"], &[]);
        let counts = |path: &str, entry| filter.matches(&dir.path().join(path), entry);
        assert!(counts("src/main.js", EntryKind::Other));
        assert!(counts("build", EntryKind::Other), "a file of that name");
        for ignored in ["a.tmp", ".git/HEAD", "src/.x.swp", "node_modules/a/b.js", "sub/node_modules/a"] {
            assert!(!counts(ignored, EntryKind::Other), "{ignored}");
        }
        assert!(!counts("build", EntryKind::Directory) && !counts("build/out.js", EntryKind::Other));
    }

    #[test]
    fn hidden_parent_of_root_is_not_ignored() {
        let dir = tempfile::Builder::new().prefix(".hidden").tempdir().unwrap();
        assert!(filter(dir.path(), &[], &[]).matches(&dir.path().join("a.js"), EntryKind::Other));
        assert!(!filter(dir.path(), &[], &[]).matches(Path::new("/elsewhere/a.js"), EntryKind::Other));
    }

    #[test]
    fn accepts_pm2_patterns() {
        let dir = tempfile::tempdir().unwrap();
        let whole = dir.path().join("data").display().to_string();
        let filter = filter(dir.path(), &["./logs", &whole, "!.env"], &[]);
        let counts = |path: &str| filter.matches(&dir.path().join(path), EntryKind::Other);
        assert!(!counts("logs/a") && !counts("data/a") && counts("src/logs/a") && counts(".env"));
    }

    #[test]
    fn log_files_and_rotated_files_are_exempt() {
        let dir = tempfile::tempdir().unwrap();
        let filter = filter(dir.path(), &[], &["out.log"]);
        let counts = |path: &str| filter.matches(&dir.path().join(path), EntryKind::Other);
        assert!(!counts("out.log") && !counts("out.log.1.gz") && counts("out.js") && counts("sub/out.log"));
    }

    #[test]
    fn configured_file_is_never_ignored() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(".env"), "").unwrap();
        let filter = filter(&dir.path().join(".env"), &[], &[]);
        assert!(filter.matches(&dir.path().join(".env"), EntryKind::Other));
        assert!(!filter.matches(&dir.path().join("a.js"), EntryKind::Other));
    }

    #[test]
    fn rejects_missing_path_and_invalid_pattern() {
        let spec = |path: &Path, ignore: &str| WatchSpec {
            paths: vec![path.into()],
            ignore: vec![ignore.into()],
            delay: Duration::ZERO,
        };
        let missing = WatchFilter::new(&spec(Path::new("/no/such"), ""), &[]).unwrap_err().to_string();
        assert_eq!(missing, "cannot watch /no/such: no such file or directory");
        let dir = tempfile::tempdir().unwrap();
        let wrong = WatchFilter::new(&spec(dir.path(), "a[z-a]"), &[]).unwrap_err().to_string();
        assert!(wrong.starts_with("invalid ignore_watch pattern \"a[z-a]\": "), "{wrong}");
    }
}
