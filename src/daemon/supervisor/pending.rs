//! Answers that wait until the instances they speak of have come to rest.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::daemon::supervisor::views;
use crate::daemon::supervisor::world::World;
use crate::exit::Exit;
use crate::instance::Instance;
use crate::instance::replacement::Replacement;
use crate::instance::state::{State, StopPhase};
use crate::instance::status::RunId;
use crate::ipc::message::{ApiError, Outcome, Report};

/// Where an answer goes.
pub type ReplySender<T> = oneshot::Sender<Result<T, ApiError>>;

/// What a command is after; an outcome that differs is a problem to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// It runs.
    #[serde(alias = "up")]
    Online,
    /// Another process has taken its place.
    Replaced,
    /// It does not run.
    #[serde(alias = "down")]
    Stopped,
    /// It is not in the list.
    #[serde(alias = "gone")]
    Deleted,
    /// It is as it is.
    Any,
}

/// A command that was carried out, remembered by its key: whoever asks again, because the daemon that
/// was asked died before it answered, gets the answer and no second execution.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompletedCommand {
    /// The client's word for the command.
    pub key: String,
    /// Name and goal of each instance touched.
    pub goals: BTreeMap<u32, (String, Goal)>,
    /// What else the answer says.
    pub notes: Vec<String>,
}

/// A command whose answer is due once all its instances have settled.
#[derive(Debug)]
pub(in crate::daemon) struct PendingReply {
    reply: ReplySender<Report>,
    /// Name and goal of each instance touched.
    goals: BTreeMap<u32, (String, Goal)>,
    /// The last run of each instance that had ended when the command came.
    exits_before: BTreeMap<u32, u32>,
    notes: Vec<String>,
}

/// A state that only changes when something new happens or a delay is over.
pub(in crate::daemon) fn is_settled(state: &State) -> bool {
    match state {
        State::Stopped | State::Online { .. } | State::Waiting { .. } | State::Errored { .. } => true,
        State::Stopping { .. } | State::CleaningUp { .. } => is_stuck(state),
        State::Starting { overdue: late, .. } => *late,
        State::Spawning { .. } | State::Draining { .. } => false,
    }
}

/// The kernel does not end it.
fn is_stuck(state: &State) -> bool {
    let (State::Stopping { phase, .. } | State::CleaningUp { phase, .. }) = state else { return false };
    *phase == StopPhase::Stuck
}

/// Takes out the answers that are due, or that nobody waits for any more.
pub(in crate::daemon) fn take_settled(
    waiting: &mut Vec<PendingReply>,
    instances: &BTreeMap<u32, Instance>,
    beside: &BTreeMap<u32, Replacement>,
    world: &impl World,
) -> Vec<(ReplySender<Report>, Report)> {
    let rests = |id: &u32| {
        instances.get(id).is_none_or(|instance| is_settled(&instance.status.state))
            && beside.get(id).is_none_or(|beside| is_stuck(&beside.instance.status.state))
    };
    let due = |waiting: &mut PendingReply| waiting.reply.is_closed() || waiting.goals.keys().all(rests);
    let due = waiting.extract_if(.., due);
    due.map(|waiting| {
        let report = waiting.report(instances, world);
        (waiting.reply, report)
    })
    .collect()
}

impl PendingReply {
    /// An answer to `reply` about these instances.
    pub(in crate::daemon) fn new(
        instances: &BTreeMap<u32, Instance>,
        goals: BTreeMap<u32, (String, Goal)>,
        notes: Vec<String>,
        reply: ReplySender<Report>,
    ) -> Self {
        let last_ended = |id: &u32| Some((*id, instances.get(id)?.status.history.back()?.run));
        let ended_before = goals.keys().filter_map(last_ended).collect();
        Self { reply, goals, exits_before: ended_before, notes }
    }

    fn report(&self, instances: &BTreeMap<u32, Instance>, world: &impl World) -> Report {
        let outcome = |(id, (name, goal)): (&u32, &(String, Goal))| match instances.get(id) {
            Some(instance) => {
                let before = self.exits_before.get(id).copied().unwrap_or(0);
                outcome(instance, *goal, before)
            }
            None => {
                let problem = (*goal == Goal::Replaced).then(|| "deleted during the operation".to_owned());
                Outcome { id: *id, name: name.clone(), status: None, problem, killed: false }
            }
        };
        let ended = self.goals.iter().filter_map(|(id, (_, goal))| {
            let instance = instances.get(id).filter(|_| *goal == Goal::Online)?;
            early_exit(instance, self.exits_before.get(id).copied().unwrap_or(0))
        });
        let notes = self.notes.iter().cloned().chain(self.port_notes(world)).chain(ended).collect();
        Report { instances: self.goals.iter().map(outcome).collect(), notes }
    }

    /// What is to be known of the ports of what was started: said once for all instances of an app.
    fn port_notes(&self, world: &impl World) -> BTreeSet<String> {
        let up = self.goals.iter().filter(|(_, (_, goal))| matches!(goal, Goal::Online | Goal::Replaced));
        let warnings = up.flat_map(|(id, (name, _))| {
            let last = RunId { instance: *id, number: self.exits_before.get(id).copied().unwrap_or(0) };
            world.port_warnings(last).into_iter().map(move |warning| format!("{name}: {warning}"))
        });
        warnings.collect()
    }
}

/// A program that ran and ended before the answer was given: it was started, as it was asked for. How
/// long one must run to be seen running is a matter of chance, so this is told and is no failure.
fn early_exit(instance: &Instance, before: u32) -> Option<String> {
    let last = instance.status.history.back().filter(|ended| ended.run > before && !ended.requested)?;
    let failed = !matches!(last.exit, Exit::Code(0) | Exit::NotStarted(_));
    failed.then(|| format!("{} (id {}) exited: {}", instance.spec.name, instance.id, last.exit))
}

fn outcome(instance: &Instance, goal: Goal, before: u32) -> Outcome {
    let last = instance.status.history.back().filter(|ended| ended.run > before);
    let never_ran = last.is_some_and(|ended| matches!(ended.exit, Exit::NotStarted(_)));
    let problem = match (&instance.status.state, goal) {
        (_, Goal::Replaced) => instance.status.replace_error.clone(),
        (State::Stopping { .. } | State::CleaningUp { .. }, _) => instance.status_reason(),
        (State::Errored { reason: why }, Goal::Online) => never_ran.then(|| why.clone()),
        (State::Waiting { .. }, Goal::Online) => never_ran.then(|| instance.status_reason()).flatten(),
        (State::Starting { .. }, Goal::Online) => instance.status_reason(),
        (State::Stopped, Goal::Online) => None,
        (
            State::Spawning { .. } | State::Starting { .. } | State::Online { .. } | State::Draining { .. },
            _,
        ) => None,
        (
            State::Stopped | State::Waiting { .. } | State::Errored { .. },
            Goal::Stopped | Goal::Deleted | Goal::Any,
        ) => None,
    };
    Outcome {
        id: instance.id,
        name: instance.spec.name.clone(),
        status: Some(views::display_status(&instance.status.state)),
        problem,
        killed: last.is_some_and(|ended| ended.killed),
    }
}
