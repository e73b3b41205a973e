//! Paths of the log files of an instance.

use std::path::{Path, PathBuf};

use crate::paths::{Home, with_instance_id};
use crate::spec::{AppSpec, LogMirror, LogPath};

/// Absolute paths of the log files of one instance; `None` if the output is discarded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogFiles {
    /// Standard output.
    pub out: Option<PathBuf>,
    /// Standard error.
    pub err: Option<PathBuf>,
    /// Both streams, in addition to their own files.
    pub combined: Option<PathBuf>,
    /// Named pipes of `rsm runtime`, in addition to the files.
    pub mirror: Option<LogMirror>,
}

impl LogFiles {
    /// Each file once, even if several streams share it.
    pub fn distinct(&self) -> Vec<&Path> {
        let mirror = self.mirror.iter().flat_map(|mirror| [&mirror.out, &mirror.err]);
        let files = [&self.out, &self.err, &self.combined].into_iter().flatten();
        let mut all: Vec<&Path> = files.chain(mirror).map(PathBuf::as_path).collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// The log files of instance `id` of an app.
///
/// Default paths match PM2: `<file_name>-out.log`, `<file_name>-error.log` and `<file_name>.log` in `logs/`. Unless the
/// logs of the instances are merged, `-<id>` is inserted before `.log`; a path with another extension is used as
/// it is, and shared. Unlike in PM2, digits at the end of an app name are not taken for an id.
pub fn log_files(spec: &AppSpec, id: u32, file_name: &str, home: &Home) -> LogFiles {
    let resolve = |path: &LogPath, suffix: &str| {
        let path = match path {
            LogPath::Discard => return None,
            LogPath::File(path) => path.clone(),
            LogPath::Default => home.logs().join(format!("{file_name}{suffix}.log")),
        };
        let numbered = !spec.logs.merge && path.extension().is_some_and(|extension| extension == "log");
        Some(if numbered { with_instance_id(&path, id) } else { path })
    };
    // The combined file of `api-out` must not be the file for the output of `api`.
    let is_ambiguous = file_name.ends_with("-out") || file_name.ends_with("-error");
    let combined_suffix = if is_ambiguous { "%" } else { "" };
    LogFiles {
        out: resolve(&spec.logs.out, "-out"),
        err: resolve(&spec.logs.err, "-error"),
        combined: spec.logs.combined.as_ref().and_then(|path| resolve(path, combined_suffix)),
        mirror: spec.logs.mirror.clone(),
    }
}

/// The default log files of an instance: for output whose own files are refused.
pub fn default_log_files(spec: &AppSpec, id: u32, file_name: &str, home: &Home) -> LogFiles {
    let mut spec = AppSpec { logs: spec.logs.clone(), ..AppSpec::new(&spec.name, "", "/") };
    let targets = [&mut spec.logs.out, &mut spec.logs.err].into_iter().chain(&mut spec.logs.combined);
    targets.filter(|path| matches!(path, LogPath::File(_))).for_each(|path| *path = LogPath::Default);
    log_files(&spec, id, file_name, home)
}

#[cfg(test)]
mod tests {
    use crate::logs::files::paths::*;

    fn app() -> (AppSpec, Home) {
        (AppSpec::new("my_api", "/srv/api.js", "/srv"), Home::new("/h"))
    }

    #[test]
    fn default_paths_match_pm2() {
        let (mut app, home) = app();
        app.logs.combined = Some(LogPath::Default);
        let found = log_files(&app, 3, "my-api", &home);
        assert_eq!(found.out.unwrap(), Path::new("/h/logs/my-api-out-3.log"));
        assert_eq!(found.err.unwrap(), Path::new("/h/logs/my-api-error-3.log"));
        assert_eq!(found.combined.unwrap(), Path::new("/h/logs/my-api-3.log"));
    }

    #[test]
    fn combined_file_is_not_the_output_of_another_app() {
        let (mut app, home) = app();
        app.logs.combined = Some(LogPath::Default);
        app.logs.merge = true;
        let combined = |file_name| log_files(&app, 0, file_name, &home).combined;
        assert_ne!(combined("api-out"), log_files(&app, 0, "api", &home).out);
        assert_ne!(combined("api-error"), log_files(&app, 0, "api", &home).err);
    }

    #[test]
    fn merged_instances_share_files() {
        let (mut app, home) = app();
        app.logs.merge = true;
        assert_eq!(log_files(&app, 3, "my-api", &home), log_files(&app, 4, "my-api", &home));
        assert_eq!(log_files(&app, 3, "my-api", &home).out.unwrap(), Path::new("/h/logs/my-api-out.log"));
    }

    #[test]
    fn only_log_extension_gets_an_id() {
        let (mut app, home) = app();
        app.logs.out = LogPath::File("/var/log/a.txt".into());
        app.logs.err = LogPath::Discard;
        let found = log_files(&app, 3, "my-api", &home);
        assert_eq!(found.out.as_deref(), Some(Path::new("/var/log/a.txt")));
        assert_eq!((found.err, found.combined), (None, None));
        app.logs.out = LogPath::File("/var/log/a-7.log".into());
        assert_eq!(log_files(&app, 3, "my-api", &home).out.unwrap(), Path::new("/var/log/a-7-3.log"));
    }
}
