//! Loading of an ecosystem file: its apps, or only their names.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::Path;

use crate::config::diagnostics::{ConfigErrors, Diagnostics, Location, SourceRef};
use crate::config::parse::file::{self, ParsedApp};
use crate::config::parse::format::STDIN;
use crate::config::parse::source::SourceText;
use crate::config::resolve::{self, ResolveContext, SearchPath};
use crate::paths::absolute;
use crate::spec::{AppSpec, dependencies};

/// How a file or command line is loaded.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// `--env`: merge `env_<name>` over `env`.
    pub env_name: Option<String>,
    /// `--only`: load these apps of a file; all if empty.
    pub only: Vec<String>,
    /// The number of cores, for `instances = "max"`.
    pub cores: u32,
    /// The `PATH` in which programs are searched.
    pub path_var: OsString,
    /// The command line, which a file in JavaScript sees as `process.argv`.
    pub command_line: Vec<OsString>,
}

/// An app of a file, and where each of its keys was given.
#[derive(Clone, Debug)]
pub struct LocatedApp {
    /// The app.
    pub spec: AppSpec,
    /// The canonical names of the given keys, in the order of the file.
    pub keys: Vec<(&'static str, Location)>,
}

/// Apps ready to be started.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// The apps, in the order of the file.
    pub apps: Vec<AppSpec>,
    /// The warnings, each with its location.
    pub warnings: Vec<String>,
}

/// Loads the apps of a file, or of standard input for `-`.
///
/// # Errors
/// Every error of the file. Apps left out by `only` are read but not resolved: what they need
/// may not be on this machine.
pub fn load(path: &Path, options: &LoadOptions) -> Result<Loaded, ConfigErrors> {
    let source = read_source(path, options)?;
    let mut diagnostics = Diagnostics::of_file(&source, source.warnings.clone());
    let apps = read_apps(&source, path, options, &mut diagnostics)?;
    let apps = apps.into_iter().map(|(_, app)| app).collect();
    diagnostics.finish(apps).map(|(apps, warnings)| Loaded { apps, warnings })
}

/// Loads the apps of a file like [`load`], with the locations of their keys. Also returns the warnings.
///
/// # Errors
/// Those of [`load`].
pub fn load_located(
    path: &Path,
    options: &LoadOptions,
) -> Result<(Vec<LocatedApp>, Vec<String>), ConfigErrors> {
    let source = read_source(path, options)?;
    let mut diagnostics = Diagnostics::of_file(&source, source.warnings.clone());
    let apps = read_apps(&source, path, options, &mut diagnostics)?;
    let locate = |(parsed, spec): (ParsedApp, AppSpec)| {
        let keys = parsed.keys.iter().map(|(key, source)| (*key, diagnostics.locate(source))).collect();
        LocatedApp { spec, keys }
    };
    let apps = apps.into_iter().map(locate).collect();
    diagnostics.finish(apps)
}

/// The selected apps of a file. Errors except those of syntax are added to `diagnostics`.
fn read_apps(
    source: &SourceText,
    path: &Path,
    options: &LoadOptions,
    diagnostics: &mut Diagnostics<'_>,
) -> Result<Vec<(ParsedApp, AppSpec)>, ConfigErrors> {
    let parsed = file::read(source, diagnostics)?;
    let env_name = options.env_name.as_deref();
    let name = |app: &ParsedApp| {
        let is_valid = !app.invalid_keys.contains(&"name");
        is_valid.then(|| resolve::app_name(&app.settings, env_name)).flatten()
    };
    let names: Vec<Option<String>> = parsed.iter().map(name).collect();
    check_duplicate_names(&parsed, &names, diagnostics);
    let only = selected_names(&options.only, &names);
    check_only_names(&only, &names, diagnostics);
    let context = file_context(path, options);
    let is_selected =
        |name: &Option<String>| only.is_empty() || name.as_ref().is_some_and(|name| only.contains(name));
    let mut apps = Vec::new();
    for (parsed, _) in parsed.into_iter().zip(&names).filter(|(_, name)| is_selected(name)) {
        if diagnostics.is_full() {
            break;
        }
        if let Some(mut app) = resolve::resolve_app(&parsed, &context, diagnostics) {
            if context.source.is_some() {
                app.set_origin(source.fingerprint.clone());
            }
            apps.push((parsed, app));
        }
    }
    check_dependency_cycles(&apps, diagnostics);
    Ok(apps)
}

