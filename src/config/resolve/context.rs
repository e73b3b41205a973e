//! The surroundings of settings: directories, environment and machine.

use std::ffi::OsStr;
use std::path::PathBuf;

/// The context in which settings are resolved.
pub(crate) struct ResolveContext<'a> {
    /// The base of relative paths: the directory of the file, or the current directory of a command.
    pub(crate) base: PathBuf,
    /// Whether a script may also be relative to `base` if the app has another `cwd`. True for commands: the shell
    /// completes paths in its own directory.
    pub(crate) script_from_base: bool,
    /// The file of the settings.
    pub(crate) source: Option<PathBuf>,
    /// `--env`.
    pub(crate) env_name: Option<&'a str>,
    /// The number of cores.
    pub(crate) cores: u32,
    /// The `PATH` of the shell.
    pub(crate) path_var: &'a OsStr,
}
