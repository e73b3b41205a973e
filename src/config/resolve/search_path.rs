//! Absolute paths, and the search for programs. Symbolic links are not resolved: a link such as `current` must be
//! followed at each start.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use crate::program::{is_executable, search_path};

/// `path` relative to `base`; `~/` is the home directory. `..` is kept, as it may follow a link.
pub(crate) fn absolute(path: &str, base: &Path) -> PathBuf {
    let home = path.strip_prefix('~').filter(|rest| rest.is_empty() || rest.starts_with('/'));
    let joined = match (home, std::env::home_dir()) {
        (Some(rest), Some(home)) => home.join(rest.trim_start_matches('/')),
        _ => base.join(path),
    };
    // As `base` is absolute, this only removes `.` and repeated slashes.
    std::path::absolute(&joined).unwrap_or(joined)
}

/// The directories that are searched for programs.
pub(crate) struct SearchPath {
    /// The value of `PATH`.
    path: OsString,
    /// The base of relative directories and programs.
    cwd: PathBuf,
}

impl SearchPath {
    /// The `PATH` of the app overrides that of the shell, as in the environment of the app.
    pub(crate) fn new(own: Option<&String>, shell: &OsStr, cwd: &Path) -> Self {
        Self { path: own.map_or_else(|| shell.to_owned(), OsString::from), cwd: cwd.to_owned() }
    }

    /// The base of relative programs.
    pub(super) fn cwd(&self) -> &Path {
        &self.cwd
    }

    /// The executable file with this name, which must not contain a slash.
    pub(crate) fn find(&self, name: &str) -> Option<PathBuf> {
        search_path(name, &self.path, &self.cwd)
    }

    /// Whether `program`, a name or a path, can be executed.
    pub(super) fn contains(&self, program: &str) -> bool {
        match program.contains('/') {
            true => is_executable(&absolute(program, &self.cwd)),
            false => self.find(program).is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn absolute_paths_keep_links() {
        let base = Path::new("/srv/app");
        assert_eq!(absolute("./a//b.js", base), Path::new("/srv/app/a/b.js"));
        assert_eq!(absolute("../b.js", base), Path::new("/srv/app/../b.js"));
        assert_eq!(absolute("/x", base), Path::new("/x"));
        assert_eq!(absolute("~x", base), Path::new("/srv/app/~x"));
        let home = std::env::home_dir().unwrap();
        assert_eq!(absolute("~/a", base), home.join("a"));
        assert_eq!(absolute("~", base), home);
    }

    #[test]
    fn finds_programs_by_name_and_path() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("tool");
        std::fs::write(&program, "#!/bin/sh\n").unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let search = SearchPath::new(None, OsStr::new("/nowhere:."), dir.path());
        assert!(search.contains("tool") && search.contains("./tool"));
        assert!(!search.contains("./other") && !search.contains(""));
        let own = SearchPath::new(Some(&"/nowhere".to_owned()), OsStr::new("."), dir.path());
        assert_eq!(own.find("tool"), None);
    }
}
