//! The variables given to an app.

use super::ResolveContext;
use crate::config::diagnostics::Diagnostics;
use crate::config::keys::{AppSettings, value_of};
use crate::config::parse::file::ParsedApp;
use crate::spec::EnvVars;

/// `env`, then `port`, then the table that `--env` asks for: the more special wins.
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

/// Warns if `--env` asks for a table the app does not have.
pub(super) fn warn_missing_env_block(
    written: &ParsedApp,
    app: &str,
    ground: &ResolveContext<'_>,
    findings: &mut Diagnostics<'_>,
) {
    let Some(name) = ground.env_name else { return };
    if !written.settings.named_env.contains_key(name) {
        findings.warn(&written.at, format!("app {app:?} has no `env_{name}`, using only `env`"));
    }
}
