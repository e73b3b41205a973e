//! What a script is: a file, a program in `PATH`, a shell line, or the built-in file server.

use std::path::{Path, PathBuf};

use super::interpreter::{self, InterpreterChoice};
use super::{ResolveContext, serve};
use crate::config::diagnostics::{Diagnostics, Located};
use crate::config::keys::AppSettings;
use crate::config::resolve::search_path::{SearchPath, absolute};
use crate::spec::{AppSpec, Launcher};

/// A script that can be started.
pub(super) struct ResolvedProgram {
    /// As in [`AppSpec::script`].
    pub(super) script: String,
    /// How it becomes a process.
    pub(super) launcher: Launcher,
    /// The app's arguments, where they differ from those given.
    pub(super) args: Option<Vec<String>>,
    /// File name of the program that runs it, if there is one.
    pub(super) runner: Option<String>,
    /// The script's file, if it is one of the app's own.
    pub(super) file: Option<PathBuf>,
}

/// Finds out what the script is; a mistake if it is nothing that can be started.
pub(super) fn resolve_program(
    settings: &AppSettings,
    script: &Located<String>,
    app: &AppSpec,
    ground: &ResolveContext<'_>,
    findings: &mut Diagnostics<'_>,
) -> Option<ResolvedProgram> {
    let search = SearchPath::new(app.env.get("PATH"), ground.path_var, &app.cwd);
    let text = script.value.as_str();
    if let Some(file) = script_path(text, app, ground) {
        let chosen = interpreter::for_file(&file, settings, &search, &script.source, findings)?;
        let path = require_utf8(&file, script, findings)?;
        return Some(from_choice(chosen, path, Some(file)));
    }
    if text == "serve" {
        let args = serve::serve_args(settings, &script.source, app, findings);
        return Some(ResolvedProgram {
            script: text.into(),
            launcher: Launcher::Serve,
            args: Some(args),
            runner: None,
            file: None,
        });
    }
    if text.contains(char::is_whitespace) {
        return resolve_shell_line(text, settings, script, app, findings);
    }
    if let Some(found) = search.find(text) {
        let chosen = interpreter::for_command(&found, settings, &search, &script.source, findings)?;
        // Looked up anew at each start, unless something else is to run the very file.
        let script = if chosen.launcher == Launcher::Direct {
            text.to_owned()
        } else {
            require_utf8(&found, script, findings)?
        };
        return Some(from_choice(chosen, script, None));
    }
    report_missing(text, script, app, ground, findings);
    None
}

fn from_choice(chosen: InterpreterChoice, script: String, file: Option<PathBuf>) -> ResolvedProgram {
    ResolvedProgram { script, launcher: chosen.launcher, args: None, runner: chosen.runtime, file }
}

/// The file the script names, if there is one.
fn script_path(text: &str, app: &AppSpec, ground: &ResolveContext<'_>) -> Option<PathBuf> {
    let from_base = ground.script_from_base.then(|| absolute(text, &ground.base));
    std::iter::once(absolute(text, &app.cwd)).chain(from_base).find(|file| file.is_file())
}

fn require_utf8(file: &Path, script: &Located<String>, findings: &mut Diagnostics<'_>) -> Option<String> {
    let text = file.to_str().map(str::to_owned);
    if text.is_none() {
        let message = format!("path {} is not valid UTF-8", file.display());
        findings.error(&script.source, message, "rename it, or use a symbolic link");
    }
    text
}

/// A line for the shell, the arguments quoted so that they arrive as given.
fn resolve_shell_line(
    line: &str,
    settings: &AppSettings,
    script: &Located<String>,
    app: &AppSpec,
    findings: &mut Diagnostics<'_>,
) -> Option<ResolvedProgram> {
    if let Some(interpreter) = &settings.interpreter
        && !matches!(interpreter.value.as_str(), "none" | "sh" | "bash")
    {
        let message = format!(
            "no such file {line:?}, and a shell command cannot be used with interpreter {}",
            interpreter.value
        );
        findings.error(
            &script.source,
            message,
            "set `script` to the file only, and move the arguments to \
            `args`",
        );
        return None;
    }
    if let Some(args) = &settings.interpreter_args {
        findings.warn(&args.source, "`interpreter_args` is ignored for a shell command");
    }
    let Ok(args) = shlex::try_join(app.args.iter().map(String::as_str)) else {
        findings.error(&script.source, "argument contains a NUL character", "remove it");
        return None;
    };
    let script = if args.is_empty() { line.to_owned() } else { format!("{line} {args}") };
    Some(ResolvedProgram {
        script,
        launcher: Launcher::Shell,
        args: Some(Vec::new()),
        runner: None,
        file: None,
    })
}

fn report_missing(
    text: &str,
    script: &Located<String>,
    app: &AppSpec,
    ground: &ResolveContext<'_>,
    findings: &mut Diagnostics<'_>,
) {
    let path = absolute(text, &app.cwd);
    if path.is_dir() {
        findings.error(
            &script.source,
            format!("script {} is a directory", path.display()),
            "use a file in it",
        );
        return;
    }
    let place = if text.contains('/') { "" } else { ", and no program of this name in PATH" };
    let help = match similar_file(&path) {
        Some(name) => format!("did you mean {name:?}?"),
        None if ground.source.is_some() => {
            "check the path; it is relative to `cwd` (default: the directory of this file)".into()
        }
        None => "check the path or the name of the program".into(),
    };
    findings.error(&script.source, format!("script not found: no file {}{place}", path.display()), help);
}

/// A file of nearly the same name beside the one that is not there.
fn similar_file(path: &Path) -> Option<String> {
    let wanted = path.file_name()?.to_str()?;
    let entries = std::fs::read_dir(path.parent()?).ok()?;
    let files = entries.flatten().filter(|entry| entry.path().is_file());
    let names = files.filter_map(|entry| entry.file_name().into_string().ok());
    let scored = names.map(|name| (strsim::jaro_winkler(wanted, &name), name));
    scored.filter(|(score, _)| *score > 0.85).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, name)| name)
}
