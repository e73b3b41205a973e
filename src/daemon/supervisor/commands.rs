//! What commands do to the list of instances. Each is checked whole before anything is changed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::daemon::supervisor::pending::{CompletedCommand, Goal, PendingReply, ReplySender};
use crate::daemon::supervisor::selection::select;
use crate::daemon::supervisor::validate::{MAX_INSTANCES, too_many, validate_app};
use crate::daemon::supervisor::views;
use crate::daemon::supervisor::world::World;
use crate::daemon::supervisor::{Inspection, Operation, SampleTarget, Supervisor, SupervisorCommand};
use crate::instance::Instance;
use crate::instance::event::InstanceEvent;
use crate::instance::snapshot;
use crate::instance::snapshot::Snapshot;
use crate::instance::state::{State, Want};
use crate::instance::status::RunId;
use crate::ipc::message::{
    ActOn, Action, ApiError, ErrorCode, EventKind, Existing, Report, ScaleTo, Selectors, StartApps,
};
use crate::metrics::Usage;
use crate::spec::{AppSpec, EnvVars};

/// So many commands are remembered in case they are asked for again.
const MAX_COMPLETED: usize = 64;

/// What a command is after, for each instance it touches.
pub(in crate::daemon) type Goals = Vec<(u32, Goal)>;

impl<W: World> Supervisor<W> {
    pub(in crate::daemon) fn handle_command(&mut self, command: SupervisorCommand) {
        match command {
            SupervisorCommand::Apply { change, key, reply } => self.apply_once(change, key, reply),
            SupervisorCommand::ListAutoscaled(reply) => {
                let scaled = self.instances.values().filter(|instance| instance.spec.autoscale.is_some());
                let ids = scaled.map(|instance| instance.id);
                let _ = reply.send(self.clone_instances(ids));
            }
            SupervisorCommand::Get(selectors, reply) => {
                let _ = reply.send(self.get(selectors.as_deref()));
            }
            SupervisorCommand::Inspect(Inspection(inspect)) => inspect(&self.instances),
            SupervisorCommand::ListRunning(reply) => drop(reply.send(self.list_running())),
            SupervisorCommand::Freeze(reply) => {
                self.freeze();
                let _ = reply.send(());
            }
            SupervisorCommand::Snapshot(reply) => {
                let none = VecDeque::new();
                let counts = (self.next_id, self.last_run);
                let state = snapshot::encode(&self.instances, &BTreeMap::new(), counts, &none);
                let _ = reply.send((self.instances.len(), state));
            }
        }
    }

    /// Carries out a change, unless it was already: the answer to it got lost with another daemon.
    fn apply_once(&mut self, change: Operation, key: Option<String>, reply: ReplySender<Report>) {
        let before = key.as_ref().and_then(|key| self.completed.iter().find(|done| done.key == *key));
        let (goals, notes) = match before {
            Some(done) => (done.goals.clone(), done.notes.clone()),
            None => match self.apply(change) {
                Ok((goals, notes)) => {
                    let goals = self.with_names(goals);
                    self.record_completed(key, &goals, &notes);
                    (goals, notes)
                }
                Err(error) => return drop(reply.send(Err(error))),
            },
        };
        self.pending_replies.push(PendingReply::new(&self.instances, goals, notes, reply));
    }

    fn apply(&mut self, change: Operation) -> Result<(Goals, Vec<String>), ApiError> {
        let goals = match change {
            Operation::Start(apps) => self.start_apps(apps)?,
            Operation::Act(action, on) => self.act(action, on)?,
            Operation::Scale(name, to) => self.scale(&name, to)?,
            Operation::Replace { id, with, earlier_runs: after } => {
                return self.reload_instance(id, with, after);
            }
            Operation::Signal(selectors, number) => self.signal(&selectors, number)?,
            Operation::Resurrect(saved) => return Ok(self.resurrect(saved)),
        };
        Ok((goals, Vec::new()))
    }

    fn with_names(&self, goals: Goals) -> BTreeMap<u32, (String, Goal)> {
        let named = |(id, goal)| Some((id, (self.instances.get(&id)?.spec.name.clone(), goal)));
        goals.into_iter().filter_map(named).collect()
    }

