//! Standard output: data only, whole, and without complaint when the reader has gone.

use std::io::{self, Write};

use serde::Serialize;

use crate::cli::error::Error;

/// Writes text as it is.
///
/// # Errors
/// It cannot be written; a closed pipe is an error too, which ends the command quietly.
pub(super) fn print(text: &str) -> Result<(), Error> {
    write_stdout(text.as_bytes())
}

/// Writes one line of bytes as they are, and the newline.
///
/// # Errors
/// As [`text`].
pub(super) fn print_line(line: &[u8]) -> Result<(), Error> {
    write_stdout(line)?;
    write_stdout(b"\n")
}

/// Writes a value as JSON for people and programs.
///
/// # Errors
/// As [`text`].
pub(super) fn print_json(value: &impl Serialize) -> Result<(), Error> {
    let text = serde_json::to_vec_pretty(value).map_err(|error| Error::Stdout(error.into()))?;
    print_line(&text)
}

fn write_stdout(bytes: &[u8]) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(Error::Stdout)
}
