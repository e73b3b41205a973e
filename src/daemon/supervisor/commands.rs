//! Commands of clients: changes and queries of the list of instances. A change is validated before anything changes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::Supervisor;
use super::input::{Operation, ReplySender, SampleRequest, SupervisorCommand};
use super::pending::NamedGoals;
use super::selection::select;
use super::validate::{MAX_INSTANCES, too_many, validate_app};
use super::views;
use super::world::World;
use crate::instance::event::InstanceEvent;
use crate::instance::snapshot::{self, Snapshot};
use crate::instance::state::{State, Want};
use crate::instance::status::RunId;
use crate::instance::{CompletedCommand, Goal, Instance};
use crate::ipc::message::{
    Action, ActionReport, ActionRequest, ApiError, ErrorCode, EventKind, Existing, ScaleTo, Selectors,
    StartRequest,
};
use crate::metrics::Usage;
use crate::spec::{AppSpec, Condition, EnvVars};

/// The goal of a command for each instance that it concerns.
pub(super) type Goals = Vec<(u32, Goal)>;

impl<W: World> Supervisor<W> {
    pub(super) fn handle_command(&mut self, command: SupervisorCommand) {
        match command {
            SupervisorCommand::Apply { change, key, reply } => self.apply_once(change, key, reply),
            SupervisorCommand::ListAutoscaled(reply) => {
                let scaled = self.registry.instances().values().filter(|it| it.spec().autoscale.is_some());
                let _ = reply.send(self.clone_instances(scaled.map(Instance::id)));
            }
            SupervisorCommand::Get(selectors, reply) => {
                let _ = reply.send(self.get(selectors.as_deref()));
            }
            SupervisorCommand::Inspect(inspection) => inspection.run(self.registry.instances()),
            SupervisorCommand::ListRunning(reply) => drop(reply.send(self.sample_request())),
            SupervisorCommand::Freeze(reply) => {
                self.freeze();
                let _ = reply.send(());
            }
            SupervisorCommand::Snapshot(reply) => {
                let counters = (self.registry.next_id(), self.registry.last_run());
                let instances = self.registry.instances();
                let state = snapshot::encode(instances, &BTreeMap::new(), counters, &VecDeque::new());
                let _ = reply.send((instances.len(), state));
            }
        }
    }

    /// Carries out a change, unless it was carried out before: then a former daemon died before it answered.
    fn apply_once(&mut self, change: Operation, key: Option<String>, reply: ReplySender<ActionReport>) {
        let completed = key.as_ref().and_then(|key| self.replies.find_completed(key));
        let (goals, notes) = match completed {
            Some(command) => (command.goals.clone(), command.notes.clone()),
            None => match self.apply(change) {
                Ok((goals, notes)) => {
                    let goals = self.with_names(goals);
                    self.record_completed(key, &goals, &notes);
                    (goals, notes)
                }
                Err(error) => return drop(reply.send(Err(error))),
            },
        };
        self.replies.add(&self.registry, goals, notes, reply);
    }

    fn apply(&mut self, change: Operation) -> Result<(Goals, Vec<String>), ApiError> {
        let no_wait = change.no_wait();
        let mut goals = match change {
            Operation::Start(apps) => self.start_apps(apps)?,
            Operation::Act(action, on) => self.act(action, on)?,
            Operation::Scale(name, to) => self.scale(&name, to.to)?,
            Operation::Replace { id, with, earlier_runs } => {
                return self.reload_instance(id, with, earlier_runs);
            }
            Operation::WaitFor(conditions) => self.goals_of(&conditions),
            Operation::Signal(selectors, number) => self.signal(&selectors, number)?,
            Operation::Resurrect(saved) => return Ok(self.resurrect(saved)),
        };
        for (_, goal) in goals.iter_mut().filter(|(_, goal)| no_wait && *goal == Goal::Online) {
            *goal = Goal::Started;
        }
        Ok((goals, Vec::new()))
    }

