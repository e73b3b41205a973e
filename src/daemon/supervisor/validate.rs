//! What a request must keep to, whoever made it: the loop relies on it.

use crate::ipc::message::{ApiError, ErrorCode};
use crate::spec::AppSpec;

/// More instances of one app than this are taken for a mistake.
pub(in crate::daemon) const MAX_INSTANCES: u32 = 10_000;

/// What the daemon must be able to rely on, whoever made the request.
pub(in crate::daemon) fn validate_app(app: &AppSpec) -> Result<(), ApiError> {
    let name = &app.name;
    let invalid = |what: String| Err(ApiError::new(ErrorCode::Invalid, what));
    let text = app
        .args
        .iter()
        .chain([name, &app.script])
        .chain(app.env.iter().flat_map(|(name, value)| [name, value]));
    if text.into_iter().any(|text| text.contains('\0')) {
        return invalid(format!("app \"{}\": NUL byte in name, script, args or env", name.escape_debug()));
    }
    if name.trim().is_empty() || app.script.is_empty() {
        return invalid("name and script are required".into());
    }
    if !app.cwd.is_absolute() {
        return invalid(format!("app \"{name}\": cwd {} is not absolute", app.cwd.display()));
    }
    if crate::process::signal::parse(&app.stop.signal).is_none() {
        return invalid(format!("app \"{name}\": unknown signal \"{}\"", app.stop.signal));
    }
    if app.instances == 0 {
        return invalid(format!("app \"{name}\": instances must be at least 1"));
    }
    if app.instances > MAX_INSTANCES {
        return Err(too_many(name, app.instances));
    }
    Ok(())
}

/// The refusal of so many instances.
pub(in crate::daemon) fn too_many(name: &str, wanted: u32) -> ApiError {
    let message = format!("app \"{name}\": instances must be at most {MAX_INSTANCES}, found {wanted}");
    ApiError::new(ErrorCode::Invalid, message)
}
