//! Pure state of port sharing: apps, runs, sockets and groups.
//!
//! It holds no descriptors and is saved after each change, so that the next daemon continues with it. All changes go
//! through [`ClusterState`]; the order of each group is kept as the kernel has it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::cluster::address::{Address, Protocol};
use crate::cluster::group::GroupOrder;
use crate::cluster::steering::cbpf;
use crate::cluster::steering::{KERNEL_CHOICE, ProbeRoute, ProbeTarget, SteeringTarget};
use crate::process::bpf::{Instruction, ret};
use crate::spec::Balance;

/// Version of the saved form. A daemon ignores the state of another version.
const FORMAT_VERSION: u32 = 1;

/// Unix sockets that are recorded of a run.
const MAX_UNIX_SOCKETS: usize = 64;

/// The rank of a socket of a ready run; see [`ClusterState::member_rank`].
const READY_RANK: u8 = 2;

/// Port settings of an app.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortSettings {
    /// How connections are distributed.
    pub balance: Balance,
    /// All slots, with or without a run. Sockets of other slots are released.
    pub slots: Vec<u32>,
    /// Whether the app may bind privileged ports although its user may not.
    #[serde(alias = "low_ports")]
    pub privileged: bool,
    /// Whether UDP ports are shared, too.
    pub udp: bool,
    /// Whether probes of rsm can reach each run by a source address of its own ([`ProbeTarget::Via`]).
    #[serde(default)]
    #[serde(alias = "doors")]
    pub probe_routes: bool,
}

/// Whether a run gets connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RunPhase {
    /// Not ready: gets connections only while no run is ready.
    #[default]
    Starting,
    Ready,
    /// Stops soon: gets connections only while there is no other run.
    #[serde(alias = "quiet")]
    Draining,
}

/// One run of a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunState {
    pub app: String,
    pub slot: u32,
    pub phase: RunPhase,
    /// Whether it may restrict which ports it binds: rsm cannot see the rules, so the kernel binds its sockets.
    #[serde(default)]
    pub restricts_ports: bool,
    /// Unix sockets that it has bound and may listen on: paths by inode of the socket.
    #[serde(default)]
    pub unix_sockets: BTreeMap<u64, UnixSocket>,
}

/// A Unix socket of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UnixSocket {
    pub path: String,
    pub listening: bool,
}

/// A socket of an app. It is held from the moment it listens; sockets that rsm created are held from the start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HeldSocket {
    pub app: String,
    /// 0 for all slots with [`Balance::Shared`].
    pub slot: u32,
    pub address: Address,
    pub inode: u64,
    /// Owner. The kernel groups only sockets of one user.
    pub uid: u32,
    /// Whether it is a member of its group.
    pub listening: bool,
    /// Queue length that the program requested.
    pub backlog: i32,
    /// Runs that have bound it or received it.
    pub claims: BTreeSet<u64>,
}

impl HeldSocket {
    pub fn port_owner(&self) -> PortOwner {
        PortOwner { protocol: self.address.protocol, port: self.address.port(), uid: self.uid }
    }
}

/// A port and the user whose sockets may share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PortOwner {
    pub protocol: Protocol,
    pub port: u16,
    pub uid: u32,
}

/// What a run leaves behind.
pub(crate) struct EndedRunState {
    pub app: String,
    pub sockets: BTreeSet<u64>,
    pub addresses: BTreeSet<Address>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ReuseportGroup {
    address: Address,
    order: GroupOrder,
    /// False once a member may have left at an unknown moment.
    #[serde(alias = "sure")]
    order_known: bool,
}

/// Which members of a group get connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SteeringPlan {
    /// The member with this index; with [`KERNEL_CHOICE`] the kernel chooses.
    Index(u32),
    /// These slots; connections through a probe route go to its member.
    Balanced(Balance, Vec<SteeringTarget>, Vec<ProbeRoute>),
}

impl SteeringPlan {
    /// The classic BPF program of this plan.
    pub fn program(&self) -> Vec<Instruction> {
        match self {
            Self::Index(index) => vec![ret(*index)],
            Self::Balanced(balance, targets, routes) => cbpf::program(*balance, targets, routes),
        }
    }
}