    fn record_completed(
        &mut self,
        key: Option<String>,
        goals: &BTreeMap<u32, (String, Goal)>,
        notes: &[String],
    ) {
        let Some(key) = key else { return };
        self.completed.push_back(CompletedCommand { key, goals: goals.clone(), notes: notes.to_vec() });
        if self.completed.len() > MAX_COMPLETED {
            self.completed.pop_front();
        }
        self.dirty = true;
    }

    fn get(&self, selectors: Option<&[String]>) -> Result<Vec<(Instance, Usage)>, ApiError> {
        let ids = match selectors {
            Some(selectors) => select(&self.instances, selectors)?,
            None => self.instances.keys().copied().collect(),
        };
        Ok(self.clone_instances(ids.into_iter()))
    }

    fn clone_instances(&self, ids: impl Iterator<Item = u32>) -> Vec<(Instance, Usage)> {
        let copy = |id| {
            let usage = self.usage.get(&id).cloned().unwrap_or_default();
            Some((self.instances.get(&id)?.clone(), usage))
        };
        ids.filter_map(copy).collect()
    }

    fn list_running(&self) -> (Vec<SampleTarget>, bool) {
        let run = |instance: &Instance| {
            let process = instance.status.state.process()?;
            let run = RunId { instance: instance.id, number: process.run };
            Some((run.to_u64(), process.pid, process.start_time))
        };
        let beside = self.replacements.values().map(|beside| &beside.instance);
        let limited = self.instances.values().any(|instance| instance.spec.max_memory_restart.is_some());
        (self.instances.values().chain(beside).filter_map(run).collect(), limited)
    }

    fn start_apps(&mut self, request: StartApps) -> Result<Goals, ApiError> {
        for (index, app) in request.apps.iter().enumerate() {
            validate_app(app)?;
            let twice = request.apps[..index].iter().any(|other| other.name == app.name);
            if twice && request.existing != Existing::Duplicate {
                let what = format!("duplicate app name \"{}\"", app.name);
                return Err(ApiError::new(ErrorCode::Invalid, what).hint("start them separately with --name"));
            }
            self.check_name_free(app, request.existing)?;
        }
        let inherited = Arc::new(request.inherited.0);
        let mut goals = Vec::new();
        for app in request.apps {
            let there = match request.existing {
                Existing::Restart | Existing::Refuse | Existing::Keep => self.ids_of(&app.name),
                Existing::Duplicate => Vec::new(),
            };
            let app = Arc::new(app);
            if request.existing == Existing::Keep && !there.is_empty() {
                goals.extend(self.keep_existing(&there, &app, &inherited));
            } else if there.is_empty() {
                let ids: Vec<u32> = (0..app.instances).map(|_| self.add(&app, &inherited)).collect();
                goals.extend(self.start_added(&ids, app.autostart));
            } else {
                goals.extend(self.update_existing(&there, &app, &inherited));
            }
        }
        Ok(goals)
    }

    fn check_name_free(&self, app: &AppSpec, existing: Existing) -> Result<(), ApiError> {
        let running = |id: &u32| {
            let state = self.instances.get(id).map(|instance| &instance.status.state);
            !matches!(state, None | Some(State::Stopped | State::Errored { .. }))
        };
        if existing == Existing::Refuse && self.ids_of(&app.name).iter().any(running) {
            let name = &app.name;
            return Err(ApiError::new(ErrorCode::Conflict, format!("app \"{name}\" is already running"))
                .hint(format!(
                    "use `rsm restart {name}` to restart it, --name for another name, or --force to start a \
                second app of this name"
                )));
        }
        Ok(())
    }

    /// Gives instances that are there a new spec: as many as it wants, all running it.
    fn update_existing(&mut self, there: &[u32], app: &Arc<AppSpec>, inherited: &Arc<EnvVars>) -> Goals {
        let mut goals = Vec::new();
        let wanted = app.target_instances(there.len());
        for (index, id) in there.iter().enumerate() {
            if index >= wanted {
                self.dispatch(*id, InstanceEvent::Delete);
                goals.push((*id, Goal::Deleted));
                continue;
            }
            if let Some(instance) = self.instances.get_mut(id) {
                (instance.spec, instance.inherited) = (app.clone(), inherited.clone());
            }
            self.dispatch(*id, InstanceEvent::Restart(None));
            goals.push((*id, Goal::Online));
        }
        let missing = wanted.saturating_sub(there.len());
        let ids: Vec<u32> = (0..missing).map(|_| self.add(app, inherited)).collect();
        goals.extend(self.start_added(&ids, true));
        self.mark_apps_changed();
        goals
    }

