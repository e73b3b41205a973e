//! The stop signals of runs: which processes of a tree have got one, and which get one next.
//!
//! Each process gets the signal once. See [`stop_targets`] for the order.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::{Rc, Weak};
use std::time::Duration;

use crate::daemon::world::keeper_link::KeeperLink;
use crate::instance::state::RunProcess;
use crate::instance::status::RunId;
use crate::keeper::protocol::KeeperRequest;
use crate::process::process_ref::ProcessRef;
use crate::process::signal;
use crate::process::stop_targets::{self, StopTargets};
use crate::process::tree::{self, TreeMember};
use crate::spec::{KillMode, StopPolicy};

/// Part of the grace period after which a server that evidently did not get the signal gets it: if a process passes
/// signals on late, its children have usually closed their sockets by then.
const UNAWARE_FRACTION: u32 = 2;

type Signaled = Rc<RefCell<HashSet<ProcessRef>>>;

/// Sends signals to the processes of runs.
pub struct StopSignals {
    keeper: KeeperLink,
    /// The processes of each run that have got the stop signal.
    signaled: HashMap<RunId, Signaled>,
}

impl StopSignals {
    pub fn new(keeper: KeeperLink) -> Self {
        Self { keeper, signaled: HashMap::new() }
    }

    /// Sends the stop signal to the tree of a running leader.
    pub fn stop(&mut self, run: RunId, process: RunProcess, policy: &StopPolicy) {
        let (leader, number) = (process.reference(), stop_signal(policy));
        let members = match policy.mode {
            KillMode::Topmost | KillMode::All => tree::tree_members(leader),
            KillMode::Main => Vec::new(),
        };
        let signaled = self.signaled.entry(run).or_default().clone();
        signaled.borrow_mut().insert(leader);
        if members.is_empty() || policy.mode == KillMode::Main {
            return self.send_to_leader(run, number, false);
        }
        let targets = match policy.mode {
            KillMode::Topmost => stop_targets::next_targets(&members, number, &HashSet::new()),
            KillMode::All | KillMode::Main => StopTargets::default(),
        };
        if targets.handling.is_empty() {
            // The group signal also reaches processes that are created meanwhile.
            signaled.borrow_mut().extend(members.iter().map(|member| member.process));
            return self.signal_tree(run, &members, leader, number);
        }
        if members.len() > targets.send.len() {
            signal_unaware_later(Rc::downgrade(&signaled), leader, number, policy.timeout / UNAWARE_FRACTION);
        }
        for (target, number) in targets.send {
            signaled.borrow_mut().insert(target);
            // Without free descriptors, only the keeper can signal it.
            if target.signal(number).is_err() && target == leader {
                self.send_to_leader(run, number, false);
            }
        }
    }

    /// Sends the stop signal to remaining processes of a run whose leader has exited. Returns the processes whose exits
    /// have to be awaited.
    pub fn stop_remaining(
        &mut self,
        run: RunId,
        members: &[TreeMember],
        policy: &StopPolicy,
    ) -> Vec<ProcessRef> {
        let mut signaled = self.signaled.entry(run).or_default().borrow_mut();
        let number = stop_signal(policy);
        let mut targets = stop_targets::next_targets(members, number, &signaled);
        if policy.mode == KillMode::All {
            let rest = members.iter().map(|member| member.process);
            let rest = rest.filter(|process| !signaled.contains(process));
            targets.send = rest.map(|process| (process, number)).collect();
        }
        for (target, number) in targets.send {
            signaled.insert(target);
            let _ = target.signal(number);
        }
        targets.handling
    }

    /// Sends SIGKILL to the tree of a running leader.
    pub fn kill(&self, run: RunId, process: RunProcess, policy: &StopPolicy) {
        let leader = process.reference();
        let members = tree::tree_members(leader); // before the signal: exits hide descendants
        let members: Vec<TreeMember> =
            members.into_iter().filter(|member| is_in_scope(member, leader, policy)).collect();
        self.signal_tree(run, &members, leader, libc::SIGKILL);
    }

    /// Sends a signal to the leader only.
    pub fn signal_leader(&self, run: RunId, number: i32) {
        self.send_to_leader(run, number, false);
    }

    pub fn run_ended(&mut self, run: RunId) {
        self.signaled.remove(&run);
    }

    /// Members of the tree that left the process group are signaled directly.
    fn signal_tree(&self, run: RunId, members: &[TreeMember], leader: ProcessRef, number: i32) {
        self.send_to_leader(run, number, true);
        for member in members.iter().filter(|member| member.group != leader.pid) {
            let _ = member.process.signal(number);
        }
    }

    fn send_to_leader(&self, run: RunId, signal: i32, group: bool) {
        self.keeper.send(KeeperRequest::Signal { run: run.to_u64(), signal, group }, Vec::new());
    }
}

/// Whether a process is stopped with its run: processes that have left the session are not, if only the main process
/// is to be signaled.
pub fn is_in_scope(member: &TreeMember, leader: ProcessRef, policy: &StopPolicy) -> bool {
    policy.mode != KillMode::Main || member.session == leader.pid
}

fn stop_signal(policy: &StopPolicy) -> i32 {
    signal::parse(&policy.signal).unwrap_or(libc::SIGINT)
}

/// Signals servers that evidently did not get the signal from the processes above them.
fn signal_unaware_later(
    signaled: Weak<RefCell<HashSet<ProcessRef>>>,
    leader: ProcessRef,
    number: i32,
    after: Duration,
) {
    tokio::task::spawn_local(async move {
        tokio::time::sleep(after).await;
        let Some(signaled) = signaled.upgrade() else { return };
        let known = signaled.borrow().clone();
        let search = move || stop_targets::unaware_servers(&tree::tree_members(leader), number, &known);
        for (process, number) in tokio::task::spawn_blocking(search).await.unwrap_or_default() {
            signaled.borrow_mut().insert(process);
            let _ = process.signal(number);
        }
    });
}
