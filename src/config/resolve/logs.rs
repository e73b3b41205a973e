//! The log settings of an app.

use std::path::Path;

use crate::config::diagnostics::{Diagnostics, Located};
use crate::config::keys::{AppSettings, value_of};
use crate::config::resolve::search_path::absolute;
use crate::config::values::{LogRules, LogTarget};
use crate::spec::{AppSpec, LogPath, LogSpec, Rotation};

/// The format of `time = true`.
const DEFAULT_TIME_FORMAT: &str = "YYYY-MM-DDTHH:mm:ss";

/// Resolves the log settings. Requires the working directory and the number of instances of `app`.
pub(super) fn resolve_logs(
    settings: &AppSettings,
    app: &AppSpec,
    diagnostics: &mut Diagnostics<'_>,
) -> LogSpec {
    let time_format =
        value_of(&settings.time).copied().unwrap_or(false).then(|| DEFAULT_TIME_FORMAT.to_owned());
    let mut logs = LogSpec {
        rotation: rotation(settings),
        out: log_path(settings.out_file.as_ref(), &app.cwd, diagnostics),
        err: log_path(settings.error_file.as_ref(), &app.cwd, diagnostics),
        combined: combined_path(settings.log_file.as_ref(), &app.cwd, diagnostics),
        // A single instance needs no number in its file names; several are merged only on request.
        merge: value_of(&settings.merge_logs).copied().unwrap_or(app.instances == 1),
        date_format: time_format.or_else(|| value_of(&settings.log_date_format).cloned()),
        format: value_of(&settings.log_type).map(|format| format.0).unwrap_or_default(),
        mirror: None,
    };
    let is_off = value_of(&settings.logs).is_some_and(LogRules::is_off);
    if is_off || value_of(&settings.disable_logs) == Some(&true) {
        (logs.out, logs.err, logs.combined) = (LogPath::Discard, LogPath::Discard, None);
    }
    logs
}

fn rotation(settings: &AppSettings) -> Rotation {
    let mut rotation = Rotation::default();
    if let Some(rules) = value_of(&settings.logs) {
        rules.apply(&mut rotation);
    }
    rotation
}

fn log_path(target: Option<&Located<LogTarget>>, cwd: &Path, diagnostics: &mut Diagnostics<'_>) -> LogPath {
    let Some(target) = target else { return LogPath::Default };
    match &target.value {
        LogTarget::Default | LogTarget::Standard => LogPath::Default,
        LogTarget::Off | LogTarget::Discard => LogPath::Discard,
        LogTarget::Path(path) => {
            let path = absolute(path, cwd);
            if path.is_dir() {
                let help = format!("use a file in it, such as {}", path.join("app.log").display());
                diagnostics.error(
                    &target.source,
                    format!("log file {} is a directory", path.display()),
                    help,
                );
            }
            LogPath::File(path)
        }
    }
}

/// The combined log is written only if it is configured.
fn combined_path(
    target: Option<&Located<LogTarget>>,
    cwd: &Path,
    diagnostics: &mut Diagnostics<'_>,
) -> Option<LogPath> {
    match &target?.value {
        LogTarget::Off | LogTarget::Discard | LogTarget::Standard => None,
        LogTarget::Default | LogTarget::Path(_) => Some(log_path(target, cwd, diagnostics)),
    }
}