    /// Lets instances run on that have these settings, and gives the others theirs if they rest.
    fn keep_existing(&mut self, there: &[u32], app: &Arc<AppSpec>, inherited: &Arc<EnvVars>) -> Goals {
        for id in there {
            let Some(instance) = self.instances.get_mut(id) else { continue };
            if instance.spec.fingerprint() == app.fingerprint() {
                instance.spec = app.clone();
            } else if matches!(instance.status.state, State::Stopped | State::Errored { .. }) {
                (instance.spec, instance.inherited) = (app.clone(), inherited.clone());
            }
        }
        self.mark_apps_changed();
        there.iter().map(|id| (*id, Goal::Any)).collect()
    }

    fn start_added(&mut self, ids: &[u32], start: bool) -> Goals {
        let goal = if start { Goal::Online } else { Goal::Any };
        for id in ids {
            if start {
                self.dispatch(*id, InstanceEvent::Start);
            } else if let Some(instance) = self.instances.get_mut(id) {
                // Not started, and yet not unwanted: its schedule may start it.
                instance.status.want = Want::Up;
            }
        }
        ids.iter().map(|id| (*id, goal)).collect()
    }

    /// Adds an instance with the lowest free number of its app.
    fn add(&mut self, app: &Arc<AppSpec>, inherited: &Arc<EnvVars>) -> u32 {
        let taken: BTreeSet<u32> = self.instances_named(&app.name).map(|instance| instance.number).collect();
        let number = (0..).find(|number| !taken.contains(number)).unwrap_or(0);
        let id = self.next_id;
        self.insert(Instance::new(
            id,
            number,
            app.clone(),
            inherited.clone(),
            self.last_run,
            self.world.now(),
        ));
        id
    }

    fn insert(&mut self, instance: Instance) {
        self.next_id = self.next_id.max(instance.id + 1);
        let now = self.world.now();
        self.world.publish(views::event_view(&instance, EventKind::Added, now));
        self.instances.insert(instance.id, instance);
        self.mark_apps_changed();
    }

    fn act(&mut self, action: Action, on: ActOn) -> Result<Goals, ApiError> {
        let ids = select(&self.instances, &on.select)?;
        self.patch_settings(&ids, on)?;
        Ok(ids.into_iter().map(|id| (id, self.act_on_instance(action, id))).collect())
    }

