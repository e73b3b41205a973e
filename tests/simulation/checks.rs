//! The invariants that are checked after every event.

use std::collections::{BTreeMap, BTreeSet};

use rsm::daemon::supervisor::{Input, Supervisor};
use rsm::exit::Exit;
use rsm::instance::Instance;
use rsm::instance::event::InstanceEvent;
use rsm::instance::replacement::Replacement;
use rsm::instance::state::{State, Want};
use rsm::instance::status::RunId;

use super::world::SimWorld;

/// The longest stop: the longest `kill_timeout`, the time that SIGKILL gets and the longest delay of the simulated
/// kernel, for the process and again for the rest of its tree.
const MAX_STOP: u64 = 2 * (12_000 + 5_000 + 12_000);

/// The longest restart delay: the limit of the backoff.
const MAX_RESTART_DELAY: u64 = 15_000;

/// The longest command: a whole restart.
pub const MAX_COMMAND: u64 = 2 * MAX_STOP + MAX_RESTART_DELAY;

#[derive(Default)]
pub struct Checks {
    /// When each unwanted run was first seen.
    unwanted: BTreeMap<u32, u64>,
    /// When each wanted instance was first seen down.
    down: BTreeMap<u32, u64>,
    /// Instances with an outgoing process.
    outgoing: BTreeSet<u32>,
    /// Exits that the daemon received, by run.
    received_exits: BTreeMap<RunId, Exit>,
}

impl Checks {
    /// Records what the daemon receives.
    pub fn record(&mut self, input: &Input) {
        if let Input::InstanceEvent { instance, event: InstanceEvent::Exited { run, exit } } = input {
            self.received_exits.insert(RunId { instance: *instance, number: *run }, exit.clone());
        }
    }

    /// The next daemon need not know what the dead one received and did not save.
    pub fn daemon_died(&mut self, supervisor: &Supervisor<SimWorld>) {
        let ids: BTreeSet<u32> = supervisor.instances().keys().copied().collect();
        self.unwanted.retain(|id, _| ids.contains(id));
        self.down.clear();
        self.received_exits.clear();
        let outgoing = supervisor.replacements().iter().filter(|(_, replacement)| !replacement.is_incoming());
        self.outgoing = outgoing.map(|(id, _)| *id).collect();
    }

    /// The former process is not stopped before the new one is online.
    fn check_reload(
        &mut self,
        instance: &Instance,
        replacement: Option<&Replacement>,
        violations: &mut Vec<String>,
    ) {
        let is_outgoing = replacement.is_some_and(|replacement| !replacement.is_incoming());
        if !is_outgoing {
            self.outgoing.remove(&instance.id());
        } else if self.outgoing.insert(instance.id())
            && !matches!(instance.status().state, State::Online { .. })
            && instance.status().want == Want::Up
        {
            violations.push(format!("{} has no process that serves: {:?}", instance.id(), instance.status()));
        }
    }

    /// All violated invariants.
    pub fn violations(&mut self, supervisor: &Supervisor<SimWorld>) -> Vec<String> {
        let mut violations = Vec::new();
        let (world, now) = (&supervisor.world, supervisor.world.clock);
        for (id, instance) in supervisor.instances() {
            let replacement = supervisor.replacements().get(id);
            check_single_run(instance, supervisor, &mut violations);
            self.check_reload(instance, replacement, &mut violations);
            check_history(instance, &self.received_exits, &mut violations);
            let alive = world.alive(*id);
            let alive = alive.iter().any(|run| {
                replacement.is_none_or(|it| it.instance().status().state.run() != Some(run.number))
            });
            let unwanted = instance.status().want != Want::Up && alive;
            overdue(&mut self.unwanted, *id, unwanted, now, MAX_STOP).into_iter().for_each(|since| {
                violations.push(format!(
                    "{id} is not wanted and runs since {since}, now {now}: {:?}",
                    instance.status()
                ));
            });
            let done = matches!(instance.status().state, State::Errored { .. } | State::Stopped);
            let down = instance.status().want == Want::Up && !alive && !done;
            overdue(&mut self.down, *id, down, now, MAX_RESTART_DELAY + 100).into_iter().for_each(|since| {
                violations.push(format!(
                    "{id} is wanted and down since {since}, now {now}: {:?}",
                    instance.status()
                ));
            });
        }
        self.unwanted.retain(|id, _| supervisor.instances().contains_key(id));
        self.down.retain(|id, _| supervisor.instances().contains_key(id));
        self.received_exits.retain(|run, _| supervisor.instances().contains_key(&run.instance));
        violations
    }
}

/// The time since when a condition holds, if that is longer than the limit.
fn overdue(since: &mut BTreeMap<u32, u64>, id: u32, holds: bool, now: u64, limit: u64) -> Option<u64> {
    if !holds {
        since.remove(&id);
        return None;
    }
    let start = *since.entry(id).or_insert(now);
    (now > start + limit).then_some(start)
}

/// At most one run of an instance is alive, two during a reload, and the state is about that run.
fn check_single_run(instance: &Instance, supervisor: &Supervisor<SimWorld>, violations: &mut Vec<String>) {
    let mut alive = supervisor.world.alive(instance.id());
    let replacement = supervisor.replacements().get(&instance.id());
    let other = replacement.and_then(|replacement| replacement.instance().status().state.run());
    alive.retain(|run| Some(run.number) != other && !supervisor.is_orphan_run(*run));
    if alive.len() > 1 {
        violations.push(format!("{} has {alive:?} alive at once", instance.id()));
    }
    if let (Some(process), [run]) = (instance.status().state.process(), &alive[..])
        && process.run != run.number
    {
        violations.push(format!(
            "{} has run {} in its state, but {run:?} is alive",
            instance.id(),
            process.run
        ));
    }
}

/// The history has every received exit once.
fn check_history(instance: &Instance, received: &BTreeMap<RunId, Exit>, violations: &mut Vec<String>) {
    let exits = &instance.status().history;
    let numbers: BTreeSet<u32> = exits.iter().map(|record| record.run).collect();
    if numbers.len() != exits.len() {
        violations.push(format!("{} has a run twice in its history: {exits:?}", instance.id()));
    }
    for record in exits {
        let run = RunId { instance: instance.id(), number: record.run };
        // An unknown exit does not replace a recorded one.
        if received.get(&run).is_some_and(|exit| *exit != Exit::Unknown && *exit != record.exit) {
            violations.push(format!(
                "{run:?} exited by {:?}, recorded as {:?}",
                received.get(&run),
                record.exit
            ));
        }
    }
    if instance.status().restarts > instance.status().last_run {
        violations.push(format!("{} counts more restarts than runs: {:?}", instance.id(), instance.status()));
    }
}
