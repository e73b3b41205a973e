//! Steering: the programs that choose the member of a group that gets a new connection.
//!
//! The kernel runs them; no process of rsm handles a connection. `attach` attaches them and `rebalance` adjusts them,
//! both from the pure state. A result beyond the end of the group makes the kernel choose by its own hash, so an
//! outdated program loses no connection.

pub(super) mod attach;
pub(super) mod cbpf;
mod ebpf;
#[cfg(test)]
mod fixture;
pub(super) mod migrate;
pub(super) mod rebalance;
mod round_robin;

use std::net::Ipv4Addr;

/// Not the index of any member: the kernel chooses.
pub(crate) const KERNEL_CHOICE: u32 = u32::MAX;

/// A slot as a steering program sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SteeringTarget {
    /// Identifies the slot among those of the group, whatever other slots there are.
    pub key: u32,
    /// Whether it may get connections.
    pub accepting: bool,
    /// Indices of its sockets in the group.
    pub members: Vec<u32>,
}

impl SteeringTarget {
    /// Whether it may get connections and has a socket.
    pub fn is_eligible(&self) -> bool {
        self.accepting && !self.members.is_empty()
    }
}

/// A source address that reaches one member of a group and no other: for probes of rsm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProbeRoute {
    pub source: Ipv4Addr,
    /// Index of the member in the group.
    pub index: u32,
}

impl ProbeRoute {
    /// The source address for a socket id: in 127.82.0.0/16, which clients have no reason to use. Only sockets of one
    /// group whose ids differ by a multiple of 65,536 have the same address.
    pub fn address(socket: u64) -> Ipv4Addr {
        let [.., high, low] = socket.to_be_bytes();
        Ipv4Addr::new(127, 82, high, low)
    }
}

/// How a probe reaches the port of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeTarget {
    /// From this source address, which reaches this run only.
    Via(Ipv4Addr),
    /// As any client: the port is not shared, or all runs share one queue.
    Direct,
    /// Not at all before it is ready: another run of the app is reached by the same destinations.
    Superseded,
    /// Not at all: other runs of the app listen on the port, and this one does not.
    NotListening,
}
