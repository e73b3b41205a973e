//! Replacing the process of an instance without a gap.
//!
//! The new process is started *beside* the old one, which goes on serving. Only when the new one is
//! ready and has lived for a while does it take the place of the old one, which then gets no new
//! connections, and is told to go. If the new one fails before, the old one never noticed.

use std::sync::Arc;

use super::check::check;
use super::commands::Goals;
use super::settle::Goal;
use super::supervisor::{InstanceRef, Supervisor};
use super::views;
use super::world::World;
use crate::instance::event::{InstanceEvent, Notice};
use crate::instance::life::RunId;
use crate::instance::replacement::{Replacement, ReplacementRole};
use crate::instance::state::{State, Want};
use crate::ipc::message::{ApiError, ErrorCode, EventKind, Inherited};
use crate::spec::{AppSpec, EnvVars, ReadySignal};

impl<W: World> Supervisor<W> {
    /// Gives an instance another process, without a gap if that can be.
    pub(super) fn reload_one(
        &mut self,
        id: u32,
        with: Option<Box<(AppSpec, Inherited)>>,
        after: Vec<RunId>,
    ) -> Result<(Goals, Vec<String>), ApiError> {
        let listed = self.instances.get(&id).filter(|instance| instance.life.want != Want::Gone);
        let Some(instance) = listed else {
            return Err(ApiError::new(ErrorCode::NotFound, format!("no instance with id {id}")));
        };
        let given = match with {
            Some(with) => {
                let (spec, inherited) = *with;
                check(&spec)?;
                (Arc::new(spec), Arc::new(inherited.0))
            }
            None => (instance.spec.clone(), instance.inherited.clone()),
        };
        let shares = instance.spec.shares_ports() && given.0.shares_ports();
        match (&instance.life.state, shares) {
            (State::Online { .. }, true) => {
                self.replace(id, given, None, after)?;
                Ok((vec![(id, Goal::Replaced)], Vec::new()))
            }
            (state, _) => {
                let gap = matches!(state, State::Online { .. }).then(|| restarted(&given.0.name));
                if let Some(instance) = self.instances.get_mut(&id) {
                    (instance.spec, instance.inherited) = given;
                }
                self.changed_apps();
                self.on(id, InstanceEvent::Restart(None));
                Ok((vec![(id, Goal::Up)], gap.into_iter().collect()))
            }
        }
    }

    /// Gives an instance another process because the one that it has must go: without a gap if that can
    /// be, else by a restart.
    pub(super) fn renew(&mut self, id: u32, why: String) {
        let Some(instance) = self.instances.get(&id) else { return };
        let same = (instance.spec.clone(), instance.inherited.clone());
        let online = matches!(instance.life.state, State::Online { .. });
        let gently = online && instance.spec.shares_ports() && !self.beside.contains_key(&id);
        if !gently || self.replace(id, same, Some(why.clone()), Vec::new()).is_err() {
            self.on(id, InstanceEvent::Restart(Some(why)));
        }
    }

    /// Starts another process beside the one that an instance has. `forced`: why the old one has to go
    /// also if this one fails. `after`: see [`ReplacementRole::Coming`].
    ///
    /// # Errors
    /// That is under way already.
    pub(super) fn replace(
        &mut self,
        id: u32,
        (spec, inherited): (Arc<AppSpec>, Arc<EnvVars>),
        forced: Option<String>,
        after: Vec<RunId>,
    ) -> Result<(), ApiError> {
        let now = self.world.now();
        let Some(instance) = self.instances.get_mut(&id) else { return Ok(()) };
        if self.beside.contains_key(&id) {
            let what = format!("{} (id {id}) is already being reloaded", instance.spec.name);
            return Err(ApiError::new(ErrorCode::Conflict, what).hint("wait for it to finish"));
        }
        instance.life.refused = None;
        let successor = instance.successor(spec, inherited, now);
        self.world.tell(views::detailed(instance, EventKind::Replacing, forced.clone(), now));
        let role = ReplacementRole::Coming { proven_at: None, forced, after };
        self.beside.insert(id, Replacement { instance: successor, role });
        self.decide_beside(id, InstanceEvent::Start);
        Ok(())
    }

