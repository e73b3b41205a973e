//! Configuration: read → resolve → validate → [`AppSpec`]s, or every mistake at once.
//!
//! - `format` tells formats apart, `source` reads a file within limits (`evaluate` has node evaluate
//!   a script), `tree/` parses it into values that know their place;
//! - `keys` is the table of all keys; `file` looks up the keys of a file in it and reads each value
//!   by its type (`value/`), `command_line` does the same with flags, `patch` turns flags into
//!   changes of an app that is running;
//! - `resolve/` fills in defaults, makes paths absolute, finds interpreters and users;
//! - `findings` collects mistakes and warnings on the way, so that all come out together.
//!
//! Everything here happens where the user is: in the CLI, with the user's directory and `PATH`.

mod command_line;
mod convert;
mod key_def;
mod keys;
mod mistake;
mod patch;
mod resolve;
mod schema;

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::Path;

pub use crate::config::parse::format::{DEFAULT_FILES, is_config_file};
pub use crate::config::parse::source::fingerprint_file;
pub use command_line::{CommandLine, GivenFlag, load_command_line};
pub use convert::{Converted, convert};
pub use key_def::{Flag, FlagValue, Group, KeyDef, Pm2Reader, Pm2Value};
pub use keys::{EXT, IGNORED_KEYS, IgnoredKey, KEYS, key_for_pointer, keys_with_flags};
pub use mistake::{ConfigError, ConfigErrors, Location};
pub use patch::flags_to_patch;
pub use schema::schema;

use crate::config::diagnostics::{Diagnostics, SourceRef};
use crate::config::parse::file::ParsedApp;
use crate::config::parse::format::STDIN;
use crate::config::parse::source::SourceText;
use crate::config::resolve::search_path::SearchPath;
use crate::spec::{AppSpec, dependencies};
use resolve::ResolveContext;

/// What a file or command line is resolved with.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// `--env`: lay `env_<name>` over `env`.
    pub env_name: Option<String>,
    /// `--only`: these apps of a file; all if empty.
    pub only: Vec<String>,
    /// Cores of the machine, for `instances = "max"`.
    pub cores: u32,
    /// `PATH`, for look-ups.
    pub path_var: OsString,
}

/// Apps ready to be started.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// The apps, in the order of the file.
    pub apps: Vec<AppSpec>,
    /// What the user should know, each with its place.
    pub warnings: Vec<String>,
}

/// Bytes of a size as people write it: `300M`.
pub fn parse_size(text: &str) -> Option<u64> {
    use crate::config::values::FromValue;
    values::ByteSize::from_value(&serde_json::Value::from(text)).ok().map(|size| size.0)
}

/// Loads the apps of a file, or of standard input for `-`.
///
/// # Errors
/// Every mistake of the file. Apps left out by `only` are read but not resolved: what they need
/// may not be on this machine.
pub fn load(path: &Path, options: &LoadOptions) -> Result<Loaded, ConfigErrors> {
    let source = read_source(path, options)?;
    let mut findings = Diagnostics::new(Some(&source));
    let written = crate::config::parse::file::read(&source, &mut findings)?;
    let env_name = options.env_name.as_deref();
    let name = |app: &ParsedApp| {
        let known = !app.invalid_keys.contains(&"name");
        known.then(|| resolve::app_name(&app.settings, env_name)).flatten()
    };
    let names: Vec<Option<String>> = written.iter().map(name).collect();
    check_duplicate_names(&written, &names, &mut findings);
    let only = selected_names(&options.only, &names);
    check_only_names(&only, &names, &mut findings);
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let ground = ResolveContext {
        // Of `-` too: what is beside it is what is in the current directory.
        base: absolute.parent().unwrap_or(Path::new("/")).to_owned(),
        script_from_base: false,
        source: (path != Path::new(STDIN)).then(|| absolute.clone()),
        env_name,
        cores: options.cores,
        path_var: &options.path_var,
    };
    let chosen =
        |name: &Option<String>| only.is_empty() || name.as_ref().is_some_and(|name| only.contains(name));
    let mut apps = Vec::new();
    for (app, _) in written.iter().zip(&names).filter(|(_, name)| chosen(name)) {
        if findings.is_full() {
            break;
        }
        apps.extend(resolve::resolve_app(app, &ground, &mut findings));
    }
    if ground.source.is_some() {
        apps.iter_mut().for_each(|app: &mut AppSpec| app.set_origin(source.fingerprint.clone()));
    }
    check_dependency_cycles(&written, &apps, &mut findings);
    findings.finish(apps).map(|(apps, warnings)| Loaded { apps, warnings })
}

