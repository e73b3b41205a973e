//! Absolute paths, and the search for programs in `PATH`. Symbolic links are not resolved: a link such as
//! `current` must be followed at each start.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// `path` relative to `base`; `~/` is the home directory. `..` is kept, as it may follow a link.
pub(in crate::config) fn absolute(path: &str, base: &Path) -> PathBuf {
    let home = path.strip_prefix('~').filter(|rest| rest.is_empty() || rest.starts_with('/'));
    let joined = match (home, std::env::home_dir()) {
        (Some(rest), Some(home)) => home.join(rest.trim_start_matches('/')),
        _ => base.join(path),
    };
    // As `base` is absolute, this only removes `.` and repeated slashes.
    std::path::absolute(&joined).unwrap_or(joined)
}

/// The directories that are searched for programs.
pub(in crate::config) struct SearchPath {
    /// The value of `PATH`.
    path: OsString,
    /// The base of relative directories and programs.
    cwd: PathBuf,
}

impl SearchPath {
    /// The `PATH` of the app overrides that of the shell, as in the environment of the app.
    pub(in crate::config) fn new(own: Option<&String>, shell: &OsStr, cwd: &Path) -> Self {
        Self { path: own.map_or_else(|| shell.to_owned(), OsString::from), cwd: cwd.to_owned() }
    }

    /// The base of relative programs.
    pub(in crate::config) fn cwd(&self) -> &Path {
        &self.cwd
    }

    /// The executable file with this name, which must not contain a slash.
    pub(in crate::config) fn find(&self, name: &str) -> Option<PathBuf> {
        if name.is_empty() || name.contains('/') {
            return None;
        }
        let dirs = std::env::split_paths(&self.path).filter(|dir| !dir.as_os_str().is_empty());
        dirs.map(|dir| self.cwd.join(dir).join(name)).find(|file| is_executable(file))
    }

    /// Whether `program`, a name or a path, can be executed.
    pub(in crate::config) fn contains(&self, program: &str) -> bool {
        if program.contains('/') {
            is_executable(&absolute(program, &self.cwd))
        } else {
            self.find(program).is_some()
        }
    }
}

/// Whether any user can execute this file. The app may run as another user than this process.
pub(in crate::config) fn is_executable(file: &Path) -> bool {
    std::fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use crate::config::resolve::search_path::*;

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
    fn finds_programs_in_path() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("tool");
        std::fs::write(&program, "#!/bin/sh\n").unwrap();
        let search = SearchPath::new(None, OsStr::new("/nowhere::."), dir.path());
        assert_eq!(search.find("tool"), None, "not executable yet");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(search.find("tool"), Some(dir.path().join(".").join("tool")));
        assert!(search.contains("./tool") && !search.contains("./other") && !search.contains(""));
        let own = SearchPath::new(Some(&"/nowhere".to_owned()), OsStr::new("."), dir.path());
        assert_eq!(own.find("tool"), None);
    }
}
