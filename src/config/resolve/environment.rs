//! The environment variables of an app.

use crate::config::diagnostics::Diagnostics;
use crate::config::keys::{AppSettings, value_of};
use crate::config::parse::file::ParsedApp;
use crate::config::resolve::context::ResolveContext;
use crate::spec::EnvVars;

/// The variables in ascending priority: `env`, `port`, the environment block of `--env`.
pub(super) fn merged_env(settings: &AppSettings, env_name: Option<&str>) -> EnvVars {
    let mut vars = value_of(&settings.env).map(|env| env.0.clone()).unwrap_or_default();
    if let Some(port) = value_of(&settings.port) {
        vars.insert("PORT".into(), port.0.to_string());
    }
    if let Some(named) = env_name.and_then(|name| settings.named_env.get(name)) {
        vars.extend(named.value.0.clone());
    }
    vars
}

/// Warns if the app does not have the environment block of `--env`.
pub(super) fn warn_missing_env_block(
    parsed: &ParsedApp,
    app: &str,
    context: &ResolveContext<'_>,
    diagnostics: &mut Diagnostics<'_>,
) {
    let Some(name) = context.env_name else { return };
    if !parsed.settings.named_env.contains_key(name) {
        diagnostics.warn(&parsed.source, format!("app {app:?} has no `env_{name}`, using only `env`"));
    }
}
