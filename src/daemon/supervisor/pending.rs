//! Pending replies: the report of a command is sent once all instances concerned have settled and the state is saved.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::input::ReplySender;
use super::registry::Registry;
use super::views;
use super::world::{Clock, PortControl};
use crate::exit::Exit;
use crate::instance::state::State;
use crate::instance::status::{Listens, RunId, RunRecord};
use crate::instance::{CompletedCommand, Goal, Instance};
use crate::ipc::message::{ActionReport, InstanceOutcome};
use crate::spec::ReadySignal;
use crate::time::Moment;

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
    /// The latest time for which a timer was set to look again.
    wake_up: u64,
}

/// Whether a reply has to wait for an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Settled {
    Yes,
    /// An event will tell.
    No,
    /// At this time, unless the process exits before.
    At(u64),
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
        self.waiting.push(PendingReply { reply, goals, last_ended, notes, wake_up: 0 });
    }

    /// Makes the replies due whose instances have settled, or whose client has gone.
    pub(super) fn settle(&mut self, registry: &Registry, world: &mut (impl Clock + PortControl)) {
        let is_due =
            |pending: &mut PendingReply| pending.reply.is_closed() || pending.settle(registry, world);
        let due: Vec<PendingReply> = self.waiting.extract_if(.., is_due).collect();
        self.due.extend(due.into_iter().map(|pending| {
            let report = pending.report(registry, world);
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
    /// Whether all instances have settled. Sets a timer if that depends on the time.
    fn settle(&mut self, registry: &Registry, clock: &mut impl Clock) -> bool {
        let now = clock.now();
        let (mut all, mut latest) = (true, None);
        for (id, (_, goal)) in &self.goals {
            match settled(registry, *id, *goal, self.last_ended(*id), now) {
                Settled::Yes => {}
                Settled::No => all = false,
                Settled::At(at) => latest = latest.max(Some((at, *id))),
            }
        }
        let Some((at, id)) = latest else { return all };
        if at > self.wake_up {
            self.wake_up = at;
            clock.set_timer(id, at);
        }
        false
    }

    fn report(&self, registry: &Registry, ports: &impl PortControl) -> ActionReport {
        let outcome = |(id, (name, goal)): (&u32, &(String, Goal))| match registry.get(*id) {
            Some(instance) => outcome(instance, *goal, self.last_ended(*id)),
            None => {
                let problem = (*goal == Goal::Replaced).then(|| "deleted during the operation".to_owned());
                InstanceOutcome { id: *id, name: name.clone(), status: None, problem, killed: false }
            }
        };
        let instance_notes = self.goals.iter().filter_map(|(id, (_, goal))| {
            let instance = registry.get(*id)?;
            early_exit_note(instance, *goal, self.last_ended(*id))
                .or_else(|| not_listening_note(instance, *goal))
        });
        let notes = self.notes.iter().cloned().chain(instance_notes).collect();
        let warnings = self.port_warnings(ports).into_iter().collect();
        ActionReport { instances: self.goals.iter().map(outcome).collect(), notes, warnings }
    }

    fn last_ended(&self, id: u32) -> u32 {
        self.last_ended.get(&id).copied().unwrap_or(0)
    }

    /// Warnings about ports of started processes, each once for all instances of an app.
    fn port_warnings(&self, ports: &impl PortControl) -> BTreeSet<String> {
        let started = self.goals.iter().filter(|(_, (_, goal))| {
            !matches!(goal, Goal::Stopped | Goal::Deleted | Goal::Any | Goal::Completed)
        });
        let notes = started.flat_map(|(id, (name, _))| {
            let last = RunId { instance: *id, number: self.last_ended(*id) };
            ports.port_warnings(last).into_iter().map(move |warning| format!("{name}: {warning}"))
        });
        notes.collect()
    }
}

/// How long a started process is watched, if nothing signals its readiness: longer than programs need that exit
/// because of a missing module, a syntax error or a used port.
const OBSERVATION: Duration = Duration::from_millis(800);

fn settled(registry: &Registry, id: u32, goal: Goal, last_ended: u32, now: Moment) -> Settled {
    let replaced = registry.replacement(id).is_none_or(|it| it.instance().status().state.is_stuck());
    let (Some(instance), true) = (registry.get(id), replaced) else {
        return if replaced { Settled::Yes } else { Settled::No };
    };
    let status = instance.status();
    let is_settled = match (goal, &status.state) {
        (Goal::Started, State::Starting { .. }) => true,
        // A job is waited for however long it takes; an app that is restarted whenever it exits does not complete.
        (Goal::Completed, state) => {
            matches!(state, State::Stopped | State::Errored { .. }) || !instance.spec().is_job()
        }
        (Goal::Online, State::CleaningUp { .. }) => status.state.is_stuck(),
        // The first exit ends a start, whatever the restart policy does next.
        (Goal::Online, _) if failed_start(instance, last_ended).is_some() => true,
        (Goal::Online, State::Online { process }) if !status.ready => {
            let end = process.since.plus(OBSERVATION);
            match now.mono < end {
                true => return Settled::At(end),
                false => true,
            }
        }
        _ => status.state.is_settled(),
    };
    if is_settled { Settled::Yes } else { Settled::No }
}

/// The run since the command that exited before it was ready or soon after its start.
fn failed_start(instance: &Instance, last_ended: u32) -> Option<&RunRecord> {
    let ended = instance.status().ended_after(last_ended)?;
    let policy = &instance.spec().restart;
    let is_completed = matches!(ended.exit, Exit::Code(code)
        if policy.stop_exit_codes.contains(&code) || (code == 0 && !policy.autorestart));
    let is_early = !ended.ready || Duration::from_millis(ended.uptime) < OBSERVATION;
    (is_early && !is_completed).then_some(ended)
}

/// Why the start of an instance failed.
fn failed_start_reason(instance: &Instance, ended: &RunRecord) -> String {
    let state = &instance.status().state;
    let what = match &ended.exit {
        Exit::NotStarted(failure) => failure.to_string(),
        exit => format!("exited {} after its start: {exit}", duration(ended.uptime)),
    };
    match state {
        State::Errored { reason } if matches!(ended.exit, Exit::NotStarted(_)) => reason.clone(),
        State::Errored { reason } => format!("{what}; not restarted: {reason}"),
        State::Stopped => what,
        _ if ended.exit == Exit::Code(0) => {
            format!("{what}; it is restarted each time (`--no-autorestart` is for programs that end)")
        }
        _ => format!("{what}; it is being restarted"),
    }
}

fn duration(millis: u64) -> String {
    match millis {
        0..1000 => format!("{millis} ms"),
        _ => format!("{:.1} s", Duration::from_millis(millis).as_secs_f64()),
    }
}

/// A note about a program that became ready and exited before the reply was sent. Whether such an exit is seen depends
/// on timing, so it is not reported as a failure.
fn early_exit_note(instance: &Instance, goal: Goal, last_ended: u32) -> Option<String> {
    let is_reported = match goal {
        Goal::Online => failed_start(instance, last_ended).is_some(),
        Goal::Resumed | Goal::Started => false,
        Goal::Completed => true,
        Goal::Replaced | Goal::Stopped | Goal::Deleted | Goal::Any => true,
    };
    let ended = instance.status().ended_after(last_ended).filter(|_| !is_reported)?;
    let failed = !matches!(ended.exit, Exit::Code(0) | Exit::NotStarted(_));
    failed.then(|| format!("{} (id {}) exited: {}", instance.spec().name, instance.id(), ended.exit))
}

/// A note about a process that shares ports, is considered ready because `listen_timeout` is over, and does not listen.
/// Connections to it are refused, unless it is meant not to listen.
fn not_listening_note(instance: &Instance, goal: Goal) -> Option<String> {
    let status = instance.status();
    let is_concerned = matches!(goal, Goal::Online | Goal::Resumed)
        && instance.spec().ready_signal() == ReadySignal::Listening
        && matches!(status.state, State::Online { .. })
        && !status.ready;
    is_concerned.then(|| {
        format!(
            "{} does not listen on a port yet; if it needs longer than {} s, set `listen_timeout`",
            instance.spec().name,
            instance.ready_timeout().as_secs_f64()
        )
    })
}

fn outcome(instance: &Instance, goal: Goal, last_ended: u32) -> InstanceOutcome {
    let status = instance.status();
    let last = status.history.back().filter(|run| run.run > last_ended);
    let never_ran = last.is_some_and(|run| matches!(run.exit, Exit::NotStarted(_)));
    let failed = failed_start(instance, last_ended).filter(|_| goal == Goal::Online);
    let problem = match (&status.state, goal) {
        (_, Goal::Replaced) => status.replace_error.clone(),
        (State::Stopping { .. } | State::CleaningUp { .. }, _) => instance.status_reason(),
        (_, Goal::Online) if failed.is_some() => failed.map(|ended| failed_start_reason(instance, ended)),
        (State::Errored { reason }, Goal::Online | Goal::Resumed | Goal::Started) => {
            never_ran.then(|| reason.clone())
        }
        (State::Waiting { .. }, Goal::Online | Goal::Resumed | Goal::Started) => {
            never_ran.then(|| instance.status_reason()).flatten()
        }
        (State::Starting { .. }, Goal::Online | Goal::Resumed) => instance.status_reason(),
        (State::Online { .. }, Goal::Online) if !status.ready && has_listened(instance) => Some(format!(
            "does not listen within {} s, although it listened before",
            instance.ready_timeout().as_secs_f64()
        )),
        (State::Stopped, Goal::Online | Goal::Resumed | Goal::Started) => None,
        (
            State::Spawning { .. } | State::Starting { .. } | State::Online { .. } | State::Draining { .. },
            _,
        ) => None,
        (
            State::Stopped | State::Waiting { .. } | State::Errored { .. },
            Goal::Stopped | Goal::Deleted | Goal::Any | Goal::Completed,
        ) => None,
    };
    InstanceOutcome {
        id: instance.id(),
        name: instance.spec().name.clone(),
        status: Some(views::display_status(instance)),
        problem,
        killed: last.is_some_and(|run| run.killed),
    }
}

fn has_listened(instance: &Instance) -> bool {
    instance.spec().ready_signal() == ReadySignal::Listening
        && matches!(instance.status().listens, Listens::After(_))
}
