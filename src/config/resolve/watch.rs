//! The files whose changes restart an app.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::diagnostics::Diagnostics;
use crate::config::keys::{AppSettings, value_of};
use crate::config::resolve::search_path::absolute;
use crate::config::values::WatchValue;
use crate::spec::WatchSpec;

/// Time without changes before a restart: editors and builds write several files at once.
const DEFAULT_DEBOUNCE: Duration = Duration::from_millis(200);

/// Resolves the watch settings; `None` if watching is disabled.
pub(super) fn resolve_watch(
    settings: &AppSettings,
    cwd: &Path,
    diagnostics: &mut Diagnostics<'_>,
) -> Option<WatchSpec> {
    let watch = settings.watch.as_ref()?;
    let paths = match &watch.value {
        WatchValue::Off => return None,
        WatchValue::WorkingDirectory => vec![cwd.to_owned()],
        WatchValue::Paths(paths) => {
            let mut resolved: Vec<PathBuf> = Vec::new();
            for path in paths {
                let prefix = literal_prefix(path);
                if prefix != path {
                    let message = format!(
                        "patterns are not supported in `watch`: watching {prefix:?} instead of {path:?}"
                    );
                    diagnostics.warn(&watch.source, message);
                }
                resolved.push(absolute(prefix, cwd));
            }
            resolved.dedup();
            resolved
        }
    };
    for path in paths.iter().filter(|path| !path.exists()) {
        diagnostics.warn(&watch.source, format!("watched path {} not found", path.display()));
    }
    let ignore = value_of(&settings.ignore_watch).map(|words| words.0.as_slice()).unwrap_or_default();
    Some(WatchSpec {
        paths,
        ignore: ignore.to_vec(),
        delay: value_of(&settings.watch_delay).map_or(DEFAULT_DEBOUNCE, |delay| delay.0),
    })
}

/// The directories before the first pattern: `src/**/*.js` → `src`.
fn literal_prefix(path: &str) -> &str {
    let Some(pattern) = path.find(['*', '?', '[', '{']) else { return path };
    match path[..pattern].rfind('/') {
        Some(0) => "/",
        Some(slash) => &path[..slash],
        None => ".",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pattern_is_cut_to_directory() {
        for (path, prefix) in
            [("src/**/*.js", "src"), ("*.js", "."), ("/a*", "/"), ("a/b", "a/b"), ("a/{b,c}/d", "a")]
        {
            assert_eq!(literal_prefix(path), prefix, "{path}");
        }
    }
}
