//! Pending replies: the report of a command is sent once all instances concerned have settled and the state is saved.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::input::ReplySender;
use super::registry::Registry;
use super::views;
use super::world::PortControl;
use crate::exit::Exit;
use crate::instance::state::State;
use crate::instance::status::RunId;
use crate::instance::{CompletedCommand, Goal, Instance};
use crate::ipc::message::{ActionReport, InstanceOutcome};

/// Number of completed commands that clients can repeat.
const MAX_COMPLETED: usize = 64;

/// Name and goal of each instance that a command concerns.
pub(super) type NamedGoals = BTreeMap<u32, (String, Goal)>;

/// Replies that wait for instances to settle or for the state to be saved, and completed commands.
#[derive(Debug, Default)]
pub(super) struct PendingReplies {
    waiting: Vec<PendingReply>,
    /// Sent after the next save.
    due: Vec<(ReplySender<ActionReport>, ActionReport)>,
    /// Commands that clients may repeat, oldest first.
    completed: VecDeque<CompletedCommand>,
}

#[derive(Debug)]
struct PendingReply {
    reply: ReplySender<ActionReport>,
    goals: NamedGoals,
    /// The last run of each instance that had ended when the command came.
    last_ended: BTreeMap<u32, u32>,
    notes: Vec<String>,
}

impl PendingReplies {
    /// Adds the reply to a command that was carried out.
    pub(super) fn add(
        &mut self,
        registry: &Registry,
        goals: NamedGoals,
        notes: Vec<String>,
        reply: ReplySender<ActionReport>,
    ) {
        let last_ended = |id: &u32| Some((*id, registry.get(*id)?.status().history.back()?.run));
        let last_ended = goals.keys().filter_map(last_ended).collect();
        self.waiting.push(PendingReply { reply, goals, last_ended, notes });
    }

    /// Makes the replies due whose instances have settled, or whose client has gone.
    pub(super) fn settle(&mut self, registry: &Registry, ports: &impl PortControl) {
        let settled = |id: &u32| {
            registry.get(*id).is_none_or(|current| current.status().state.is_settled())
                && registry.replacement(*id).is_none_or(|it| it.instance().status().state.is_stuck())
        };
        let is_due =
            |pending: &mut PendingReply| pending.reply.is_closed() || pending.goals.keys().all(settled);
        let due = self.waiting.extract_if(.., is_due);
        self.due.extend(due.map(|pending| {
            let report = pending.report(registry, ports);
            (pending.reply, report)
        }));
    }

    pub(super) fn has_due(&self) -> bool {
        !self.due.is_empty()
    }

    pub(super) fn send_due(&mut self) {
        for (reply, report) in self.due.drain(..) {
            let _ = reply.send(Ok(report)); // the client may have gone
        }
    }

    pub(super) fn completed(&self) -> &VecDeque<CompletedCommand> {
        &self.completed
    }

    pub(super) fn restore_completed(&mut self, completed: VecDeque<CompletedCommand>) {
        self.completed = completed;
    }

    pub(super) fn find_completed(&self, key: &str) -> Option<&CompletedCommand> {
        self.completed.iter().find(|command| command.key == key)
    }

    pub(super) fn record_completed(&mut self, command: CompletedCommand) {
        self.completed.push_back(command);
        if self.completed.len() > MAX_COMPLETED {
            self.completed.pop_front();
        }
    }
}

impl PendingReply {
    fn report(&self, registry: &Registry, ports: &impl PortControl) -> ActionReport {
        let outcome = |(id, (name, goal)): (&u32, &(String, Goal))| match registry.get(*id) {
            Some(instance) => outcome(instance, *goal, self.last_ended(*id)),
            None => {
                let problem = (*goal == Goal::Replaced).then(|| "deleted during the operation".to_owned());
                InstanceOutcome { id: *id, name: name.clone(), status: None, problem, killed: false }
            }
        };
        let early_exits = self.goals.iter().filter_map(|(id, (_, goal))| {
            let instance = registry.get(*id).filter(|_| *goal == Goal::Online)?;
            early_exit_note(instance, self.last_ended(*id))
        });
        let notes = self.notes.iter().cloned().chain(self.port_notes(ports)).chain(early_exits).collect();
        ActionReport { instances: self.goals.iter().map(outcome).collect(), notes }
    }

    fn last_ended(&self, id: u32) -> u32 {
        self.last_ended.get(&id).copied().unwrap_or(0)
    }

    /// Warnings about ports of started processes, each once for all instances of an app.
    fn port_notes(&self, ports: &impl PortControl) -> BTreeSet<String> {
        let started =
            self.goals.iter().filter(|(_, (_, goal))| matches!(goal, Goal::Online | Goal::Replaced));
        let notes = started.flat_map(|(id, (name, _))| {
            let last = RunId { instance: *id, number: self.last_ended(*id) };
            ports.port_warnings(last).into_iter().map(move |warning| format!("{name}: {warning}"))
        });
        notes.collect()
    }
}

/// A note about a program that exited before the reply was sent. It was started as requested, and whether the exit is
/// seen depends on timing, so this is not reported as a failure.
fn early_exit_note(instance: &Instance, last_ended: u32) -> Option<String> {
    let last = instance.status().history.back().filter(|run| run.run > last_ended && !run.requested)?;
    let failed = !matches!(last.exit, Exit::Code(0) | Exit::NotStarted(_));
    failed.then(|| format!("{} (id {}) exited: {}", instance.spec().name, instance.id(), last.exit))
}

fn outcome(instance: &Instance, goal: Goal, last_ended: u32) -> InstanceOutcome {
    let status = instance.status();
    let last = status.history.back().filter(|run| run.run > last_ended);
    let never_ran = last.is_some_and(|run| matches!(run.exit, Exit::NotStarted(_)));
    let problem = match (&status.state, goal) {
        (_, Goal::Replaced) => status.replace_error.clone(),
        (State::Stopping { .. } | State::CleaningUp { .. }, _) => instance.status_reason(),
        (State::Errored { reason }, Goal::Online) => never_ran.then(|| reason.clone()),
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
    InstanceOutcome {
        id: instance.id(),
        name: instance.spec().name.clone(),
        status: Some(views::display_status(&status.state)),
        problem,
        killed: last.is_some_and(|run| run.killed),
    }
}
