//! Paths of the files of rsm, which are all in one private directory.

use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

/// The current directory as the shell names it: `PWD` keeps a symbolic link such as `current`, which must be followed
/// at each start of an app. The kernel's name is used if `PWD` is missing or names another directory.
///
/// # Errors
/// The current directory was removed, or is not accessible.
pub fn current_dir() -> io::Result<PathBuf> {
    let physical = std::env::current_dir()?;
    let logical = std::env::var_os("PWD").map(PathBuf::from);
    Ok(logical.filter(|path| is_logical_name(path, &physical)).unwrap_or(physical))
}

/// Whether `path` is a full name of the directory `physical`.
fn is_logical_name(path: &Path, physical: &Path) -> bool {
    let identity = |path: &Path| std::fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
    let is_full = path.is_absolute() && !path.components().any(|part| part == Component::ParentDir);
    is_full && identity(path).is_some_and(|own| identity(physical) == Some(own))
}

/// A path relative to the current directory, without resolving links.
pub fn absolute(path: &Path) -> PathBuf {
    let joined = current_dir().map_or_else(|_| path.to_owned(), |directory| directory.join(path));
    // As the path is absolute now, this only removes `.` and repeated slashes.
    std::path::absolute(&joined).unwrap_or(joined)
}

mod access;

pub use access::UnsafeHome;

/// The home of one daemon: `$RSM_HOME`, else `~/.rsm`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home(PathBuf);

impl Home {
    /// A home at an absolute path.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The home from the environment.
    ///
    /// # Errors
    /// Neither `RSM_HOME` nor `HOME` is set, the path is relative and the current directory does not exist,
    /// or the path is not valid UTF-8.
    pub fn from_env() -> io::Result<Self> {
        Self::from_first_var(&["RSM_HOME"])
    }

    /// The home for a command invoked as `pm2`: from `PM2_HOME` if `RSM_HOME` is not set.
    ///
    /// # Errors
    /// As [`Self::from_env`].
    pub fn from_env_or_pm2() -> io::Result<Self> {
        Self::from_first_var(&["RSM_HOME", "PM2_HOME"])
    }

    /// The home from the first of these variables that is set.
    fn from_first_var(variables: &[&str]) -> io::Result<Self> {
        let mut values = variables.iter().filter_map(std::env::var_os);
        let path = match values.find(|path| !path.is_empty()) {
            Some(path) => std::path::absolute(path)?,
            None => match std::env::home_dir().filter(|path| path.is_absolute()) {
                Some(user_home) => user_home.join(".rsm"),
                None => {
                    return Err(io::Error::new(io::ErrorKind::NotFound, "neither RSM_HOME nor HOME is set"));
                }
            },
        };
        // Paths of the home are in JSON documents and in the environment of apps.
        match path.to_str() {
            Some(_) => Ok(Self(path)),
            None => {
                let text = format!("{} is not valid UTF-8", path.display());
                Err(io::Error::new(io::ErrorKind::InvalidInput, text))
            }
        }
    }

    /// Checks that the home belongs to this user, if it exists. Root must not use the home of another user:
    /// that user decides which programs its daemon executes.
    ///
    /// # Errors
    /// It belongs to another user.
    pub fn check_owner(&self) -> Result<(), UnsafeHome> {
        access::check_owner(&self.0)
    }

    /// Checks that no other user could have changed the home: its directory, and the files that the daemon
    /// reads and writes.
    ///
    /// # Errors
    /// Another user owns it or one of the files, or can write there.
    pub fn check_access(&self) -> Result<(), UnsafeHome> {
        let files = [
            self.state(),
            self.previous_state(),
            self.dump(),
            self.previous_dump(),
            self.settings(),
            self.daemon_settings_v0_1(),
            self.daemon_log(),
            self.socket(),
            self.run_dir(),
            self.boot_id(),
            self.log_indexes(),
            self.keeper_lock(),
            self.start_lock(),
        ];
        access::check_content(&self.0, &files)
    }

