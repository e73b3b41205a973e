//! All that is known of apps, runs, sockets and groups: plain data, so that it can be saved as it is and
//! taken up by another daemon. The descriptors themselves are kept beside it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::cluster::address::{Address, Protocol};
use crate::cluster::group::GroupOrder;
use crate::cluster::steering;
use crate::cluster::steering::{KERNEL_CHOICE, ProbeRoute, SteeringTarget};
use crate::process::bpf::{Instruction, ret};
use crate::spec::Balance;

/// Version of the saved form; another one's book is not read.
pub const FORMAT_VERSION: u32 = 1;

/// What an app wants of its ports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortSettings {
    /// How connections are spread.
    pub balance: Balance,
    /// Its slots, whether something runs there or not: with [`Balance::IpHash`] each keeps its clients.
    /// For a slot that is not among them nothing is held.
    pub slots: Vec<u32>,
    /// It may bind privileged ports although its user may not.
    #[serde(alias = "low_ports")]
    pub privileged: bool,
    /// Its UDP ports are shared, too.
    pub udp: bool,
    /// Each of its sockets has a [`ProbeRoute`] for our checks.
    #[serde(default)]
    #[serde(alias = "doors")]
    pub probe_routes: bool,
}

/// Whether a run gets connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunPhase {
    /// Not ready: only while nobody is.
    #[default]
    Starting,
    /// It does.
    Ready,
    /// It is about to go.
    #[serde(alias = "quiet")]
    Draining,
}

/// One life of a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunState {
    /// Its app.
    pub app: String,
    /// Its slot.
    pub slot: u32,
    /// Whether it gets connections.
    pub phase: RunPhase,
}

/// A socket that we hold, or, until it listens, only know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldSocket {
    /// The app whose it is.
    pub app: String,
    /// The slot whose it is; 0 for all with [`Balance::Shared`].
    pub slot: u32,
    /// What it is bound to.
    pub address: Address,
    /// The kernel's number for it.
    pub inode: u64,
    /// The user that it belongs to: the kernel groups sockets of one user only.
    pub uid: u32,
    /// It is a member of its group.
    pub listening: bool,
    /// The length of its queue, as the program wants it.
    pub backlog: i32,
    /// Runs that have it open, as far as we gave it to them.
    pub claims: BTreeSet<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ReuseportGroup {
    address: Address,
    order: GroupOrder,
    /// False once a member may have left at a moment that we do not know.
    #[serde(alias = "sure")]
    order_known: bool,
}

/// Who gets the connections of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SteeringPlan {
    /// The member of this index; [`NOBODY`]'s leaves it to the kernel.
    Index(u32),
    /// These slots, but for who comes through a door.
    Balanced(Balance, Vec<SteeringTarget>, Vec<ProbeRoute>),
}

impl SteeringPlan {
    /// The program for it.
    pub fn program(&self) -> Vec<Instruction> {
        match self {
            Self::Index(index) => vec![ret(*index)],
            Self::Balanced(balance, targets, doors) => steering::program(*balance, targets, doors),
        }
    }
}

/// The book.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterState {
    version: u32,
    /// Apps by name.
    pub apps: BTreeMap<String, PortSettings>,
    /// Runs by number.
    pub runs: BTreeMap<u64, RunState>,
    /// Sockets by a number of ours.
    pub sockets: BTreeMap<u64, HeldSocket>,
    /// Slots that no replacement is coming for.
    #[serde(alias = "abandoned")]
    pub retired_slots: BTreeSet<(String, u32)>,
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

