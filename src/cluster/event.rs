//! What the engine reports and needs: `ClusterEvent`, `PortWarning` and the trait `ClusterHost`.

use std::fmt;
use std::os::fd::OwnedFd;

use nix::errno::Errno;

use crate::cluster::address::Address;
use crate::cluster::mechanism::Mechanism;

/// Something that happened to the ports of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterEvent {
    /// A run listens. Repeated when it listens again, and for another daemon.
    Listening {
        /// Key of the run.
        run: u64,
        /// Address of the socket.
        address: Address,
    },
    /// A run listens on a Unix socket, which is not shared.
    ListeningOnUnixSocket {
        /// Key of the run.
        run: u64,
        /// Path, or `@` and the abstract name.
        path: String,
    },
    /// A run does not listen any more, although it continues.
    Closed {
        /// Key of the run.
        run: u64,
        /// Address of the socket.
        address: Address,
    },
    /// How the first port of a run is shared.
    Mechanism {
        /// Key of the run.
        run: u64,
        /// How it gets its sockets.
        mechanism: Mechanism,
        /// Why this mechanism was chosen.
        reason: String,
    },
    /// A condition that the user should know.
    Warning {
        /// Key of the run.
        run: u64,
        /// The condition.
        warning: PortWarning,
    },
}

/// A condition that the user should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortWarning {
    /// Another app listens on the same address; connections go to both.
    SharedWithApp {
        /// Address of both.
        address: Address,
        /// Name of the other app.
        app: String,
    },
    /// Another program has the port; the call of the run failed with `EADDRINUSE`.
    AddressInUse {
        /// Requested address.
        address: Address,
    },
    /// Another app has an address of this port that clients reach by the same destinations; the call of the run failed
    /// with `EADDRINUSE`.
    UsedByApp {
        /// Requested address.
        address: Address,
        /// Name of the other app.
        app: String,
        /// Its address.
        other: Address,
    },
    /// The current process of the instance has an address of this port that clients reach by the same destinations, and
    /// the daemon cannot keep them away from this one; the call failed with `EADDRINUSE`.
    Superseded {
        /// Requested address.
        address: Address,
        /// Address of the current process.
        other: Address,
    },
    /// The user of the run may not bind this port; the call failed with `EACCES`.
    PrivilegedPort {
        /// Requested address.
        address: Address,
    },
    /// The run may restrict which ports it binds (Landlock): it binds this one without rsm.
    Landlock {
        /// Requested address.
        address: Address,
    },
    /// The app has as many sockets as rsm holds for one app; further ones are left to the kernel.
    TooManySockets {
        /// Maximum number of sockets.
        limit: usize,
    },
    /// Another run of the app listens on the same Unix socket.
    UnixSocketInUse {
        /// Path, or `@` and the abstract name.
        path: String,
    },
    /// A call could not be inspected and was left to the kernel: a second instance will get `EADDRINUSE`.
    CallNotInspectable {
        /// Error of the inspection.
        errno: Errno,
    },
    /// The group of this address cannot be steered: the kernel distributes connections by its own hash.
    SteeringFailed {
        /// Address of the group.
        address: Address,
        /// Error of attaching the program.
        errno: Errno,
    },
}

impl fmt::Display for PortWarning {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SharedWithApp { address, app } => {
                write!(out, "listens on {address}, which app {app} also uses; connections go to both")
            }
            Self::AddressInUse { address } => write!(
                out,
                "cannot listen on {address}: in use by another program (see `ss -ltnp 'sport = :{}'`)",
                address.port()
            ),
            Self::UsedByApp { address, app, other } => {
                write!(out, "cannot listen on {address}: app {app} uses {other}")
            }
            Self::Superseded { address, other } => write!(
                out,
                "cannot listen on {address} while the current process listens on {other}: use `rsm restart`, or run \
                the daemon with CAP_NET_RAW"
            ),
            Self::PrivilegedPort { address } => write!(
                out,
                "cannot listen on {address}: permission denied for ports below \
                net.ipv4.ip_unprivileged_port_start; set `ports = {{ privileged = true }}`, or use a higher \
                port"
            ),
            Self::Landlock { address } => write!(
                out,
                "restricts the ports it may bind (Landlock): {address} is not shared; bind before \
                landlock_create_ruleset to share it"
            ),
            Self::TooManySockets { limit } => write!(
                out,
                "has {limit} listening sockets, the maximum that rsm shares and holds for an app: further ports are \
                neither shared nor held"
            ),
            Self::UnixSocketInUse { path } => write!(
                out,
                "cannot share the Unix socket {path}, which another instance of the app listens on: set instances = 1, \
                use a TCP port, or a path with $NODE_APP_INSTANCE"
            ),
            Self::CallNotInspectable { errno } => {
                write!(out, "cannot inspect its bind call ({}): port not shared", errno.desc())
            }
            Self::SteeringFailed { address, errno } => write!(
                out,
                "cannot attach the steering program to {address} ({}): using the default distribution of the \
                kernel",
                errno.desc()
            ),
        }
    }
}

/// A request to the keeper's fd store, which outlives the daemon.
#[derive(Debug)]
pub enum FdStoreOp {
    /// Stores a descriptor under a name; replaces one of the same name.
    Store(String, OwnedFd),
    /// Removes the descriptor of a name.
    Remove(String),
}

/// The outside of the engine. Called on the engine's thread, before the system call that causes it is answered: must
/// not block.
pub trait ClusterHost: Send {
    /// Publishes an event.
    fn publish(&mut self, event: ClusterEvent);

    /// Sends a request to the keeper.
    fn store_fd(&mut self, operation: FdStoreOp);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::address::Protocol;

    #[test]
    fn warnings_name_address_and_remedy() {
        let address = Address::new(Protocol::Tcp, "0.0.0.0:80".parse().unwrap(), false);
        assert_eq!(
            PortWarning::AddressInUse { address }.to_string(),
            "cannot listen on 0.0.0.0:80: in use by another program (see `ss -ltnp 'sport = :80'`)"
        );
        assert_eq!(
            PortWarning::SharedWithApp { address, app: "web".into() }.to_string(),
            "listens on 0.0.0.0:80, which app web also uses; connections go to both"
        );
    }
}
