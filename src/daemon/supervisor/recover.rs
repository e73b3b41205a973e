//! Recovery of the registry from the state that a former daemon saved.

use std::collections::BTreeMap;

use super::registry::{InstanceRef, Registry};
use crate::instance::Instance;
use crate::instance::event::Effect;
use crate::instance::replacement::Replacement;
use crate::instance::snapshot::Snapshot;
use crate::instance::state::RunProcess;
use crate::instance::status::RunId;
use crate::time::Moment;

/// The runs that the keeper has.
pub(super) type KeeperRuns = BTreeMap<RunId, RunProcess>;

/// What has to be done after a recovery.
#[derive(Default)]
pub(super) struct Recovery {
    /// Effects to repeat, by instance.
    pub(super) effects: Vec<(InstanceRef, Vec<Effect>)>,
    /// Runs without an instance: what they belong to is unknown, so they have to be killed.
    pub(super) orphan_runs: Vec<(RunId, RunProcess)>,
}

/// Fills the registry with the saved instances and adopts the runs of the keeper.
pub(super) fn restore(registry: &mut Registry, saved: Snapshot, runs: &KeeperRuns, now: Moment) -> Recovery {
    registry.restore_counters(saved.next_id, saved.last_run);
    let mut recovery = Recovery::default();
    let mut last_runs: BTreeMap<u32, u32> = BTreeMap::new();
    for instance in saved.all() {
        let last_run = last_runs.entry(instance.id()).or_default();
        *last_run = instance.status().last_run.max(*last_run);
    }
    let (instances, replacements) = saved.into_parts();
    for instance in instances {
        let last_run = last_runs.get(&instance.id()).copied().unwrap_or_default();
        recovery.effects.push(resume_instance(registry, instance, last_run, runs, now));
    }
    for replacement in replacements {
        recovery.effects.push(resume_replacement(registry, replacement, runs, now));
    }
    for (run, process) in runs {
        // A run that was not saved in time keeps its number as long as the keeper has it.
        registry.reserve_runs(run.number);
        if registry.instance_of(*run).is_none() {
            registry.add_orphan_run(*run, *process);
            recovery.orphan_runs.push((*run, *process));
        }
    }
    recovery
}

fn resume_instance(
    registry: &mut Registry,
    mut instance: Instance,
    last_run: u32,
    runs: &KeeperRuns,
    now: Moment,
) -> (InstanceRef, Vec<Effect>) {
    let id = instance.id();
    let range = RunId { instance: id, number: 0 }..=RunId { instance: id, number: u32::MAX };
    let latest = runs.range(range).next_back().map(|(run, _)| run.number);
    // If the saved run is alive, a later one was its replacement: the client repeats that request.
    if let Some(latest) = latest.filter(|number| *number > last_run && !is_alive(&instance, runs)) {
        instance.adopt_run(latest, now);
    }
    // A run without an instance keeps its number until it has ended, too.
    instance.reserve_run_numbers(latest.map_or(last_run, |latest| latest.max(last_run)));
    let effects = instance.resume(is_alive(&instance, runs), now);
    registry.insert(instance);
    (InstanceRef::Current(id), effects)
}

fn resume_replacement(
    registry: &mut Registry,
    mut replacement: Replacement,
    runs: &KeeperRuns,
    now: Moment,
) -> (InstanceRef, Vec<Effect>) {
    let id = replacement.instance().id();
    let alive = is_alive(replacement.instance(), runs);
    // The current process may have been started again just now.
    let last_run = registry.get(id).map_or(0, |current| current.status().last_run);
    replacement.reserve_run_numbers(last_run);
    let effects = replacement.resume(registry.get_mut(id), alive, now);
    registry.insert_replacement(replacement);
    (InstanceRef::Replacement(id), effects)
}

fn is_alive(instance: &Instance, runs: &KeeperRuns) -> bool {
    instance.current_run().is_some_and(|run| runs.contains_key(&run))
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Arc;

    use super::*;
    use crate::instance::event::InstanceEvent;
    use crate::instance::snapshot;
    use crate::spec::AppSpec;

    /// The keeper died while both processes of an instance were being started.
    #[test]
    fn restored_processes_of_instance_get_different_run_numbers() {
        let now = Moment::default();
        let settings = (Arc::new(AppSpec::new("api", "/bin/api", "/")), Arc::default());
        let mut current = Instance::new(0, 0, settings.0.clone(), Arc::default(), 0, now);
        current.handle(InstanceEvent::Start, now);
        let mut replacement = Replacement::new(&mut current, settings, None, Vec::new(), now);
        replacement.handle(InstanceEvent::Start, now);
        current.reserve_run_numbers(replacement.instance().status().last_run);
        let (instances, replacements) = (BTreeMap::from([(0, current)]), BTreeMap::from([(0, replacement)]));
        let saved = snapshot::encode(&instances, &replacements, (1, 0), &VecDeque::new());

        let mut registry = Registry::default();
        restore(&mut registry, snapshot::decode(&saved).unwrap(), &KeeperRuns::new(), now);
        let runs: Vec<_> = registry.all().filter_map(Instance::current_run).map(|run| run.number).collect();
        assert_eq!(runs, [3, 4]);
    }
}