impl ClusterState {
    /// What another daemon saved; `None` if it is not a book of this version.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice::<Self>(bytes).ok().filter(|book| book.version == FORMAT_VERSION)
    }

    /// The slot that a run's sockets are kept under.
    pub fn slot_key(&self, run: &RunState) -> u32 {
        let shared = self.apps.get(&run.app).is_some_and(|app| app.balance == Balance::Shared);
        if shared { 0 } else { run.slot }
    }

    /// The sockets kept under a place of an app.
    pub fn sockets_at(&self, app: &str, place: u32) -> impl Iterator<Item = (u64, &HeldSocket)> {
        let at = move |socket: &HeldSocket| socket.app == app && socket.slot == place;
        self.sockets.iter().filter(move |(_, socket)| at(socket)).map(|(id, socket)| (*id, socket))
    }

    /// The socket of this inode under a place.
    pub fn by_inode(&self, app: &str, place: u32, inode: u64) -> Option<u64> {
        self.sockets_at(app, place).find(|(_, socket)| socket.inode == inode).map(|(id, _)| id)
    }

    /// The runs whose sockets are kept under a place.
    pub fn runs_at(&self, app: &str, place: u32) -> Vec<u64> {
        let at = |run: &RunState| run.app == app && self.slot_key(run) == place;
        self.runs.iter().filter(|(_, run)| at(run)).map(|(number, _)| *number).collect()
    }

    /// Whether a socket has been claimed by a run that goes on.
    pub fn is_claimed(&self, socket: &HeldSocket) -> bool {
        socket.claims.iter().any(|run| self.runs.contains_key(run))
    }

    /// Whether another run of its slot than `run` has this socket and goes on: then `run` gets one of its
    /// own, so that it takes connections only when it is ready. With [`Balance::Shared`] there is but one.
    pub fn is_used_by_others(&self, socket: &HeldSocket, run: u64) -> bool {
        let shared = self.apps.get(&socket.app).is_some_and(|app| app.balance == Balance::Shared);
        !shared && socket.claims.iter().any(|other| *other != run && self.runs.contains_key(other))
    }

    /// Whether a ready run of the same slot has another socket for this one's address.
    pub fn has_ready_replacement(&self, old: &HeldSocket) -> bool {
        let ready = |run: &u64| self.runs.get(run).is_some_and(|run| run.phase == RunPhase::Ready);
        self.sockets_at(&old.app, old.slot).any(|(_, socket)| {
            socket.inode != old.inode
                && socket.address == old.address
                && socket.listening
                && socket.claims.iter().any(ready)
        })
    }

    /// Adds a socket and says its number.
    pub fn add(&mut self, socket: HeldSocket) -> u64 {
        self.last_socket += 1;
        self.sockets.insert(self.last_socket, socket);
        self.last_socket
    }

    /// Notes that a socket is a member of its group now; one that was leaves first and comes last.
    pub fn join_group(&mut self, id: u64) {
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        socket.listening = true;
        let address = socket.address;
        let group = match self.groups.iter_mut().position(|group| group.address == address) {
            Some(at) => &mut self.groups[at],
            None => {
                self.groups.push(ReuseportGroup { address, order: GroupOrder::default(), order_known: true });
                let last = self.groups.len() - 1;
                &mut self.groups[last]
            }
        };
        group.order.leave(id);
        group.order.join(id);
    }

    /// Notes that a socket is no member of its group any more.
    pub fn leave_group(&mut self, id: u64) {
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        let (address, was_in) = (socket.address, std::mem::take(&mut socket.listening));
        if let Some(group) = self.groups.iter_mut().find(|group| group.address == address) {
            group.order.leave(id);
            // A UDP socket leaves when its last duplicate is closed, which is not ours alone.
            group.order_known &= !(was_in && address.protocol == Protocol::Udp);
            // One alone has but one place.
            group.order_known |= address.protocol == Protocol::Tcp && group.order.members().len() < 2;
        }
        self.groups.retain(|group| !group.order.is_empty());
    }

    /// Notes that the order of an address's group is not known.
    pub fn mark_order_unknown(&mut self, address: Address) {
        let group = self.groups.iter_mut().find(|group| group.address == address);
        group.into_iter().for_each(|group| group.order_known = group.order.members().len() < 2);
    }

    /// Whether the order of an address's group is known.
    pub fn is_order_known(&self, address: Address) -> bool {
        self.group(address).is_none_or(|group| group.order_known)
    }

    /// Forgets a socket, and that it was a member of its group.
    pub fn remove(&mut self, id: u64) {
        self.leave_group(id);
        self.sockets.remove(&id);
    }

    /// Other apps whose sockets have this address.
    pub fn other_app_at<'a>(&'a self, address: Address, app: &str) -> Option<&'a str> {
        let same = self.sockets.values().filter(|socket| socket.address == address && socket.listening);
        same.map(|socket| socket.app.as_str()).find(|name| *name != app)
    }

    /// The members of an address's group, in the kernel's order.
    pub fn members(&self, address: Address) -> &[u64] {
        self.group(address).map_or(&[], |group| group.order.members())
    }

    fn group(&self, address: Address) -> Option<&ReuseportGroup> {
        self.groups.iter().find(|group| group.address == address)
    }

    /// How an address is steered as things are. While `leaving` is on its way out of the group: in a way that
    /// is right before and after.
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

    /// Those that stay in place while `leaving` leaves, if the one that moves then is worth more than all of them:
    /// for a moment afterwards nobody but the kernel chooses, and it must not choose them.
    pub fn unmoved_members(&self, address: Address, leaving: u64) -> Vec<u64> {
        let Some(group) = self.group(address) else { return Vec::new() };
        let unmoved: Vec<u64> = group.order.unmoved_when_leaves(leaving).collect();
        let last = group.order.members().last().filter(|last| **last != leaving);
        let best = unmoved.iter().map(|member| self.member_rank(*member)).max();
        if last.map(|last| self.member_rank(*last)) > best { unmoved } else { Vec::new() }
    }

    fn balanced_plan(&self, group: &ReuseportGroup, members: &[u64]) -> SteeringPlan {
        let best = members.iter().map(|member| self.member_rank(*member)).max();
        let mut slots: BTreeMap<(&str, u32), SteeringTarget> = BTreeMap::new();
        let (mut balance, mut doors) = (None, Vec::new());
        for member in members {
            let (Some(socket), Some(index)) = (self.sockets.get(member), group.order.index(*member)) else {
                continue;
            };
            if let Some(app) = self.apps.get(&socket.app) {
                balance.get_or_insert(app.balance);
                doors.extend(
                    app.probe_routes.then(|| ProbeRoute { source: ProbeRoute::address(*member), index }),
                );
                for slot in app.slots.iter().filter(|_| app.balance != Balance::Shared) {
                    slots.entry((&socket.app, *slot)).or_default();
                }
            }
            let target = slots.entry((&socket.app, socket.slot)).or_default();
            if Some(self.member_rank(*member)) == best {
                target.accepting = true;
                target.members.push(index);
            }
        }
        SteeringPlan::Balanced(balance.unwrap_or_default(), slots.into_values().collect(), doors)
    }

    /// Only the members of the highest rank get connections: those of ready runs; if there is none, those
    /// of runs that will be; else all, so that connections wait with whoever comes first.
    fn member_rank(&self, member: u64) -> u8 {
        let claims = self.sockets.get(&member).into_iter().flat_map(|socket| &socket.claims);
        let phases = claims.filter_map(|run| self.runs.get(run)).map(|run| run.phase);
        phases
            .map(|phase| match phase {
                RunPhase::Ready => 2,
                RunPhase::Starting => 1,
                RunPhase::Draining => 0,
            })
            .max()
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests;
