//! The registry: all instances and their replacements, runs without an instance, and the ids and run numbers in use.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::input::SampleTarget;
use super::world::ProcessControl;
use crate::instance::Instance;
use crate::instance::event::InstanceEvent;
use crate::instance::replacement::Replacement;
use crate::instance::state::{CleanUp, RunProcess, State, Want};
use crate::instance::status::RunId;
use crate::spec::{AppSpec, EnvVars, StopPolicy};
use crate::time::Moment;

/// The instances of the supervisor. Each changes only by its own transitions.
#[derive(Debug, Default)]
pub(super) struct Registry {
    instances: BTreeMap<u32, Instance>,
    /// Second processes of instances, by the ids of the instances.
    replacements: BTreeMap<u32, Replacement>,
    orphan_runs: BTreeMap<RunId, OrphanRun>,
    next_id: u32,
    /// The highest run number of deleted instances. Ids are reused, runs never.
    last_run: u32,
}

/// One of the two processes of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InstanceRef {
    /// The instance in the list.
    Current(u32),
    /// Its replacement.
    Replacement(u32),
}

impl InstanceRef {
    pub(super) fn id(self) -> u32 {
        match self {
            Self::Current(id) | Self::Replacement(id) => id,
        }
    }
}

/// A run that the keeper has and no instance is about.
#[derive(Debug)]
struct OrphanRun {
    process: RunProcess,
    /// The first process has exited; others of its tree may remain.
    exited: bool,
}

impl Registry {
    pub(super) fn instances(&self) -> &BTreeMap<u32, Instance> {
        &self.instances
    }

    pub(super) fn replacements(&self) -> &BTreeMap<u32, Replacement> {
        &self.replacements
    }

    pub(super) fn get(&self, id: u32) -> Option<&Instance> {
        self.instances.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: u32) -> Option<&mut Instance> {
        self.instances.get_mut(&id)
    }

    pub(super) fn replacement(&self, id: u32) -> Option<&Replacement> {
        self.replacements.get(&id)
    }

    pub(super) fn replacement_mut(&mut self, id: u32) -> Option<&mut Replacement> {
        self.replacements.get_mut(&id)
    }

    /// An instance and its replacement.
    pub(super) fn pair_mut(&mut self, id: u32) -> Option<(&mut Instance, &mut Replacement)> {
        Some((self.instances.get_mut(&id)?, self.replacements.get_mut(&id)?))
    }

    pub(super) fn find(&self, target: InstanceRef) -> Option<&Instance> {
        match target {
            InstanceRef::Current(id) => self.get(id),
            InstanceRef::Replacement(id) => self.replacement(id).map(Replacement::instance),
        }
    }

    /// All instances, including replacements.
    pub(super) fn all(&self) -> impl Iterator<Item = &Instance> {
        self.instances.values().chain(self.replacements.values().map(Replacement::instance))
    }

    /// The instance or replacement whose state is about a run.
    pub(super) fn instance_of(&self, run: RunId) -> Option<&Instance> {
        let current = self.get(run.instance);
        let replacement = self.replacement(run.instance).map(Replacement::instance);
        current.into_iter().chain(replacement).find(|instance| instance.current_run() == Some(run))
    }

    /// The instances of an app that are not being deleted.
    pub(super) fn instances_named(&self, name: &str) -> impl Iterator<Item = &Instance> {
        self.instances.values().filter(move |it| it.spec().name == name && it.status().want != Want::Gone)
    }

    /// Ids of an app's instances, ordered by their numbers.
    pub(super) fn ids_of(&self, name: &str) -> Vec<u32> {
        let mut ids: Vec<(u32, u32)> =
            self.instances_named(name).map(|instance| (instance.number(), instance.id())).collect();
        ids.sort_unstable();
        ids.into_iter().map(|(_, id)| id).collect()
    }

    /// The instances of an app that should run.
    pub(super) fn wanted_instances(&self, name: &str) -> impl Iterator<Item = &Instance> {
        self.instances.values().filter(move |it| it.spec().name == name && it.status().want == Want::Up)
    }

    /// Whether an instance is online and not being replaced.
    pub(super) fn is_stable(&self, instance: &Instance) -> bool {
        instance.is_online() && !self.replacements.contains_key(&instance.id())
    }

    /// A new instance of an app with the next id and the lowest free number. It is not in the list yet.
    pub(super) fn new_instance(&self, app: &Arc<AppSpec>, inherited: &Arc<EnvVars>, now: Moment) -> Instance {
        let used: BTreeSet<u32> = self.instances_named(&app.name).map(Instance::number).collect();
        let number = (0..).find(|number| !used.contains(number)).unwrap_or(0);
        Instance::new(self.next_id, number, app.clone(), inherited.clone(), self.last_run, now)
    }

    /// Adds an instance. If its app would have the log files of another app, it gets files of its own.
    pub(super) fn insert(&mut self, mut instance: Instance) {
        instance.choose_file_name(self.instances.values());
        self.next_id = self.next_id.max(instance.id() + 1);
        self.instances.insert(instance.id(), instance);
    }

