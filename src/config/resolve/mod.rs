//! From settings as given to an app that can be run: defaults filled in, paths made absolute,
//! programs and users looked up on this machine. Whatever cannot be resolved is noted, and the
//! rest goes on, so that all mistakes come out at once.

mod account;
mod environment;
mod interpreter;
mod logs;
mod package;
mod paths;
mod policy;
mod script;
pub(super) mod search_path;
mod serve;
mod shebang;
mod watch;

use std::ffi::OsStr;
use std::path::PathBuf;

use super::keys::{AppSettings, value_of};
use crate::config::diagnostics::{Diagnostics, Located};
use crate::config::parse::file::ParsedApp;
use crate::config::values::{AppName, FromValue};
use crate::spec::{AppSpec, ExecMode, Launcher, Runtime, runtime_of};

use crate::config::resolve::search_path::absolute;
pub(super) use interpreter::find_interpreter as named_interpreter;

/// What settings are resolved against.
pub(super) struct ResolveContext<'a> {
    /// Where relative paths start: the directory of the file, or that of the shell.
    pub(super) base: PathBuf,
    /// Whether a script may also be relative to `base` when the app has another `cwd`. True for
    /// commands: there the path was completed by the shell, in the shell's directory.
    pub(super) script_from_base: bool,
    /// The file the settings are from.
    pub(super) source: Option<PathBuf>,
    /// `--env`.
    pub(super) env_name: Option<&'a str>,
    /// Cores of the machine.
    pub(super) cores: u32,
    /// `PATH` of the shell.
    pub(super) path_var: &'a OsStr,
}

/// The name an app will have, if it can be told.
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

/// Characters of a name taken from a script.
const MAX_DERIVED_NAME: usize = 50;

/// The name of a script, as PM2 makes it: what follows the last slash, up to the last dot.
fn name_from_script(script: &str) -> Option<String> {
    let base = script.trim_end_matches('/').rsplit('/').next()?;
    let end = base.rfind('.').filter(|dot| *dot > 0).unwrap_or(base.len());
    // Shell lines can be long; a name is to fit a table and a file name.
    let plain = base[..end].chars().map(|c| if c.is_control() { ' ' } else { c });
    let short: String = plain.take(MAX_DERIVED_NAME).collect();
    let name = short.trim();
    (!name.is_empty() && name != ".").then(|| name.to_owned())
}

/// Resolves an app; `None` if so much is wrong that there is none.
pub(super) fn resolve_app(
    written: &ParsedApp,
    ground: &ResolveContext<'_>,
    findings: &mut Diagnostics<'_>,
) -> Option<AppSpec> {
    let settings = &written.settings;
    if written.invalid_keys.contains(&"script") {
        return None;
    }
    let Some(script) = &settings.script else {
        findings.error(
            &written.at,
            "missing `script`",
            "set `script` to a file, a program in PATH or a shell command",
        );
        return None;
    };
    let Some(name) = app_name(settings, ground.env_name) else {
        let help = "use a file or a program in PATH";
        findings.error(&script.source, format!("invalid script {:?}", script.value), help);
        return None;
    };
    if let Err(wrong) = AppName::from_value(&name.as_str().into()) {
        let at = settings.name.as_ref().map_or(&script.source, |name| &name.source);
        findings.error(
            at,
            format!("derived name {name:?} is invalid: expected {}", wrong.expected),
            "set `name`",
        );
    }
    let cwd = paths::resolve_cwd(settings, ground, findings);
    let cwd_known = cwd.is_some();
    let mut app = AppSpec::new(name, "", cwd.unwrap_or_else(|| ground.base.clone()));
    environment::warn_missing_env_block(written, &app.name, ground, findings);
    apply_settings(settings, &mut app, ground, findings);
    // In a wrong directory every script is missing; one mistake is enough to say so.
    let known = !["cwd", "env", "interpreter", "args"].iter().any(|key| written.invalid_keys.contains(key));
    if known && cwd_known {
        resolve_launch(settings, script, &mut app, ground, findings)?;
    }
    app.source.clone_from(&ground.source);
    Some(app)
}

