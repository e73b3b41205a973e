//! Which changes count: those of paths below a root that are not ignored.

use std::path::{Component, Path, PathBuf};

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::daemon::world::watch::error::WatchError;
use crate::daemon::world::watch::own_files::{OwnFiles, ResolvedOwnFiles, with_resolved};
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

/// A configured path. It need not exist yet.
#[derive(Debug)]
pub(super) struct WatchRoot {
    path: PathBuf,
    /// The path without `..`, and the same without links: patterns can be written either way.
    forms: Vec<PathBuf>,
    /// Patterns for the paths below it if it is a directory. A file is never ignored.
    ignored: Gitignore,
}

impl WatchRoot {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn new(path: &Path, patterns: &[String], cwd: &Path) -> Result<Self, WatchError> {
        let forms = with_resolved(path);
        let ignored = matcher(&forms, patterns, cwd)?;
        Ok(Self { path: path.into(), forms, ignored })
    }

    /// Whether `path` is this path or below it, not ignored, and not written by rsm.
    fn matches(&self, path: &Path, entry: EntryKind, own: &ResolvedOwnFiles) -> bool {
        let Ok(below) = path.strip_prefix(&self.path) else { return false };
        if below.as_os_str().is_empty() {
            return true;
        }
        let is_ignored = |root: &PathBuf| {
            let path = root.join(below);
            let directory = entry == EntryKind::Directory;
            let relative = path.strip_prefix("/").unwrap_or(&path);
            self.ignored.matched_path_or_any_parents(relative, directory).is_ignore()
                || own.contains(&path, root)
        };
        !self.forms.iter().any(is_ignored)
    }
}

/// The default patterns and `patterns`. It is applied to absolute paths.
fn matcher(roots: &[PathBuf], patterns: &[String], cwd: &Path) -> Result<Gitignore, WatchError> {
    let invalid = |pattern: &str, error: ignore::Error| WatchError::Pattern {
        pattern: pattern.to_owned(),
        problem: error.to_string(),
    };
    let mut builder = GitignoreBuilder::new("/");
    for pattern in DEFAULT_IGNORED.into_iter().chain(patterns.iter().map(String::as_str)) {
        for line in absolute_patterns(pattern, roots, cwd) {
            builder.add_line(None, &line).map_err(|error| invalid(pattern, error))?;
        }
    }
    builder.build().map_err(|error| invalid(&patterns.join(", "), error))
}

/// The gitignore patterns for a pattern as PM2 accepts it: a name is ignored anywhere below a root, a path (`src/gen`,
/// `./logs`, `../shared/dist`, `/srv/app/tmp`, `src/**/*.tmp`) is relative to the working directory of the app.
fn absolute_patterns(pattern: &str, roots: &[PathBuf], cwd: &Path) -> Vec<String> {
    let (negation, pattern) = match pattern.strip_prefix('!') {
        Some(rest) => ("!", rest),
        None => ("", pattern),
    };
    let anywhere = pattern.strip_prefix("**/").unwrap_or(pattern);
    let is_path = !pattern.starts_with("**/") && pattern.trim_end_matches('/').contains('/');
    if pattern.is_empty() || pattern.starts_with('#') {
        return Vec::new();
    }
    if !is_path {
        return roots.iter().map(|root| format!("{negation}{}/**/{anywhere}", escape(root))).collect();
    }
    let slash = if pattern.ends_with('/') { "/" } else { "" };
    let bases = if pattern.starts_with('/') { vec![PathBuf::from("/")] } else { with_resolved(cwd) };
    let absolute = |base: &PathBuf| {
        // `..` and `.` are resolved before the base is escaped: only the pattern may contain wildcards.
        let mut base = base.clone();
        let mut rest = pattern.trim_start_matches('/');
        loop {
            if let Some(next) = rest.strip_prefix("./") {
                rest = next.trim_start_matches('/');
            } else if let Some(next) = rest.strip_prefix("../") {
                base.pop();
                rest = next.trim_start_matches('/');
            } else {
                break;
            }
        }
        let base = escape(&base);
        format!("{negation}{}/{}{slash}", base.trim_end_matches('/'), rest.trim_end_matches('/'))
    };
    let mut lines: Vec<String> = bases.iter().map(absolute).collect();
    // As in a `.gitignore`, `/logs` is also a path in the working directory, unless it leads to a root.
    if pattern.starts_with('/') && !roots.iter().any(|root| shares_first_directory(pattern, root)) {
        lines.extend(with_resolved(cwd).iter().map(|base| format!("{negation}{}{pattern}", escape(base))));
    }
    lines
}

