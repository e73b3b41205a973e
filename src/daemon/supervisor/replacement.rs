//! Replacing the process of an instance without a gap.
//!
//! The new process is started while the current one serves. When the new one is ready and has passed its probation,
//! they are exchanged: the former process gets no new connections and is stopped. If the new process fails before, the
//! current one keeps running.

use std::sync::Arc;

use super::Supervisor;
use super::commands::Goals;
use super::input::NewSettings;
use super::registry::InstanceRef;
use super::validate::validate_app;
use super::views;
use super::world::World;
use crate::exit::Exit;
use crate::instance::event::{InstanceEvent, Notice};
use crate::instance::replacement::{Replacement, ReplacementRole};
use crate::instance::state::{State, Want};
use crate::instance::status::RunId;
use crate::instance::{Goal, Instance};
use crate::ipc::message::{ApiError, ErrorCode, EventKind};
use crate::spec::{AppSpec, EnvVars, ReadySignal, known_program};

impl<W: World> Supervisor<W> {
    /// Reloads an instance: without a gap if its processes can share their ports, otherwise by a restart.
    pub(super) fn reload_instance(
        &mut self,
        id: u32,
        with: Option<Box<NewSettings>>,
        earlier_runs: Vec<RunId>,
    ) -> Result<(Goals, Vec<String>), ApiError> {
        let current = self.registry.get(id).filter(|instance| instance.status().want != Want::Gone);
        let Some(instance) = current else {
            return Err(ApiError::new(ErrorCode::NotFound, format!("no instance with id {id}")));
        };
        let (spec, inherited) = match with {
            Some(with) => {
                validate_app(&with.spec)?;
                (Arc::new(with.spec), Arc::new(with.inherited.0))
            }
            None => (instance.spec().clone(), instance.inherited().clone()),
        };
        let online = instance.is_online();
        let has_unix_socket = instance.current_run().is_some_and(|run| self.world.has_only_unix_sockets(run));
        if online && instance.spec().shares_ports() && spec.shares_ports() && !has_unix_socket {
            self.start_replacement(id, (spec, inherited), None, earlier_runs)?;
            return Ok((vec![(id, Goal::Replaced)], Vec::new()));
        }
        let note = online.then(|| restarted_note(&spec.name, has_unix_socket));
        if let Some(instance) = self.registry.get_mut(id) {
            instance.update_spec(spec);
            instance.update_inherited(inherited);
        }
        self.mark_apps_changed();
        self.dispatch(id, InstanceEvent::Restart(None));
        Ok((vec![(id, Goal::Online)], note.into_iter().collect()))
    }

    /// Replaces the process of an instance because it must end: without a gap if possible, otherwise by a restart.
    pub(super) fn replace_or_restart(&mut self, id: u32, reason: String) {
        let Some(instance) = self.registry.get(id) else { return };
        let settings = (instance.spec().clone(), instance.inherited().clone());
        let has_unix_socket = instance.current_run().is_some_and(|run| self.world.has_only_unix_sockets(run));
        let replaceable =
            self.registry.is_stable(instance) && instance.spec().shares_ports() && !has_unix_socket;
        if !replaceable || self.start_replacement(id, settings, Some(reason.clone()), Vec::new()).is_err() {
            self.dispatch(id, InstanceEvent::Restart(Some(reason)));
        }
    }

    /// Starts a second process. See [`ReplacementRole::Incoming`] for `forced_reason` and `earlier_runs`.
    ///
    /// # Errors
    /// The instance has a second process already.
    fn start_replacement(
        &mut self,
        id: u32,
        settings: (Arc<AppSpec>, Arc<EnvVars>),
        forced_reason: Option<String>,
        earlier_runs: Vec<RunId>,
    ) -> Result<(), ApiError> {
        let now = self.world.now();
        let has_replacement = self.registry.replacement(id).is_some();
        let Some(instance) = self.registry.get_mut(id) else { return Ok(()) };
        if has_replacement {
            let message = format!("{} (id {id}) is already being reloaded", instance.spec().name);
            return Err(ApiError::new(ErrorCode::Conflict, message).hint("wait for it to finish"));
        }
        let replacement = Replacement::new(instance, settings, forced_reason.clone(), earlier_runs, now);
        self.world.publish(views::event_with_detail(instance, EventKind::Replacing, forced_reason, now));
        self.registry.insert_replacement(replacement);
        self.apply_replacement_event(id, InstanceEvent::Start);
        Ok(())
    }

