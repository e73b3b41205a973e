//! What runs a script: what was asked for, else what its extension says, else its first line,
//! else the script itself.

use std::path::Path;

use super::shebang::{Head, look};
use crate::config::findings::{At, Findings};
use crate::config::keys::{AppSettings, value_of};
use crate::config::search::{SearchPath, absolute, is_executable};
use crate::spec::{Launcher, Runtime, runtime_of};

/// Who runs files of which extension; the first one installed.
///
/// TypeScript goes to bun or tsx, which run all of it. Node strips types by itself from 22.18 on
/// and runs no JSX; an older one says so in the app's error log.
const BY_EXTENSION: &[(&str, &[&str])] = &[
    ("js", &["node", "bun"]),
    ("mjs", &["node", "bun"]),
    ("cjs", &["node", "bun"]),
    ("ts", &["bun", "tsx", "node"]),
    ("mts", &["bun", "tsx", "node"]),
    ("cts", &["bun", "tsx", "node"]),
    ("tsx", &["bun", "tsx"]),
    ("py", &["python3", "python"]),
    ("sh", &["bash", "sh"]),
    ("rb", &["ruby"]),
    ("php", &["php"]),
    ("pl", &["perl"]),
];

/// How a file is run.
pub(super) struct Chosen {
    /// The launcher.
    pub(super) launcher: Launcher,
    /// File name of the program that runs it, also where the kernel finds that by itself.
    pub(super) runner: Option<String>,
}

/// Settings and surroundings of a choice.
struct Choice<'a, 'f> {
    file: &'a Path,
    args: Vec<String>,
    search: &'a SearchPath,
    at: &'a At,
    findings: &'a mut Findings<'f>,
}

/// How a file of the app is run; a mistake if it cannot be.
pub(super) fn of_file(
    file: &Path,
    settings: &AppSettings,
    search: &SearchPath,
    at: &At,
    findings: &mut Findings<'_>,
) -> Option<Chosen> {
    let args = value_of(&settings.interpreter_args).map(|words| words.0.clone()).unwrap_or_default();
    let mut choice = Choice { file, args, search, at, findings };
    if let Some(asked) = &settings.interpreter {
        return choice.asked(&asked.value, &asked.at);
    }
    let extension = file.extension().and_then(|extension| extension.to_str());
    match BY_EXTENSION.iter().find(|(known, _)| Some(*known) == extension) {
        Some((_, programs)) => choice.first_of(programs),
        None => choice.by_first_line(),
    }
}

/// How a program found in `PATH` is run: by itself, save where the interpreter matters.
pub(super) fn of_command(
    file: &Path,
    settings: &AppSettings,
    search: &SearchPath,
    at: &At,
    findings: &mut Findings<'_>,
) -> Option<Chosen> {
    match look(file) {
        _ if settings.interpreter.is_some() => of_file(file, settings, search, at, findings),
        Ok(Head::Shebang { .. }) => {
            let args = value_of(&settings.interpreter_args).map(|words| words.0.clone()).unwrap_or_default();
            Choice { file, args, search, at, findings }.by_first_line()
        }
        _ => Some(Chosen { launcher: Launcher::Direct, runner: None }),
    }
}

impl Choice<'_, '_> {
    fn mistake(&mut self, message: String, help: String) -> Option<Chosen> {
        self.findings.mistake(self.at, message, help);
        None
    }

    /// The file executes itself; interpreter arguments then reach nobody.
    fn direct(&mut self, runner: Option<String>) -> Option<Chosen> {
        if !self.args.is_empty() {
            let message =
                format!("`interpreter_args` is ignored: {} is executed directly", self.file.display());
            self.findings.warn(self.at, message);
        }
        Some(Chosen { launcher: Launcher::Direct, runner })
    }

    fn by(&mut self, program: String, mut args: Vec<String>) -> Option<Chosen> {
        args.append(&mut self.args);
        let runner = file_name(&program);
        Some(Chosen { launcher: Launcher::Interpreter { program, args }, runner })
    }

    /// The interpreter that was asked for.
    fn asked(&mut self, program: &str, at: &At) -> Option<Chosen> {
        if program == "none" {
            return if is_executable(self.file) { self.direct(None) } else { self.not_executable() };
        }
        let program = named(program, self.search, at, self.findings)?;
        self.by(program, Vec::new())
    }

    /// The first of these that is installed.
    fn first_of(&mut self, programs: &[&str]) -> Option<Chosen> {
        if let Some(program) = programs.iter().find(|program| self.search.has(program)) {
            return self.by((*program).to_owned(), Vec::new());
        }
        let (wanted, file) = (programs.join(" or "), self.file.display());
        let help = "install it, or set `interpreter` to its path".to_owned();
        self.mistake(format!("{file} requires {wanted}, which is not in PATH"), help)
    }

    fn by_first_line(&mut self) -> Option<Chosen> {
        let executable = is_executable(self.file);
        match look(self.file) {
            Ok(Head::Shebang { program, args }) => self.by_shebang(program, args, executable),
            Ok(Head::Binary) if executable => self.direct(None),
            // May be executed though not read.
            Err(_) if executable => self.direct(None),
            Ok(Head::Binary) => self.not_executable(),
            Ok(Head::Text) => {
                let message = format!("no interpreter known for {}", self.file.display());
                let help = "set `interpreter`, or add a line such as #!/bin/sh at the start of the file";
                self.mistake(message, help.into())
            }
            Err(error) => {
                let message = format!("cannot read {}: {error}", self.file.display());
                self.mistake(message, "check its owner and mode (ls -l)".into())
            }
        }
    }

    /// An executable script is left to the kernel, except where the interpreter is to get
    /// arguments, now or by a later change of settings.
    fn by_shebang(&mut self, program: String, args: Vec<String>, executable: bool) -> Option<Chosen> {
        let runner = file_name(&program);
        if !self.search.has(&program) {
            let message = format!("{}: interpreter {program} not found", self.file.display());
            return self.mistake(message, "install it, fix the #! line, or set `interpreter`".into());
        }
        let takes_options =
            matches!(runner.as_deref().and_then(runtime_of), Some(Runtime::Node | Runtime::Bun))
                || !self.args.is_empty();
        if executable && !takes_options { self.direct(runner) } else { self.by(program, args) }
    }

    fn not_executable(&mut self) -> Option<Chosen> {
        let file = self.file.display().to_string();
        self.mistake(
            format!("{file} is not executable"),
            format!(
                "run `chmod +x {file}`, or set \
            `interpreter`"
            ),
        )
    }
}

/// The interpreter of this name or path; a mistake if there is none.
pub(in super::super) fn named(
    program: &str,
    search: &SearchPath,
    at: &At,
    findings: &mut Findings<'_>,
) -> Option<String> {
    if program.contains('/') || program.starts_with('~') {
        let path = absolute(program, search.cwd());
        if is_executable(&path) {
            return Some(path.to_string_lossy().into_owned());
        }
        let message = format!("interpreter {} is not an executable file", path.display());
        findings.mistake(at, message, "use the path of an executable file, or the name of a program in PATH");
        return None;
    }
    if search.has(program) {
        return Some(program.to_owned());
    }
    let help = match (program.contains('@'), program.contains(char::is_whitespace)) {
        (true, _) => "use the path of that version, such as ~/.nvm/versions/node/v22.18.0/bin/node",
        (_, true) => "move the arguments to `interpreter_args`",
        _ => "install it, or use its path",
    };
    findings.mistake(at, format!("interpreter {program:?} not found in PATH"), help);
    None
}

fn file_name(program: &str) -> Option<String> {
    program.rsplit('/').next().map(str::to_owned)
}