/// Whether an absolute pattern can lead to a root: otherwise it is relative to the working directory.
fn shares_first_directory(pattern: &str, root: &Path) -> bool {
    let first = |path: &Path| {
        path.components().find_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            _ => None,
        })
    };
    first(Path::new(pattern)) == first(root)
}

/// A path in which nothing is a wildcard.
fn escape(path: &Path) -> String {
    let mut escaped = String::new();
    for character in path.to_string_lossy().trim_end_matches('/').chars() {
        if matches!(character, '*' | '?' | '[' | ']' | '{' | '}' | '\\') {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

/// The roots, ignore patterns and files of rsm.
#[derive(Debug)]
pub(super) struct WatchFilter {
    roots: Vec<WatchRoot>,
    own: ResolvedOwnFiles,
}

impl WatchFilter {
    /// Patterns are relative to `cwd`.
    pub(super) fn new(spec: &WatchSpec, cwd: &Path, own: OwnFiles) -> Result<Self, WatchError> {
        let root = |path: &PathBuf| WatchRoot::new(path, &spec.ignore, cwd);
        let roots = spec.paths.iter().map(root).collect::<Result<_, _>>()?;
        Ok(Self { roots, own: ResolvedOwnFiles::new(own) })
    }

    pub(super) fn roots(&self) -> impl Iterator<Item = &WatchRoot> {
        self.roots.iter()
    }

    /// Takes up changes of the list of files that rsm writes.
    pub(super) fn refresh(&mut self) {
        self.own.refresh();
    }

    /// Whether a change of `path` counts.
    pub(super) fn matches(&self, path: &Path, entry: EntryKind) -> bool {
        let counts = |root: &&WatchRoot| root.matches(path, entry, &self.own);
        let root = self.roots.iter().find(counts);
        root.is_some_and(|root| {
            root.path == path || entry == EntryKind::Other || !self.own.fill(path, &root.path)
        })
    }

    /// Whether the directory `path` must be watched, as part of a root.
    pub(super) fn is_under_root(&self, path: &Path) -> bool {
        self.roots.iter().any(|root| root.path != path && root.matches(path, EntryKind::Directory, &self.own))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::daemon::world::watch::own_files::OwnFileList;

    fn filter(roots: &[&Path], cwd: &Path, ignore: &[&str], own: &[&str]) -> WatchFilter {
        let spec = WatchSpec {
            paths: roots.iter().map(|root| cwd.join(root)).collect(),
            ignore: ignore.iter().map(|&line| line.into()).collect(),
            delay: Duration::ZERO,
        };
        let files = own.iter().map(|name| cwd.join(name)).collect();
        let shared = OwnFiles::default();
        shared.set(OwnFileList { home: cwd.join("rsm-home"), files });
        WatchFilter::new(&spec, cwd, shared).unwrap()
    }

    fn whole(cwd: &Path, ignore: &[&str], own: &[&str]) -> WatchFilter {
        filter(&[Path::new("")], cwd, ignore, own)
    }

    #[test]
    fn patterns_extend_defaults() {
        let dir = tempfile::tempdir().unwrap();
        let filter = whole(dir.path(), &["*.tmp", "build/"], &[]);
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
        let dir = tempfile::Builder::new().prefix(".hid*den[x]{y}").tempdir().unwrap();
        let filter = whole(dir.path(), &["./tmp", "sub"], &[]);
        let counts = |path: &str| filter.matches(&dir.path().join(path), EntryKind::Other);
        assert!(counts("a.js") && !counts("tmp/a") && !counts("a/sub/b"));
        assert!(!filter.matches(Path::new("/elsewhere/a.js"), EntryKind::Other));
    }

    #[test]
    fn paths_are_relative_to_the_working_directory() {
        let dir = tempfile::tempdir().unwrap();
        let cwd = dir.path().join("app");
        std::fs::create_dir(&cwd).unwrap();
        let absolute = cwd.join("data").display().to_string();
        let roots = ["src", "./client", "data", "../shared"].map(Path::new);
        let ignore = [
            "src/gen",
            "./client/img",
            &absolute,
            "../shared/dist",
            "src/*.tmp",
            "src/out/**",
            "**/any",
            "!src/gen/keep",
            "client/dir/",
        ];
        let filter = filter(&roots, &cwd, &ignore, &[]);
        let counts = |path: &str| filter.matches(&cwd.join(path), EntryKind::Other);
        for ignored in [
            "src/gen",
            "src/gen/a",
            "client/img/a",
            "data/a",
            "../shared/dist/a",
            "src/a.tmp",
            "src/out/a/b",
            "client/a/any/b",
            "../shared/any",
            "client/dir/a",
        ] {
            assert!(!counts(ignored), "{ignored}");
        }
        for counted in ["src/a", "src/sub/gen/a", "src/sub/a.tmp", "client/gen", "../shared/a", "client/dir"]
        {
            assert!(counts(counted), "{counted}");
        }
    }

    #[test]
    fn accepts_pm2_patterns() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data").display().to_string();
        let filter = whole(dir.path(), &["./logs", &data, "!.env", "/tmp-files"], &[]);
        let counts = |path: &str| filter.matches(&dir.path().join(path), EntryKind::Other);
        assert!(!counts("logs/a") && !counts("data/a") && counts("src/logs/a") && counts(".env"));
        assert!(!counts("tmp-files/a") && counts("src/tmp-files/a"));
    }

    #[test]
    fn patterns_match_paths_with_and_without_links() {
        let dir = tempfile::tempdir().unwrap();
        let real = std::fs::canonicalize(dir.path()).unwrap().join("one");
        std::fs::create_dir_all(real.join("src")).unwrap();
        let current = dir.path().join("current");
        std::os::unix::fs::symlink("one", &current).unwrap();
        let absolute = real.join("src/gen").display().to_string();
        let filter = filter(&[Path::new("src")], &current, &[&absolute, "./src/tmp"], &[]);
        let counts = |path: &str| filter.matches(&current.join(path), EntryKind::Other);
        assert!(!counts("src/gen/a") && !counts("src/tmp/a") && counts("src/a"));
    }

    #[test]
    fn files_of_rsm_do_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let filter = whole(dir.path(), &[], &["out.log", "run/app.pid"]);
        let counts = |path: &str| filter.matches(&dir.path().join(path), EntryKind::Other);
        for own in ["out.log", "out.log.1.gz", "out__2026-01-02.log.gz", "run/app.pid", "rsm-home/logs/x"] {
            assert!(!counts(own), "{own}");
        }
        assert!(counts("out.js") && counts("sub/out.log") && counts("run/other"));
        assert!(!filter.is_under_root(&dir.path().join("rsm-home")));
    }

    #[test]
    fn configured_file_is_never_ignored() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(".env"), "").unwrap();
        let filter = filter(&[Path::new(".env")], dir.path(), &[".env"], &[]);
        assert!(filter.matches(&dir.path().join(".env"), EntryKind::Other));
        assert!(!filter.matches(&dir.path().join("a.js"), EntryKind::Other));
    }

    #[test]
    fn rejects_invalid_pattern() {
        let dir = tempfile::tempdir().unwrap();
        let spec = WatchSpec {
            paths: vec![dir.path().into()],
            ignore: vec!["a[z-a]".into()],
            delay: Duration::ZERO,
        };
        let wrong = WatchFilter::new(&spec, dir.path(), OwnFiles::default()).unwrap_err().to_string();
        assert!(wrong.starts_with("invalid ignore_watch pattern \"a[z-a]\": "), "{wrong}");
    }
}