/// Saved state of the cluster engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClusterState {
    version: u32,
    apps: BTreeMap<String, PortSettings>,
    runs: BTreeMap<u64, RunState>,
    /// By socket id: a number of rsm, never used twice.
    sockets: BTreeMap<u64, HeldSocket>,
    /// Slots that get no other run.
    #[serde(alias = "abandoned")]
    retired_slots: BTreeSet<(String, u32)>,
    groups: Vec<ReuseportGroup>,
    last_socket: u64,
}

impl Default for ClusterState {
    fn default() -> Self {
        Self {
            version: FORMAT_VERSION,
            apps: BTreeMap::new(),
            runs: BTreeMap::new(),
            sockets: BTreeMap::new(),
            retired_slots: BTreeSet::new(),
            groups: Vec::new(),
            last_socket: 0,
        }
    }
}

/// Apps and slots.
impl ClusterState {
    /// Decodes what another daemon saved; `None` if it has another version or is damaged.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice::<Self>(bytes).ok().filter(|state| state.version == FORMAT_VERSION)
    }

    /// Adds or changes an app. False if nothing changes.
    pub fn set_app(&mut self, name: &str, settings: PortSettings) -> bool {
        if self.apps.get(name) == Some(&settings) {
            return false;
        }
        self.apps.insert(name.to_owned(), settings);
        true
    }

    pub fn remove_app(&mut self, name: &str) {
        self.apps.remove(name);
        self.retired_slots.retain(|(app, _)| app != name);
    }

    pub fn app(&self, name: &str) -> Option<&PortSettings> {
        self.apps.get(name)
    }

    pub fn app_names(&self) -> BTreeSet<String> {
        self.apps.keys().cloned().collect()
    }

    /// Apps that have sockets but are not known.
    pub fn unknown_apps(&self) -> BTreeSet<String> {
        let owners = self.sockets.values().map(|socket| &socket.app);
        owners.filter(|app| !self.apps.contains_key(*app)).cloned().collect()
    }

    /// Records that a slot gets no other run; holds until a run of the slot starts.
    pub fn retire_slot(&mut self, app: &str, slot: u32) {
        self.retired_slots.insert((app.to_owned(), slot));
    }

    fn is_slot_retired(&self, app: &str, slot: u32) -> bool {
        let Some(PortSettings { balance, slots, .. }) = self.apps.get(app) else { return true };
        let retired = |slot: u32| self.retired_slots.contains(&(app.to_owned(), slot));
        if *balance == Balance::Shared {
            // Sockets of other slots are from before the app had one queue for all.
            return slot != 0 || slots.iter().all(|slot| retired(*slot));
        }
        retired(slot) || !slots.contains(&slot)
    }
}

/// Runs.
impl ClusterState {
    /// Adds a run, unless it is known. Its slot is not retired any more.
    pub fn start_run(&mut self, run: u64, app: &str, slot: u32) -> &RunState {
        self.retired_slots.remove(&(app.to_owned(), slot));
        let state = RunState {
            app: app.to_owned(),
            slot,
            phase: RunPhase::Starting,
            restricts_ports: false,
            unix_sockets: BTreeMap::new(),
        };
        self.runs.entry(run).or_insert(state)
    }

    pub fn run(&self, run: u64) -> Option<&RunState> {
        self.runs.get(&run)
    }

    pub fn run_keys(&self) -> Vec<u64> {
        self.runs.keys().copied().collect()
    }

    /// Changes whether a run gets connections; the name of its app.
    pub fn set_phase(&mut self, run: u64, phase: RunPhase) -> Option<String> {
        let state = self.runs.get_mut(&run)?;
        state.phase = phase;
        Some(state.app.clone())
    }

    /// Records that a run may restrict which ports it binds.
    pub fn restrict_ports(&mut self, run: u64) {
        if let Some(state) = self.runs.get_mut(&run) {
            state.restricts_ports = true;
        }
    }

