//! Resolution of settings to an [`AppSpec`]: defaults, absolute paths, programs and users of this machine.
//!
//! A setting that cannot be resolved adds an error and does not end the resolution, so that all errors are reported.

mod account;
mod context;
mod environment;
mod interpreter;
mod logs;
mod package;
mod paths;
mod policy;
mod script;
pub(super) mod search_path;
mod serve;
mod typescript;
mod watch;

pub(super) use context::ResolveContext;
pub(super) use interpreter::find_interpreter;
pub(super) use search_path::{SearchPath, absolute};

use std::ffi::OsStr;
use std::path::Path;

use crate::config::diagnostics::{Diagnostics, Located};
use crate::config::keys::{AppSettings, value_of};
use crate::config::parse::file::ParsedApp;
use crate::config::values::{AppName, FromValue};
use crate::spec::{AppSpec, ExecMode, Launcher, Runtime, known_program, runtime_of};

/// The name of an app, if it is known.
pub(super) fn app_name(settings: &AppSettings, env_name: Option<&str>) -> Option<String> {
    let name = match value_of(&settings.name) {
        Some(name) => name.0.clone(),
        None => name_from_script(value_of(&settings.script)?)?,
    };
    match env_name {
        Some(env) if value_of(&settings.append_env_to_name) == Some(&true) => Some(format!("{name}-{env}")),
        _ => Some(name),
    }
}

/// Maximum length of a name derived from a script. Characters.
const MAX_DERIVED_NAME: usize = 50;

/// The name derived from a script, as in PM2: from the last slash to the last dot.
fn name_from_script(script: &str) -> Option<String> {
    let base = script.trim_end_matches('/').rsplit('/').next()?;
    let end = base.rfind('.').filter(|dot| *dot > 0).unwrap_or(base.len());
    // A shell command can be long; a name must fit a table and a file name.
    let plain = base[..end].chars().map(|c| if c.is_control() { ' ' } else { c });
    let short: String = plain.take(MAX_DERIVED_NAME).collect();
    let name = short.trim();
    (!name.is_empty() && name != ".").then(|| name.to_owned())
}

/// The name of an app whose script is a directory such as `.`.
fn directory_name(script: &str, base: &Path) -> Option<String> {
    let path = absolute(script, base);
    let name = path.file_name().map(OsStr::to_owned);
    let name = name.or_else(|| Some(path.canonicalize().ok()?.file_name()?.to_owned()))?;
    name_from_script(name.to_str()?)
}

/// Resolves an app; `None` if its script or name is missing or invalid.
pub(super) fn resolve_app(
    parsed: &ParsedApp,
    context: &ResolveContext<'_>,
    diagnostics: &mut Diagnostics<'_>,
) -> Option<AppSpec> {
    let settings = &parsed.settings;
    if parsed.invalid_keys.contains(&"script") {
        return None;
    }
    let Some(script) = &settings.script else {
        diagnostics.error(
            &parsed.source,
            "missing `script`",
            "set `script` to a file, a program in PATH or a shell command",
        );
        return None;
    };
    let name = app_name(settings, context.env_name).or_else(|| directory_name(&script.value, &context.base));
    let Some(name) = name else {
        let help = "use a file or a program in PATH";
        diagnostics.error(&script.source, format!("invalid script {:?}", script.value), help);
        return None;
    };
    if let Err(error) = AppName::from_value(&name.as_str().into()) {
        let source = settings.name.as_ref().map_or(&script.source, |name| &name.source);
        diagnostics.error(
            source,
            format!("derived name {name:?} is invalid: expected {}", error.expected),
            "set `name`",
        );
    }
    let cwd = paths::resolve_cwd(settings, context, diagnostics);
    let is_cwd_valid = cwd.is_some();
    let mut app = AppSpec::new(name, "", cwd.unwrap_or_else(|| context.base.clone()));
    environment::warn_missing_env_block(parsed, &app.name, context, diagnostics);
    apply_settings(settings, &mut app, context, diagnostics);
    // In an invalid working directory every script is missing: one error is enough.
    let are_valid =
        !["cwd", "env", "interpreter", "args"].iter().any(|key| parsed.invalid_keys.contains(key));
    if are_valid && is_cwd_valid {
        resolve_launch(settings, script, &mut app, context, diagnostics)?;
    }
    app.source.clone_from(&context.source);
    Some(app)
}

