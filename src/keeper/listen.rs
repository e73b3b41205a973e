//! The keeper's place: the lock that says one is there, the API's socket, the background.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::stat::{Mode, umask};

use super::handover::Arrived;
use crate::paths::Home;
use crate::process::spawn;

/// Why a keeper could not start.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// Another one holds the lock.
    #[error("another keeper (pid {0}) is running but not responding; stop it with `kill {0}`")]
    Running(String),
    /// A file could not be made or opened.
    #[error("cannot {what} {}: {error}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// The system refused something else.
    #[error("system error: {0}")]
    System(nix::Error),
}

/// How long a former keeper may take to go after it closed its socket.
const HANDOVER: Duration = Duration::from_secs(5);

/// What one keeper holds for its life.
#[derive(Debug)]
pub struct Place {
    /// The API's socket; given to every daemon.
    pub listener: OwnedFd,
    lock: File,
    socket: PathBuf,
}

/// Takes the lock and binds the socket.
pub fn take(home: &Home) -> Result<Place, KeeperError> {
    let failed = |what, path: PathBuf| move |error| KeeperError::File { what, path, error };
    home.create().map_err(failed("create", home.dir().to_path_buf()))?;
    let lock = lock(home)?;
    let socket = home.socket();
    // We hold the lock, so whatever lies there is dead. Anything but a socket is not ours.
    match std::fs::symlink_metadata(&socket) {
        Ok(meta) if meta.file_type().is_socket() => {
            std::fs::remove_file(&socket).map_err(failed("remove the old socket", socket.clone()))?;
        }
        Ok(_) => {
            let error = io::Error::new(io::ErrorKind::AlreadyExists, "exists and is not a socket; remove it");
            return Err(failed("bind", socket)(error));
        }
        Err(_) => {}
    }
    // Private from its first moment on, not only after a chmod.
    let before = umask(Mode::from_bits_truncate(0o177));
    let bound = UnixListener::bind(&socket);
    umask(before);
    let listener = bound.map_err(failed("bind", socket.clone()))?;
    // The standard library asks for a short queue; a burst of commands while the daemon restarts
    // waits here.
    let _ = nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::MAXCONN);
    Ok(Place { listener: listener.into(), lock, socket })
}

/// Takes the place of a keeper that leaves it to us, or is dead.
pub fn take_over(home: &Home, left: &mut Arrived) -> Result<Place, KeeperError> {
    let lock = match left.lock.take() {
        Some(lock) => lock.into(),
        None => lock(home)?,
    };
    let listener = left.listener.try_clone().map_err(|_| KeeperError::System(nix::Error::EMFILE))?;
    Ok(Place { listener, lock, socket: home.socket() })
}

fn lock(home: &Home) -> Result<File, KeeperError> {
    let path = home.keeper_lock();
    let failed = |error| KeeperError::File { what: "lock", path: path.clone(), error };
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = open.map_err(failed)?;
    let until = Instant::now() + HANDOVER;
    loop {
        match file.try_lock() {
            Ok(()) => break,
            // A keeper that shuts down lets go of the socket first and of this last.
            Err(std::fs::TryLockError::WouldBlock) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(std::fs::TryLockError::WouldBlock) => {
                let pid = std::fs::read_to_string(&path).unwrap_or_default();
                return Err(KeeperError::Running(pid.trim().to_owned()));
            }
            Err(std::fs::TryLockError::Error(error)) => return Err(failed(error)),
        }
    }
    Ok(file)
}

/// Leaves the terminal and the caller: a fork whose first process ends with success.
///
/// Connections are accepted by then: whoever waited for the first process may connect.
pub fn go_to_background(home: &Home) -> Result<(), KeeperError> {
    spawn::daemonize_fork().map_err(KeeperError::System)?;
    let _ = nix::unistd::chdir("/");
    let path = home.own_log();
    let log = OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
    let log = log.map_err(|error| KeeperError::File { what: "open", path, error })?;
    let null = File::open("/dev/null").map_err(|error| KeeperError::File {
        what: "open",
        path: "/dev/null".into(),
        error,
    })?;
    nix::unistd::dup2_stdin(null.as_fd()).map_err(KeeperError::System)?;
    nix::unistd::dup2_stdout(log.as_fd()).map_err(KeeperError::System)?;
    nix::unistd::dup2_stderr(log.as_fd()).map_err(KeeperError::System)?;
    Ok(())
}

impl Place {
    /// Writes our pid into the lock, for people.
    pub fn sign(&mut self) {
        let _ = self.lock.set_len(0).and_then(|()| writeln!(self.lock, "{}", std::process::id()));
    }

    /// The lock's descriptor.
    pub fn lock(&self) -> BorrowedFd<'_> {
        self.lock.as_fd()
    }

    /// Removes the socket, then lets the lock go.
    pub fn leave(self) {
        let _ = std::fs::remove_file(&self.socket);
        drop(self.lock);
    }
}
