//! Socket activation: sockets that are created before a run starts and passed to it.
//!
//! For programs whose calls cannot be supervised. Sockets, groups, steering and holding are the same, but the addresses
//! must be configured, and the program must use what it is passed: by `LISTEN_FDS` of systemd, which many servers
//! support, or in Node.js by a script that is loaded before the program.

use std::fs::{DirBuilder, Metadata};
use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::geteuid;

use crate::atomic_file::{self, Durability};
use crate::cluster::address::Address;
use crate::cluster::mechanism::Mechanism;
use crate::cluster::sys::{self, DEFAULT_BACKLOG, PortUse, SocketKind};

/// Number of the first passed descriptor.
const SD_LISTEN_FDS_START: RawFd = 3;

/// File name and text of the script for Node.js.
const NODE_SHIM: &str = "node-listen.cjs";
const NODE_SHIM_SOURCE: &str = include_str!("node-listen.cjs");

/// Request for the listening sockets of a run that is about to start.
#[derive(Clone, Debug)]
pub struct OpenRequest {
    /// Key of the run.
    pub run: u64,
    /// Name of its app.
    pub app: String,
    /// Slot of the app.
    pub slot: u32,
    /// User of the run.
    pub uid: u32,
    /// Addresses to listen on.
    pub addresses: Vec<Address>,
}

/// An address that cannot be listened on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot listen on {address}: {}", errno.desc())]
pub struct OpenError {
    /// Requested address.
    pub address: Address,
    /// Error of the system call.
    pub errno: Errno,
}

/// A new socket that listens on a TCP address and can share it. `is_own_port`: rsm has sockets of this port.
pub(super) fn open_listener(address: Address, is_own_port: bool) -> nix::Result<OwnedFd> {
    let kind = SocketKind::tcp(address.socket.is_ipv6());
    let fd = sys::new_like(kind)?;
    if kind.is_v6 {
        sys::set_v6_only(fd.as_fd(), address.v6_only)?;
    }
    let port = PortUse { is_own: is_own_port, reuse_port: false };
    sys::bind_reuseport(fd.as_fd(), address, port, || sys::new_like(kind))?;
    sys::listen(fd.as_fd(), DEFAULT_BACKLOG)?;
    Ok(fd)
}

/// Descriptor numbers and environment of a run with socket activation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassedSockets {
    /// Descriptor numbers, in the order of the addresses.
    pub fds: Vec<RawFd>,
    /// Environment variables. With [`Mechanism::SocketActivation`] the new process itself adds `LISTEN_PID`, which
    /// only it knows: [`LaunchSpec::listen_pid`](crate::process::spawn::LaunchSpec::listen_pid).
    pub env: Vec<(String, String)>,
}

impl PassedSockets {
    /// For sockets of these addresses. `script`: path of the script that [`write_script`] wrote. `node_options`: value
    /// of `NODE_OPTIONS` in the environment of the app.
    pub fn new(mechanism: Mechanism, addresses: &[Address], script: &Path, node_options: &str) -> Self {
        let fds: Vec<RawFd> = (SD_LISTEN_FDS_START..).take(addresses.len()).collect();
        let env = if mechanism == Mechanism::NodePreload {
            let sockets = fds.iter().zip(addresses).map(|(fd, address)| format!("{fd}={}", address.socket));
            let sockets: Vec<String> = sockets.collect();
            // Quoted as Node.js expects it: the path may contain spaces.
            let script = script.display().to_string().replace('\\', "\\\\").replace('"', "\\\"");
            let options = format!("{node_options} --require \"{script}\"");
            vec![
                ("NODE_OPTIONS".to_owned(), options.trim_start().to_owned()),
                ("RSM_LISTEN".to_owned(), sockets.join(",")),
            ]
        } else {
            vec![("LISTEN_FDS".to_owned(), fds.len().to_string())]
        };
        Self { fds, env }
    }
}

/// Writes the script for [`Mechanism::NodePreload`] into a directory that the user of the app can read; creates the
/// directory if it is missing. Apps execute the script, so only the user of rsm may be able to write there.
///
/// # Errors
/// The directory is not writable, or other users can write to it.
pub fn write_script(dir: &Path) -> io::Result<PathBuf> {
    let path = dir.join(NODE_SHIM);
    if !dir.exists() {
        DirBuilder::new().mode(0o755).create(dir)?;
    }
    let is_private = |meta: &Metadata| meta.uid() == geteuid().as_raw() && meta.mode() & 0o022 == 0;
    let dir_meta = std::fs::symlink_metadata(dir)?;
    if !dir_meta.is_dir() || !is_private(&dir_meta) {
        let message = format!("{} is writable by other users; remove it", dir.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
    }
    let is_trusted = std::fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_file() && is_private(&meta));
    if is_trusted && std::fs::read_to_string(&path).is_ok_and(|text| text == NODE_SHIM_SOURCE) {
        return Ok(path);
    }
    // A process that starts at the same time must read the old or the new script, never a part.
    atomic_file::replace_with_mode(&path, NODE_SHIM_SOURCE.as_bytes(), 0o644, Durability::Process)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn environment_names_passed_sockets() {
        let addresses = ["127.0.0.1:3000".parse().unwrap(), "3001".parse().unwrap()];
        let script = Path::new("/home/a b/run/node-listen.cjs");
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
    fn script_is_written_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = write_script(dir.path()).unwrap();
        let first = std::fs::metadata(&path).unwrap().modified().unwrap();
        assert_eq!(write_script(dir.path()).unwrap(), path);
        assert_eq!(std::fs::metadata(&path).unwrap().modified().unwrap(), first);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(write_script(Path::new("/no/such/directory")).is_err());
        // A script that other users can write is replaced.
        std::fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
        assert_eq!(std::fs::metadata(write_script(dir.path()).unwrap()).unwrap().mode() & 0o777, 0o644);
        std::fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
        assert!(write_script(dir.path()).unwrap_err().to_string().contains("writable by other users"));
    }
}
