//! Output of commands: results on standard output, and new files.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::Serialize;

use super::error::Error;
use crate::config::{ConfigErrors, Diagnostic, Location};

/// Writes text to standard output. A closed pipe is an error, too, which ends the command with exit code 0.
pub(super) fn print(text: &str) -> Result<(), Error> {
    write_stdout(text.as_bytes())
}

/// Writes a line to standard output.
pub(super) fn print_line(line: &[u8]) -> Result<(), Error> {
    write_stdout(line)?;
    write_stdout(b"\n")
}

/// Writes a value to standard output as indented JSON.
pub(super) fn print_json(value: &impl Serialize) -> Result<(), Error> {
    let text = serde_json::to_vec_pretty(value).map_err(|error| Error::Stdout(error.into()))?;
    print_line(&text)
}

fn write_stdout(bytes: &[u8]) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(Error::Stdout)
}

/// Creates a file. Never overwrites one.
pub(super) fn create_file(path: &Path, text: &str, mode: u32) -> Result<(), Error> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    opened.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|error| {
        let (message, help) = match error.kind() {
            ErrorKind::AlreadyExists => {
                ("already exists".to_owned(), "remove it, or use -o to write to another file")
            }
            _ => (format!("cannot be written: {error}"), "use -o to write to another file"),
        };
        let location = Location::File(path.to_owned());
        ConfigErrors::from(Diagnostic::error(location, message, help)).into()
    })
}