    /// Lets the process beside one in the list hear of an event. True if that is no news for the other.
    pub(super) fn on_beside(&mut self, id: u32, event: &InstanceEvent) -> bool {
        let Some(Replacement { instance, role }) = self.beside.get_mut(&id) else { return false };
        if let Some(run) = event.run() {
            let about_it = instance.life.state.run() == Some(run);
            if about_it {
                self.fact_beside(id, event.clone());
            }
            return about_it;
        }
        match (event, role) {
            (InstanceEvent::Due { at }, ReplacementRole::Coming { proven_at: Some(proven), .. })
                if at == proven =>
            {
                self.watched(id);
            }
            (InstanceEvent::Due { at }, ReplacementRole::Coming { .. })
                if instance.life.timer == Some(*at)
                    && matches!(instance.life.state, State::Starting { .. }) =>
            {
                self.late(id, *at);
            }
            (InstanceEvent::Due { .. } | InstanceEvent::OrphanEnded, _) => {
                self.decide_beside(id, event.clone())
            }
            // Whatever else is wanted of the instance, it is not that it be replaced.
            (
                InstanceEvent::Stop
                | InstanceEvent::Restart(_)
                | InstanceEvent::Delete
                | InstanceEvent::Retire,
                ReplacementRole::Coming { .. },
            ) => {
                self.keep_old(id, "canceled by another operation");
            }
            (InstanceEvent::Stop | InstanceEvent::Delete, ReplacementRole::Going) => {
                self.decide_beside(id, InstanceEvent::Delete)
            }
            _ => {}
        }
        false
    }

    fn fact_beside(&mut self, id: u32, event: InstanceEvent) {
        let Some(Replacement { instance, role }) = self.beside.get_mut(&id) else { return };
        let coming = matches!(role, ReplacementRole::Coming { .. }) && instance.life.want == Want::Up;
        let failed = match &event {
            InstanceEvent::Exited { exit, .. } if coming => Some(format!("the replacement exited: {exit}")),
            InstanceEvent::SpawnFailed { failure, .. } if coming => {
                Some(format!("the replacement failed to start: {}", instance.named(failure.clone())))
            }
            _ => None,
        };
        match failed {
            Some(why) => self.give_up(id, why, event),
            None => {
                let listens = matches!(event, InstanceEvent::Listens { .. });
                self.decide_beside(id, event);
                if listens && self.is_watched(id) {
                    self.watch(id);
                }
            }
        }
    }

    /// The new process has not become ready in time.
    fn late(&mut self, id: u32, at: u64) {
        let was_ready = self.instances.get(&id).is_some_and(|instance| instance.life.ready);
        let Some(Replacement { instance, .. }) = self.beside.get(&id) else { return };
        let (sign, seconds) = (instance.spec.sign(), instance.spec.readiness.timeout.as_secs_f64());
        match sign {
            ReadySignal::Said | ReadySignal::Probed => {
                let why = format!("the replacement is not ready: {}", instance.not_ready());
                self.keep_old(id, &why);
            }
            ReadySignal::Listening if was_ready => {
                self.keep_old(
                    id,
                    &format!("the replacement did not listen within {seconds} s (listen_timeout)"),
                );
            }
            // The old one did not listen either: to run is all that this app does.
            ReadySignal::Listening | ReadySignal::Running => {
                self.decide_beside(id, InstanceEvent::Due { at })
            }
        }
    }

    pub(super) fn keep_old(&mut self, id: u32, why: &str) {
        if self.beside.get(&id).is_some_and(|beside| beside.instance.life.want == Want::Up) {
            self.give_up(id, why.to_owned(), InstanceEvent::Delete);
        }
    }