    /// Records that a run binds a Unix socket. True if another run of its app listens on the path.
    pub fn bind_unix_socket(&mut self, run: u64, inode: u64, path: &str) -> bool {
        let Some(state) = self.runs.get_mut(&run) else { return false };
        if state.unix_sockets.len() >= MAX_UNIX_SOCKETS {
            state.unix_sockets.retain(|_, socket| socket.listening);
        }
        if state.unix_sockets.len() < MAX_UNIX_SOCKETS {
            state.unix_sockets.insert(inode, UnixSocket { path: path.to_owned(), listening: false });
        }
        let app = state.app.clone();
        let listens = |other: &RunState| {
            other.unix_sockets.values().any(|socket| socket.listening && socket.path == path)
        };
        self.runs.iter().any(|(other, state)| *other != run && state.app == app && listens(state))
    }

    /// Records that a run listens on a Unix socket; its path, unless that is known.
    pub fn listen_on_unix_socket(&mut self, run: u64, inode: u64) -> Option<String> {
        let socket = self.runs.get_mut(&run)?.unix_sockets.get_mut(&inode)?;
        (!std::mem::replace(&mut socket.listening, true)).then(|| socket.path.clone())
    }

    /// The paths of the Unix sockets that a run listens on.
    pub fn unix_listeners(&self, run: u64) -> Vec<String> {
        let sockets = self.runs.get(&run).into_iter().flat_map(|run| run.unix_sockets.values());
        sockets.filter(|socket| socket.listening).map(|socket| socket.path.clone()).collect()
    }

    pub fn is_draining(&self, run: u64) -> bool {
        self.runs.get(&run).is_some_and(|run| run.phase == RunPhase::Draining)
    }

    /// Removes a run and its claims.
    pub fn end_run(&mut self, run: u64) -> Option<EndedRunState> {
        let RunState { app, .. } = self.runs.remove(&run)?;
        let addresses = self.addresses_of_run(run);
        let claimed =
            self.sockets.iter_mut().filter_map(|(id, socket)| socket.claims.remove(&run).then_some(*id));
        Some(EndedRunState { app, sockets: claimed.collect(), addresses })
    }

    /// The slot whose sockets a run uses.
    pub fn slot_key(&self, run: &RunState) -> u32 {
        if self.has_one_queue(&run.app) { 0 } else { run.slot }
    }

    /// Runs that use the sockets of a slot.
    pub fn runs_at(&self, app: &str, slot: u32) -> Vec<u64> {
        let runs = self.runs.iter().filter(|(_, run)| run.app == app && self.slot_key(run) == slot);
        runs.map(|(key, _)| *key).collect()
    }

    /// Whether all runs of an app accept connections from one socket.
    pub fn has_one_queue(&self, app: &str) -> bool {
        self.apps.get(app).is_some_and(|app| app.balance == Balance::Shared)
    }

    /// How a probe reaches a run's port.
    pub fn probe_target(&self, run: u64, port: u16) -> ProbeTarget {
        let Some(app) = self.runs.get(&run).map(|run| run.app.as_str()) else {
            return ProbeTarget::Direct;
        };
        let at_port = self.sockets_of_app(app).filter(|(_, socket)| {
            socket.listening && socket.address.port() == port && socket.address.protocol == Protocol::Tcp
        });
        let (own, others): (Vec<_>, Vec<_>) = at_port.partition(|(_, socket)| socket.claims.contains(&run));
        match own.iter().find(|(_, socket)| socket.address.accepts_ipv4()) {
            Some((_, socket)) if self.superseded_address(socket.address, None).is_some() => {
                ProbeTarget::Superseded
            }
            Some((id, _)) if !self.has_one_queue(app) => ProbeTarget::Via(ProbeRoute::address(*id)),
            None if own.is_empty() && !others.is_empty() => ProbeTarget::NotListening,
            _ => ProbeTarget::Direct,
        }
    }
}

/// Sockets.
impl ClusterState {
    /// Adds a socket; its id.
    pub fn add(&mut self, socket: HeldSocket) -> u64 {
        self.last_socket += 1;
        self.sockets.insert(self.last_socket, socket);
        self.last_socket
    }

    /// Removes a socket, from its group, too.
    pub fn remove(&mut self, id: u64) {
        self.leave_group(id);
        self.sockets.remove(&id);
    }