    /// Creates the directory and its subdirectories, accessible only to the user (0700).
    ///
    /// # Errors
    /// It cannot be created, is not a directory, or another user can write into it.
    pub fn create(&self) -> io::Result<()> {
        let mut private = std::fs::DirBuilder::new();
        private.recursive(true).mode(0o700);
        self.check_access()?;
        private.create(&self.0)?;
        let meta = std::fs::metadata(&self.0)?;
        if meta.permissions().mode() & 0o077 != 0 {
            std::fs::set_permissions(&self.0, std::fs::Permissions::from_mode(0o700))?;
        }
        for subdirectory in [self.logs(), self.pids(), self.run_dir()] {
            private.create(subdirectory)?;
        }
        Ok(())
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Whether rsm was never used with this home: it is missing or empty.
    pub fn is_new(&self) -> bool {
        match std::fs::read_dir(&self.0) {
            Ok(mut entries) => entries.next().is_none(),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }

    /// The socket of the API.
    pub fn socket(&self) -> PathBuf {
        self.0.join("rsm.sock")
    }

    /// The state snapshot, from which the next daemon recovers.
    pub fn state(&self) -> PathBuf {
        self.0.join("state.json")
    }

    /// The previous state snapshot.
    pub fn previous_state(&self) -> PathBuf {
        self.0.join("state.json.prev")
    }

    /// Whether there is a state snapshot: the daemon did not shut down, and its apps may still be running.
    pub fn has_state(&self) -> bool {
        self.state().exists() || self.previous_state().exists()
    }

    /// The list saved by `rsm save`.
    pub fn dump(&self) -> PathBuf {
        self.0.join("dump.json")
    }

    /// The daemon settings of version 0.1.
    pub fn daemon_settings_v0_1(&self) -> PathBuf {
        self.0.join("conf.json")
    }

    /// The previous saved list.
    pub fn previous_dump(&self) -> PathBuf {
        self.0.join("dump.json.prev")
    }

    /// The settings of `rsm set` and `rsm conf`.
    pub fn settings(&self) -> PathBuf {
        self.0.join("settings.json")
    }

    /// The log of the daemon.
    pub fn daemon_log(&self) -> PathBuf {
        self.0.join("rsm.log")
    }

    /// The default directory of log files.
    pub fn logs(&self) -> PathBuf {
        self.0.join("logs")
    }

    /// The directory of log indexes.
    pub fn log_indexes(&self) -> PathBuf {
        self.run_dir().join("log-index")
    }

    /// The default directory of pid files.
    pub fn pids(&self) -> PathBuf {
        self.0.join("pids")
    }

    /// The directory of locks and other runtime files.
    pub fn run_dir(&self) -> PathBuf {
        self.0.join("run")
    }

    /// The boot id of the machine when the state was written.
    pub fn boot_id(&self) -> PathBuf {
        self.run_dir().join("boot")
    }

    /// The lock that a keeper holds while it runs.
    pub fn keeper_lock(&self) -> PathBuf {
        self.run_dir().join("keeper.lock")
    }

    /// The lock that a command holds while it starts a keeper, so that two commands start only one.
    pub fn start_lock(&self) -> PathBuf {
        self.run_dir().join("launch.lock")
    }
}

/// `path` with `-<id>` inserted before its extension: `a.log` → `a-3.log`.
pub fn with_instance_id(path: &Path, id: u32) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let name = match path.extension() {
        Some(extension) => format!("{stem}-{id}.{}", extension.to_string_lossy()),
        None => format!("{stem}-{id}"),
    };
    path.with_file_name(name)
}

/// A name as a file name: characters other than letters, digits, `.` and `-` become `-` as in PM2. Unlike in
/// PM2, non-ASCII letters are kept: a Chinese name would consist of dashes only.
pub fn sanitize_file_name(name: &str) -> String {
    sanitized_chars(name).collect()
}

/// Whether two names have the same sanitized file name.
pub fn is_same_file_name(one: &str, other: &str) -> bool {
    sanitized_chars(one).eq(sanitized_chars(other))
}

fn sanitized_chars(name: &str) -> impl Iterator<Item = char> {
    let safe = |c: char| if c.is_alphanumeric() || c == '.' { c } else { '-' };
    name.starts_with('.').then_some('-').into_iter().chain(name.chars().map(safe))
}

/// A name as a file name that neither another name nor [`sanitize_file_name`] has: letters, digits, `.`, `-` and `_` are
/// kept, other characters are percent-encoded, and a `%` ends what would be the same as the sanitized name.
pub fn unique_file_name(name: &str) -> String {
    let mut encoded = String::with_capacity(name.len() + 1);
    for (at, c) in name.char_indices() {
        if c.is_alphanumeric() || matches!(c, '-' | '_') || (c == '.' && at > 0) {
            encoded.push(c);
        } else {
            let mut bytes = [0; 4];
            for byte in c.encode_utf8(&mut bytes).bytes() {
                encoded.push_str(&format!("%{byte:02X}"));
            }
        }
    }
    if encoded == sanitize_file_name(name) {
        encoded.push('%');
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inserts_id_before_extension() {
        assert_eq!(with_instance_id(Path::new("/l/a-out.log"), 3), Path::new("/l/a-out-3.log"));
        assert_eq!(with_instance_id(Path::new("/l/a"), 0), Path::new("/l/a-0"));
    }

    #[test]
    fn unique_file_names_differ_from_all_others() {
        for (name, file) in [
            ("my_api", "my_api"),
            ("my-api", "my-api%"),
            ("my api", "my%20api"),
            ("my%20api", "my%2520api"),
            ("a/../b", "a%2F..%2Fb"),
            ("..", "%2E."),
            ("队列", "队列%"),
        ] {
            assert_eq!(unique_file_name(name), file);
        }
    }

    #[test]
    fn sanitizes_file_names() {
        assert_eq!(sanitize_file_name("my_app/../x"), "my-app-..-x");
        assert_eq!(sanitize_file_name(".."), "-..");
        assert_eq!(sanitize_file_name("队列"), "队列");
    }
}
