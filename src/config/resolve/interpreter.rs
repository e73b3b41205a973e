//! What runs a script: what was asked for, else what its extension says, else its first line,
//! else the script itself.

use std::path::Path;

use super::shebang::{FileHead, read_head};
use crate::config::diagnostics::{Diagnostics, SourceRef};
use crate::config::keys::{AppSettings, value_of};
use crate::config::resolve::search_path::{SearchPath, absolute, is_executable};
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
pub(super) struct InterpreterChoice {
    /// The launcher.
    pub(super) launcher: Launcher,
    /// File name of the program that runs it, also where the kernel finds that by itself.
    pub(super) runtime: Option<String>,
}

/// Settings and surroundings of a choice.
struct InterpreterResolver<'a, 'f> {
    file: &'a Path,
    args: Vec<String>,
    search: &'a SearchPath,
    at: &'a SourceRef,
    findings: &'a mut Diagnostics<'f>,
}

/// How a file of the app is run; a mistake if it cannot be.
pub(super) fn for_file(
    file: &Path,
    settings: &AppSettings,
    search: &SearchPath,
    at: &SourceRef,
    findings: &mut Diagnostics<'_>,
) -> Option<InterpreterChoice> {
    let args = value_of(&settings.interpreter_args).map(|words| words.0.clone()).unwrap_or_default();
    let mut choice = InterpreterResolver { file, args, search, at, findings };
    if let Some(asked) = &settings.interpreter {
        return choice.configured(&asked.value, &asked.source);
    }
    let extension = file.extension().and_then(|extension| extension.to_str());
    match BY_EXTENSION.iter().find(|(known, _)| Some(*known) == extension) {
        Some((_, programs)) => choice.first_available(programs),
        None => choice.from_shebang(),
    }
}

/// How a program found in `PATH` is run: by itself, save where the interpreter matters.
pub(super) fn for_command(
    file: &Path,
    settings: &AppSettings,
    search: &SearchPath,
    at: &SourceRef,
    findings: &mut Diagnostics<'_>,
) -> Option<InterpreterChoice> {
    match read_head(file) {
        _ if settings.interpreter.is_some() => for_file(file, settings, search, at, findings),
        Ok(FileHead::Shebang { .. }) => {
            let args = value_of(&settings.interpreter_args).map(|words| words.0.clone()).unwrap_or_default();
            InterpreterResolver { file, args, search, at, findings }.from_shebang()
        }
        _ => Some(InterpreterChoice { launcher: Launcher::Direct, runtime: None }),
    }
}

impl InterpreterResolver<'_, '_> {
    fn error(&mut self, message: String, help: String) -> Option<InterpreterChoice> {
        self.findings.error(self.at, message, help);
        None
    }

    /// The file executes itself; interpreter arguments then reach nobody.
    fn direct(&mut self, runner: Option<String>) -> Option<InterpreterChoice> {
        if !self.args.is_empty() {
            let message =
                format!("`interpreter_args` is ignored: {} is executed directly", self.file.display());
            self.findings.warn(self.at, message);
        }
        Some(InterpreterChoice { launcher: Launcher::Direct, runtime: runner })
    }

    fn with_program(&mut self, program: String, mut args: Vec<String>) -> Option<InterpreterChoice> {
        args.append(&mut self.args);
        let runner = file_name(&program);
        Some(InterpreterChoice { launcher: Launcher::Interpreter { program, args }, runtime: runner })
    }

    /// The interpreter that was asked for.
    fn configured(&mut self, program: &str, at: &SourceRef) -> Option<InterpreterChoice> {
        if program == "none" {
            return if is_executable(self.file) { self.direct(None) } else { self.error_not_executable() };
        }
        let program = find_interpreter(program, self.search, at, self.findings)?;
        self.with_program(program, Vec::new())
    }

    /// The first of these that is installed.
    fn first_available(&mut self, programs: &[&str]) -> Option<InterpreterChoice> {
        if let Some(program) = programs.iter().find(|program| self.search.contains(program)) {
            return self.with_program((*program).to_owned(), Vec::new());
        }
        let (wanted, file) = (programs.join(" or "), self.file.display());
        let help = "install it, or set `interpreter` to its path".to_owned();
        self.error(format!("{file} requires {wanted}, which is not in PATH"), help)
    }

    fn from_shebang(&mut self) -> Option<InterpreterChoice> {
        let executable = is_executable(self.file);
        match read_head(self.file) {
            Ok(FileHead::Shebang { program, args }) => self.with_shebang(program, args, executable),
            Ok(FileHead::Binary) if executable => self.direct(None),
            // May be executed though not read.
            Err(_) if executable => self.direct(None),
            Ok(FileHead::Binary) => self.error_not_executable(),
            Ok(FileHead::Text) => {
                let message = format!("no interpreter known for {}", self.file.display());
                let help = "set `interpreter`, or add a line such as #!/bin/sh at the start of the file";
                self.error(message, help.into())
            }
            Err(error) => {
                let message = format!("cannot read {}: {error}", self.file.display());
                self.error(message, "check its owner and mode (ls -l)".into())
            }
        }
    }

    /// An executable script is left to the kernel, except where the interpreter is to get
    /// arguments, now or by a later change of settings.
    fn with_shebang(
        &mut self,
        program: String,
        args: Vec<String>,
        executable: bool,
    ) -> Option<InterpreterChoice> {
        let runner = file_name(&program);
        if !self.search.contains(&program) {
            let message = format!("{}: interpreter {program} not found", self.file.display());
            return self.error(message, "install it, fix the #! line, or set `interpreter`".into());
        }
        let takes_options =
            matches!(runner.as_deref().and_then(runtime_of), Some(Runtime::Node | Runtime::Bun))
                || !self.args.is_empty();
        if executable && !takes_options { self.direct(runner) } else { self.with_program(program, args) }
    }

    fn error_not_executable(&mut self) -> Option<InterpreterChoice> {
        let file = self.file.display().to_string();
        self.error(
            format!("{file} is not executable"),
            format!(
                "run `chmod +x {file}`, or set \
            `interpreter`"
            ),
        )
    }
}

/// The interpreter of this name or path; a mistake if there is none.
pub(in super::super) fn find_interpreter(
    program: &str,
    search: &SearchPath,
    at: &SourceRef,
    findings: &mut Diagnostics<'_>,
) -> Option<String> {
    if program.contains('/') || program.starts_with('~') {
        let path = absolute(program, search.cwd());
        if is_executable(&path) {
            return Some(path.to_string_lossy().into_owned());
        }
        let message = format!("interpreter {} is not an executable file", path.display());
        findings.error(at, message, "use the path of an executable file, or the name of a program in PATH");
        return None;
    }
    if search.contains(program) {
        return Some(program.to_owned());
    }
    let help = match (program.contains('@'), program.contains(char::is_whitespace)) {
        (true, _) => "use the path of that version, such as ~/.nvm/versions/node/v22.18.0/bin/node",
        (_, true) => "move the arguments to `interpreter_args`",
        _ => "install it, or use its path",
    };
    findings.error(at, format!("interpreter {program:?} not found in PATH"), help);
    None
}

fn file_name(program: &str) -> Option<String> {
    program.rsplit('/').next().map(str::to_owned)
}