    /// The goals of all instances of these apps.
    fn goals_of(&self, conditions: &BTreeMap<String, Condition>) -> Goals {
        let goal = |condition: &Condition| match condition {
            Condition::Started => Goal::Started,
            Condition::Ready => Goal::Resumed,
            Condition::Completed => Goal::Completed,
        };
        let mut goals = Goals::new();
        for (name, condition) in conditions {
            goals.extend(self.registry.ids_of(name).into_iter().map(|id| (id, goal(condition))));
        }
        goals
    }

    fn with_names(&self, goals: Goals) -> NamedGoals {
        let named = |(id, goal)| Some((id, (self.registry.get(id)?.spec().name.clone(), goal)));
        goals.into_iter().filter_map(named).collect()
    }

    fn record_completed(&mut self, key: Option<String>, goals: &NamedGoals, notes: &[String]) {
        let Some(key) = key else { return };
        let command = CompletedCommand { key, goals: goals.clone(), notes: notes.to_vec() };
        self.replies.record_completed(command);
        self.dirty = true;
    }

    fn get(&self, selectors: Option<&[String]>) -> Result<Vec<(Instance, Usage)>, ApiError> {
        let instances = self.registry.instances();
        let ids = match selectors {
            Some(selectors) => select(instances, selectors)?,
            None => instances.keys().copied().collect(),
        };
        Ok(self.clone_instances(ids.into_iter()))
    }

    fn clone_instances(&self, ids: impl Iterator<Item = u32>) -> Vec<(Instance, Usage)> {
        ids.filter_map(|id| Some((self.registry.get(id)?.clone(), self.health.usage(id)))).collect()
    }

    fn sample_request(&self) -> SampleRequest {
        let mut instances = self.registry.instances().values();
        let has_limits = instances.any(|instance| instance.spec().max_memory_restart.is_some());
        SampleRequest { targets: self.registry.sample_targets(), has_limits }
    }

    fn start_apps(&mut self, request: StartRequest) -> Result<Goals, ApiError> {
        for (index, app) in request.apps.iter().enumerate() {
            validate_app(app)?;
            let is_duplicate = request.apps[..index].iter().any(|other| other.name == app.name);
            if is_duplicate && request.existing != Existing::Duplicate {
                let message = format!("duplicate app name \"{}\"", app.name);
                return Err(
                    ApiError::new(ErrorCode::Invalid, message).hint("start them separately with --name")
                );
            }
            self.check_name_free(app, request.existing)?;
        }
        let inherited = Arc::new(request.inherited.0);
        let mut goals = Vec::new();
        for app in request.apps {
            let ids = match request.existing {
                Existing::Restart | Existing::Refuse | Existing::Keep => self.registry.ids_of(&app.name),
                Existing::Duplicate => Vec::new(),
            };
            let app = Arc::new(app);
            if request.existing == Existing::Keep && !ids.is_empty() {
                goals.extend(self.keep_existing(&ids, &app, &inherited));
            } else if ids.is_empty() {
                let ids: Vec<u32> = (0..app.instances).map(|_| self.add(&app, &inherited)).collect();
                goals.extend(self.start_added(&ids, app.autostart));
            } else {
                goals.extend(self.update_existing(&ids, &app, &inherited));
            }
        }
        Ok(goals)
    }

    fn check_name_free(&self, app: &AppSpec, existing: Existing) -> Result<(), ApiError> {
        let is_idle =
            |instance: &Instance| matches!(instance.status().state, State::Stopped | State::Errored { .. });
        let mut instances = self.registry.instances_named(&app.name);
        if existing == Existing::Refuse && !instances.all(is_idle) {
            let name = &app.name;
            return Err(ApiError::new(ErrorCode::Conflict, format!("app \"{name}\" is already running"))
                .hint(format!(
                    "use `rsm restart {name}` to restart it, --name for another name, or --force to start a \
                second app of this name"
                )));
        }
        Ok(())
    }