/// The names of the apps of a file, with `--env` and `--only` applied. Nothing is looked up on the machine: an app
/// whose script is missing can be stopped.
///
/// # Errors
/// Errors of syntax, keys and values in the file, or an app without script and name.
pub fn app_names(path: &Path, options: &LoadOptions) -> Result<Vec<String>, ConfigErrors> {
    let source = read_source(path, options)?;
    let mut diagnostics = Diagnostics::of_file(&source, source.warnings.clone());
    let parsed = file::read(&source, &mut diagnostics)?;
    let mut names = Vec::new();
    for app in &parsed {
        match resolve::app_name(&app.settings, options.env_name.as_deref()) {
            Some(name) => names.push(name),
            None => diagnostics.error(&app.source, "app has no name and no script", "set `name`"),
        }
    }
    let known: Vec<Option<String>> = names.iter().cloned().map(Some).collect();
    let only = selected_names(&options.only, &known);
    check_only_names(&only, &known, &mut diagnostics);
    names.retain(|name| only.is_empty() || only.contains(name));
    diagnostics.finish(names).map(|(names, _)| names)
}

/// Reads a file, or standard input for `-`.
pub(super) fn read_source(path: &Path, options: &LoadOptions) -> Result<SourceText, ConfigErrors> {
    let search = SearchPath::new(None, &options.path_var, Path::new("."));
    SourceText::read(path, &search, &options.command_line)
}

/// The context of the apps of a file; for standard input, relative paths start at the current directory.
fn file_context<'a>(path: &Path, options: &'a LoadOptions) -> ResolveContext<'a> {
    let absolute = absolute(path);
    ResolveContext {
        base: absolute.parent().unwrap_or(Path::new("/")).to_owned(),
        script_from_base: false,
        source: (path != Path::new(STDIN)).then(|| absolute.clone()),
        env_name: options.env_name.as_deref(),
        cores: options.cores,
        path_var: &options.path_var,
    }
}

/// The names in `--only`, separated by commas or blanks. A name that contains one of these is recognized if an app has
/// it.
fn selected_names(only: &[String], names: &[Option<String>]) -> Vec<String> {
    let is_name = |text: &str| names.iter().flatten().any(|name| name == text);
    let split = |text: &str, separator: fn(char) -> bool| -> Vec<String> {
        let text = text.trim();
        match is_name(text) {
            true => vec![text.to_owned()],
            false => text.split(separator).map(str::to_owned).collect(),
        }
    };
    let parts = only.iter().flat_map(|text| split(text, |c| c == ','));
    let words = parts.flat_map(|part| split(&part, char::is_whitespace));
    words.filter(|word| !word.is_empty()).collect()
}

fn check_duplicate_names(parsed: &[ParsedApp], names: &[Option<String>], diagnostics: &mut Diagnostics<'_>) {
    let mut seen: HashMap<&str, usize> = HashMap::new();
    for (number, (app, name)) in parsed.iter().zip(names).enumerate() {
        let Some(name) = name else { continue };
        if let Some(first) = seen.insert(name, number) {
            let source = app.settings.name.as_ref().map(|name| &name.source);
            let source = source.or(app.settings.script.as_ref().map(|script| &script.source));
            let message = format!("apps {} and {} have the same name {name:?}", first + 1, number + 1);
            diagnostics.error(source.unwrap_or(&app.source), message, "use unique names");
        }
    }
}

fn check_dependency_cycles(apps: &[(ParsedApp, AppSpec)], diagnostics: &mut Diagnostics<'_>) {
    let dependencies = apps.iter().map(|(_, app)| (app.name.clone(), app.dependency_names())).collect();
    let Err(cycle) = dependencies::start_layers(&dependencies) else { return };
    let in_cycle = apps.iter().filter(|(_, app)| cycle.0.contains(&app.name));
    let depends_on = in_cycle.filter_map(|(parsed, _)| parsed.settings.depends_on.as_ref()).next();
    let source = depends_on.map(|names| &names.source).or(apps.first().map(|(parsed, _)| &parsed.source));
    if let Some(source) = source {
        diagnostics.error(source, cycle.to_string(), "remove one of them from `depends_on`");
    }
}

fn check_only_names(only: &[String], names: &[Option<String>], diagnostics: &mut Diagnostics<'_>) {
    let known: Vec<&str> = names.iter().flatten().map(String::as_str).collect();
    for name in only.iter().filter(|name| !known.contains(&name.as_str())) {
        let message = format!("app {name:?} not found in the file");
        diagnostics.error(&SourceRef::Flag("--only"), message, format!("available: {}", known.join(", ")));
    }
}
