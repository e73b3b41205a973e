//! The interpreter of a script: the configured one, else by extension, else by the `#!` line. Otherwise the script is
//! executed directly.

use std::path::Path;

use crate::config::diagnostics::{Diagnostics, SourceRef};
use crate::config::keys::{AppSettings, value_of};
use crate::config::resolve::search_path::{SearchPath, absolute};
use crate::config::resolve::typescript;
use crate::program::{FileHead, Shebang, is_executable};
use crate::spec::{Launcher, Runtime, runtime_of};

/// The interpreters by extension; the first installed one is used.
///
/// bun and tsx run all of TypeScript. Node strips types from 22.18 on but does not run JSX.
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

const SOURCE_MAPS: &str = "--enable-source-maps";

/// The result of the choice.
pub(super) struct InterpreterChoice {
    pub(super) launcher: Launcher,
    /// File name of the interpreter, even if the kernel starts it.
    pub(super) runtime: Option<String>,
}

struct InterpreterResolver<'a, 'f> {
    file: &'a Path,
    settings: &'a AppSettings,
    args: Vec<String>,
    search: &'a SearchPath,
    source: &'a SourceRef,
    diagnostics: &'a mut Diagnostics<'f>,
}

/// Chooses the interpreter of a file of the app; an error if the file cannot be run.
pub(super) fn for_file(
    file: &Path,
    settings: &AppSettings,
    search: &SearchPath,
    source: &SourceRef,
    diagnostics: &mut Diagnostics<'_>,
) -> Option<InterpreterChoice> {
    let mut resolver = InterpreterResolver::new(file, settings, search, source, diagnostics);
    if let Some(interpreter) = &settings.interpreter {
        return resolver.use_configured(&interpreter.value, &interpreter.source);
    }
    let extension = file.extension().and_then(|extension| extension.to_str());
    match BY_EXTENSION.iter().find(|(known, _)| Some(*known) == extension) {
        Some((_, programs)) => resolver.use_first_available(programs),
        None => resolver.choose_by_head(),
    }
}

/// Chooses the interpreter of a directory that node runs by its `package.json`.
pub(super) fn for_package(
    directory: &Path,
    settings: &AppSettings,
    search: &SearchPath,
    source: &SourceRef,
    diagnostics: &mut Diagnostics<'_>,
) -> Option<InterpreterChoice> {
    let mut resolver = InterpreterResolver::new(directory, settings, search, source, diagnostics);
    match &settings.interpreter {
        Some(interpreter) => resolver.use_configured(&interpreter.value, &interpreter.source),
        None => resolver.use_first_available(&["node", "bun"]),
    }
}

/// Chooses the interpreter of a program found in `PATH`: only if it is configured, or for a script.
pub(super) fn for_command(
    file: &Path,
    settings: &AppSettings,
    search: &SearchPath,
    source: &SourceRef,
    diagnostics: &mut Diagnostics<'_>,
) -> Option<InterpreterChoice> {
    match FileHead::read(file) {
        _ if settings.interpreter.is_some() => for_file(file, settings, search, source, diagnostics),
        Ok(FileHead::Shebang(_)) => {
            InterpreterResolver::new(file, settings, search, source, diagnostics).choose_by_head()
        }
        _ => Some(InterpreterChoice { launcher: Launcher::Direct, runtime: None }),
    }
}

impl<'a, 'f> InterpreterResolver<'a, 'f> {
    fn new(
        file: &'a Path,
        settings: &'a AppSettings,
        search: &'a SearchPath,
        source: &'a SourceRef,
        diagnostics: &'a mut Diagnostics<'f>,
    ) -> Self {
        let args = value_of(&settings.interpreter_args).map(|words| words.0.clone()).unwrap_or_default();
        Self { file, settings, args, search, source, diagnostics }
    }

    fn error(&mut self, message: String, help: String) -> Option<InterpreterChoice> {
        self.diagnostics.error(self.source, message, help);
        None
    }

    /// Executes the file directly, without interpreter arguments.
    fn use_direct(&mut self, runtime: Option<String>) -> Option<InterpreterChoice> {
        if !self.args.is_empty() {
            let message =
                format!("`interpreter_args` is ignored: {} is executed directly", self.file.display());
            self.diagnostics.warn(self.source, message);
        }
        Some(InterpreterChoice { launcher: Launcher::Direct, runtime })
    }

