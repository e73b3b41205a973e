//! The kind of a script: a file, a program in `PATH`, a shell command, or the built-in file server.

use std::path::{Path, PathBuf};

use crate::config::diagnostics::{Diagnostics, Located};
use crate::config::keys::AppSettings;
use crate::config::parse::format::DEFAULT_FILES;
use crate::config::resolve::context::ResolveContext;
use crate::config::resolve::interpreter::{self, InterpreterChoice};
use crate::config::resolve::search_path::{SearchPath, absolute};
use crate::config::resolve::{package, serve};
use crate::spec::{AppSpec, Launcher};
use crate::text::closest_match;

/// A script that can be started.
pub(super) struct ResolvedProgram {
    /// As in [`AppSpec::script`].
    pub(super) script: String,
    pub(super) launcher: Launcher,
    /// The arguments of the app, if they differ from the configured ones.
    pub(super) args: Option<Vec<String>>,
    /// File name of the interpreter.
    pub(super) runtime: Option<String>,
    /// The file of the script, unless it was found in `PATH`.
    pub(super) file: Option<PathBuf>,
}

/// Resolves the script; an error if it cannot be started.
pub(super) fn resolve_program(
    settings: &AppSettings,
    script: &Located<String>,
    app: &AppSpec,
    context: &ResolveContext<'_>,
    diagnostics: &mut Diagnostics<'_>,
) -> Option<ResolvedProgram> {
    let search = SearchPath::new(app.env.get("PATH"), context.path_var, &app.cwd);
    let text = script.value.as_str();
    if let Some(file) = script_path(text, app, context) {
        let choice = interpreter::for_file(&file, settings, &search, &script.source, diagnostics)?;
        let path = require_utf8(&file, script, diagnostics)?;
        return Some(from_choice(choice, path, Some(file)));
    }
    if text == "serve" {
        let args = serve::serve_args(settings, &script.source, app, diagnostics);
        return Some(ResolvedProgram {
            script: text.into(),
            launcher: Launcher::Serve,
            args: Some(args),
            runtime: None,
            file: None,
        });
    }
    if text.contains(char::is_whitespace) {
        return resolve_shell_line(text, settings, script, app, diagnostics);
    }
    if let Some(found) = search.find(text) {
        let choice = interpreter::for_command(&found, settings, &search, &script.source, diagnostics)?;
        // Searched at each start, also for an interpreter: an update of node moves its programs, such as npm.
        return Some(from_choice(choice, text.to_owned(), None));
    }
    let directory = absolute(text, &app.cwd);
    if directory.is_dir() {
        if !package::has_main(&directory) {
            report_without_main(&directory, script, diagnostics);
            return None;
        }
        let choice = interpreter::for_package(&directory, settings, &search, &script.source, diagnostics)?;
        let path = require_utf8(&directory, script, diagnostics)?;
        return Some(from_choice(choice, path, Some(directory.join("package.json"))));
    }
    report_missing(text, script, app, context, diagnostics);
    None
}

fn from_choice(choice: InterpreterChoice, script: String, file: Option<PathBuf>) -> ResolvedProgram {
    ResolvedProgram { script, launcher: choice.launcher, args: None, runtime: choice.runtime, file }
}

/// The file of the script, if it exists.
fn script_path(text: &str, app: &AppSpec, context: &ResolveContext<'_>) -> Option<PathBuf> {
    let from_base = context.script_from_base.then(|| absolute(text, &context.base));
    std::iter::once(absolute(text, &app.cwd)).chain(from_base).find(|file| file.is_file())
}

fn require_utf8(file: &Path, script: &Located<String>, diagnostics: &mut Diagnostics<'_>) -> Option<String> {
    let text = file.to_str().map(str::to_owned);
    if text.is_none() {
        let message = format!("path {} is not valid UTF-8", file.display());
        diagnostics.error(&script.source, message, "rename it, or use a symbolic link");
    }
    text
}

/// A shell command, with quoted arguments appended.
fn resolve_shell_line(
    line: &str,
    settings: &AppSettings,
    script: &Located<String>,
    app: &AppSpec,
    diagnostics: &mut Diagnostics<'_>,
) -> Option<ResolvedProgram> {
    if let Some(interpreter) = &settings.interpreter
        && !matches!(interpreter.value.as_str(), "none" | "sh" | "bash")
    {
        let message = format!(
            "no such file {line:?}, and a shell command cannot be used with interpreter {}",
            interpreter.value
        );
        diagnostics.error(
            &script.source,
            message,
            "set `script` to the file only, and move the arguments to `args`",
        );
        return None;
    }
    if let Some(args) = &settings.interpreter_args {
        diagnostics.warn(&args.source, "`interpreter_args` is ignored for a shell command");
    }
    let Ok(args) = shlex::try_join(app.args.iter().map(String::as_str)) else {
        diagnostics.error(&script.source, "argument contains a NUL character", "remove it");
        return None;
    };
    let script = if args.is_empty() { line.to_owned() } else { format!("{line} {args}") };
    Some(ResolvedProgram {
        script,
        launcher: Launcher::Shell,
        args: Some(Vec::new()),
        runtime: None,
        file: None,
    })
}

/// A directory that `node DIRECTORY` would not run.
fn report_without_main(directory: &Path, script: &Located<String>, diagnostics: &mut Diagnostics<'_>) {
    let shown = directory.display();
    let file = DEFAULT_FILES.iter().find(|file| directory.join(file).is_file());
    let help = match (file, package::has_start_script(directory)) {
        (Some(file), _) => format!("start its ecosystem file: rsm start {}", directory.join(file).display()),
        (None, true) => format!("run its start script: rsm start npm --cwd {shown} --name NAME -- start"),
        (None, false) => "use a file in it, or set `main` in its package.json".into(),
    };
    let message = format!("directory {shown} has neither a package.json with `main` nor an index.js");
    diagnostics.error(&script.source, message, help);
}

fn report_missing(
    text: &str,
    script: &Located<String>,
    app: &AppSpec,
    context: &ResolveContext<'_>,
    diagnostics: &mut Diagnostics<'_>,
) {
    let path = absolute(text, &app.cwd);
    let not_in_path = if text.contains('/') { "" } else { ", and no program of this name in PATH" };
    let help = match similar_file(&path) {
        Some(name) => format!("did you mean {name:?}?"),
        None if context.source.is_some() => {
            "check the path; it is relative to `cwd` (default: the directory of this file)".into()
        }
        None => "check the path or the name of the program".into(),
    };
    diagnostics.error(
        &script.source,
        format!("script not found: no file {}{not_in_path}", path.display()),
        help,
    );
}

/// A file with a similar name in the same directory.
fn similar_file(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let entries = std::fs::read_dir(path.parent()?).ok()?;
    let files = entries.flatten().filter(|entry| entry.path().is_file());
    let names: Vec<String> = files.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    closest_match(name, names.iter().map(String::as_str)).map(str::to_owned)
}