    pub fn socket(&self, id: u64) -> Option<&HeldSocket> {
        self.sockets.get(&id)
    }

    pub fn sockets(&self) -> impl Iterator<Item = (u64, &HeldSocket)> {
        self.sockets.iter().map(|(id, socket)| (*id, socket))
    }

    pub fn sockets_of_app(&self, app: &str) -> impl Iterator<Item = (u64, &HeldSocket)> {
        self.sockets().filter(move |(_, socket)| socket.app == app)
    }

    pub fn sockets_of_run(&self, run: u64) -> impl Iterator<Item = (u64, &HeldSocket)> {
        self.sockets().filter(move |(_, socket)| socket.claims.contains(&run))
    }

    pub fn sockets_at(&self, app: &str, slot: u32) -> impl Iterator<Item = (u64, &HeldSocket)> {
        self.sockets_of_app(app).filter(move |(_, socket)| socket.slot == slot)
    }

    pub fn by_inode(&self, app: &str, slot: u32, inode: u64) -> Option<u64> {
        self.sockets_at(app, slot).find(|(_, socket)| socket.inode == inode).map(|(id, _)| id)
    }

    pub fn addresses_of_app(&self, app: &str) -> BTreeSet<Address> {
        self.sockets_of_app(app).map(|(_, socket)| socket.address).collect()
    }

    pub fn addresses_of_run(&self, run: u64) -> BTreeSet<Address> {
        self.sockets_of_run(run).map(|(_, socket)| socket.address).collect()
    }

    /// Another app that listens on this address.
    pub fn other_app_at<'a>(&'a self, address: Address, app: &str) -> Option<&'a str> {
        let listeners = self.sockets.values().filter(|socket| socket.address == address && socket.listening);
        listeners.map(|socket| socket.app.as_str()).find(|name| *name != app)
    }

    /// Sockets of another address that clients of this address could reach, too.
    pub fn overlapping(&self, address: Address) -> impl Iterator<Item = (u64, &HeldSocket)> {
        self.sockets()
            .filter(move |(_, socket)| socket.address != address && socket.address.overlaps(&address))
    }

    pub fn is_listening_at(&self, run: u64, address: Address) -> bool {
        self.sockets_of_run(run).any(|(_, socket)| socket.listening && socket.address == address)
    }

    pub fn has_port(&self, owner: PortOwner) -> bool {
        self.sockets.values().any(|socket| socket.port_owner() == owner)
    }

    /// Records that a run has a socket.
    pub fn claim(&mut self, id: u64, run: u64) {
        if let Some(socket) = self.sockets.get_mut(&id) {
            socket.claims.insert(run);
        }
    }

    /// Records that a run does not have a socket any more.
    pub fn unclaim(&mut self, id: u64, run: u64) {
        if let Some(socket) = self.sockets.get_mut(&id) {
            socket.claims.remove(&run);
        }
    }

    pub fn set_backlog(&mut self, id: u64, backlog: i32) {
        if let Some(socket) = self.sockets.get_mut(&id) {
            socket.backlog = backlog;
        }
    }

    /// Whether a run that has not ended has the socket.
    pub fn is_claimed(&self, socket: &HeldSocket) -> bool {
        socket.claims.iter().any(|run| self.runs.contains_key(run))
    }

    /// Whether a run other than `run` has the socket and has not ended.
    pub fn is_claimed_by_others(&self, socket: &HeldSocket, run: u64) -> bool {
        socket.claims.iter().any(|other| *other != run && self.runs.contains_key(other))
    }

    /// Listening sockets of the same address with a ready run, other than `id`: connections can be handed over to them.
    pub fn ready_alternatives(&self, id: u64) -> Vec<u64> {
        let Some(socket) = self.sockets.get(&id) else { return Vec::new() };
        let members = self.members(socket.address).iter().copied();
        members.filter(|member| *member != id && self.is_ready_member(*member)).collect()
    }

    /// Whether `run` needs a socket of its own because another run of its slot uses this one: so it gets
    /// connections only when it is ready. With [`Balance::Shared`] all runs use one socket.
    pub fn is_used_by_others(&self, socket: &HeldSocket, run: u64) -> bool {
        !self.has_one_queue(&socket.app) && self.is_claimed_by_others(socket, run)
    }

    /// Sockets of an app that no run has and that no later run will use.
    pub fn releasable_sockets(&self, app: &str) -> Vec<u64> {
        let unclaimed = self.sockets_of_app(app).filter(|(_, socket)| !self.is_claimed(socket));
        let releasable = unclaimed.filter(|(_, socket)| {
            !socket.listening || self.is_slot_retired(app, socket.slot) || self.has_ready_replacement(socket)
        });
        releasable.map(|(id, _)| id).collect()
    }

    /// Whether a ready run of the same slot has another socket for this address.
    fn has_ready_replacement(&self, old: &HeldSocket) -> bool {
        let ready = |run: &u64| self.runs.get(run).is_some_and(|run| run.phase == RunPhase::Ready);
        self.sockets_at(&old.app, old.slot).any(|(_, socket)| {
            socket.inode != old.inode
                && socket.address == old.address
                && socket.listening
                && socket.claims.iter().any(ready)
        })
    }

    /// Listening sockets that draining runs share with runs that are not draining.
    pub fn shared_with_draining(&self) -> Vec<u64> {
        let shared = self.sockets().filter(|(_, socket)| {
            let mut current = socket.claims.iter().filter(|run| self.runs.contains_key(run));
            socket.listening
                && socket.claims.iter().any(|run| self.is_draining(*run))
                && !current.all(|run| self.is_draining(*run))
        });
        shared.map(|(id, _)| id).collect()
    }

    /// Sockets whose queues are served by this run alone, apart from draining runs.
    pub fn exclusive_sockets(&self, run: u64) -> Vec<u64> {
        let serves = |other: &u64| {
            *other != run && self.runs.get(other).is_some_and(|other| other.phase != RunPhase::Draining)
        };
        let exclusive = self.sockets_of_run(run).filter(|(_, socket)| !socket.claims.iter().any(serves));
        exclusive.map(|(id, _)| id).collect()
    }
}

