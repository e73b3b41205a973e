//! Validation of app specs in requests. The supervisor relies on it.

use crate::ipc::message::{ApiError, ErrorCode};
use crate::process::signal;
use crate::spec::AppSpec;

/// The largest number of instances of an app. More are considered a mistake.
pub(super) const MAX_INSTANCES: u32 = 10_000;

/// Checks an app spec.
pub(super) fn validate_app(app: &AppSpec) -> Result<(), ApiError> {
    let name = &app.name;
    let invalid = |message: String| Err(ApiError::new(ErrorCode::Invalid, message));
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
    if signal::parse(&app.stop.signal).is_none() {
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

/// The error for too many instances.
pub(super) fn too_many(name: &str, count: u32) -> ApiError {
    let message = format!("app \"{name}\": instances must be at most {MAX_INSTANCES}, found {count}");
    ApiError::new(ErrorCode::Invalid, message)
}
