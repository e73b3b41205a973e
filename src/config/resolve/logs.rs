//! Where the output of an app goes.

use std::path::Path;

use super::absolute;
use crate::config::diagnostics::{Diagnostics, Located};
use crate::config::keys::{AppSettings, value_of};
use crate::config::values::LogTarget;
use crate::spec::{AppSpec, LogPath, LogSpec, Rotation};

/// What `time` stands for.
const DEFAULT_TIME_FORMAT: &str = "YYYY-MM-DDTHH:mm:ss";

/// The log settings; `app` has its working directory and number of instances by now.
pub(super) fn resolve_logs(settings: &AppSettings, app: &AppSpec, findings: &mut Diagnostics<'_>) -> LogSpec {
    let stamp = value_of(&settings.time).copied().unwrap_or(false).then(|| DEFAULT_TIME_FORMAT.to_owned());
    let mut logs = LogSpec {
        rotation: rotation(settings),
        out: log_path(settings.out_file.as_ref(), &app.cwd, findings),
        err: log_path(settings.error_file.as_ref(), &app.cwd, findings),
        combined: combined_path(settings.log_file.as_ref(), &app.cwd, findings),
        // A lone instance needs no number in its file names; several must not be mixed unasked.
        merge: value_of(&settings.merge_logs).copied().unwrap_or(app.instances == 1),
        date_format: stamp.or_else(|| value_of(&settings.log_date_format).cloned()),
        format: value_of(&settings.log_type).map(|kind| kind.0).unwrap_or_default(),
    };
    if value_of(&settings.disable_logs) == Some(&true) {
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

fn log_path(given: Option<&Located<LogTarget>>, cwd: &Path, findings: &mut Diagnostics<'_>) -> LogPath {
    let Some(given) = given else { return LogPath::Default };
    match &given.value {
        LogTarget::Default => LogPath::Default,
        LogTarget::Off | LogTarget::Discard => LogPath::Discard,
        LogTarget::Path(path) => {
            let path = absolute(path, cwd);
            if path.is_dir() {
                let help = format!("use a file in it, such as {}", path.join("app.log").display());
                findings.error(&given.source, format!("log file {} is a directory", path.display()), help);
            }
            LogPath::File(path)
        }
    }
}

/// There is no combined log unless a place is given.
fn combined_path(
    given: Option<&Located<LogTarget>>,
    cwd: &Path,
    findings: &mut Diagnostics<'_>,
) -> Option<LogPath> {
    match &given?.value {
        LogTarget::Off | LogTarget::Discard => None,
        LogTarget::Default | LogTarget::Path(_) => Some(log_path(given, cwd, findings)),
    }
}
