//! Instances as clients see them. Pure.

use crate::instance::Instance;
use crate::instance::event::{InstanceEvent, Notice};
use crate::instance::state::{RunProcess, State};
use crate::instance::status::RunRecord;
use crate::ipc::message::{EventKind, EventView, ExitView, InstanceView, Status};
use crate::metrics::Usage;
use crate::time::Moment;

/// The word for a state.
pub fn display_status(state: &State) -> Status {
    match state {
        State::Stopped => Status::Stopped,
        State::Spawning { .. } | State::Starting { .. } => Status::Launching,
        State::Online { .. } => Status::Online,
        State::Draining { .. } | State::Stopping { .. } | State::CleaningUp { .. } => Status::Stopping,
        State::Waiting { .. } => Status::Waiting,
        State::Errored { .. } => Status::Errored,
    }
}

/// An instance as a list shows it. `user` is who the daemon runs as.
pub fn instance_view(instance: &Instance, usage: Option<&Usage>, user: &str, now: Moment) -> InstanceView {
    let (spec, life) = (&instance.spec, &instance.status);
    let process = life.state.process();
    let policy = &spec.restart;
    InstanceView {
        id: instance.id,
        name: spec.name.clone(),
        namespace: spec.namespace.clone(),
        number: instance.number,
        mode: spec.exec_mode,
        status: display_status(&life.state),
        reason: instance.status_reason(),
        pid: process.map(|process| process.pid),
        started_at: process.map(|process| process.since.wall),
        uptime: process.map(|process| uptime(process, now)),
        restarts: life.restarts,
        unstable_restarts: u32::try_from(life.failure_history.recent_count(policy, now)).unwrap_or(u32::MAX),
        cpu: usage.map_or(0.0, |usage| usage.cpu_percent),
        memory: usage.map_or(0, |usage| usage.memory),
        memory_limit: spec.max_memory_restart,
        user: spec.account.as_ref().map_or(user, |account| &account.user).to_owned(),
        watching: spec.watch.is_some(),
        version: spec.version.clone(),
        source: spec.source.clone(),
        drift: None,
    }
}

fn uptime(process: &RunProcess, now: Moment) -> u64 {
    u64::try_from(now.since(process.since).as_millis()).unwrap_or(u64::MAX)
}

/// The end of a run.
pub fn exit_view(ended: &RunRecord) -> ExitView {
    ExitView {
        at: ended.at.wall,
        run: ended.run,
        pid: (ended.pid != 0).then_some(ended.pid),
        uptime: ended.uptime,
        exit: ended.exit.clone(),
        requested: ended.requested,
        killed: ended.killed,
        reason: ended.reason.clone(),
    }
}

/// What happened to an instance, after it has.
pub fn notice_view(instance: &Instance, happening: Notice, now: Moment) -> EventView {
    let mut view = event_view(instance, EventKind::Added, now);
    let (kind, exit, detail) = match happening {
        Notice::Launching => (EventKind::Launching, None, None),
        Notice::Online => (EventKind::Online, None, None),
        Notice::ReadyTimeout => (EventKind::ReadyTimeout, None, instance.status_reason()),
        Notice::StartFailed(failure) => (EventKind::StartFailed, None, Some(failure.to_string())),
        Notice::Draining => (EventKind::Draining, None, None),
        Notice::Stopping(why) => (EventKind::Stopping, None, why),
        Notice::Exited(exit) => (EventKind::Exited, Some(exit), None),
        Notice::Stopped => (EventKind::Stopped, None, None),
        Notice::RestartScheduled(ms) => {
            (EventKind::RestartScheduled, None, Some(format!("restart in {ms} ms")))
        }
        Notice::Errored(why) => (EventKind::Errored, None, Some(why)),
    };
    (view.event, view.exit, view.detail) = (kind, exit, detail);
    view
}

/// An event, and what there is to say about it.
pub fn event_with_detail(
    instance: &Instance,
    kind: EventKind,
    detail: impl Into<Option<String>>,
    now: Moment,
) -> EventView {
    EventView { detail: detail.into(), ..event_view(instance, kind, now) }
}

/// A bare event about an instance.
pub fn event_view(instance: &Instance, kind: EventKind, now: Moment) -> EventView {
    EventView {
        at: now.wall,
        event: kind,
        id: instance.id,
        name: instance.spec.name.clone(),
        run: instance.status.last_run,
        status: display_status(&instance.status.state),
        exit: None,
        detail: None,
    }
}

/// The pid file's content changes with these events: the new pid, or none.
pub fn process_change(event: &InstanceEvent) -> Option<Option<i32>> {
    match event {
        InstanceEvent::Spawned { pid, .. } => Some(Some(*pid)),
        InstanceEvent::Exited { .. } => Some(None),
        InstanceEvent::Start
        | InstanceEvent::Stop
        | InstanceEvent::Restart(_)
        | InstanceEvent::Delete
        | InstanceEvent::DrainAndDelete
        | InstanceEvent::Drained { .. }
        | InstanceEvent::Listening { .. }
        | InstanceEvent::Ready { .. }
        | InstanceEvent::SpawnFailed { .. }
        | InstanceEvent::TreeChecked { .. }
        | InstanceEvent::OrphanExited
        | InstanceEvent::TimerFired { .. } => None,
    }
}
