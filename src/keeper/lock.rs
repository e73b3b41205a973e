//! The keeper's lock and API socket, and moving to the background.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, umask};

use super::handover::HandoverIn;
use crate::path_error::PathError;
use crate::paths::{Home, UnsafeHome};
use crate::process::spawn;
use crate::secure_fs;

/// Why a keeper could not start.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// Another keeper holds the lock.
    #[error("another keeper (pid {0}) is running but not responding; stop it with `kill {0}`")]
    AlreadyRunning(String),
    /// Another user can change the home.
    #[error("{0}; {help}", help = .0.help())]
    UnsafeHome(#[from] UnsafeHome),
    /// A file could not be created or opened.
    #[error(transparent)]
    File(#[from] PathError),
    /// Another system call failed.
    #[error("system error: {0}")]
    Os(nix::Error),
}

/// How long a previous keeper may take to exit after it has removed its socket.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// Lock and socket, held by a keeper as long as it lives.
#[derive(Debug)]
pub struct KeeperLock {
    /// The API socket; every daemon inherits it.
    pub listener: OwnedFd,
    lock: File,
    socket: PathBuf,
}

/// Acquires the lock and binds the socket.
pub fn acquire(home: &Home) -> Result<KeeperLock, KeeperError> {
    home.check_access()?;
    home.create().map_err(PathError::context("create", home.path()))?;
    let lock = lock_file(home)?;
    let socket = home.socket();
    // This process holds the lock, so an existing socket is unused. Other files are not rsm's to remove.
    match std::fs::symlink_metadata(&socket) {
        Ok(meta) if meta.file_type().is_socket() => {
            std::fs::remove_file(&socket).map_err(PathError::context("remove the old socket", &socket))?;
        }
        Ok(_) => {
            let error = io::Error::new(io::ErrorKind::AlreadyExists, "exists and is not a socket; remove it");
            return Err(PathError { action: "bind", path: socket, error }.into());
        }
        Err(_) => {}
    }
    // Private from the moment it is created, not only after a chmod.
    let before = umask(Mode::from_bits_truncate(0o177));
    let bound = UnixListener::bind(&socket);
    umask(before);
    let listener = bound.map_err(PathError::context("bind", &socket))?;
    // The standard library sets a short backlog; a burst of commands while the daemon restarts waits here.
    let _ = nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::MAXCONN);
    Ok(KeeperLock { listener: listener.into(), lock, socket })
}

/// Takes lock and socket over from a keeper that hands them over, or has died.
pub fn acquire_from_handover(home: &Home, handover: &mut HandoverIn) -> Result<KeeperLock, KeeperError> {
    let lock = match handover.lock.take() {
        Some(lock) => lock.into(),
        None => lock_file(home)?,
    };
    let listener = handover.listener.try_clone().map_err(|_| KeeperError::Os(nix::Error::EMFILE))?;
    Ok(KeeperLock { listener, lock, socket: home.socket() })
}

fn lock_file(home: &Home) -> Result<File, KeeperError> {
    let path = home.keeper_lock();
    let open = secure_fs::open_private(&path, OFlag::O_RDWR);
    let file = open.map_err(PathError::context("lock", &path))?;
    let until = Instant::now() + LOCK_TIMEOUT;
    loop {
        match file.try_lock() {
            Ok(()) => break,
            // A keeper that shuts down removes the socket first and releases the lock last.
            Err(std::fs::TryLockError::WouldBlock) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(std::fs::TryLockError::WouldBlock) => {
                let pid = std::fs::read_to_string(&path).unwrap_or_default();
                return Err(KeeperError::AlreadyRunning(pid.trim().to_owned()));
            }
            Err(std::fs::TryLockError::Error(error)) => {
                return Err(PathError { action: "lock", path, error }.into());
            }
        }
    }
    Ok(file)
}

/// Moves to the background: forks, and the first process exits with success. Detaches from the terminal.
///
/// The socket accepts connections by then: a caller that waited for the first process can connect.
pub fn daemonize(home: &Home) -> Result<(), KeeperError> {
    spawn::daemonize_fork().map_err(KeeperError::Os)?;
    let _ = nix::unistd::chdir("/");
    let path = home.daemon_log();
    let log = secure_fs::open_private(&path, OFlag::O_WRONLY | OFlag::O_APPEND);
    let log = log.map_err(PathError::context("open", &path))?;
    let null = File::open("/dev/null").map_err(PathError::context("open", "/dev/null"))?;
    nix::unistd::dup2_stdin(null.as_fd()).map_err(KeeperError::Os)?;
    nix::unistd::dup2_stdout(log.as_fd()).map_err(KeeperError::Os)?;
    nix::unistd::dup2_stderr(log.as_fd()).map_err(KeeperError::Os)?;
    Ok(())
}

impl KeeperLock {
    /// Writes this process's pid into the lock file, for users.
    pub fn write_pid(&mut self) {
        let _ = self.lock.set_len(0).and_then(|()| writeln!(self.lock, "{}", std::process::id()));
    }

    pub fn lock(&self) -> BorrowedFd<'_> {
        self.lock.as_fd()
    }

    /// Removes the socket, then releases the lock.
    pub fn release(self) {
        let _ = std::fs::remove_file(&self.socket);
        drop(self.lock);
    }
}
