//! How a supervisor takes up what a former daemon left.

use std::collections::BTreeMap;

use crate::daemon::supervisor::world::World;
use crate::daemon::supervisor::{InstanceRef, OrphanRun, Supervisor};
use crate::instance::Instance;
use crate::instance::replacement::{Replacement, ReplacementRole};
use crate::instance::snapshot::Snapshot;
use crate::instance::state::{RunProcess, State, Want};
use crate::instance::status::RunId;

impl<W: World> Supervisor<W> {
    /// Takes up the state that a former daemon saved. `kept` are the runs that the keeper has; one
    /// that belongs to no instance is ended, since nobody knows what it is.
    pub fn restore_snapshot(&mut self, saved: Snapshot, kept: &BTreeMap<RunId, RunProcess>) {
        (self.next_id, self.last_run) = (saved.next_id, saved.last_run);
        self.completed = saved.completed.clone();
        let (instances, beside) = saved.into_parts();
        let mut numbers: BTreeMap<u32, u32> = BTreeMap::new();
        for instance in instances.iter().chain(beside.iter().map(|beside| &beside.instance)) {
            let number = numbers.entry(instance.id).or_default();
            *number = instance.status.last_run.max(*number);
        }
        for instance in instances {
            let last_run = numbers.get(&instance.id).copied().unwrap_or_default();
            self.resume_instance(instance, last_run, kept);
        }
        for beside in beside {
            self.resume_replacement(beside, kept);
        }
        for (run, process) in kept {
            // What was not saved in time must not be named again while the keeper knows it.
            self.last_run = self.last_run.max(run.number);
            if self.instance_of(*run).is_none() {
                self.world.kill(*run, *process);
                self.orphan_runs.insert(*run, OrphanRun { process: *process, ended: false });
                self.next_id = self.next_id.max(run.instance.saturating_add(1));
            }
        }
        self.mark_apps_changed();
    }

    /// The instance that this run is what it is about.
    pub fn instance_of(&self, run: RunId) -> Option<&Instance> {
        let beside = self.replacements.get(&run.instance).map(|beside| &beside.instance);
        let both = self.instances.get(&run.instance).into_iter().chain(beside);
        both.into_iter().find(|instance| instance.status.state.run() == Some(run.number))
    }

    /// Whether a run that the keeper had belongs to no instance, and is being ended.
    pub fn is_stray(&self, run: RunId) -> bool {
        self.orphan_runs.contains_key(&run)
    }

    fn resume_instance(&mut self, mut instance: Instance, last_run: u32, kept: &BTreeMap<RunId, RunProcess>) {
        let (id, now) = (instance.id, self.world.now());
        let of_it = RunId { instance: id, number: 0 }..=RunId { instance: id, number: u32::MAX };
        let latest = kept.range(of_it).next_back().map(|(run, _)| run.number);
        let alive = |instance: &Instance| {
            let run = instance.status.state.run().map(|number| RunId { instance: id, number });
            run.is_some_and(|run| kept.contains_key(&run))
        };
        // A later one beside one that lives was to replace it: that is begun anew by who asked for it.
        if let Some(latest) = latest.filter(|number| *number > last_run && !alive(&instance)) {
            instance.skip_run_numbers(latest, now);
        }
        // One that is a stray now keeps its number until it is gone, too.
        let highest = latest.map_or(last_run, |latest| latest.max(last_run));
        instance.status.last_run = instance.status.last_run.max(highest);
        let alive = alive(&instance);
        let effects = instance.resume(alive, now);
        self.instances.insert(id, instance);
        self.run_effects(InstanceRef::Current(id), effects);
    }

    fn resume_replacement(&mut self, mut beside: Replacement, kept: &BTreeMap<RunId, RunProcess>) {
        let (id, now) = (beside.instance.id, self.world.now());
        let instance = &mut beside.instance;
        let run = instance.status.state.run().map(|number| RunId { instance: id, number });
        let alive = run.is_some_and(|run| kept.contains_key(&run));
        let coming = matches!(beside.role, ReplacementRole::Incoming { .. });
        if coming && !alive && !matches!(instance.status.state, State::Spawning { .. }) {
            instance.status.want = Want::Gone;
            let listed = self.instances.get_mut(&id);
            listed.into_iter().for_each(|it| it.status.replace_error = Some("the replacement exited".into()));
        }
        if let ReplacementRole::Incoming { probation_ends: Some(at), .. } = beside.role {
            self.world.set_timer(id, at);
        }
        let effects = instance.resume(alive, now);
        self.replacements.insert(id, beside);
        self.run_effects(InstanceRef::Replacement(id), effects);
    }
}
