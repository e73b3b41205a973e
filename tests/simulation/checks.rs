//! The rules that hold after every event, whatever happened.

use std::collections::{BTreeMap, BTreeSet};

use rsm::daemon::supervisor::{Input, Supervisor};
use rsm::exit::Exit;
use rsm::instance::Instance;
use rsm::instance::event::InstanceEvent;
use rsm::instance::replacement::Replacement;
use rsm::instance::state::{State, Want};
use rsm::instance::status::RunId;

use super::world::SimWorld;

/// Nothing takes longer than this to go: the longest grace, then SIGKILL's patience and the
/// simulated kernel's worst delay for a process, and the same again for what it left.
const LONGEST_STOP: u64 = 2 * (12_000 + 5_000 + 12_000);

/// No restart waits longer than the backoff's limit.
const LONGEST_DELAY: u64 = 15_000;

/// A command may have to wait for a whole restart.
pub const LONGEST_COMMAND: u64 = 2 * LONGEST_STOP + LONGEST_DELAY;

#[derive(Default)]
pub struct Checks {
    /// Since when something runs that is not wanted.
    unwanted: BTreeMap<u32, u64>,
    /// Since when something is down that is wanted.
    down: BTreeMap<u32, u64>,
    /// Instances whose former process is on its way out.
    going: BTreeSet<u32>,
    /// Ends that the daemon heard of, by run.
    heard: BTreeMap<RunId, Exit>,
}

impl Checks {
    /// Remembers what the daemon is told.
    pub fn note(&mut self, input: &Input) {
        if let Input::InstanceEvent { instance, event: InstanceEvent::Exited { run, exit } } = input {
            self.heard.insert(RunId { instance: *instance, number: *run }, exit.clone());
        }
    }

    /// What was said to a dead daemon and not saved need not be known to the next.
    pub fn daemon_died(&mut self, supervisor: &Supervisor<SimWorld>) {
        let there: BTreeSet<u32> = supervisor.instances().keys().copied().collect();
        self.unwanted.retain(|id, _| there.contains(id));
        self.down.clear();
        self.heard.clear();
        let going =
            supervisor.replacements().iter().filter(|(_, beside)| !beside.is_incoming());
        self.going = going.map(|(id, _)| *id).collect();
    }

    /// The old process is not told to go before a new one is online.
    fn reloaded(&mut self, instance: &Instance, beside: Option<&Replacement>, broken: &mut Vec<String>) {
        let going = beside.is_some_and(|beside| !beside.is_incoming());
        if !going {
            self.going.remove(&instance.id());
        } else if self.going.insert(instance.id())
            && !matches!(instance.status().state, State::Online { .. })
            && instance.status().want == Want::Up
        {
            broken.push(format!("{} has no process that serves: {:?}", instance.id(), instance.status()));
        }
    }

    /// Every rule that does not hold.
    pub fn broken(&mut self, supervisor: &Supervisor<SimWorld>) -> Vec<String> {
        let mut broken = Vec::new();
        let (world, now) = (&supervisor.world, supervisor.world.clock);
        for (id, instance) in supervisor.instances() {
            let beside = supervisor.replacements().get(id);
            one_run_at_most(instance, supervisor, &mut broken);
            self.reloaded(instance, beside, &mut broken);
            history_agrees(instance, &self.heard, &mut broken);
            let alive = world.alive(*id);
            let alive = alive
                .iter()
                .any(|run| beside.is_none_or(|it| it.instance().status().state.run() != Some(run.number)));
            let unwanted = instance.status().want != Want::Up && alive;
            overdue(&mut self.unwanted, *id, unwanted, now, LONGEST_STOP).into_iter().for_each(|since| {
                broken.push(format!(
                    "{id} is not wanted and runs since {since}, now {now}: {:?}",
                    instance.status()
                ));
            });
            let done = matches!(instance.status().state, State::Errored { .. } | State::Stopped);
            let down = instance.status().want == Want::Up && !alive && !done;
            overdue(&mut self.down, *id, down, now, LONGEST_DELAY + 100).into_iter().for_each(|since| {
                broken.push(format!(
                    "{id} is wanted and down since {since}, now {now}: {:?}",
                    instance.status()
                ));
            });
        }
        self.unwanted.retain(|id, _| supervisor.instances().contains_key(id));
        self.down.retain(|id, _| supervisor.instances().contains_key(id));
        self.heard.retain(|run, _| supervisor.instances().contains_key(&run.instance));
        broken
    }
}

fn overdue(since: &mut BTreeMap<u32, u64>, id: u32, is: bool, now: u64, limit: u64) -> Option<u64> {
    if !is {
        since.remove(&id);
        return None;
    }
    let began = *since.entry(id).or_insert(now);
    (now > began + limit).then_some(began)
}

/// At most one run of an instance has anything alive, and its state speaks of that run; in a reload two.
fn one_run_at_most(instance: &Instance, supervisor: &Supervisor<SimWorld>, broken: &mut Vec<String>) {
    let mut alive = supervisor.world.alive(instance.id());
    let beside = supervisor.replacements().get(&instance.id());
    let other = beside.and_then(|beside| beside.instance().status().state.run());
    alive.retain(|run| Some(run.number) != other && !supervisor.is_orphan_run(*run));
    if alive.len() > 1 {
        broken.push(format!("{} has {alive:?} alive at once", instance.id()));
    }
    if let (Some(process), [run]) = (instance.status().state.process(), &alive[..])
        && process.run != run.number
    {
        broken.push(format!("{} believes in run {}, alive is {run:?}", instance.id(), process.run));
    }
}

/// Every end that was heard of is in the history, as it was, and counted once.
fn history_agrees(instance: &Instance, heard: &BTreeMap<RunId, Exit>, broken: &mut Vec<String>) {
    let exits = &instance.status().history;
    let numbers: BTreeSet<u32> = exits.iter().map(|ended| ended.run).collect();
    if numbers.len() != exits.len() {
        broken.push(format!("{} remembers a run twice: {exits:?}", instance.id()));
    }
    for ended in exits {
        let run = RunId { instance: instance.id(), number: ended.run };
        // Nobody to tell is no news: what was on record before stays.
        if heard.get(&run).is_some_and(|exit| *exit != Exit::Unknown && *exit != ended.exit) {
            broken.push(format!("{run:?} ended by {:?}, remembered as {:?}", heard.get(&run), ended.exit));
        }
    }
    if instance.status().restarts > instance.status().last_run {
        broken.push(format!("{} counts more restarts than runs: {:?}", instance.id(), instance.status()));
    }
}
