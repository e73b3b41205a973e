//! The static file server (`rsm serve`), which runs as a separate process like any other app.
//!
//! `config` is the result of arguments and variables, `listen` creates the socket, `connections` accepts
//! clients, `respond` answers a request: `lookup` opens the file, `validators` and `range` evaluate the
//! conditional and range headers, `body` sends the content.
//!
//! Crates do not replace it: `tower-http` 0.7 ignores `If-Range` and refuses invalid ranges,
//! `hyper-staticfile` 0.10 ignores `If-None-Match`, and both follow links out of the root.

mod args;
mod auth;
mod body;
mod config;
mod connections;
mod listen;
mod listing;
mod lookup;
mod mime;
mod range;
mod respond;
mod validators;
mod write_timeout;

use std::fmt::Arguments;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

pub use args::ServeArgs;
use config::ServeConfig;
use connections::Timeouts;

/// Threads for blocking file operations.
const READER_THREADS: usize = 16;

/// Serves files until SIGINT or SIGTERM. Then stops accepting connections, finishes pending responses, and
/// returns. Settings missing in `args` are read from the environment (`PM2_SERVE_*`, `PORT`).
///
/// # Errors
/// The configuration is invalid, the directory cannot be read, or the port cannot be bound. The message is
/// for users.
pub fn run(args: ServeArgs) -> io::Result<()> {
    let env = |name: &str| std::env::var(name).ok();
    let mut config = ServeConfig::resolve(args, env)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    config.root = root_directory(&config.root)?;
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().max_blocking_threads(READER_THREADS).build()?;
    let served = runtime.block_on(async {
        let shutdown = shutdown_signal()?;
        let listener = listen::listen(&config.host, config.port).await?;
        announce(&config.root, &listener)?;
        connections::serve(listener, Arc::new(config), Timeouts::default(), shutdown).await;
        Ok(())
    });
    // A read that blocks on a failed disk must not delay the exit.
    runtime.shutdown_background();
    served
}

/// The absolute path of the directory, with symbolic links: their targets may change.
fn root_directory(path: &Path) -> io::Result<PathBuf> {
    let with_path =
        |error: io::Error| io::Error::new(error.kind(), format!("cannot serve {}: {error}", path.display()));
    // Unlike `stat`, opening it also checks the permission to read.
    std::fs::read_dir(path).map_err(with_path)?;
    std::path::absolute(path).map_err(with_path)
}

/// Completes at the first SIGINT or SIGTERM.
fn shutdown_signal() -> io::Result<impl Future<Output = ()>> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// Writes the address to the log. A closed stdout is not an error.
fn announce(root: &Path, listener: &TcpListener) -> io::Result<()> {
    let address = listener.local_addr()?;
    let _ = writeln!(io::stdout().lock(), "serving {} on http://{address}", root.display());
    Ok(())
}

/// Writes to stderr.
fn log_error(message: Arguments<'_>) {
    let _ = writeln!(io::stderr().lock(), "serve: {message}");
}

#[cfg(test)]
mod tests;