/// Applies all settings that do not depend on the script.
pub(super) fn apply_settings(
    settings: &AppSettings,
    app: &mut AppSpec,
    context: &ResolveContext<'_>,
    diagnostics: &mut Diagnostics<'_>,
) {
    if let Some(namespace) = value_of(&settings.namespace) {
        app.namespace.clone_from(&namespace.0);
    }
    app.args = value_of(&settings.args).map(|words| words.0.clone()).unwrap_or_default();
    app.env = environment::merged_env(settings, context.env_name);
    app.filter_env = value_of(&settings.filter_env).map(|filter| filter.0.clone()).unwrap_or_default();
    app.increment_var = value_of(&settings.increment_var).map(|name| name.0.clone());
    if let Some(name) = value_of(&settings.instance_var) {
        app.instance_var.clone_from(&name.0);
    }
    app.instances = value_of(&settings.instances).map_or(1, |instances| instances.resolve(context.cores));
    app.exec_mode = exec_mode(settings);
    app.hold_port = value_of(&settings.hold_port).copied().unwrap_or_default();
    app.balance = value_of(&settings.balance).map(|balance| balance.0).unwrap_or_default();
    app.listen = value_of(&settings.listen).map(|words| words.0.clone()).unwrap_or_default();
    app.ports = value_of(&settings.ports).map(|ports| ports.0).unwrap_or_default();
    app.autoscale = value_of(&settings.autoscale).and_then(|autoscale| autoscale.0.clone());
    app.account = account::resolve_account(settings, diagnostics);
    policy::apply_policies(settings, app, diagnostics);
    app.logs = logs::resolve_logs(settings, app, diagnostics);
    app.pid_file = value_of(&settings.pid_file).map(|path| absolute(path, &app.cwd));
    app.watch = watch::resolve_watch(settings, &app.cwd, diagnostics);
}

fn exec_mode(settings: &AppSettings) -> ExecMode {
    match value_of(&settings.execute_command) {
        Some(true) => ExecMode::Fork,
        _ => value_of(&settings.exec_mode).map_or(ExecMode::Fork, |mode| mode.0),
    }
}

/// Applies all settings that depend on the script.
fn resolve_launch(
    settings: &AppSettings,
    script: &Located<String>,
    app: &mut AppSpec,
    context: &ResolveContext<'_>,
    diagnostics: &mut Diagnostics<'_>,
) -> Option<()> {
    let program = script::resolve_program(settings, script, app, context, diagnostics)?;
    app.script = program.script;
    app.launcher = program.launcher;
    if let Some(args) = program.args {
        app.args = args;
    }
    if let (None, Some((_, signal))) = (&settings.kill_signal, known_program(app)) {
        signal.clone_into(&mut app.stop.signal);
    }
    let runtime = program.runtime.as_deref().and_then(runtime_of);
    app.version = program.file.as_deref().or(Some(&app.cwd)).and_then(package::package_version);
    if runtime == Some(Runtime::Python) {
        // Python buffers its output by kilobytes unless it is written to a terminal.
        app.env.entry("PYTHONUNBUFFERED".into()).or_insert_with(|| "1".into());
    }
    let shares_ports = matches!(app.launcher, Launcher::Serve)
        || matches!(runtime, Some(Runtime::Node | Runtime::Bun | Runtime::Tsx));
    let is_mode_unset = settings.exec_mode.is_none() && value_of(&settings.execute_command) != Some(&true);
    if shares_ports && is_mode_unset && settings.instances.is_some() {
        app.exec_mode = ExecMode::Cluster;
    }
    check_autoscale(settings, app, diagnostics);
    Some(())
}

/// Limits the number of instances to `min` and `max` of `autoscale`; the default is `min`.
fn check_autoscale(settings: &AppSettings, app: &mut AppSpec, diagnostics: &mut Diagnostics<'_>) {
    let (Some(autoscale), Some(setting)) = (&app.autoscale, &settings.autoscale) else { return };
    if app.exec_mode == ExecMode::Fork {
        let help = "set `exec_mode` to \"cluster\"";
        diagnostics.error(&setting.source, "`autoscale` requires cluster mode", help);
    }
    app.instances = match settings.instances {
        Some(_) => app.instances.clamp(autoscale.min, autoscale.max),
        None => autoscale.min,
    };
}

#[cfg(test)]
mod tests {
    use super::name_from_script;

    #[test]
    fn name_is_derived_from_script() {
        for (script, name) in [
            ("./src/api.server.js", Some("api.server")),
            ("sleep 7", Some("sleep 7")),
            ("node a.js --x", Some("node a")),
            (".hidden", Some(".hidden")),
            ("bin/", Some("bin")),
            ("/", None),
            (".", None),
            ("echo a\nb", Some("echo a b")),
        ] {
            assert_eq!(name_from_script(script).as_deref(), name, "{script}");
        }
    }
}
