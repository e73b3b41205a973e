//! Which files an app is restarted for.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::absolute;
use crate::config::diagnostics::Diagnostics;
use crate::config::keys::{AppSettings, value_of};
use crate::config::values::WatchValue;
use crate::spec::WatchSpec;

/// Editors and builds write several files at once; so long it must be quiet before a restart.
const DEFAULT_DEBOUNCE: Duration = Duration::from_millis(200);

/// What is watched, if anything is.
pub(super) fn resolve_watch(
    settings: &AppSettings,
    cwd: &Path,
    findings: &mut Diagnostics<'_>,
) -> Option<WatchSpec> {
    let asked = settings.watch.as_ref()?;
    let paths = match &asked.value {
        WatchValue::Off => return None,
        WatchValue::WorkingDirectory => vec![cwd.to_owned()],
        WatchValue::Paths(paths) => {
            let mut resolved: Vec<PathBuf> = Vec::new();
            for path in paths {
                let fixed = literal_prefix(path);
                if fixed != path {
                    let message = format!(
                        "patterns are not supported in `watch`: watching {fixed:?} instead of \
                            {path:?}"
                    );
                    findings.warn(&asked.source, message);
                }
                resolved.push(absolute(fixed, cwd));
            }
            resolved.dedup();
            resolved
        }
    };
    for path in paths.iter().filter(|path| !path.exists()) {
        findings.warn(&asked.source, format!("watched path {} not found", path.display()));
    }
    let ignore = value_of(&settings.ignore_watch).map(|words| words.0.as_slice()).unwrap_or_default();
    Some(WatchSpec {
        paths,
        ignore: ignore.iter().map(|pattern| anchor_pattern(pattern, cwd)).collect(),
        delay: value_of(&settings.watch_delay).map_or(DEFAULT_DEBOUNCE, |delay| delay.0),
    })
}

/// The directories before the first one with a pattern in it: `src/**/*.js` → `src`.
fn literal_prefix(path: &str) -> &str {
    let Some(pattern) = path.find(['*', '?', '[', '{']) else { return path };
    match path[..pattern].rfind('/') {
        Some(0) => "/",
        Some(slash) => &path[..slash],
        None => ".",
    }
}

/// PM2 knows paths here, gitignore patterns begin at the top with a slash: `./logs` and
/// `/srv/app/logs` are `/logs`.
fn anchor_pattern(pattern: &str, cwd: &Path) -> String {
    let cwd = cwd.to_string_lossy();
    let below = pattern.strip_prefix(cwd.as_ref()).filter(|rest| rest.starts_with('/'));
    match (below, pattern.strip_prefix("./")) {
        (Some(rest), _) => rest.to_owned(),
        (None, Some(rest)) => format!("/{rest}"),
        (None, None) => pattern.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_shrink_to_their_directory() {
        for (given, fixed) in
            [("src/**/*.js", "src"), ("*.js", "."), ("/a*", "/"), ("a/b", "a/b"), ("a/{b,c}/d", "a")]
        {
            assert_eq!(literal_prefix(given), fixed, "{given}");
        }
    }

    #[test]
    fn paths_become_anchored_patterns() {
        let cwd = Path::new("/srv/app");
        assert_eq!(anchor_pattern("./logs", cwd), "/logs");
        assert_eq!(anchor_pattern("/srv/app/tmp", cwd), "/tmp");
        assert_eq!(anchor_pattern("/srv/apple", cwd), "/srv/apple");
        assert_eq!(anchor_pattern("*.log", cwd), "*.log");
    }
}
