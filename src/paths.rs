//! Where rsm's own files lie: all under one private directory.

use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The home of one daemon: `$RSM_HOME`, else `~/.rsm`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home(PathBuf);

impl Home {
    /// A home at an absolute path.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The home that the environment names.
    ///
    /// # Errors
    /// Neither `RSM_HOME` nor a home directory is known, or the path is not absolute and the
    /// current directory is gone.
    pub fn from_env() -> io::Result<Self> {
        Self::from_first_var(&["RSM_HOME"])
    }

    /// The home for a command typed as `pm2`: that of PM2's variable, where ours is not set.
    ///
    /// # Errors
    /// As [`Self::from_env`].
    pub fn from_env_or_pm2() -> io::Result<Self> {
        Self::from_first_var(&["RSM_HOME", "PM2_HOME"])
    }

    /// The home that the first of these variables names that is set.
    fn from_first_var(variables: &[&str]) -> io::Result<Self> {
        let mut named = variables.iter().filter_map(std::env::var_os);
        if let Some(path) = named.find(|path| !path.is_empty()) {
            return Ok(Self(std::path::absolute(path)?));
        }
        match std::env::home_dir().filter(|path| path.is_absolute()) {
            Some(user) => Ok(Self(user.join(".rsm"))),
            None => Err(io::Error::new(io::ErrorKind::NotFound, "neither RSM_HOME nor HOME is set")),
        }
    }

    /// Makes the directory and those below it, private to the user (0700).
    ///
    /// # Errors
    /// It cannot be made, is not a directory, or belongs to another user.
    pub fn create(&self) -> io::Result<()> {
        let mut private = std::fs::DirBuilder::new();
        private.recursive(true).mode(0o700);
        private.create(&self.0)?;
        let meta = std::fs::metadata(&self.0)?;
        let me = nix::unistd::geteuid().as_raw();
        if meta.uid() != me && me != 0 {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "owned by another user"));
        }
        if meta.permissions().mode() & 0o077 != 0 {
            std::fs::set_permissions(&self.0, std::fs::Permissions::from_mode(0o700))?;
        }
        for below in [self.logs(), self.pids(), self.run_dir()] {
            private.create(below)?;
        }
        Ok(())
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The API's socket.
    pub fn socket(&self) -> PathBuf {
        self.0.join("rsm.sock")
    }

    /// What the daemon must know after a crash of its own.
    pub fn state(&self) -> PathBuf {
        self.0.join("state.json")
    }

    /// The state before that one.
    pub fn previous_state(&self) -> PathBuf {
        self.0.join("state.json.prev")
    }

    /// Whether a daemon left its state behind: it did not end by itself, and what it kept running may
    /// run still.
    pub fn has_state(&self) -> bool {
        self.state().exists() || self.previous_state().exists()
    }

    /// The list saved by `rsm save`.
    pub fn dump(&self) -> PathBuf {
        self.0.join("dump.json")
    }

    /// The settings of the daemon in version 0.1.
    pub fn daemon_config(&self) -> PathBuf {
        self.0.join("conf.json")
    }

    /// The list saved before that one.
    pub fn previous_dump(&self) -> PathBuf {
        self.0.join("dump.json.prev")
    }

    /// What is set by `rsm set` and `rsm conf`.
    pub fn preferences(&self) -> PathBuf {
        self.0.join("settings.json")
    }

    /// rsm's own log.
    pub fn daemon_log(&self) -> PathBuf {
        self.0.join("rsm.log")
    }

    /// Default place of the apps' logs.
    pub fn logs(&self) -> PathBuf {
        self.0.join("logs")
    }

    /// What was written to the logs when, and by whom.
    pub fn log_indexes(&self) -> PathBuf {
        self.run_dir().join("log-index")
    }

    /// Default place of the pid files.
    pub fn pids(&self) -> PathBuf {
        self.0.join("pids")
    }

    /// Locks.
    pub fn run_dir(&self) -> PathBuf {
        self.0.join("run")
    }

    /// Which life of the machine the state is from.
    pub fn boot_id(&self) -> PathBuf {
        self.run_dir().join("boot")
    }

    /// Held while a keeper lives.
    pub fn keeper_lock(&self) -> PathBuf {
        self.run_dir().join("keeper.lock")
    }

    /// Held while a CLI launches a keeper, so that two at once start one.
    pub fn start_lock(&self) -> PathBuf {
        self.run_dir().join("launch.lock")
    }
}

/// `path` with `-<id>` put before its extension: `a.log` → `a-3.log`.
pub fn with_instance_id(path: &Path, id: u32) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let name = match path.extension() {
        Some(extension) => format!("{stem}-{id}.{}", extension.to_string_lossy()),
        None => format!("{stem}-{id}"),
    };
    path.with_file_name(name)
}

/// A name as a file name: all but letters, digits, `.` and `-` become `-`, as PM2 does, except
/// that non-ASCII letters stay (a Chinese app name would be nothing but dashes).
pub fn sanitize_file_name(name: &str) -> String {
    let safe: String = name.chars().map(|c| if c.is_alphanumeric() || c == '.' { c } else { '-' }).collect();
    if safe.starts_with('.') { format!("-{safe}") } else { safe }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_go_before_the_extension() {
        assert_eq!(with_instance_id(Path::new("/l/a-out.log"), 3), Path::new("/l/a-out-3.log"));
        assert_eq!(with_instance_id(Path::new("/l/a"), 0), Path::new("/l/a-0"));
    }

    #[test]
    fn names_become_safe_file_names() {
        assert_eq!(sanitize_file_name("my_app/../x"), "my-app-..-x");
        assert_eq!(sanitize_file_name(".."), "-..");
        assert_eq!(sanitize_file_name("队列"), "队列");
    }
}
