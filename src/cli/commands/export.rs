//! `export`: generates the configuration of another engine from an ecosystem file.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::{Args, ValueHint};

use crate::cli::app_flags::{InvocationContext, print_warnings};
use crate::cli::error::Error;
use crate::cli::output;
use crate::cli::session::Session;
use crate::config::{self, ConfigErrors, Diagnostic, LoadOptions, Location};
use crate::export::{self, ExportOptions, Exported, ExportedFile, Target};

// Arguments of `export`.
#[derive(Args, Clone, Debug)]
pub(crate) struct ExportArgs {
    /// What to generate
    target: Target,
    /// Ecosystem file in any format, or `-` for stdin
    #[arg(value_hint = ValueHint::FilePath)]
    file: PathBuf,
    /// Write the files to DIR instead of stdout
    #[arg(short, long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    output: Option<PathBuf>,
    /// Overwrite existing files in DIR
    #[arg(short, long, requires = "output")]
    force: bool,
    /// Export these apps only
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    only: Vec<String>,
    /// Merge the table env_NAME into the environment
    #[arg(long, value_name = "NAME")]
    env: Option<String>,
    /// Image of apps without the key `image`
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// Fail if a setting has no equivalent
    #[arg(long)]
    strict: bool,
    /// Write the values of secrets
    #[arg(long)]
    with_secrets: bool,
}

pub(crate) fn export(args: &ExportArgs, session: &Session) -> Result<(), Error> {
    let context = InvocationContext::new(args.env.as_deref(), &args.only)?;
    let load_options = LoadOptions { env_name: args.env.clone(), only: args.only.clone(), ..context.options };
    let (apps, warnings) = config::load_located(&args.file, &load_options)?;
    print_warnings(session, &warnings);
    let options = ExportOptions { image: args.image.clone(), with_secrets: args.with_secrets };
    let exported = export::export(&apps, args.target, &options);
    report_losses(&exported, args.strict, session)?;
    match &args.output {
        None => output::print(&as_one_text(&exported.files)),
        Some(directory) => write_files(directory, &exported.files, args.force, session),
    }
}

/// Prints what is lost, or fails because of it.
fn report_losses(exported: &Exported, strict: bool, session: &Session) -> Result<(), Error> {
    if exported.losses.is_empty() {
        return Ok(());
    }
    let losses = exported.losses.iter();
    if strict {
        let error =
            |loss: &export::Loss| Diagnostic::error(loss.location.clone(), &loss.message, &loss.advice);
        return Err(ConfigErrors(losses.map(error).collect()).into());
    }
    let warning = |loss: &export::Loss| {
        Diagnostic::warning(loss.location.clone(), format!("{}; {}", loss.message, loss.advice)).to_string()
    };
    print_warnings(session, &losses.map(warning).collect::<Vec<_>>());
    Ok(())
}

/// All files, each below a line with its name if there are several.
fn as_one_text(files: &[ExportedFile]) -> String {
    match files {
        [file] => file.text.clone(),
        files => files.iter().map(|file| format!("# ---- {} ----\n{}\n", file.name, file.text)).collect(),
    }
}

fn write_files(
    directory: &Path,
    files: &[ExportedFile],
    force: bool,
    session: &Session,
) -> Result<(), Error> {
    let failed = |path: &Path, error: std::io::Error| {
        let message = format!("cannot be written: {error}");
        let error = Diagnostic::error(
            Location::File(path.to_owned()),
            message,
            "use -o to write to another directory",
        );
        Error::from(ConfigErrors::from(error))
    };
    fs::create_dir_all(directory).map_err(|error| failed(directory, error))?;
    let existing: Vec<Diagnostic> = files
        .iter()
        .map(|file| directory.join(&file.name))
        .filter(|path| !force && path.symlink_metadata().is_ok())
        .map(|path| Diagnostic::error(Location::File(path), "already exists", "use --force to overwrite it"))
        .collect();
    if !existing.is_empty() {
        return Err(ConfigErrors(existing).into());
    }
    for file in files {
        let path = directory.join(&file.name);
        write_file(&path, file).map_err(|error| failed(&path, error))?;
        session.notice(format_args!("wrote {}", path.display()));
    }
    Ok(())
}

/// Writes a file by replacing it, so that a secret never gets the mode of an old file.
fn write_file(path: &Path, file: &ExportedFile) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mode = if file.is_secret { 0o600 } else { 0o644 };
    let mut out = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    out.write_all(file.text.as_bytes())
}