/// The names of a file's apps, as `--env` makes them, or those that `only` leaves. Nothing is looked up on the machine:
/// an app can be stopped whose script is gone.
///
/// # Errors
/// The file's mistakes of syntax, keys and values, or an app without script and name.
pub fn app_names(path: &Path, options: &LoadOptions) -> Result<Vec<String>, ConfigErrors> {
    let source = read_source(path, options)?;
    let mut findings = Diagnostics::new(Some(&source));
    let written = crate::config::parse::file::read(&source, &mut findings)?;
    let mut names = Vec::new();
    for app in &written {
        match resolve::app_name(&app.settings, options.env_name.as_deref()) {
            Some(name) => names.push(name),
            None => findings.error(&app.at, "app has no name and no script", "set `name`"),
        }
    }
    let known: Vec<Option<String>> = names.iter().cloned().map(Some).collect();
    let only = selected_names(&options.only, &known);
    check_only_names(&only, &known, &mut findings);
    names.retain(|name| only.is_empty() || only.contains(name));
    findings.finish(names).map(|(names, _)| names)
}

fn read_source(path: &Path, options: &LoadOptions) -> Result<SourceText, ConfigErrors> {
    let search = SearchPath::new(None, &options.path_var, Path::new("."));
    SourceText::read(path, &search).map_err(|mistake| ConfigErrors(vec![mistake]))
}

/// The names in `--only`, written with commas or blanks. An app whose name has a blank means itself.
fn selected_names(only: &[String], names: &[Option<String>]) -> Vec<String> {
    let parts = only.iter().flat_map(|text| text.split(',')).map(str::trim).filter(|part| !part.is_empty());
    let words = |part: &str| match names.iter().flatten().any(|name| name == part) {
        true => vec![part.to_owned()],
        false => part.split_whitespace().map(str::to_owned).collect(),
    };
    parts.flat_map(words).collect()
}

fn check_duplicate_names(written: &[ParsedApp], names: &[Option<String>], findings: &mut Diagnostics<'_>) {
    let mut seen: HashMap<&str, usize> = HashMap::new();
    for (number, (app, name)) in written.iter().zip(names).enumerate() {
        let Some(name) = name else { continue };
        if let Some(first) = seen.insert(name, number) {
            let at = app.settings.name.as_ref().map(|name| &name.source);
            let at = at.or(app.settings.script.as_ref().map(|script| &script.source)).unwrap_or(&app.at);
            let message = format!("apps {} and {} have the same name {name:?}", first + 1, number + 1);
            findings.error(at, message, "use unique names");
        }
    }
}

fn check_dependency_cycles(written: &[ParsedApp], apps: &[AppSpec], findings: &mut Diagnostics<'_>) {
    let depends = apps.iter().map(|app| (app.name.clone(), app.depends_on.clone())).collect();
    if let Err(circle) = dependencies::start_layers(&depends) {
        let at = written.iter().find_map(|app| {
            let depends = app.settings.depends_on.as_ref()?;
            let name = app.settings.name.as_ref().map(|name| &name.value.0);
            name.is_none_or(|name| circle.0.contains(name)).then_some(&depends.source)
        });
        let at = at.or(written.first().map(|app| &app.at));
        at.into_iter().for_each(|at| {
            findings.error(
                at,
                circle.to_string(),
                "remove one of them from \
            `depends_on`",
            )
        });
    }
}

fn check_only_names(only: &[String], names: &[Option<String>], findings: &mut Diagnostics<'_>) {
    let known: Vec<&str> = names.iter().flatten().map(String::as_str).collect();
    for name in only.iter().filter(|name| !known.contains(&name.as_str())) {
        let message = format!("app {name:?} not found in the file");
        findings.error(&SourceRef::Flag("--only"), message, format!("available: {}", known.join(", ")));
    }
}

#[cfg(test)]
mod tests;

mod diagnostics;
mod parse;
#[cfg(test)]
mod pm2_tests;
mod values;