/// All that does not depend on the script.
pub(super) fn apply_settings(
    settings: &AppSettings,
    app: &mut AppSpec,
    ground: &ResolveContext<'_>,
    findings: &mut Diagnostics<'_>,
) {
    if let Some(namespace) = value_of(&settings.namespace) {
        app.namespace.clone_from(&namespace.0);
    }
    app.args = value_of(&settings.args).map(|words| words.0.clone()).unwrap_or_default();
    app.env = environment::merged_env(settings, ground.env_name);
    app.filter_env = value_of(&settings.filter_env).map(|filter| filter.0.clone()).unwrap_or_default();
    app.increment_var = value_of(&settings.increment_var).map(|name| name.0.clone());
    if let Some(name) = value_of(&settings.instance_var) {
        app.instance_var.clone_from(&name.0);
    }
    app.instances = value_of(&settings.instances).map_or(1, |instances| instances.resolve(ground.cores));
    app.exec_mode = exec_mode(settings);
    app.hold_port = value_of(&settings.hold_port).copied().unwrap_or_default();
    app.balance = value_of(&settings.balance).map(|spread| spread.0).unwrap_or_default();
    app.listen = value_of(&settings.listen).map(|words| words.0.clone()).unwrap_or_default();
    app.ports = value_of(&settings.ports).map(|ports| ports.0).unwrap_or_default();
    app.autoscale = value_of(&settings.autoscale).and_then(|scaling| scaling.0.clone());
    app.account = account::resolve_account(settings, findings);
    policy::apply_policies(settings, app, findings);
    app.logs = logs::resolve_logs(settings, app, findings);
    app.pid_file = value_of(&settings.pid_file).map(|path| absolute(path, &app.cwd));
    app.watch = watch::resolve_watch(settings, &app.cwd, findings);
}

fn exec_mode(settings: &AppSettings) -> ExecMode {
    match value_of(&settings.execute_command) {
        Some(true) => ExecMode::Fork,
        _ => value_of(&settings.exec_mode).map_or(ExecMode::Fork, |mode| mode.0),
    }
}

/// All that depends on the script.
fn resolve_launch(
    settings: &AppSettings,
    script: &Located<String>,
    app: &mut AppSpec,
    ground: &ResolveContext<'_>,
    findings: &mut Diagnostics<'_>,
) -> Option<()> {
    let program = script::resolve_program(settings, script, app, ground, findings)?;
    app.script = program.script;
    app.launcher = program.launcher;
    if let Some(args) = program.args {
        app.args = args;
    }
    let runtime = program.runner.as_deref().and_then(runtime_of);
    app.version = program.file.as_deref().or(Some(&app.cwd)).and_then(package::package_version);
    if runtime == Some(Runtime::Python) {
        // Else a Python app's prints reach its log only when kilobytes have gathered.
        app.env.entry("PYTHONUNBUFFERED".into()).or_insert_with(|| "1".into());
    }
    let shares_ports = matches!(app.launcher, Launcher::Serve)
        || matches!(runtime, Some(Runtime::Node | Runtime::Bun | Runtime::Tsx));
    let unsaid = settings.exec_mode.is_none() && value_of(&settings.execute_command) != Some(&true);
    if shares_ports && unsaid && settings.instances.is_some() {
        app.exec_mode = ExecMode::Cluster;
    }
    check_autoscale(settings, app, findings);
    Some(())
}

/// An app that scales by itself begins with what it shall have at least, unless the file says more.
fn check_autoscale(settings: &AppSettings, app: &mut AppSpec, findings: &mut Diagnostics<'_>) {
    let (Some(scaling), Some(given)) = (&app.autoscale, &settings.autoscale) else { return };
    if app.exec_mode == ExecMode::Fork {
        let help = "set `exec_mode` to \"cluster\"";
        findings.error(&given.source, "`autoscale` requires cluster mode", help);
    }
    app.instances = match settings.instances {
        Some(_) => app.instances.clamp(scaling.min, scaling.max),
        None => scaling.min,
    };
}

#[cfg(test)]
mod tests {
    use super::name_from_script;

    #[test]
    fn names_come_from_scripts() {
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