/// Groups and steering.
impl ClusterState {
    /// Records that a socket is a member of its group now. A socket that was a member leaves first and becomes the
    /// last one.
    pub fn join_group(&mut self, id: u64) {
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        socket.listening = true;
        let address = socket.address;
        let group = match self.groups.iter_mut().position(|group| group.address == address) {
            Some(index) => &mut self.groups[index],
            None => {
                self.groups.push(ReuseportGroup { address, order: GroupOrder::default(), order_known: true });
                let last = self.groups.len() - 1;
                &mut self.groups[last]
            }
        };
        group.order.leave(id);
        group.order.join(id);
    }

    /// Records that a socket is not a member of its group any more.
    pub fn leave_group(&mut self, id: u64) {
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        let (address, was_member) = (socket.address, std::mem::take(&mut socket.listening));
        if let Some(group) = self.groups.iter_mut().find(|group| group.address == address) {
            group.order.leave(id);
            // A UDP socket leaves when its last duplicate is closed, and the programs have duplicates, too.
            group.order_known &= !(was_member && address.protocol == Protocol::Udp);
            // The index of a single member is certain.
            group.order_known |= address.protocol == Protocol::Tcp && group.order.members().len() < 2;
        }
        self.groups.retain(|group| !group.order.is_empty());
    }

    pub fn mark_order_unknown(&mut self, address: Address) {
        let group = self.groups.iter_mut().find(|group| group.address == address);
        group.into_iter().for_each(|group| group.order_known = group.order.members().len() < 2);
    }

    pub fn is_order_known(&self, address: Address) -> bool {
        self.group(address).is_none_or(|group| group.order_known)
    }

    /// Members of an address's group, in the kernel's order.
    pub fn members(&self, address: Address) -> &[u64] {
        self.group(address).map_or(&[], |group| group.order.members())
    }

    fn group(&self, address: Address) -> Option<&ReuseportGroup> {
        self.groups.iter().find(|group| group.address == address)
    }

