//! Replacing the process of an instance without a gap.
//!
//! The new process is started *beside* the old one, which goes on serving. Only when the new one is
//! ready and has lived for a while does it take the place of the old one, which then gets no new
//! connections, and is told to go. If the new one fails before, the old one never noticed.

use std::sync::Arc;

use crate::daemon::supervisor::commands::Goals;
use crate::daemon::supervisor::pending::Goal;
use crate::daemon::supervisor::validate::validate_app;
use crate::daemon::supervisor::views;
use crate::daemon::supervisor::world::World;
use crate::daemon::supervisor::{InstanceRef, Supervisor};
use crate::instance::event::{InstanceEvent, Notice};
use crate::instance::replacement::{Replacement, ReplacementRole};
use crate::instance::state::{State, Want};
use crate::instance::status::RunId;
use crate::ipc::message::{ApiError, ErrorCode, EventKind, Inherited};
use crate::spec::{AppSpec, EnvVars, ReadySignal};

impl<W: World> Supervisor<W> {
    /// Gives an instance another process, without a gap if that can be.
    pub(in crate::daemon) fn reload_instance(
        &mut self,
        id: u32,
        with: Option<Box<(AppSpec, Inherited)>>,
        after: Vec<RunId>,
    ) -> Result<(Goals, Vec<String>), ApiError> {
        let listed = self.instances.get(&id).filter(|instance| instance.status.want != Want::Gone);
        let Some(instance) = listed else {
            return Err(ApiError::new(ErrorCode::NotFound, format!("no instance with id {id}")));
        };
        let given = match with {
            Some(with) => {
                let (spec, inherited) = *with;
                validate_app(&spec)?;
                (Arc::new(spec), Arc::new(inherited.0))
            }
            None => (instance.spec.clone(), instance.inherited.clone()),
        };
        let shares = instance.spec.shares_ports() && given.0.shares_ports();
        match (&instance.status.state, shares) {
            (State::Online { .. }, true) => {
                self.start_replacement(id, given, None, after)?;
                Ok((vec![(id, Goal::Replaced)], Vec::new()))
            }
            (state, _) => {
                let gap = matches!(state, State::Online { .. }).then(|| restarted_note(&given.0.name));
                if let Some(instance) = self.instances.get_mut(&id) {
                    (instance.spec, instance.inherited) = given;
                }
                self.mark_apps_changed();
                self.dispatch(id, InstanceEvent::Restart(None));
                Ok((vec![(id, Goal::Online)], gap.into_iter().collect()))
            }
        }
    }

    /// Gives an instance another process because the one that it has must go: without a gap if that can
    /// be, else by a restart.
    pub(in crate::daemon) fn replace_or_restart(&mut self, id: u32, why: String) {
        let Some(instance) = self.instances.get(&id) else { return };
        let same = (instance.spec.clone(), instance.inherited.clone());
        let online = matches!(instance.status.state, State::Online { .. });
        let gently = online && instance.spec.shares_ports() && !self.replacements.contains_key(&id);
        if !gently || self.start_replacement(id, same, Some(why.clone()), Vec::new()).is_err() {
            self.dispatch(id, InstanceEvent::Restart(Some(why)));
        }
    }

    /// Starts another process beside the one that an instance has. `forced`: why the old one has to go
    /// also if this one fails. `after`: see [`ReplacementRole::Coming`].
    ///
    /// # Errors
    /// That is under way already.
    pub(in crate::daemon) fn start_replacement(
        &mut self,
        id: u32,
        (spec, inherited): (Arc<AppSpec>, Arc<EnvVars>),
        forced: Option<String>,
        after: Vec<RunId>,
    ) -> Result<(), ApiError> {
        let now = self.world.now();
        let Some(instance) = self.instances.get_mut(&id) else { return Ok(()) };
        if self.replacements.contains_key(&id) {
            let what = format!("{} (id {id}) is already being reloaded", instance.spec.name);
            return Err(ApiError::new(ErrorCode::Conflict, what).hint("wait for it to finish"));
        }
        instance.status.replace_error = None;
        let successor = instance.new_replacement(spec, inherited, now);
        self.world.publish(views::event_with_detail(instance, EventKind::Replacing, forced.clone(), now));
        let role =
            ReplacementRole::Incoming { probation_ends: None, forced_reason: forced, earlier_runs: after };
        self.replacements.insert(id, Replacement { instance: successor, role });
        self.apply_replacement_event(id, InstanceEvent::Start);
        Ok(())
    }

