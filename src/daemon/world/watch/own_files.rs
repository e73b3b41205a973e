//! The files that rsm writes itself: they never restart an app.
//!
//! The logs and pid files of all apps, and the home directory. The list changes with the list of apps, so it is shared
//! with the watching threads.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

/// The files that rsm writes. All clones share one list.
#[derive(Clone, Debug, Default)]
pub struct OwnFiles(Arc<RwLock<Arc<OwnFileList>>>);

/// Paths as configured.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct OwnFileList {
    /// The home directory.
    pub home: PathBuf,
    /// Log files and pid files.
    pub files: Vec<PathBuf>,
}

impl OwnFiles {
    /// Replaces the list.
    pub fn set(&self, list: OwnFileList) {
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if **current != list {
            *current = Arc::new(list);
        }
    }

    fn get(&self) -> Arc<OwnFileList> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The list as one thread uses it: directories with and without links resolved, which can block.
#[derive(Debug, Default)]
pub(super) struct ResolvedOwnFiles {
    source: OwnFiles,
    list: Arc<OwnFileList>,
    homes: Vec<PathBuf>,
    names: HashMap<PathBuf, Vec<OsString>>,
}

impl ResolvedOwnFiles {
    pub(super) fn new(source: OwnFiles) -> Self {
        let mut files = Self { source, ..Self::default() };
        files.refresh();
        files
    }

    /// Reads the list again if it has changed.
    pub(super) fn refresh(&mut self) {
        let list = self.source.get();
        if Arc::ptr_eq(&list, &self.list) {
            return;
        }
        self.homes = with_resolved(&list.home);
        self.names.clear();
        let mut directories: HashMap<&Path, Vec<PathBuf>> = HashMap::new();
        for file in &list.files {
            let (Some(directory), Some(name)) = (file.parent(), file.file_name()) else { continue };
            for form in directories.entry(directory).or_insert_with(|| with_resolved(directory)) {
                self.names.entry(form.clone()).or_default().push(name.to_owned());
            }
        }
        self.list = list;
    }

    /// Whether a directory has only files of rsm, such as the directory of logs that rsm has created.
    pub(super) fn fill(&self, directory: &Path, root: &Path) -> bool {
        let leads_to_own = self.names.keys().any(|own| own.starts_with(directory));
        let is_own = |path: PathBuf| self.contains(&path, root) || self.fill(&path, root);
        let mut entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        leads_to_own && entries.all(|entry| is_own(entry.path()))
    }

    /// Whether rsm writes this file. `root` is the watched path: an app in the home directory is watched, too.
    pub(super) fn contains(&self, path: &Path, root: &Path) -> bool {
        let in_home = |home: &PathBuf| path.starts_with(home) && !root.starts_with(home);
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else { return false };
        self.homes.iter().any(in_home)
            || self.names.get(directory).is_some_and(|names| names.iter().any(|own| is_own(name, own)))
    }
}

/// A path, and the same without links.
pub(super) fn with_resolved(path: &Path) -> Vec<PathBuf> {
    let mut forms = vec![normalize(path)];
    forms.extend(std::fs::canonicalize(path).ok().filter(|resolved| *resolved != forms[0]));
    forms
}

/// The path without `.` and `..`, as text: links are not resolved.
fn normalize(path: &Path) -> PathBuf {
    let mut normalized = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => drop(normalized.pop()),
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => normalized.push(component),
        }
    }
    normalized
}

/// Whether `name` is this log or pid file, or made of it by rotation, compression or another tool: `out.log.1`,
/// `out__2026-01-02.log`, `out__2026-01-02.log.gz.part`.
fn is_own(name: &OsStr, own: &OsStr) -> bool {
    let (name, own) = (name.as_bytes(), own.as_bytes());
    let extension = own.iter().rposition(|byte| *byte == b'.').filter(|dot| *dot > 0).unwrap_or(own.len());
    let (stem, extension) = own.split_at(extension);
    let dated = name.strip_prefix(stem).and_then(|rest| rest.strip_prefix(b"__"));
    let has_extension = |rest: &[u8]| extension.is_empty() || memchr::memmem::find(rest, extension).is_some();
    name == own
        || name.strip_prefix(own).is_some_and(|rest| rest.starts_with(b"."))
        || dated.is_some_and(has_extension)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotated_and_compressed_logs_belong_to_the_log() {
        let own = |name: &str, log: &str| is_own(OsStr::new(name), OsStr::new(log));
        for name in
            ["out.log", "out.log.1", "out.log.2.gz", "out__2026-01-02.log", "out__2026-01-02.1.log.gz.part"]
        {
            assert!(own(name, "out.log"), "{name}");
        }
        for name in ["out.js", "out.logic", "out__.js", "output.log", "my-out.log"] {
            assert!(!own(name, "out.log"), "{name}");
        }
        assert!(
            own("out__2026.gz", "out") && own("out", "out") && !own("outer", "out") && !own(".js", ".log")
        );
    }

    #[test]
    fn directory_of_logs_belongs_to_rsm_unless_it_has_other_files() {
        let dir = tempfile::tempdir().unwrap();
        let shared = OwnFiles::default();
        let files = vec![dir.path().join("logs/app/out.log")];
        shared.set(OwnFileList { home: dir.path().join("home"), files });
        let files = ResolvedOwnFiles::new(shared);
        std::fs::create_dir_all(dir.path().join("logs/app")).unwrap();
        std::fs::create_dir(dir.path().join("src")).unwrap();
        let fill = |name: &str| files.fill(&dir.path().join(name), dir.path());
        assert!(fill("logs") && fill("logs/app") && !fill("src"));
        std::fs::write(dir.path().join("logs/app/out.log"), "").unwrap();
        assert!(fill("logs"));
        std::fs::write(dir.path().join("logs/app/index.js"), "").unwrap();
        assert!(!fill("logs") && !fill("logs/app"));
    }

    #[test]
    fn list_can_change() {
        let dir = tempfile::tempdir().unwrap();
        let [app, home] = ["app", "home"].map(|name| dir.path().join(name));
        let shared = OwnFiles::default();
        let mut files = ResolvedOwnFiles::new(shared.clone());
        assert!(!files.contains(&app.join("a.log"), &app));
        shared.set(OwnFileList { home: home.clone(), files: vec![app.join("a.log")] });
        files.refresh();
        assert!(files.contains(&app.join("a.log"), &app));
        assert!(files.contains(&home.join("state.json"), dir.path()));
        assert!(!files.contains(&home.join("apps/a.js"), &home.join("apps")), "an app in the home directory");
    }
}