    pub(super) fn insert_replacement(&mut self, replacement: Replacement) {
        self.replacements.insert(replacement.instance().id(), replacement);
    }

    pub(super) fn remove(&mut self, id: u32) -> Option<Instance> {
        let instance = self.instances.remove(&id)?;
        self.reserve_runs(instance.status().last_run);
        if self.instances.is_empty() && self.orphan_runs.is_empty() && self.replacements.is_empty() {
            self.next_id = 0; // as PM2: ids of an empty list start at 0
        }
        Some(instance)
    }

    /// Removes a replacement; its runs are added to the history of the instance.
    pub(super) fn remove_replacement(&mut self, id: u32) {
        let Some(replacement) = self.replacements.remove(&id) else { return };
        self.reserve_runs(replacement.instance().status().last_run);
        if let Some(current) = self.instances.get_mut(&id) {
            replacement.merge_history_into(current);
        }
    }

    /// Whether an id is used by an instance or a replacement.
    pub(super) fn is_used(&self, id: u32) -> bool {
        self.instances.contains_key(&id) || self.replacements.contains_key(&id)
    }

    pub(super) fn next_id(&self) -> u32 {
        self.next_id
    }

    pub(super) fn last_run(&self) -> u32 {
        self.last_run
    }

    /// Sets the counters to those of a saved state.
    pub(super) fn restore_counters(&mut self, next_id: u32, last_run: u32) {
        (self.next_id, self.last_run) = (next_id, last_run);
    }

    /// Makes new instances get run numbers above this one.
    pub(super) fn reserve_runs(&mut self, last_run: u32) {
        self.last_run = self.last_run.max(last_run);
    }

    /// Reserves a run number of one process of an instance, so that the other process does not get it.
    pub(super) fn reserve_run_number(&mut self, id: u32, number: u32) {
        self.get_mut(id).into_iter().for_each(|instance| instance.reserve_run_numbers(number));
        self.replacement_mut(id).into_iter().for_each(|it| it.reserve_run_numbers(number));
    }

    /// The runs that have a process.
    pub(super) fn sample_targets(&self) -> Vec<SampleTarget> {
        let target = |instance: &Instance| {
            let process = instance.status().state.process()?;
            let run = RunId { instance: instance.id(), number: process.run };
            Some(SampleTarget { run, process: process.reference() })
        };
        self.all().filter_map(target).collect()
    }

    /// Ids of instances with a process tree that is being cleaned up.
    pub(super) fn cleaning_up(&self) -> BTreeSet<u32> {
        let cleaning_up = |instance: &&Instance| matches!(instance.status().state, State::CleaningUp { .. });
        self.all().filter(cleaning_up).map(Instance::id).collect()
    }

    /// Adds a run that the keeper has and no instance is about.
    pub(super) fn add_orphan_run(&mut self, run: RunId, process: RunProcess) {
        self.orphan_runs.insert(run, OrphanRun { process, exited: false });
        self.next_id = self.next_id.max(run.instance.saturating_add(1));
    }

    pub(super) fn is_orphan_run(&self, run: RunId) -> bool {
        self.orphan_runs.contains_key(&run)
    }

    /// Handles an event of a run without an instance: its tree is cleaned up, and the run released. False if the event
    /// is about another run.
    pub(super) fn handle_orphan_event(
        &mut self,
        run: RunId,
        event: &InstanceEvent,
        processes: &mut impl ProcessControl,
    ) -> bool {
        let Some(orphan) = self.orphan_runs.get_mut(&run) else { return false };
        match event {
            InstanceEvent::Exited { .. } => {
                orphan.exited = true;
                processes.clean_up_tree(run, orphan.process, CleanUp::Kill, &StopPolicy::default());
            }
            InstanceEvent::TreeChecked { remaining, .. } if remaining.is_empty() => {
                self.orphan_runs.remove(&run);
                processes.release_run(run);
            }
            InstanceEvent::SpawnFailed { .. } => drop(self.orphan_runs.remove(&run)),
            InstanceEvent::TreeChecked { .. }
            | InstanceEvent::Spawned { .. }
            | InstanceEvent::Listening { .. }
            | InstanceEvent::Ready { .. }
            | InstanceEvent::Drained { .. } => {}
            InstanceEvent::Start
            | InstanceEvent::Stop
            | InstanceEvent::Restart(_)
            | InstanceEvent::Enqueue
            | InstanceEvent::Delete
            | InstanceEvent::DrainAndDelete
            | InstanceEvent::OrphanExited
            | InstanceEvent::TimerFired { .. } => return false,
        }
        true
    }

    /// Cleans up the trees of exited runs without an instance again.
    pub(super) fn clean_up_orphan_runs(&self, processes: &mut impl ProcessControl) {
        for (run, orphan) in self.orphan_runs.iter().filter(|(_, orphan)| orphan.exited) {
            processes.clean_up_tree(*run, orphan.process, CleanUp::Kill, &StopPolicy::default());
        }
    }
}