    /// Lets the process beside one in the list hear of an event. True if that is no news for the other.
    pub(in crate::daemon) fn route_to_replacement(&mut self, id: u32, event: &InstanceEvent) -> bool {
        let Some(Replacement { instance, role }) = self.replacements.get_mut(&id) else { return false };
        if let Some(run) = event.run() {
            let about_it = instance.status.state.run() == Some(run);
            if about_it {
                self.on_replacement_event(id, event.clone());
            }
            return about_it;
        }
        match (event, role) {
            (
                InstanceEvent::TimerFired { at },
                ReplacementRole::Incoming { probation_ends: Some(proven), .. },
            ) if at == proven => {
                self.end_probation(id);
            }
            (InstanceEvent::TimerFired { at }, ReplacementRole::Incoming { .. })
                if instance.status.timer == Some(*at)
                    && matches!(instance.status.state, State::Starting { .. }) =>
            {
                self.on_replacement_timeout(id, *at);
            }
            (InstanceEvent::TimerFired { .. } | InstanceEvent::OrphanExited, _) => {
                self.apply_replacement_event(id, event.clone())
            }
            // Whatever else is wanted of the instance, it is not that it be replaced.
            (
                InstanceEvent::Stop
                | InstanceEvent::Restart(_)
                | InstanceEvent::Delete
                | InstanceEvent::DrainAndDelete,
                ReplacementRole::Incoming { .. },
            ) => {
                self.abort_replacement(id, "canceled by another operation");
            }
            (InstanceEvent::Stop | InstanceEvent::Delete, ReplacementRole::Outgoing) => {
                self.apply_replacement_event(id, InstanceEvent::Delete)
            }
            _ => {}
        }
        false
    }

    fn on_replacement_event(&mut self, id: u32, event: InstanceEvent) {
        let Some(Replacement { instance, role }) = self.replacements.get_mut(&id) else { return };
        let coming = matches!(role, ReplacementRole::Incoming { .. }) && instance.status.want == Want::Up;
        let failed = match &event {
            InstanceEvent::Exited { exit, .. } if coming => Some(format!("the replacement exited: {exit}")),
            InstanceEvent::SpawnFailed { failure, .. } if coming => {
                Some(format!("the replacement failed to start: {}", instance.with_subject(failure.clone())))
            }
            _ => None,
        };
        match failed {
            Some(why) => self.fail_replacement(id, why, event),
            None => {
                let listens = matches!(event, InstanceEvent::Listening { .. });
                self.apply_replacement_event(id, event);
                if listens && self.is_on_probation(id) {
                    self.start_probation(id);
                }
            }
        }
    }

    /// The new process has not become ready in time.
    fn on_replacement_timeout(&mut self, id: u32, at: u64) {
        let was_ready = self.instances.get(&id).is_some_and(|instance| instance.status.ready);
        let Some(Replacement { instance, .. }) = self.replacements.get(&id) else { return };
        let (sign, seconds) = (instance.spec.ready_signal(), instance.spec.readiness.timeout.as_secs_f64());
        match sign {
            ReadySignal::Notified | ReadySignal::ProbePassed => {
                let why = format!("the replacement is not ready: {}", instance.not_ready_reason());
                self.abort_replacement(id, &why);
            }
            ReadySignal::Listening if was_ready => {
                self.abort_replacement(
                    id,
                    &format!("the replacement did not listen within {seconds} s (listen_timeout)"),
                );
            }
            // The old one did not listen either: to run is all that this app does.
            ReadySignal::Listening | ReadySignal::Running => {
                self.apply_replacement_event(id, InstanceEvent::TimerFired { at })
            }
        }
    }

    pub(in crate::daemon) fn abort_replacement(&mut self, id: u32, why: &str) {
        if self.replacements.get(&id).is_some_and(|beside| beside.instance.status.want == Want::Up) {
            self.fail_replacement(id, why.to_owned(), InstanceEvent::Delete);
        }
    }