    fn act_on_instance(&mut self, action: Action, id: u32) -> Goal {
        match action {
            // As PM2's `start NAME`: one that runs is restarted.
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
                self.instances.get_mut(&id).into_iter().for_each(|instance| instance.reset(now));
                self.mark_apps_changed();
                Goal::Any
            }
        }
    }

    /// Applies changed settings and environment to the selected instances.
    fn patch_settings(&mut self, ids: &BTreeSet<u32>, on: ActOn) -> Result<(), ApiError> {
        let mut specs = Vec::new();
        if let Some(changes) = on.changes.filter(|changes| !changes.is_empty()) {
            for id in ids {
                let Some(instance) = self.instances.get(id) else { continue };
                let spec = instance.spec.patched(&changes).map_err(|error| {
                    ApiError::new(ErrorCode::Invalid, format!("invalid settings: {error}"))
                })?;
                validate_app(&spec)?;
                specs.push((*id, Arc::new(spec)));
            }
        }
        for (id, spec) in specs {
            self.instances.get_mut(&id).into_iter().for_each(|instance| instance.spec = spec.clone());
            self.mark_apps_changed();
        }
        if let Some(inherited) = on.inherited {
            let inherited = Arc::new(inherited.0);
            let chosen = self.instances.values_mut().filter(|instance| ids.contains(&instance.id));
            chosen.for_each(|instance| instance.inherited = inherited.clone());
        }
        Ok(())
    }

    fn scale(&mut self, name: &str, to: ScaleTo) -> Result<Goals, ApiError> {
        let mut there = self.ids_of(name);
        let now = u32::try_from(there.len()).unwrap_or(u32::MAX);
        let Some(first) = there.first().and_then(|id| self.instances.get(id)) else {
            select(&self.instances, &[name.to_owned()])?; // words the error, with a suggestion
            return Err(ApiError::new(ErrorCode::NotFound, format!("app \"{name}\" not found")));
        };
        let wanted = match to {
            ScaleTo::Exactly(count) => count,
            ScaleTo::Add(more) => now.saturating_add(more),
            ScaleTo::Remove(fewer) => now.saturating_sub(fewer),
        };
        if wanted == now {
            return Err(ApiError::new(
                ErrorCode::Conflict,
                format!("app \"{name}\" already has {now} instances"),
            ));
        }
        if wanted > MAX_INSTANCES {
            return Err(too_many(name, wanted));
        }
        let (spec, inherited) = (first.spec.clone(), first.inherited.clone());
        if wanted > now {
            let ids: Vec<u32> = (now..wanted).map(|_| self.add(&spec, &inherited)).collect();
            return Ok(self.start_added(&ids, true));
        }
        // The highest numbers go, so that those that stay keep theirs.
        let surplus = there.split_off(wanted as usize);
        let go = if there.is_empty() { InstanceEvent::Delete } else { InstanceEvent::DrainAndDelete };
        surplus.iter().for_each(|id| self.dispatch(*id, go.clone()));
        Ok(surplus.into_iter().map(|id| (id, Goal::Deleted)).collect())
    }

    fn signal(&mut self, selectors: &Selectors, number: i32) -> Result<Goals, ApiError> {
        let ids = select(&self.instances, selectors)?;
        let run = |id: &u32| {
            Some(RunId { instance: *id, number: self.instances.get(id)?.status.state.process()?.run })
        };
        let runs: Vec<RunId> = ids.iter().filter_map(run).collect();
        if runs.is_empty() {
            return Err(ApiError::new(ErrorCode::Conflict, "no selected instance is running"));
        }
        runs.iter().for_each(|run| self.world.signal(*run, number));
        Ok(runs.into_iter().map(|run| (run.instance, Goal::Any)).collect())
    }

    /// Adds the saved instances of every app whose name is not in the list, as they were: same
    /// ids where free, same numbers and counts; started unless they were stopped.
    fn resurrect(&mut self, saved: Snapshot) -> (Goals, Vec<String>) {
        let here: BTreeSet<String> =
            self.instances.values().map(|instance| instance.spec.name.clone()).collect();
        let (mut goals, mut notes) = (Vec::new(), BTreeSet::new());
        for mut instance in saved.into_instances().filter(|instance| instance.status.want != Want::Gone) {
            if here.contains(&instance.spec.name) {
                notes.insert(format!("{} is already in the list, skipped", instance.spec.name));
                continue;
            }
            let start = instance.status.want == Want::Up && instance.status.state != State::Stopped;
            if self.instances.contains_key(&instance.id) || self.replacements.contains_key(&instance.id) {
                instance.id = self.next_id;
            }
            instance.status.reset_for_boot(self.last_run);
            let id = instance.id;
            self.insert(instance);
            if start {
                self.dispatch(id, InstanceEvent::Start);
            }
            goals.push((id, if start { Goal::Online } else { Goal::Any }));
        }
        (goals, notes.into_iter().collect())
    }

    fn instances_named(&self, name: &str) -> impl Iterator<Item = &Instance> {
        self.instances.values().filter(move |it| it.spec.name == name && it.status.want != Want::Gone)
    }

    /// Ids of an app's instances in the order of their numbers.
    fn ids_of(&self, name: &str) -> Vec<u32> {
        let mut ids: Vec<(u32, u32)> =
            self.instances_named(name).map(|instance| (instance.number, instance.id)).collect();
        ids.sort_unstable();
        ids.into_iter().map(|(_, id)| id).collect()
    }
}
