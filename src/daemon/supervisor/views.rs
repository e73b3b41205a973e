//! Views of instances for clients: conversion to the types of the API.

use crate::instance::event::Notice;
use crate::instance::state::{RunProcess, State, Want};
use crate::instance::status::RunRecord;
use crate::instance::{Instance, JobEnd};
use crate::ipc::message::{DisplayStatus, EventKind, EventView, ExitView, InstanceView};
use crate::metrics::Usage;
use crate::schedule::{self, Schedule};
use crate::time::Moment;

/// The status that clients see.
pub fn display_status(instance: &Instance) -> DisplayStatus {
    let status = instance.status();
    match &status.state {
        State::Stopped if status.want == Want::Up && instance.spec().cron_restart.is_some() => {
            DisplayStatus::Scheduled
        }
        State::Stopped => match instance.job_end() {
            Some(JobEnd::Completed) => DisplayStatus::Completed,
            Some(JobEnd::Failed) => DisplayStatus::Failed,
            None => DisplayStatus::Stopped,
        },
        State::Spawning { .. } | State::Starting { .. } => DisplayStatus::Launching,
        State::Online { .. } => DisplayStatus::Online,
        State::Draining { .. } | State::Stopping { .. } | State::CleaningUp { .. } => DisplayStatus::Stopping,
        State::Waiting { .. } => DisplayStatus::Waiting,
        State::Errored { .. } => DisplayStatus::Errored,
    }
}

/// An instance in a list. `user` is the user of the daemon.
pub fn instance_view(instance: &Instance, usage: Option<&Usage>, user: &str, now: Moment) -> InstanceView {
    let (spec, status) = (instance.spec(), instance.status());
    let process = status.state.process();
    let policy = &spec.restart;
    InstanceView {
        id: instance.id(),
        name: spec.name.clone(),
        namespace: spec.namespace.clone(),
        number: instance.number(),
        mode: spec.exec_mode,
        status: display_status(instance),
        reason: instance.status_reason(),
        pid: process.map(|process| process.pid),
        started_at: process.map(|process| process.since.wall),
        uptime: process.map(|process| uptime(process, now)),
        restarts: status.restarts,
        // The last of them may not have been followed by a restart yet.
        unstable_restarts: u32::try_from(status.failure_history.recent_count(policy, now))
            .unwrap_or(u32::MAX)
            .min(status.restarts),
        runs: status.runs,
        next_run: next_run(instance, now),
        last_run_failed: status
            .history
            .back()
            .is_some_and(|run| !run.requested && instance.run_end(run) == JobEnd::Failed),
        failed_runs: instance.failed_runs(now),
        last_exit: status.history.back().map(|run| run.exit.clone()),
        cpu: usage.map_or(0.0, |usage| usage.cpu_percent),
        memory: usage.map_or(0, |usage| usage.memory),
        memory_limit: spec.max_memory_restart,
        user: spec.account.as_ref().map_or(user, |account| &account.user).to_owned(),
        watching: spec.watch.is_some(),
        healthy: (instance.is_online() && spec.health.is_some()).then_some(status.health_problem.is_none()),
        script: spec.script.clone(),
        version: spec.version.clone(),
        source: spec.source.clone(),
        drift: None,
    }
}

/// When the schedule is due next, in milliseconds since the epoch.
fn next_run(instance: &Instance, now: Moment) -> Option<u64> {
    let spec = instance.spec();
    let pattern = spec.cron_restart.as_ref().filter(|_| instance.status().want == Want::Up)?;
    let zone = schedule::time_zone(spec.timezone.as_deref()).ok()?;
    let now = jiff::Timestamp::from_millisecond(i64::try_from(now.wall).ok()?).ok()?;
    let next = Schedule::parse(pattern).ok()?.next_after(&now.to_zoned(zone))?;
    u64::try_from(next.timestamp().as_millisecond()).ok()
}

fn uptime(process: &RunProcess, now: Moment) -> u64 {
    u64::try_from(now.since(process.since).as_millis()).unwrap_or(u64::MAX)
}

/// A former run.
pub fn exit_view(run: &RunRecord) -> ExitView {
    ExitView {
        at: run.at.wall,
        run: run.run,
        pid: (run.pid != 0).then_some(run.pid),
        uptime: run.uptime,
        exit: run.exit.clone(),
        requested: run.requested,
        killed: run.killed,
        reason: run.reason.clone(),
    }
}

/// The event for a notice of an instance. The instance has its new state already.
pub fn notice_view(instance: &Instance, notice: Notice, now: Moment) -> EventView {
    let mut view = event_view(instance, EventKind::Added, now);
    let (kind, exit, detail) = match notice {
        Notice::Launching => (EventKind::Launching, None, None),
        Notice::Online => (EventKind::Online, None, None),
        Notice::ReadyTimeout => (EventKind::ReadyTimeout, None, instance.status_reason()),
        Notice::StartFailed(failure) => (EventKind::StartFailed, None, Some(failure.to_string())),
        Notice::Draining => (EventKind::Draining, None, None),
        Notice::Stopping(reason) => (EventKind::Stopping, None, reason),
        Notice::Exited(exit) => (EventKind::Exited, Some(exit), None),
        Notice::Stopped => (EventKind::Stopped, None, None),
        Notice::RestartScheduled(ms) => {
            (EventKind::RestartScheduled, None, Some(format!("restart in {ms} ms")))
        }
        Notice::Errored(reason) => (EventKind::Errored, None, Some(reason)),
    };
    (view.event, view.exit, view.detail) = (kind, exit, detail);
    view
}

/// An event about an instance, with details.
pub fn event_with_detail(
    instance: &Instance,
    kind: EventKind,
    detail: impl Into<Option<String>>,
    now: Moment,
) -> EventView {
    EventView { detail: detail.into(), ..event_view(instance, kind, now) }
}

/// An event about an instance.
pub fn event_view(instance: &Instance, kind: EventKind, now: Moment) -> EventView {
    EventView {
        at: now.wall,
        event: kind,
        id: instance.id(),
        name: instance.spec().name.clone(),
        run: instance.status().last_run,
        status: display_status(instance),
        exit: None,
        detail: None,
    }
}
