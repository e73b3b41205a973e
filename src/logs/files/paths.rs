//! Which files an instance writes to, and how they are opened.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::paths::{Home, sanitize_file_name, with_instance_id};
use crate::spec::{AppSpec, LogPath};

/// The log files of one instance, absolute; `None`: written nowhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogFiles {
    /// Standard output.
    pub out: Option<PathBuf>,
    /// Standard error.
    pub err: Option<PathBuf>,
    /// Both, besides the two.
    pub combined: Option<PathBuf>,
}

impl LogFiles {
    /// Each file once, also where several streams share it.
    pub fn distinct(&self) -> Vec<&Path> {
        let mut all: Vec<&Path> =
            [&self.out, &self.err, &self.combined].into_iter().flatten().map(PathBuf::as_path).collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// The files of instance `id` of an app.
///
/// PM2's places: `<name>-out.log`, `<name>-error.log`, `<name>.log` under `logs/`. Unless the
/// instances' logs are merged, `-<id>` goes before `.log`; a path with another ending is taken as
/// it is, and shared. Unlike PM2, digits that end an app's name are not taken for an id.
pub fn log_files(spec: &AppSpec, id: u32, home: &Home) -> LogFiles {
    let place = |path: &LogPath, ending: &str| {
        let path = match path {
            LogPath::Discard => return None,
            LogPath::File(path) => path.clone(),
            LogPath::Default => home.logs().join(format!("{}{ending}.log", sanitize_file_name(&spec.name))),
        };
        let numbered = !spec.logs.merge && path.extension().is_some_and(|extension| extension == "log");
        Some(if numbered { with_instance_id(&path, id) } else { path })
    };
    LogFiles {
        out: place(&spec.logs.out, "-out"),
        err: place(&spec.logs.err, "-error"),
        combined: spec.logs.combined.as_ref().and_then(|path| place(path, "")),
    }
}

/// Opens a log file at its end, making it (0640) and its directories where they are missing.
///
/// Non-blocking: a named pipe that nobody reads is an error then, not a thread that hangs. It
/// changes nothing for plain files.
pub(in crate::logs) fn open_append(path: &Path) -> io::Result<File> {
    let open = || {
        OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o640)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path)
    };
    match (open(), path.parent()) {
        (Err(error), Some(parent)) if error.kind() == io::ErrorKind::NotFound => {
            std::fs::create_dir_all(parent)?;
            open()
        }
        (result, _) => result,
    }
}

#[cfg(test)]
mod tests {
    use crate::logs::files::paths::*;

    fn app() -> (AppSpec, Home) {
        (AppSpec::new("my_api", "/srv/api.js", "/srv"), Home::new("/h"))
    }

    #[test]
    fn default_places_are_pm2s() {
        let (mut app, home) = app();
        app.logs.combined = Some(LogPath::Default);
        let found = log_files(&app, 3, &home);
        assert_eq!(found.out.unwrap(), Path::new("/h/logs/my-api-out-3.log"));
        assert_eq!(found.err.unwrap(), Path::new("/h/logs/my-api-error-3.log"));
        assert_eq!(found.combined.unwrap(), Path::new("/h/logs/my-api-3.log"));
    }

    #[test]
    fn merged_instances_share_files() {
        let (mut app, home) = app();
        app.logs.merge = true;
        assert_eq!(log_files(&app, 3, &home), log_files(&app, 4, &home));
        assert_eq!(log_files(&app, 3, &home).out.unwrap(), Path::new("/h/logs/my-api-out.log"));
    }

    #[test]
    fn only_log_files_get_an_id_and_nowhere_is_nowhere() {
        let (mut app, home) = app();
        app.logs.out = LogPath::File("/var/log/a.txt".into());
        app.logs.err = LogPath::Discard;
        let found = log_files(&app, 3, &home);
        assert_eq!(found.out.as_deref(), Some(Path::new("/var/log/a.txt")));
        assert_eq!((found.err, found.combined), (None, None));
        app.logs.out = LogPath::File("/var/log/a-7.log".into());
        assert_eq!(log_files(&app, 3, &home).out.unwrap(), Path::new("/var/log/a-7-3.log"));
    }

    #[test]
    fn opening_makes_directories_and_private_files() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/er/a.log");
        open_append(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o137, 0);
    }

    #[test]
    fn what_can_be_no_file_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        assert!(open_append(&dir.path().join("file/a.log")).is_err());
        assert!(open_append(dir.path()).is_err());
    }
}
