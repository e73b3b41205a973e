//! The search for the programs of an app at each start.
//!
//! The `PATH` of an app is that of the shell it was started from. After an update of node by nvm and similar tools, the
//! directory of node no longer exists there, while the daemon gets the `PATH` of a new login at boot.

use std::path::{Path, PathBuf};

use crate::exit::{StartFailure, StartStep};
use crate::program::search_path;
use crate::spec::EnvVars;

/// The search path for an app without `PATH`.
pub const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Searches programs in the `PATH` of an app. A program that is not found there is searched in the `PATH` of a login;
/// the app then gets that, too, because the program has helpers there.
pub(super) struct ProgramLookup<'a> {
    path: String,
    login_path: String,
    cwd: &'a Path,
    is_changed: bool,
}

impl<'a> ProgramLookup<'a> {
    pub(super) fn new(vars: &EnvVars, cwd: &'a Path) -> Self {
        let path = vars.get("PATH").map_or(DEFAULT_PATH, String::as_str).to_owned();
        Self { path, login_path: std::env::var("PATH").unwrap_or_default(), cwd, is_changed: false }
    }

    /// Finds a program by its name; a path stays as it is.
    pub(super) fn find(&mut self, name: &str) -> Result<PathBuf, StartFailure> {
        if let Some(program) = find_program(name, &self.path, self.cwd) {
            return Ok(program);
        }
        let found = find_program(name, &self.login_path, Path::new("/")).ok_or_else(|| StartFailure {
            step: StartStep::LookUp,
            errno: libc::ENOENT,
            subject: name.to_owned(),
        })?;
        self.refresh();
        Ok(found)
    }

    /// Refreshes the `PATH` for a shell line whose first program is only found in that of a login.
    pub(super) fn refresh_for_line(&mut self, line: &str) {
        let Some(program) = line.split_whitespace().find(|word| !word.contains('=')) else { return };
        if find_program(program, &self.path, self.cwd).is_none()
            && find_program(program, &self.login_path, Path::new("/")).is_some()
        {
            self.refresh();
        }
    }

    /// Inserts the directories of a login where the first directory is missing, so that they have its priority.
    fn refresh(&mut self) {
        if self.is_changed {
            return;
        }
        let is_missing = |dir: &&str| !self.cwd.join(dir).is_dir();
        let own: Vec<&str> = self.path.split(':').filter(|dir| !dir.is_empty()).collect();
        let position = own.iter().position(is_missing).unwrap_or(own.len());
        let (before, after) = own.split_at(position);
        let login = self.login_path.split(':').filter(|dir| !dir.is_empty());
        let mut dirs: Vec<&str> = Vec::new();
        for dir in before.iter().copied().chain(login).chain(after.iter().copied()) {
            if !dirs.contains(&dir) {
                dirs.push(dir);
            }
        }
        self.path = dirs.join(":");
        self.is_changed = true;
    }

    /// The `PATH`, if it was changed.
    pub(super) fn changed_path(self) -> Option<String> {
        self.is_changed.then_some(self.path)
    }
}

/// The path of a program. A path stays as it is: links are followed at each start, so that a `current` link may
/// change. A bare name is looked up.
pub fn find_program(name: &str, path: &str, cwd: &Path) -> Option<PathBuf> {
    if name.contains('/') {
        return Some(cwd.join(name));
    }
    search_path(name, path, cwd)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn lookup<'a>(dir: &'a Path, path: &str) -> ProgramLookup<'a> {
        let bin = dir.join("v20/bin");
        std::fs::create_dir_all(&bin).unwrap();
        for name in ["moved-node", "moved-npm"] {
            std::fs::write(bin.join(name), "#!/bin/sh\n").unwrap();
            std::fs::set_permissions(bin.join(name), std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        ProgramLookup {
            path: path.into(),
            login_path: format!("{}:/bin", bin.display()),
            cwd: dir,
            is_changed: false,
        }
    }

    #[test]
    fn program_that_moved_is_found_in_login_path() {
        let dir = tempfile::tempdir().unwrap();
        let mut lookup = lookup(dir.path(), "/usr/bin:/gone/v18/bin:/bin");
        let new = dir.path().join("v20/bin");
        assert_eq!(lookup.find("moved-npm").ok(), Some(new.join("moved-npm")));
        assert_eq!(lookup.changed_path(), Some(format!("/usr/bin:{}:/bin:/gone/v18/bin", new.display())));
    }

    #[test]
    fn shell_line_gets_login_path_only_if_its_program_moved() {
        let dir = tempfile::tempdir().unwrap();
        let mut gone = lookup(dir.path(), "/gone/v18/bin:/bin");
        gone.refresh_for_line("A=1 moved-npm start");
        assert!(gone.changed_path().unwrap().starts_with(&format!("{}/v20/bin:/bin", dir.path().display())));
        let mut other = lookup(dir.path(), "/gone/v18/bin:/bin");
        other.refresh_for_line("while date; do sleep 1; done");
        assert_eq!(other.changed_path(), None);
    }
}
