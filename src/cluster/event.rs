//! What the engine tells, and what it wants kept.

use std::fmt;
use std::os::fd::OwnedFd;

use nix::errno::Errno;

use super::address::Address;
use crate::cluster::mechanism::Mechanism;

/// Something happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterEvent {
    /// A run listens. Told again when it listens anew.
    Listening {
        /// The run.
        run: u64,
        /// Where.
        address: Address,
    },
    /// A run listens there no more, though it goes on.
    Closed {
        /// The run.
        run: u64,
        /// Where.
        address: Address,
    },
    /// Which way a run's first port is shared.
    Mechanism {
        /// The run.
        run: u64,
        /// The way.
        mechanism: Mechanism,
        /// Why this one.
        reason: String,
    },
    /// Something that the user should hear of.
    Warning {
        /// The run.
        run: u64,
        /// What.
        warning: PortWarning,
    },
}

/// Something that the user should hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortWarning {
    /// Another app listens at the same address; connections go to both.
    SharedWithApp {
        /// Where.
        address: Address,
        /// The other app.
        app: String,
    },
    /// Somebody else has the port; the run was told `EADDRINUSE`.
    AddressInUse {
        /// Where.
        address: Address,
    },
    /// The run's user may not bind so low a port; it was told `EACCES`.
    PrivilegedPort {
        /// Where.
        address: Address,
    },
    /// A call could not be looked into and was left to the kernel: a second instance will get `EADDRINUSE`.
    CallNotInspectable {
        /// Why.
        errno: Errno,
    },
    /// The group of this address could not be steered: the kernel spreads connections by its own hash.
    SteeringFailed {
        /// Where.
        address: Address,
        /// Why.
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
            Self::PrivilegedPort { address } => write!(
                out,
                "cannot listen on {address}: permission denied for ports below \
                net.ipv4.ip_unprivileged_port_start; set `ports = {{ privileged = true }}`, or use a higher \
                port"
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

/// An order to the keeper: what it keeps is still there for the next daemon.
#[derive(Debug)]
pub enum FdStoreOp {
    /// Keep this under a name, instead of what it kept there.
    Store(String, OwnedFd),
    /// Let go of what is kept under a name.
    Remove(String),
}

/// The world outside the engine. Called on the engine's thread, before the call that it is about is
/// answered: must not wait.
pub trait ClusterHost: Send {
    /// Hears an event.
    fn publish(&mut self, event: ClusterEvent);

    /// Passes an order to the keeper.
    fn store_fd(&mut self, order: FdStoreOp);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::address::Protocol;

    #[test]
    fn warnings_say_what_to_do() {
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