    /// Lets the replacement of an instance handle an event. True if the event does not concern the current process.
    pub(super) fn route_to_replacement(&mut self, id: u32, event: &InstanceEvent) -> bool {
        let Some(replacement) = self.registry.replacement(id) else { return false };
        let status = replacement.instance().status();
        if let Some(run) = event.run() {
            let matches = status.state.run() == Some(run);
            if matches {
                self.on_replacement_event(id, event.clone());
            }
            return matches;
        }
        match event {
            InstanceEvent::TimerFired { at } if replacement.probation_ends() == Some(*at) => {
                self.end_probation(id);
            }
            InstanceEvent::TimerFired { at }
                if replacement.is_incoming()
                    && status.timer == Some(*at)
                    && matches!(status.state, State::Starting { .. }) =>
            {
                self.on_replacement_timeout(id, *at);
            }
            InstanceEvent::TimerFired { .. } | InstanceEvent::OrphanExited => {
                self.apply_replacement_event(id, event.clone());
            }
            // Any other request cancels the replacement.
            InstanceEvent::Stop
            | InstanceEvent::Restart(_)
            | InstanceEvent::Delete
            | InstanceEvent::DrainAndDelete
                if replacement.is_incoming() =>
            {
                self.abort_replacement(id, "canceled by another operation");
            }
            InstanceEvent::Stop | InstanceEvent::Delete => {
                self.apply_replacement_event(id, InstanceEvent::Delete);
            }
            _ => {}
        }
        false
    }

    fn on_replacement_event(&mut self, id: u32, event: InstanceEvent) {
        let Some(replacement) = self.registry.replacement(id) else { return };
        let instance = replacement.instance();
        let can_fail = replacement.is_incoming() && instance.status().want == Want::Up;
        let failure = match &event {
            InstanceEvent::Exited { exit, .. } if can_fail => Some(exit_reason(instance.spec(), exit)),
            InstanceEvent::SpawnFailed { failure, .. } if can_fail => {
                Some(format!("the replacement failed to start: {}", instance.with_subject(failure.clone())))
            }
            _ => None,
        };
        if let Some(reason) = failure {
            return self.fail_replacement(id, reason, event);
        }
        let is_listening = matches!(event, InstanceEvent::Listening { .. });
        self.apply_replacement_event(id, event);
        // Each further port restarts the probation.
        let on_probation = self.registry.replacement(id).is_some_and(|it| it.probation_ends().is_some());
        if is_listening && on_probation {
            self.start_probation(id);
        }
    }

    /// The new process has not become ready in time.
    fn on_replacement_timeout(&mut self, id: u32, at: u64) {
        let current_was_ready = self.registry.get(id).is_some_and(|instance| instance.status().ready);
        let Some(instance) = self.registry.replacement(id).map(Replacement::instance) else { return };
        let seconds = instance.ready_timeout().as_secs_f64();
        match instance.spec().ready_signal() {
            ReadySignal::Notified | ReadySignal::ProbePassed => {
                let reason = format!("the replacement is not ready: {}", instance.not_ready_reason());
                self.abort_replacement(id, &reason);
            }
            ReadySignal::Listening if current_was_ready => {
                let reason = format!(
                    "the replacement did not listen within {seconds} s (listen_timeout); if the app needs longer, \
                    set `listen_timeout`"
                );
                self.abort_replacement(id, &reason);
            }
            // The current process did not listen either, so the app need not listen.
            ReadySignal::Listening | ReadySignal::Running => {
                self.apply_replacement_event(id, InstanceEvent::TimerFired { at });
            }
        }
    }

    fn abort_replacement(&mut self, id: u32, reason: &str) {
        let is_wanted = |it: &Replacement| it.instance().status().want == Want::Up;
        if self.registry.replacement(id).is_some_and(is_wanted) {
            self.fail_replacement(id, reason.to_owned(), InstanceEvent::Delete);
        }
    }

    /// The new process has failed, by `event`: it is not started again, and the current one keeps running, unless it
    /// must end for a reason of its own.
    fn fail_replacement(&mut self, id: u32, reason: String, event: InstanceEvent) {
        let Some(replacement) = self.registry.replacement_mut(id) else { return };
        let forced_reason = replacement.fail();
        self.apply_replacement_event(id, event);
        let now = self.world.now();
        let Some(current) = self.registry.get_mut(id) else { return };
        current.record_replace_error(reason.clone());
        self.world.publish(views::event_with_detail(current, EventKind::ReplaceFailed, reason, now));
        if let (Some(forced_reason), true) = (forced_reason, current.is_online()) {
            self.dispatch(id, InstanceEvent::Restart(Some(forced_reason)));
        }
    }

    fn apply_replacement_event(&mut self, id: u32, event: InstanceEvent) {
        let now = self.world.now();
        let Some(replacement) = self.registry.replacement_mut(id) else { return };
        let is_spawned = matches!(event, InstanceEvent::Spawned { .. });
        let effects = replacement.handle(event, now);
        if is_spawned && !effects.is_empty() {
            self.world.on_run_started(replacement.instance());
        }
        self.dirty = true;
        self.run_effects(InstanceRef::Replacement(id), effects);
    }

