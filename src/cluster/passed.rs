//! Sockets for programs that cannot ask: made before the run starts, and passed to it.
//!
//! Same sockets, groups, steering and holding as for those that ask, but the addresses have to be
//! configured, and the program has to use what it is passed: by systemd's protocol (`LISTEN_FDS`), which
//! many servers know, or, for Node, by a script that is loaded before the program.

use std::collections::BTreeSet;
use std::fs::Metadata;
use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path as FilePath, PathBuf};

use nix::errno::Errno;
use nix::unistd::geteuid;

use super::address::{Address, Protocol};
use super::book::{Phase, Run, Socket};
use super::engine::Engine;
use super::path::Path;
use super::socket::{self, Kind};
use crate::atomic_file::{self, Durability};

/// The first passed descriptor (`SD_LISTEN_FDS_START`).
const FIRST: RawFd = 3;

/// As long a queue as the kernel's limit allows: until the program is there, all wait in it.
const BACKLOG: i32 = 4096;

/// The script's name, and what it does.
const SHIM: &str = "node-listen.cjs";
const SHIM_TEXT: &str = include_str!("node-listen.cjs");

/// A run that is about to start, and where it shall listen.
#[derive(Clone, Debug)]
pub struct Opening {
    /// The run.
    pub run: u64,
    /// Its app, made known before.
    pub app: String,
    /// Its slot.
    pub slot: u32,
    /// The user that it will run as.
    pub uid: u32,
    /// The addresses.
    pub addresses: Vec<Address>,
}

/// An address that could not be listened on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot listen on {address}: {}", errno.desc())]
pub struct OpenFailure {
    /// Which one.
    pub address: Address,
    /// Why not.
    pub errno: Errno,
}

impl Engine {
    /// One listening socket for each address: the slot's, or a new one.
    pub(super) fn open(&mut self, opening: Opening) -> Result<Vec<OwnedFd>, OpenFailure> {
        let Opening { run, app, slot, uid, addresses } = opening;
        self.book.abandoned.remove(&(app.clone(), slot));
        let entry = self.book.runs.entry(run).or_insert(Run { app, slot, phase: Phase::Starting }).clone();
        let place = self.book.place(&entry);
        let mut fds = Vec::new();
        for address in addresses {
            let failed = |errno| OpenFailure { address, errno };
            let id = match self.slot_socket(&entry.app, place, address, run) {
                Some(id) => id,
                None => self.open_new(&entry.app, place, address, uid).map_err(failed)?,
            };
            if let Some(socket) = self.book.sockets.get_mut(&id) {
                socket.claims.insert(run);
            }
            let fd = self.held.get(&id).ok_or(Errno::EBADF).map_err(failed)?;
            fds.push(fd.try_clone().map_err(|_| failed(Errno::EMFILE))?);
            self.steer(address);
        }
        self.save();
        Ok(fds)
    }

    fn slot_socket(&self, app: &str, place: u32, address: Address, run: u64) -> Option<u64> {
        let mut own = self.book.sockets_at(app, place);
        let usable = |id, socket: &Socket| {
            socket.address == address
                && !self.book.is_used_by_others(socket, run)
                && self.held.get(&id).is_some_and(|fd| socket::is_listening(fd.as_fd()))
        };
        own.find(|(id, socket)| usable(*id, socket)).map(|(id, _)| id)
    }

    fn open_new(&mut self, app: &str, place: u32, address: Address, uid: u32) -> nix::Result<u64> {
        let kind = Kind { v6: address.socket.is_ipv6(), protocol: Protocol::Tcp, multipath: false };
        let fd = socket::like(kind)?;
        if kind.v6 {
            socket::set_only_v6(fd.as_fd(), address.only_v6)?;
        }
        self.bind_sharing(fd.as_fd(), (address, uid), false, || socket::like(kind))?;
        socket::listen(fd.as_fd(), BACKLOG)?;
        let (app, inode) = (app.to_owned(), socket::inode(fd.as_fd())?);
        let claims = BTreeSet::new();
        let id = self.book.add(Socket {
            app,
            slot: place,
            address,
            inode,
            uid,
            listening: true,
            backlog: BACKLOG,
            claims,
        });
        self.book.join(id);
        self.hold(id, fd);
        Ok(id)
    }
}

