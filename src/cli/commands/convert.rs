//! `convert`: converts an ecosystem file to TOML.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::app_flags::{InvocationContext, print_warnings};
use crate::cli::error::Error;
use crate::cli::output;
use crate::cli::session::Session;
use crate::config;

// Arguments of `convert`.
#[derive(Args, Clone, Debug)]
pub(crate) struct ConvertArgs {
    /// Ecosystem file in any format, or `-` for stdin
    file: PathBuf,
    /// Write to FILE instead of stdout; fails if FILE exists
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(crate) fn convert(args: &ConvertArgs, session: &Session) -> Result<(), Error> {
    let ConvertArgs { file, output } = args;
    let context = InvocationContext::new(None, &[])?;
    let directory = output.as_ref().map(|path| context.cwd.join(path.parent().unwrap_or(Path::new(""))));
    // Normalized like the path of the input file: without `.` and repeated slashes.
    let directory = directory.map(|path| crate::paths::absolute(&path));
    let converted = config::convert(file, directory.as_deref(), &context.options)?;
    print_warnings(session, &converted.warnings);
    match output {
        None => output::print(&converted.text),
        Some(path) => {
            // The file may contain secrets: it is readable by those who can read the original, at most.
            let mode = file.metadata().map_or(0o600, |meta| meta.permissions().mode() & 0o666);
            output::create_file(path, &converted.text, mode)?;
            session.notice(format_args!("wrote {}", path.display()));
            Ok(())
        }
    }
}
