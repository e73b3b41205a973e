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

use crate::atomic_file::{self, Durability};
use crate::cluster::address::{Address, Protocol};
use crate::cluster::engine::Engine;
use crate::cluster::mechanism::Mechanism;
use crate::cluster::state::{HeldSocket, RunPhase, RunState};
use crate::cluster::sys;
use crate::cluster::sys::SocketKind;

/// The first passed descriptor (`SD_LISTEN_FDS_START`).
const SD_LISTEN_FDS_START: RawFd = 3;

/// As long a queue as the kernel's limit allows: until the program is there, all wait in it.
const DEFAULT_BACKLOG: i32 = 4096;

/// The script's name, and what it does.
const NODE_SHIM: &str = "node-listen.cjs";
const NODE_SHIM_SOURCE: &str = include_str!("node-listen.cjs");

/// A run that is about to start, and where it shall listen.
#[derive(Clone, Debug)]
pub struct OpenRequest {
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
pub struct OpenError {
    /// Which one.
    pub address: Address,
    /// Why not.
    pub errno: Errno,
}

impl Engine {
    /// One listening socket for each address: the slot's, or a new one.
    pub(super) fn open_sockets(&mut self, opening: OpenRequest) -> Result<Vec<OwnedFd>, OpenError> {
        let OpenRequest { run, app, slot, uid, addresses } = opening;
        self.state.retired_slots.remove(&(app.clone(), slot));
        let entry =
            self.state.runs.entry(run).or_insert(RunState { app, slot, phase: RunPhase::Starting }).clone();
        let place = self.state.slot_key(&entry);
        let mut fds = Vec::new();
        for address in addresses {
            let failed = |errno| OpenError { address, errno };
            let id = match self.find_slot_socket(&entry.app, place, address, run) {
                Some(id) => id,
                None => self.open_socket(&entry.app, place, address, uid).map_err(failed)?,
            };
            if let Some(socket) = self.state.sockets.get_mut(&id) {
                socket.claims.insert(run);
            }
            let fd = self.held.get(&id).ok_or(Errno::EBADF).map_err(failed)?;
            fds.push(fd.try_clone().map_err(|_| failed(Errno::EMFILE))?);
            self.steer(address);
        }
        self.save();
        Ok(fds)
    }

    fn find_slot_socket(&self, app: &str, place: u32, address: Address, run: u64) -> Option<u64> {
        let mut own = self.state.sockets_at(app, place);
        let usable = |id, socket: &HeldSocket| {
            socket.address == address
                && !self.state.is_used_by_others(socket, run)
                && self.held.get(&id).is_some_and(|fd| sys::is_listening(fd.as_fd()))
        };
        own.find(|(id, socket)| usable(*id, socket)).map(|(id, _)| id)
    }

    fn open_socket(&mut self, app: &str, place: u32, address: Address, uid: u32) -> nix::Result<u64> {
        let kind =
            SocketKind { is_v6: address.socket.is_ipv6(), protocol: Protocol::Tcp, is_multipath: false };
        let fd = sys::new_like(kind)?;
        if kind.is_v6 {
            sys::set_v6_only(fd.as_fd(), address.v6_only)?;
        }
        self.bind_reuseport(fd.as_fd(), (address, uid), false, || sys::new_like(kind))?;
        sys::listen(fd.as_fd(), DEFAULT_BACKLOG)?;
        let (app, inode) = (app.to_owned(), sys::inode(fd.as_fd())?);
        let claims = BTreeSet::new();
        let id = self.state.add(HeldSocket {
            app,
            slot: place,
            address,
            inode,
            uid,
            listening: true,
            backlog: DEFAULT_BACKLOG,
            claims,
        });
        self.state.join_group(id);
        self.hold(id, fd);
        Ok(id)
    }
}

/// What a run is started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassedSockets {
    /// The numbers that the sockets get, in the order of their addresses.
    pub fds: Vec<RawFd>,
    /// Variables for its environment. On [`Mechanism::Listen`] `LISTEN_PID` comes besides, which only the new
    /// process itself can know: [`LaunchSpec::listen_pid`](crate::process::spawn::LaunchSpec::listen_pid).
    pub env: Vec<(String, String)>,
}

impl PassedSockets {
    /// For sockets of these addresses. `script` is what [`write_script`] wrote; `node_options` what the
    /// environment has as `NODE_OPTIONS` already.
    pub fn new(path: Mechanism, addresses: &[Address], script: &FilePath, node_options: &str) -> Self {
        let numbers: Vec<RawFd> = (SD_LISTEN_FDS_START..).take(addresses.len()).collect();
        let env = if path == Mechanism::NodePreload {
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
        Self { fds: numbers, env }
    }
}

/// Writes the script for [`Mechanism::Preload`] into a directory that the app's user can read, made if need be. What
/// lies there is executed by the app, so it must be ours alone to write.
///
/// # Errors
/// The directory cannot be written to, or others can.
pub fn write_script(dir: &FilePath) -> io::Result<PathBuf> {
    let path = dir.join(NODE_SHIM);
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
    if there && std::fs::read_to_string(&path).is_ok_and(|text| text == NODE_SHIM_SOURCE) {
        return Ok(path);
    }
    // A Node that starts at the same time reads the old script or the new one, never a part.
    atomic_file::replace_with_mode(&path, NODE_SHIM_SOURCE.as_bytes(), 0o644, Durability::Process)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use crate::cluster::activation::*;

    #[test]
    fn what_is_passed_is_named_in_the_environment() {
        let addresses = ["127.0.0.1:3000".parse().unwrap(), "3001".parse().unwrap()];
        let script = FilePath::new("/home/a b/run/node-listen.cjs");
        let listen = PassedSockets::new(Mechanism::SocketActivation, &addresses, script, "");
        assert_eq!(listen.fds, [3, 4]);
        assert_eq!(listen.env, [("LISTEN_FDS".into(), "2".into())]);
        let node = PassedSockets::new(Mechanism::NodePreload, &addresses, script, "--max-old-space-size=100");
        assert_eq!(node.fds, [3, 4]);
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