/// What a run is started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passed {
    /// The numbers that the sockets get, in the order of their addresses.
    pub numbers: Vec<RawFd>,
    /// Variables for its environment. On [`Path::Listen`] `LISTEN_PID` comes besides, which only the new
    /// process itself can know: [`LaunchSpec::listen_pid`](crate::process::spawn::LaunchSpec::listen_pid).
    pub env: Vec<(String, String)>,
}

impl Passed {
    /// For sockets of these addresses. `script` is what [`write_script`] wrote; `node_options` what the
    /// environment has as `NODE_OPTIONS` already.
    pub fn new(path: Path, addresses: &[Address], script: &FilePath, node_options: &str) -> Self {
        let numbers: Vec<RawFd> = (FIRST..).take(addresses.len()).collect();
        let env = if path == Path::Preload {
            let sockets: Vec<String> = numbers
                .iter()
                .zip(addresses)
                .map(|(number, address)| format!("{number}={}", address.socket))
                .collect();
            // Quoted as Node wants it: the home directory may have a space in its name.
            let script = script.display().to_string().replace('\\', "\\\\").replace('"', "\\\"");
            let options = format!("{node_options} --require \"{script}\"");
            vec![
                ("NODE_OPTIONS".to_owned(), options.trim_start().to_owned()),
                ("RSM_LISTEN".to_owned(), sockets.join(",")),
            ]
        } else {
            vec![("LISTEN_FDS".to_owned(), numbers.len().to_string())]
        };
        Self { numbers, env }
    }
}

/// Writes the script for [`Path::Preload`] into a directory that the app's user can read, made if need be. What
/// lies there is executed by the app, so it must be ours alone to write.
///
/// # Errors
/// The directory cannot be written to, or others can.
pub fn write_script(dir: &FilePath) -> io::Result<PathBuf> {
    let path = dir.join(SHIM);
    if !dir.exists() {
        std::fs::DirBuilder::new().mode(0o755).create(dir)?;
    }
    let is_ours = |meta: &Metadata| meta.uid() == geteuid().as_raw() && meta.mode() & 0o022 == 0;
    let place = std::fs::symlink_metadata(dir)?;
    if !place.is_dir() || !is_ours(&place) {
        let what = format!("{} is writable by other users; remove it", dir.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, what));
    }
    let there = std::fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_file() && is_ours(&meta));
    if there && std::fs::read_to_string(&path).is_ok_and(|text| text == SHIM_TEXT) {
        return Ok(path);
    }
    // A Node that starts at the same time reads the old script or the new one, never a part.
    atomic_file::replace_with_mode(&path, SHIM_TEXT.as_bytes(), 0o644, Durability::Process)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_is_passed_is_named_in_the_environment() {
        let addresses = ["127.0.0.1:3000".parse().unwrap(), "3001".parse().unwrap()];
        let script = FilePath::new("/home/a b/run/node-listen.cjs");
        let listen = Passed::new(Path::Listen, &addresses, script, "");
        assert_eq!(listen.numbers, [3, 4]);
        assert_eq!(listen.env, [("LISTEN_FDS".into(), "2".into())]);
        let node = Passed::new(Path::Preload, &addresses, script, "--max-old-space-size=100");
        assert_eq!(node.numbers, [3, 4]);
        assert_eq!(
            node.env,
            [
                (
                    "NODE_OPTIONS".into(),
                    "--max-old-space-size=100 --require \"/home/a b/run/node-listen.cjs\"".into()
                ),
                ("RSM_LISTEN".into(), "3=127.0.0.1:3000,4=[::]:3001".to_owned()),
            ]
        );
    }

    #[test]
    fn the_script_is_written_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = write_script(dir.path()).unwrap();
        let first = std::fs::metadata(&path).unwrap().modified().unwrap();
        assert_eq!(write_script(dir.path()).unwrap(), path);
        assert_eq!(std::fs::metadata(&path).unwrap().modified().unwrap(), first);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(write_script(FilePath::new("/no/such/directory")).is_err());
        // What others have put there, or could, is not given to anybody.
        std::fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
        assert_eq!(std::fs::metadata(write_script(dir.path()).unwrap()).unwrap().mode() & 0o777, 0o644);
        std::fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
        assert!(write_script(dir.path()).unwrap_err().to_string().contains("writable by other users"));
    }
}