    /// Gives existing instances a new spec and restarts them; adds or deletes instances if the spec has another number.
    fn update_existing(&mut self, existing: &[u32], app: &Arc<AppSpec>, inherited: &Arc<EnvVars>) -> Goals {
        let mut goals = Vec::new();
        let count = app.target_instances(existing.len());
        for (index, id) in existing.iter().enumerate() {
            if index >= count {
                self.dispatch(*id, InstanceEvent::Delete);
                goals.push((*id, Goal::Deleted));
                continue;
            }
            if let Some(instance) = self.registry.get_mut(*id) {
                instance.update_spec(app.clone());
                instance.update_inherited(inherited.clone());
            }
            self.dispatch(*id, InstanceEvent::Restart(None));
            goals.push((*id, Goal::Online));
        }
        let missing = count.saturating_sub(existing.len());
        let ids: Vec<u32> = (0..missing).map(|_| self.add(app, inherited)).collect();
        goals.extend(self.start_added(&ids, true));
        self.mark_apps_changed();
        goals
    }

    /// Gives existing instances a new spec without a restart: those with the same settings, and those that do not run.
    fn keep_existing(&mut self, existing: &[u32], app: &Arc<AppSpec>, inherited: &Arc<EnvVars>) -> Goals {
        for id in existing {
            let Some(instance) = self.registry.get_mut(*id) else { continue };
            if instance.spec().fingerprint() == app.fingerprint() {
                instance.update_spec(app.clone());
            } else if matches!(instance.status().state, State::Stopped | State::Errored { .. }) {
                instance.update_spec(app.clone());
                instance.update_inherited(inherited.clone());
            }
        }
        self.mark_apps_changed();
        existing.iter().map(|id| (*id, Goal::Any)).collect()
    }

    fn start_added(&mut self, ids: &[u32], start: bool) -> Goals {
        let goal = if start { Goal::Online } else { Goal::Any };
        for id in ids {
            if start {
                self.dispatch(*id, InstanceEvent::Start);
            } else if let Some(instance) = self.registry.get_mut(*id) {
                instance.enable();
            }
        }
        ids.iter().map(|id| (*id, goal)).collect()
    }

    /// Adds an instance with the lowest free number of its app.
    fn add(&mut self, app: &Arc<AppSpec>, inherited: &Arc<EnvVars>) -> u32 {
        let instance = self.registry.new_instance(app, inherited, self.world.now());
        let id = instance.id();
        self.insert(instance);
        id
    }

    fn insert(&mut self, instance: Instance) {
        let now = self.world.now();
        self.world.publish(views::event_view(&instance, EventKind::Added, now));
        self.registry.insert(instance);
        self.mark_apps_changed();
    }

    fn act(&mut self, action: Action, on: ActionRequest) -> Result<Goals, ApiError> {
        let ids = select(self.registry.instances(), &on.select)?;
        self.patch_settings(&ids, on)?;
        Ok(ids.into_iter().map(|id| (id, self.act_on_instance(action, id))).collect())
    }

    fn act_on_instance(&mut self, action: Action, id: u32) -> Goal {
        match action {
            // As PM2's `start NAME`: a running instance is restarted.
            Action::Start | Action::Restart => {
                self.dispatch(id, InstanceEvent::Restart(None));
                Goal::Online
            }
            Action::Stop => {
                self.dispatch(id, InstanceEvent::Stop);
                Goal::Stopped
            }
            Action::Delete => {
                self.dispatch(id, InstanceEvent::Delete);
                Goal::Deleted
            }
            Action::Reset => {
                let now = self.world.now();
                self.registry.get_mut(id).into_iter().for_each(|instance| instance.reset(now));
                self.mark_apps_changed();
                Goal::Any
            }
        }
    }

    /// Applies changed settings and environment to the selected instances.
    fn patch_settings(&mut self, ids: &BTreeSet<u32>, on: ActionRequest) -> Result<(), ApiError> {
        let mut specs = Vec::new();
        if let Some(changes) = on.changes.filter(|changes| !changes.is_empty()) {
            for id in ids {
                let Some(instance) = self.registry.get(*id) else { continue };
                let spec = instance.spec().patched(&changes).map_err(|error| {
                    ApiError::new(ErrorCode::Invalid, format!("invalid settings: {error}"))
                })?;
                validate_app(&spec)?;
                specs.push((*id, Arc::new(spec)));
            }
        }
        for (id, spec) in specs {
            self.registry.get_mut(id).into_iter().for_each(|instance| instance.update_spec(spec.clone()));
            self.mark_apps_changed();
        }
        if let Some(inherited) = on.inherited {
            let inherited = Arc::new(inherited.0);
            for id in ids {
                let instance = self.registry.get_mut(*id);
                instance.into_iter().for_each(|it| it.update_inherited(inherited.clone()));
            }
        }
        Ok(())
    }

