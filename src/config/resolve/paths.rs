//! The app's working directory.

use std::path::PathBuf;

use super::ResolveContext;
use crate::config::diagnostics::Diagnostics;
use crate::config::keys::AppSettings;
use crate::config::resolve::search_path::absolute;

/// The app's working directory; a mistake if there is no such directory.
pub(super) fn resolve_cwd(
    settings: &AppSettings,
    ground: &ResolveContext<'_>,
    findings: &mut Diagnostics<'_>,
) -> Option<PathBuf> {
    let Some(cwd) = &settings.cwd else { return Some(ground.base.clone()) };
    let path = absolute(&cwd.value, &ground.base);
    let trouble = match std::fs::metadata(&path) {
        Ok(meta) if meta.is_dir() => return Some(path),
        Ok(_) => "is not a directory".to_owned(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => "not found".to_owned(),
        Err(error) => format!("is not accessible: {error}"),
    };
    findings.error(
        &cwd.source,
        format!("working directory {} {trouble}", path.display()),
        "create it, or change `cwd`",
    );
    None
}