    /// The new process has failed, which comes to it as `event`: it is not tried again, and the old one
    /// stays, unless that had to go for a reason of its own.
    fn fail_replacement(&mut self, id: u32, why: String, event: InstanceEvent) {
        let Some(Replacement { instance, role }) = self.replacements.get_mut(&id) else { return };
        let forced = match role {
            ReplacementRole::Incoming { probation_ends: proven_at, forced_reason: forced, .. } => {
                *proven_at = None;
                forced.take()
            }
            ReplacementRole::Outgoing => None,
        };
        if event != InstanceEvent::Delete {
            instance.status.want = Want::Gone;
        }
        self.apply_replacement_event(id, event);
        let now = self.world.now();
        let Some(listed) = self.instances.get_mut(&id) else { return };
        listed.status.replace_error = Some(why.clone());
        self.world.publish(views::event_with_detail(listed, EventKind::ReplaceFailed, why, now));
        if let (Some(forced), State::Online { .. }) = (forced, &listed.status.state) {
            self.dispatch(id, InstanceEvent::Restart(Some(forced)));
        }
    }

    fn apply_replacement_event(&mut self, id: u32, event: InstanceEvent) {
        let now = self.world.now();
        let Some(Replacement { instance, .. }) = self.replacements.get_mut(&id) else { return };
        let spawned = matches!(event, InstanceEvent::Spawned { .. });
        let effects = instance.handle(event, now);
        if spawned && !effects.is_empty() {
            self.world.on_run_started(instance);
        }
        self.dirty = true;
        self.run_effects(InstanceRef::Replacement(id), effects);
    }

    /// The new process takes the place of the old one, which goes.
    pub(in crate::daemon) fn promote(&mut self, id: u32) {
        let now = self.world.now();
        let (Some(beside), Some(listed)) = (self.replacements.get_mut(&id), self.instances.get_mut(&id))
        else {
            return;
        };
        if !matches!(beside.instance.status.state, State::Online { .. }) {
            return;
        }
        let forced = match std::mem::replace(&mut beside.role, ReplacementRole::Outgoing) {
            ReplacementRole::Incoming { forced_reason: forced, .. } => forced,
            ReplacementRole::Outgoing => None,
        };
        beside.instance.take_over_from(listed);
        std::mem::swap(listed, &mut beside.instance);
        beside.instance.status.stop_reason = forced;
        if let Some(process) = listed.status.state.process() {
            self.world.on_ready(RunId { instance: id, number: process.run });
            self.world.write_pid_file(listed, Some(process.pid));
        }
        self.usage.remove(&id);
        self.world.publish(views::event_view(listed, EventKind::Replaced, now));
        self.mark_apps_changed();
        self.apply_replacement_event(id, InstanceEvent::DrainAndDelete);
    }

    /// What the process beside another tells: of its readiness follows when it takes the place.
    pub(in crate::daemon) fn publish_replacement(&mut self, id: u32, happening: Notice) {
        let now = self.world.now();
        let Some(Replacement { role, .. }) = self.replacements.get_mut(&id) else { return };
        if let (Notice::Online, ReplacementRole::Incoming { .. }) = (&happening, role) {
            self.start_probation(id);
        }
        let Some(Replacement { instance, .. }) = self.replacements.get_mut(&id) else { return };
        // That it is down, and gone, is no news: the instance is not.
        if happening != Notice::Stopped {
            self.world.publish(views::notice_view(instance, happening, now));
        }
    }

    /// The process beside another is gone: its end belongs to the history of the instance.
    pub(in crate::daemon) fn remove_replacement(&mut self, id: u32) {
        let Some(Replacement { instance: gone, .. }) = self.replacements.remove(&id) else { return };
        self.last_run = self.last_run.max(gone.status.last_run);
        if let Some(listed) = self.instances.get_mut(&id) {
            gone.status.history.into_iter().for_each(|ended| listed.status.push_run(ended));
        }
    }
}

/// Said of an app that has to be stopped before it can be started.
fn restarted_note(name: &str) -> String {
    format!(
        "{name} was restarted, not reloaded: its processes cannot share a port; set `hold_port = true` or \
        `exec_mode = \"cluster\"`"
    )
}