    fn use_program(&mut self, program: String, mut args: Vec<String>) -> Option<InterpreterChoice> {
        args.append(&mut self.args);
        let runtime = file_name(&program);
        if runtime.as_deref().and_then(runtime_of) == Some(Runtime::Node) {
            if typescript::is_typescript(self.file) && !typescript::has_loader(&args, self.settings) {
                let runs = typescript::node_support(self.file, &program, self.search);
                runs.map_err(|(message, help)| self.error(message, help)).ok()?;
            }
            if self.wants_source_maps() && !args.iter().any(|arg| arg == SOURCE_MAPS) {
                args.push(SOURCE_MAPS.into());
            }
        }
        Some(InterpreterChoice { launcher: Launcher::Interpreter { program, args }, runtime })
    }

    /// Whether the script is shown by its source map: if configured, else if there is one.
    fn wants_source_maps(&self) -> bool {
        let is_disabled = value_of(&self.settings.disable_source_map_support) == Some(&true);
        let map = self.file.as_os_str().to_string_lossy().into_owned() + ".map";
        value_of(&self.settings.source_map_support)
            .copied()
            .unwrap_or_else(|| !is_disabled && Path::new(&map).is_file())
    }

    fn use_configured(&mut self, program: &str, source: &SourceRef) -> Option<InterpreterChoice> {
        if program == "none" {
            return if is_executable(self.file) {
                self.use_direct(None)
            } else {
                self.error_not_executable()
            };
        }
        let program = find_interpreter(program, self.search, source, self.diagnostics)?;
        self.use_program(program, Vec::new())
    }

    fn use_first_available(&mut self, programs: &[&str]) -> Option<InterpreterChoice> {
        if let Some(tsx) = programs.contains(&"tsx").then(|| typescript::local_tsx(self.file)).flatten() {
            return self.use_program(tsx, Vec::new());
        }
        if let Some(program) = programs.iter().find(|program| self.search.contains(program)) {
            return self.use_program((*program).to_owned(), Vec::new());
        }
        let (required, file) = (programs.join(" or "), self.file.display());
        let help = "install it, or set `interpreter` to its path".to_owned();
        self.error(format!("{file} requires {required}, which is not in PATH"), help)
    }

    fn choose_by_head(&mut self) -> Option<InterpreterChoice> {
        let executable = is_executable(self.file);
        match FileHead::read(self.file) {
            Ok(FileHead::Shebang(shebang)) => self.use_shebang(shebang, executable),
            Ok(FileHead::Binary) if executable => self.use_direct(None),
            // A file that cannot be read may still be executed.
            Err(_) if executable => self.use_direct(None),
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

    /// The kernel starts the interpreter of an executable script, unless it needs interpreter arguments, now or after
    /// a later change of settings.
    fn use_shebang(&mut self, shebang: Shebang, executable: bool) -> Option<InterpreterChoice> {
        let Shebang { program, args, .. } = shebang;
        let runtime = file_name(&program);
        if !self.search.contains(&program) {
            let message = format!("{}: interpreter {program} not found", self.file.display());
            return self.error(message, "install it, fix the #! line, or set `interpreter`".into());
        }
        let takes_options =
            matches!(runtime.as_deref().and_then(runtime_of), Some(Runtime::Node | Runtime::Bun))
                || !self.args.is_empty();
        if executable && !takes_options { self.use_direct(runtime) } else { self.use_program(program, args) }
    }

    fn error_not_executable(&mut self) -> Option<InterpreterChoice> {
        let file = self.file.display().to_string();
        self.error(
            format!("{file} is not executable"),
            format!("run `chmod +x {file}`, or set `interpreter`"),
        )
    }
}

/// Finds an interpreter by name or path; an error if it does not exist.
pub(crate) fn find_interpreter(
    program: &str,
    search: &SearchPath,
    source: &SourceRef,
    diagnostics: &mut Diagnostics<'_>,
) -> Option<String> {
    if program.contains('/') || program.starts_with('~') {
        let path = absolute(program, search.cwd());
        if is_executable(&path) {
            return Some(path.to_string_lossy().into_owned());
        }
        let message = format!("interpreter {} is not an executable file", path.display());
        diagnostics.error(
            source,
            message,
            "use the path of an executable file, or the name of a program in PATH",
        );
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
    diagnostics.error(source, format!("interpreter {program:?} not found in PATH"), help);
    None
}

fn file_name(program: &str) -> Option<String> {
    program.rsplit('/').next().map(str::to_owned)
}
