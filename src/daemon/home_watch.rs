//! Recreation of the home, if it is removed while rsm runs: without the socket no command would reach the daemon, and
//! the next one would start all apps a second time.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener as StdListener;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::sync::mpsc;

use crate::daemon::supervisor::Input;
use crate::daemon::world::keeper_link::KeeperLink;
use crate::keeper::protocol::{FdRole, KeeperRequest};
use crate::paths::Home;

/// Name of the recreated API socket in the keeper's fd store. The socket that the keeper itself has is unreachable then.
const LISTENER_FD_NAME: &str = "listener";

/// How often to check whether the socket is there.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The recreated socket of a previous daemon.
pub fn take_listener(stored: &mut Vec<(String, OwnedFd)>) -> Option<UnixListener> {
    let index = stored.iter().position(|(name, _)| name == LISTENER_FD_NAME)?;
    UnixListener::from_std(StdListener::from(stored.swap_remove(index).1)).ok()
}

/// Watches the home.
pub struct HomeWatch {
    pub home: Home,
    pub keeper: KeeperLink,
    pub queue: mpsc::UnboundedSender<Input>,
    /// Gets the new sockets.
    pub listeners: mpsc::UnboundedSender<UnixListener>,
}

impl HomeWatch {
    pub async fn run(self) {
        let mut reported = false;
        loop {
            tokio::time::sleep(CHECK_INTERVAL).await;
            match std::fs::symlink_metadata(self.home.socket()) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => match self.recreate() {
                    Ok(()) => {
                        reported = false;
                        tracing::error!("{} was removed; created again", self.home.socket().display());
                    }
                    Err(error) if !std::mem::replace(&mut reported, true) => {
                        tracing::error!("{} was removed: {error}", self.home.socket().display());
                    }
                    Err(_) => {}
                },
                Ok(_) | Err(_) => {}
            }
        }
    }

    fn recreate(&self) -> io::Result<()> {
        self.home.create()?;
        let socket = self.home.socket();
        let listener = StdListener::bind(&socket)?; // the directory is private
        std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        let copy = OwnedFd::from(listener.try_clone()?);
        let request = KeeperRequest::StoreFd { name: LISTENER_FD_NAME.to_owned() };
        self.keeper.send(request, vec![(FdRole::Stored, copy)]);
        let _ = self.listeners.send(UnixListener::from_std(listener)?);
        let _ = self.queue.send(Input::SaveDue);
        Ok(())
    }
}
