//! The ways in which the work of a daemon ends: shutdown, upgrade, or a dead keeper.

use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::rc::Rc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

use crate::daemon::jobs::autosave::Autosave;
use crate::daemon::jobs::{layers, upgrade};
use crate::daemon::supervisor::handle::SupervisorHandle;
use crate::daemon::world::keeper_link::KeeperLink;
use crate::ipc::message::{ActionReport, ApiError, ErrorCode};
use crate::keeper::protocol::{FdRole, KeeperRequest};
use crate::logs::LogHandle;

/// Why the daemon exits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitReason {
    /// All apps are stopped.
    ShutDown,
    /// The keeper starts a daemon of another binary.
    Replaced,
    /// The keeper is dead: the daemon becomes the keeper.
    KeeperLost,
}

/// Starts and awaits the end of the daemon. All clones share one state.
#[derive(Clone)]
pub struct Shutdown(Rc<ShutdownState>);

struct ShutdownState {
    handle: SupervisorHandle,
    autosave: Autosave,
    keeper: KeeperLink,
    shutdown_done: Notify,
    upgrade_started: Notify,
}

impl Shutdown {
    pub fn new(handle: SupervisorHandle, autosave: Autosave, keeper: KeeperLink) -> Self {
        let (shutdown_done, upgrade_started) = (Notify::new(), Notify::new());
        Self(Rc::new(ShutdownState { handle, autosave, keeper, shutdown_done, upgrade_started }))
    }

    /// Resolves when all apps are stopped.
    pub async fn wait_shutdown(&self) {
        self.0.shutdown_done.notified().await;
    }

    /// Resolves when the keeper is about to start another daemon.
    pub async fn wait_upgrade(&self) {
        self.0.upgrade_started.notified().await;
    }

    /// Stops all apps and ends the daemon.
    ///
    /// # Errors
    /// The daemon is already shutting down.
    pub async fn shut_down(&self) -> Result<ActionReport, ApiError> {
        self.0.autosave.save_now().await;
        if !self.0.handle.begin_close() {
            return Err(ApiError::new(ErrorCode::Conflict, "the daemon is already shutting down"));
        }
        self.0.keeper.send(KeeperRequest::BeginShutdown, Vec::new());
        let report = layers::stop_all(&self.0.handle).await?;
        self.0.shutdown_done.notify_one();
        Ok(report)
    }

    /// Starts a shutdown, unless one is in progress.
    pub fn request(&self) {
        let shutdown = self.clone();
        tokio::task::spawn_local(async move {
            let _ = shutdown.shut_down().await;
        });
    }

    /// Checks another binary, and replaces this daemon with one of that binary. Does not return after the
    /// checks: the new daemon answers the client, which asks again.
    ///
    /// # Errors
    /// The binary cannot take over; nothing has changed.
    pub async fn upgrade(&self, binary: &Path) -> Result<Infallible, ApiError> {
        let (_, state) = self.0.handle.snapshot().await?;
        let checked = upgrade::check_binary(binary, &state).await?;
        if self.0.handle.is_closing() {
            return Err(ApiError::new(ErrorCode::Conflict, "the daemon is shutting down"));
        }
        tracing::info!(version = checked.version, "upgrading to {}", binary.display());
        self.0.handle.freeze().await;
        self.0.keeper.send(KeeperRequest::Upgrade, vec![(FdRole::Binary, checked.file.into())]);
        self.0.upgrade_started.notify_one();
        std::future::pending().await
    }
}

/// Handles signals: SIGTERM and SIGINT shut down like `rsm kill`, SIGUSR2 reopens the log files.
pub fn handle_signals(shutdown: Shutdown, logs: LogHandle) -> io::Result<()> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (mut reopen, mut hangup) = (signal(SignalKind::user_defined2())?, signal(SignalKind::hangup())?);
    tokio::task::spawn_local(async move {
        loop {
            tokio::select! {
                _ = term.recv() => shutdown.request(),
                _ = int.recv() => shutdown.request(),
                _ = reopen.recv() => drop(logs.reopen().await),
                _ = hangup.recv() => {} // ignored as in PM2: a closed terminal does not stop the apps
            }
        }
    });
    Ok(())
}