    /// The new process has failed, which comes to it as `event`: it is not tried again, and the old one
    /// stays, unless that had to go for a reason of its own.
    fn give_up(&mut self, id: u32, why: String, event: InstanceEvent) {
        let Some(Replacement { instance, role }) = self.beside.get_mut(&id) else { return };
        let forced = match role {
            ReplacementRole::Coming { proven_at, forced, .. } => {
                *proven_at = None;
                forced.take()
            }
            ReplacementRole::Going => None,
        };
        if event != InstanceEvent::Delete {
            instance.life.want = Want::Gone;
        }
        self.decide_beside(id, event);
        let now = self.world.now();
        let Some(listed) = self.instances.get_mut(&id) else { return };
        listed.life.refused = Some(why.clone());
        self.world.tell(views::detailed(listed, EventKind::Kept, why, now));
        if let (Some(forced), State::Online { .. }) = (forced, &listed.life.state) {
            self.on(id, InstanceEvent::Restart(Some(forced)));
        }
    }

    fn decide_beside(&mut self, id: u32, event: InstanceEvent) {
        let now = self.world.now();
        let Some(Replacement { instance, .. }) = self.beside.get_mut(&id) else { return };
        let spawned = matches!(event, InstanceEvent::Spawned { .. });
        let effects = instance.on(event, now);
        if spawned && !effects.is_empty() {
            self.world.began(instance);
        }
        self.unsaved = true;
        self.perform(InstanceRef::Beside(id), effects);
    }

    /// The new process takes the place of the old one, which goes.
    pub(super) fn take_place(&mut self, id: u32) {
        let now = self.world.now();
        let (Some(beside), Some(listed)) = (self.beside.get_mut(&id), self.instances.get_mut(&id)) else {
            return;
        };
        if !matches!(beside.instance.life.state, State::Online { .. }) {
            return;
        }
        let forced = match std::mem::replace(&mut beside.role, ReplacementRole::Going) {
            ReplacementRole::Coming { forced, .. } => forced,
            ReplacementRole::Going => None,
        };
        beside.instance.succeed(listed);
        std::mem::swap(listed, &mut beside.instance);
        beside.instance.life.why = forced;
        if let Some(process) = listed.life.state.process() {
            self.world.ready(RunId { instance: id, number: process.run });
            self.world.pid_changed(listed, Some(process.pid));
        }
        self.usage.remove(&id);
        self.world.tell(views::event(listed, EventKind::Replaced, now));
        self.changed_apps();
        self.decide_beside(id, InstanceEvent::Retire);
    }

    /// What the process beside another tells: of its readiness follows when it takes the place.
    pub(super) fn tell_beside(&mut self, id: u32, happening: Notice) {
        let now = self.world.now();
        let Some(Replacement { role, .. }) = self.beside.get_mut(&id) else { return };
        if let (Notice::Online, ReplacementRole::Coming { .. }) = (&happening, role) {
            self.watch(id);
        }
        let Some(Replacement { instance, .. }) = self.beside.get_mut(&id) else { return };
        // That it is down, and gone, is no news: the instance is not.
        if happening != Notice::Stopped {
            self.world.tell(views::happening(instance, happening, now));
        }
    }

    /// The process beside another is gone: its end belongs to the history of the instance.
    pub(super) fn forget_beside(&mut self, id: u32) {
        let Some(Replacement { instance: gone, .. }) = self.beside.remove(&id) else { return };
        self.last_run = self.last_run.max(gone.life.last_run);
        if let Some(listed) = self.instances.get_mut(&id) {
            gone.life.exits.into_iter().for_each(|ended| listed.life.remember(ended));
        }
    }
}

/// Said of an app that has to be stopped before it can be started.
fn restarted(name: &str) -> String {
    format!(
        "{name} was restarted, not reloaded: its processes cannot share a port; set `hold_port = true` or \
        `exec_mode = \"cluster\"`"
    )
}