    /// Publishes a notice of a replacement. When it becomes online, its probation begins.
    pub(super) fn publish_replacement(&mut self, id: u32, notice: Notice) {
        if notice == Notice::Online {
            self.start_probation(id);
        }
        let now = self.world.now();
        let Some(replacement) = self.registry.replacement(id) else { return };
        // The instance itself is not stopped.
        if notice != Notice::Stopped {
            self.world.publish(views::notice_view(replacement.instance(), notice, now));
        }
    }

    /// Starts or restarts the probation of a new process.
    fn start_probation(&mut self, id: u32) {
        let now = self.world.now();
        let ends = self.registry.replacement_mut(id).and_then(|replacement| replacement.begin_probation(now));
        ends.into_iter().for_each(|at| self.world.set_timer(id, at));
    }

    /// The probation is over: the new process must listen on the same ports as the current one, and the instances that
    /// were replaced before must not have exited.
    fn end_probation(&mut self, id: u32) {
        if let Some(reason) = self.earlier_failure(id) {
            return self.abort_replacement(id, &reason);
        }
        let missing = self.missing_ports(id);
        let Some(missing) = missing.first() else { return self.promote(id) };
        let now = self.world.now();
        let Some(replacement) = self.registry.replacement_mut(id) else { return };
        if let Some(deadline) = replacement.extend_probation(now) {
            return self.world.set_timer(id, deadline);
        }
        let seconds = replacement.instance().ready_timeout().as_secs_f64();
        let reason = format!(
            "the replacement does not listen on {missing} after {seconds} s (listen_timeout), unlike the \
            current process; `rsm restart` skips this check"
        );
        self.abort_replacement(id, &reason);
    }

    /// The ports on which the current process listens and the new one does not. Empty if the settings have changed,
    /// because the new process may use other ports.
    fn missing_ports(&self, id: u32) -> Vec<String> {
        let (Some(current), Some(replacement)) = (self.registry.get(id), self.registry.replacement(id))
        else {
            return Vec::new();
        };
        let new = replacement.instance();
        if current.spec() != new.spec() || current.inherited() != new.inherited() {
            return Vec::new();
        }
        let runs = current.current_run().zip(new.current_run());
        runs.map_or_else(Vec::new, |(current, new)| self.world.missing_ports(current, new))
    }

    /// Why an instance that was replaced before this one has failed since, if one has.
    fn earlier_failure(&self, id: u32) -> Option<String> {
        let ReplacementRole::Incoming { earlier_runs, .. } = self.registry.replacement(id)?.role() else {
            return None;
        };
        earlier_runs.iter().find_map(|run| {
            let reason = replacement_exit(self.registry.get(run.instance)?, *run)?;
            Some(format!("{reason} (id {}, replaced earlier)", run.instance))
        })
    }

    /// Exchanges the new process and the current one, which is drained and stopped.
    fn promote(&mut self, id: u32) {
        let now = self.world.now();
        let Some((current, replacement)) = self.registry.pair_mut(id) else { return };
        if !replacement.promote(current) {
            return;
        }
        if let Some(process) = current.status().state.process() {
            self.world.on_ready(RunId { instance: id, number: process.run });
            self.world.write_pid_file(current, Some(process.pid));
        }
        self.world.publish(views::event_view(current, EventKind::Replaced, now));
        self.health.forget_usage(id);
        self.mark_apps_changed();
        self.apply_replacement_event(id, InstanceEvent::DrainAndDelete);
    }
}

/// How a later run of an instance exited, unless a stop or restart was requested.
pub(crate) fn replacement_exit(instance: &Instance, run: RunId) -> Option<String> {
    instance.status().ended_after(run.number).map(|ended| exit_reason(instance.spec(), &ended.exit))
}

/// Why a new process that has exited cannot replace the current one.
fn exit_reason(app: &AppSpec, exit: &Exit) -> String {
    let advice = match known_program(app) {
        Some(("apache2" | "apache2ctl" | "apachectl" | "httpd", _)) => {
            "; Apache does not start while another process uses its PidFile: add \
             `-c \"PidFile /run/apache-$$.pid\"` to the command line"
        }
        _ => "",
    };
    format!("the replacement exited: {exit}{advice}")
}

/// A note about an app that has to be stopped before it can be started.
fn restarted_note(name: &str, has_unix_socket: bool) -> String {
    if has_unix_socket {
        return format!(
            "{name} was restarted, not reloaded: it listens on a Unix socket, which two processes cannot share; use a \
            TCP port to reload it without downtime"
        );
    }
    format!(
        "{name} was restarted, not reloaded: its processes cannot share a port; set `hold_port = true` or \
        `exec_mode = \"cluster\"`"
    )
}
