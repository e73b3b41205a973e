//! rsm's own static file server (`rsm serve`), a process like any other app.
//!
//! `args` decides what to serve, `listen` where, `connections` brings requests, `respond` answers
//! them: `lookup` finds the file, `validators` and `range` see what of it is wanted, `body` sends it.

mod args;
mod auth;
mod body;
mod connections;
mod listen;
mod listing;
mod lookup;
mod mime;
mod range;
mod respond;
mod stall;
mod validators;

use std::fmt::Arguments;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

pub use args::ServeArgs;
use connections::Patience;

/// Threads that wait for the disk.
const READERS: usize = 16;

/// Serves files until SIGINT or SIGTERM; then stops accepting, finishes what was begun, for 5 s at
/// most, and returns. What `args` leaves open comes from the environment (`PM2_SERVE_*`, `PORT`).
///
/// # Errors
/// When the settings make no sense, the directory is not there, or the port cannot be had. The
/// message is for people.
pub fn run(args: ServeArgs) -> io::Result<()> {
    let env = |name: &str| std::env::var(name).ok();
    let mut settings =
        args.settle(env).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    settings.root = directory(&settings.root)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(READERS).build()?;
    let served = runtime.block_on(async {
        let shutdown = signalled()?;
        let listener = listen::listen(&settings.host, settings.port).await?;
        announce(&settings.root, &listener)?;
        connections::serve(listener, Arc::new(settings), Patience::default(), shutdown).await;
        Ok(())
    });
    // A read that hangs on a dead disk must not hold up the end.
    runtime.shutdown_background();
    served
}

/// The directory's path from `/`, links kept: what they lead to may change.
fn directory(path: &Path) -> io::Result<PathBuf> {
    let explain = |error: io::Error| {
        let message =
            format!("cannot serve {}: {error}. Create it, or name another directory.", path.display());
        io::Error::new(error.kind(), message)
    };
    // Reading it tells more than looking at it: whether it is one, and may be read.
    std::fs::read_dir(path).map_err(explain)?;
    std::path::absolute(path).map_err(explain)
}

/// Completes at the first SIGINT or SIGTERM.
fn signalled() -> io::Result<impl Future<Output = ()>> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// One line for the log. Nobody need read it: a closed pipe is no reason not to serve.
fn announce(root: &Path, listener: &TcpListener) -> io::Result<()> {
    let address = listener.local_addr()?;
    let _ = writeln!(io::stdout().lock(), "serving {} on http://{address}", root.display());
    Ok(())
}

/// Trouble, for the log of errors.
fn complain(trouble: Arguments<'_>) {
    let _ = writeln!(io::stderr().lock(), "serve: {trouble}");
}

#[cfg(test)]
mod tests;
