//! Paths as written made absolute, and programs found in `PATH`. Symbolic links are left as they
//! are: a `current` link to a release is to be followed at each start, not once.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// `path` from `base`, `~/` being the user's home. `..` stays, for it may follow a link.
pub(super) fn absolute(path: &str, base: &Path) -> PathBuf {
    let home = path.strip_prefix('~').filter(|rest| rest.is_empty() || rest.starts_with('/'));
    let joined = match (home, std::env::home_dir()) {
        (Some(rest), Some(home)) => home.join(rest.trim_start_matches('/')),
        _ => base.join(path),
    };
    // Only drops `.` and doubled slashes here, since `base` is absolute.
    std::path::absolute(&joined).unwrap_or(joined)
}

/// Where programs are looked up.
pub(super) struct SearchPath {
    /// As in `PATH`.
    path: OsString,
    /// What its relative parts, and relative programs, start from.
    cwd: PathBuf,
}

impl SearchPath {
    /// The app's own `PATH` wins over the shell's, as it will when the app is started.
    pub(super) fn new(own: Option<&String>, shell: &OsStr, cwd: &Path) -> Self {
        Self { path: own.map_or_else(|| shell.to_owned(), OsString::from), cwd: cwd.to_owned() }
    }

    /// What relative programs start from.
    pub(super) fn cwd(&self) -> &Path {
        &self.cwd
    }

    /// The file a bare name stands for.
    pub(super) fn find(&self, name: &str) -> Option<PathBuf> {
        if name.is_empty() || name.contains('/') {
            return None;
        }
        let dirs = std::env::split_paths(&self.path).filter(|dir| !dir.as_os_str().is_empty());
        dirs.map(|dir| self.cwd.join(dir).join(name)).find(|file| is_executable(file))
    }

    /// Whether `program`, a bare name or a path, can be executed.
    pub(super) fn has(&self, program: &str) -> bool {
        if program.contains('/') {
            is_executable(&absolute(program, &self.cwd))
        } else {
            self.find(program).is_some()
        }
    }
}

/// Whether somebody may execute this file. Who will is not known here: the app may run as
/// another user.
pub(super) fn is_executable(file: &Path) -> bool {
    std::fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_absolute_and_keep_their_links() {
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
    fn programs_are_found_in_path() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("tool");
        std::fs::write(&program, "#!/bin/sh\n").unwrap();
        let search = SearchPath::new(None, OsStr::new("/nowhere::."), dir.path());
        assert_eq!(search.find("tool"), None, "not executable yet");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(search.find("tool"), Some(dir.path().join(".").join("tool")));
        assert!(search.has("./tool") && !search.has("./other") && !search.has(""));
        let own = SearchPath::new(Some(&"/nowhere".to_owned()), OsStr::new("."), dir.path());
        assert_eq!(own.find("tool"), None);
    }
}
