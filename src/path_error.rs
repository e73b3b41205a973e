//! The error of an operation on a file: what was tried, on which path, and why it failed.

use std::io;
use std::path::PathBuf;

/// An operation on a file failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {error}", path.display())]
pub struct PathError {
    /// The operation, as an imperative: `open`.
    pub action: &'static str,
    pub path: PathBuf,
    pub error: io::Error,
}

impl PathError {
    /// Adds the context to an I/O error, for `map_err`.
    pub fn context(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |error| Self { action, path, error }
    }
}
