//! The working directory of an app.

use std::path::PathBuf;

use crate::config::diagnostics::Diagnostics;
use crate::config::keys::AppSettings;
use crate::config::resolve::context::ResolveContext;
use crate::config::resolve::search_path::absolute;

/// Resolves the working directory; an error if it is not a directory.
pub(super) fn resolve_cwd(
    settings: &AppSettings,
    context: &ResolveContext<'_>,
    diagnostics: &mut Diagnostics<'_>,
) -> Option<PathBuf> {
    let Some(cwd) = &settings.cwd else { return Some(context.base.clone()) };
    let path = absolute(&cwd.value, &context.base);
    let problem = match std::fs::metadata(&path) {
        Ok(meta) if meta.is_dir() => return Some(path),
        Ok(_) => "is not a directory".to_owned(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => "not found".to_owned(),
        Err(error) => format!("is not accessible: {error}"),
    };
    diagnostics.error(
        &cwd.source,
        format!("working directory {} {problem}", path.display()),
        "create it, or change `cwd`",
    );
    None
}