    fn scale(&mut self, name: &str, to: ScaleTo) -> Result<Goals, ApiError> {
        let mut ids = self.registry.ids_of(name);
        let current = u32::try_from(ids.len()).unwrap_or(u32::MAX);
        let Some(first) = ids.first().and_then(|id| self.registry.get(*id)) else {
            // The error of `select` has a suggestion.
            select(self.registry.instances(), &[name.to_owned()])?;
            return Err(ApiError::new(ErrorCode::NotFound, format!("app \"{name}\" not found")));
        };
        let count = match to {
            ScaleTo::Exactly(count) => count,
            ScaleTo::Add(more) => current.saturating_add(more),
            ScaleTo::Remove(fewer) => current.saturating_sub(fewer),
        };
        if count == current {
            return Err(ApiError::new(
                ErrorCode::Conflict,
                format!("app \"{name}\" already has {current} instances"),
            ));
        }
        if count > MAX_INSTANCES {
            return Err(too_many(name, count));
        }
        let (spec, inherited) = (first.spec().clone(), first.inherited().clone());
        if count > current {
            let added: Vec<u32> = (current..count).map(|_| self.add(&spec, &inherited)).collect();
            return Ok(self.start_added(&added, true));
        }
        // Those that do not run are deleted first, then those with the highest numbers.
        ids.sort_by_key(|id| self.registry.get(*id).is_none_or(|instance| !is_serving(instance)));
        let surplus = ids.split_off(count as usize);
        let event = if ids.is_empty() { InstanceEvent::Delete } else { InstanceEvent::DrainAndDelete };
        surplus.iter().for_each(|id| self.dispatch(*id, event.clone()));
        Ok(surplus.into_iter().map(|id| (id, Goal::Deleted)).collect())
    }

    fn signal(&mut self, selectors: &Selectors, number: i32) -> Result<Goals, ApiError> {
        let ids = select(self.registry.instances(), selectors)?;
        let run = |id: &u32| {
            let process = self.registry.get(*id)?.status().state.process()?;
            Some(RunId { instance: *id, number: process.run })
        };
        let runs: Vec<RunId> = ids.iter().filter_map(run).collect();
        if runs.is_empty() {
            return Err(ApiError::new(ErrorCode::Conflict, "no selected instance is running"));
        }
        runs.iter().for_each(|run| self.world.signal(*run, number));
        Ok(runs.into_iter().map(|run| (run.instance, Goal::Any)).collect())
    }

    /// Adds the saved instances of every app that is not in the list: with their ids if these are free, and with their
    /// numbers and counters. They are started unless they were stopped.
    fn resurrect(&mut self, saved: Snapshot) -> (Goals, Vec<String>) {
        let existing: BTreeSet<String> =
            self.registry.instances().values().map(|instance| instance.spec().name.clone()).collect();
        let (mut goals, mut notes) = (Vec::new(), BTreeSet::new());
        for mut instance in saved.into_instances().filter(|instance| instance.status().want != Want::Gone) {
            let name = &instance.spec().name;
            if existing.contains(name) {
                notes.insert(format!("{name} is already in the list, skipped"));
                continue;
            }
            let start = instance.status().want == Want::Up && instance.status().state != State::Stopped;
            let id = match self.registry.is_used(instance.id()) {
                true => self.registry.next_id(),
                false => instance.id(),
            };
            instance.reset_for_boot(id, self.registry.last_run());
            self.insert(instance);
            if start {
                self.dispatch(id, InstanceEvent::Start);
            }
            goals.push((id, if start { Goal::Resumed } else { Goal::Any }));
        }
        (goals, notes.into_iter().collect())
    }
}

/// Whether an instance runs or is to be restarted.
fn is_serving(instance: &Instance) -> bool {
    !matches!(instance.status().state, State::Stopped | State::Errored { .. })
}
