//! `Steering`: attaches a program to each group and rebalances groups that are served in turns.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use nix::errno::Errno;

use crate::cluster::address::{Address, Protocol};
use crate::cluster::sockets::SocketStore;
use crate::cluster::state::{ClusterState, SteeringPlan};
use crate::cluster::steering::SteeringTarget;
use crate::cluster::steering::rebalance::{HungQueues, Progress, RoundRobinGroup};
use crate::cluster::steering::round_robin::RoundRobin;
use crate::cluster::sys;
use crate::spec::Balance;

/// A program could not be attached through this socket.
pub(crate) struct AttachError {
    pub socket: u64,
    pub errno: Errno,
}

/// The groups that are served in turns.
#[derive(Debug, Default)]
pub(crate) struct Steering {
    round_robin: BTreeMap<Address, RoundRobinGroup>,
    /// Of each slot in them, by its first socket.
    progress: HashMap<u64, Progress>,
    /// The kernel does not let rsm attach eBPF programs.
    round_robin_unavailable: bool,
}

impl Steering {
    /// Attaches the program that follows from the state now to the group of an address.
    pub fn attach(
        &mut self,
        address: Address,
        state: &ClusterState,
        sockets: &SocketStore,
    ) -> Result<(), AttachError> {
        self.round_robin.remove(&address);
        let members = state.members(address);
        let Some((socket, fd)) = members.iter().find_map(|id| Some((*id, sockets.fd(*id)?))) else {
            return Ok(());
        };
        let plan = state.steering(address, None);
        if let SteeringPlan::Balanced(Balance::Random, targets, routes) = &plan
            && !self.round_robin_unavailable
        {
            match RoundRobin::attach(fd, targets, routes) {
                Ok(program) => {
                    self.record(address, program, targets, members);
                    return Ok(());
                }
                // Missing privileges or kernel support do not change while the daemon runs.
                Err(errno) => self.round_robin_unavailable = errno != Errno::E2BIG,
            }
        }
        sys::attach_cbpf(fd, &plan.program()).map_err(|errno| AttachError { socket, errno })
    }

    fn record(&mut self, address: Address, program: RoundRobin, targets: &[SteeringTarget], members: &[u64]) {
        let sockets = |target: &SteeringTarget| -> Vec<u64> {
            target.members.iter().filter_map(|index| members.get(*index as usize).copied()).collect()
        };
        let slots: Vec<_> = targets.iter().filter(|target| target.is_eligible()).map(sockets).collect();
        if slots.len() > 1 && address.protocol == Protocol::Tcp {
            self.round_robin.insert(address, RoundRobinGroup::new(program, slots));
        }
    }

    /// Rebalances all groups that are served in turns; the time until the next call, if there is such a group, and the
    /// queues that must be handed over.
    pub fn rebalance(&mut self, sockets: &SocketStore) -> (Option<Duration>, Vec<HungQueues>) {
        let known: HashSet<u64> = self.round_robin.values().flat_map(RoundRobinGroup::sockets).collect();
        self.progress.retain(|socket, _| known.contains(socket));
        let progress = &mut self.progress;
        let (pauses, hung): (Vec<_>, Vec<_>) =
            self.round_robin.values_mut().map(|group| group.rebalance(sockets, progress)).unzip();
        (pauses.into_iter().min(), hung.into_iter().flatten().collect())
    }
}