    /// How an address is steered now. With `leaving`, the plan is valid both before and after that socket leaves
    /// the group.
    pub fn steering(&self, address: Address, leaving: Option<u64>) -> SteeringPlan {
        let Some(group) = self.group(address).filter(|group| group.order_known) else {
            return SteeringPlan::Index(KERNEL_CHOICE);
        };
        let Some(leaving) = leaving else { return self.balanced_plan(group, group.order.members()) };
        let unmoved: Vec<u64> = group.order.unmoved_when_leaves(leaving).collect();
        if unmoved.is_empty() || !self.unmoved_members(address, leaving).is_empty() {
            return SteeringPlan::Index(group.order.last_index());
        }
        self.balanced_plan(group, &unmoved)
    }

    /// The members that keep their index when `leaving` leaves, if the member that moves has a higher rank than all
    /// of them. Until the next program is attached the kernel chooses, and it must not choose these.
    pub fn unmoved_members(&self, address: Address, leaving: u64) -> Vec<u64> {
        let Some(group) = self.group(address) else { return Vec::new() };
        let unmoved: Vec<u64> = group.order.unmoved_when_leaves(leaving).collect();
        let last = group.order.members().last().filter(|last| **last != leaving);
        let highest = unmoved.iter().map(|member| self.member_rank(*member)).max();
        if last.map(|last| self.member_rank(*last)) > highest { unmoved } else { Vec::new() }
    }

    /// The address of a ready run of the same app that clients reach by the same destinations, while no run at `address`
    /// is ready: as long as there is one, the sockets at `address` must not get connections. The kernel prefers the more
    /// specific address, and steering chooses only among sockets of one address. `joining`: a socket that is about to
    /// join the group.
    pub fn superseded_address(&self, address: Address, joining: Option<u64>) -> Option<Address> {
        let members = || self.members(address).iter().copied().chain(joining);
        if address.protocol == Protocol::Udp || members().any(|member| self.is_ready_member(member)) {
            return None;
        }
        let app = &self.sockets.get(&members().next()?)?.app;
        let ready =
            self.overlapping(address).find(|(id, socket)| socket.app == *app && self.is_ready_member(*id));
        ready.map(|(_, socket)| socket.address)
    }

    fn is_ready_member(&self, id: u64) -> bool {
        self.member_rank(id) == READY_RANK && self.sockets.get(&id).is_some_and(|socket| socket.listening)
    }

    fn balanced_plan(&self, group: &ReuseportGroup, members: &[u64]) -> SteeringPlan {
        let highest = members.iter().map(|member| self.member_rank(*member)).max();
        let mut targets: BTreeMap<(&str, u32), SteeringTarget> = BTreeMap::new();
        let (mut balance, mut routes) = (None, Vec::new());
        for member in members {
            let (Some(socket), Some(index)) = (self.sockets.get(member), group.order.index(*member)) else {
                continue;
            };
            if let Some(app) = self.apps.get(&socket.app) {
                balance.get_or_insert(app.balance);
                routes.extend(
                    app.probe_routes.then(|| ProbeRoute { source: ProbeRoute::address(*member), index }),
                );
            }
            let target = targets.entry((&socket.app, socket.slot)).or_default();
            if Some(self.member_rank(*member)) == highest {
                target.accepting = true;
                target.members.push(index);
            }
        }
        let mut apps: Vec<&str> = Vec::new();
        for ((app, slot), target) in &mut targets {
            if apps.last() != Some(app) {
                apps.push(app);
            }
            target.key = (apps.len() as u32) << 16 | *slot;
        }
        SteeringPlan::Balanced(balance.unwrap_or_default(), targets.into_values().collect(), routes)
    }

    /// Only members of the highest rank get connections: those of ready runs; without any, those of starting runs;
    /// without these, all, so that connections wait for the first run that accepts them.
    fn member_rank(&self, member: u64) -> u8 {
        let claims = self.sockets.get(&member).into_iter().flat_map(|socket| &socket.claims);
        let phases = claims.filter_map(|run| self.runs.get(run)).map(|run| run.phase);
        phases
            .map(|phase| match phase {
                RunPhase::Ready => READY_RANK,
                RunPhase::Starting => 1,
                RunPhase::Draining => 0,
            })
            .max()
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests;
