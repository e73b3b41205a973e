//! Instances as clients see them. Pure.

use crate::instance::Instance;
use crate::instance::event::{Event, Happening};
use crate::instance::life::Ended;
use crate::instance::state::{Process, State};
use crate::ipc::message::{EventKind, EventView, ExitView, InstanceView, Status};
use crate::metrics::Usage;
use crate::time::Moment;

/// The word for a state.
pub fn status(state: &State) -> Status {
    match state {
        State::Stopped => Status::Stopped,
        State::Spawning { .. } | State::Starting { .. } => Status::Launching,
        State::Online { .. } => Status::Online,
        State::Leaving { .. } | State::Stopping { .. } | State::Clearing { .. } => Status::Stopping,
        State::Waiting { .. } => Status::Waiting,
        State::Errored { .. } => Status::Errored,
    }
}

/// An instance as a list shows it. `user` is who the daemon runs as.
pub fn instance(instance: &Instance, usage: Option<&Usage>, user: &str, now: Moment) -> InstanceView {
    let (spec, life) = (&instance.spec, &instance.life);
    let process = life.state.process();
    let policy = &spec.restart;
    InstanceView {
        id: instance.id,
        name: spec.name.clone(),
        namespace: spec.namespace.clone(),
        number: instance.number,
        mode: spec.exec_mode,
        status: status(&life.state),
        reason: instance.reason(),
        pid: process.map(|process| process.pid),
        started_at: process.map(|process| process.since.wall),
        uptime: process.map(|process| uptime(process, now)),
        restarts: life.restarts,
        unstable_restarts: u32::try_from(life.failures.recent(policy, now)).unwrap_or(u32::MAX),
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

fn uptime(process: &Process, now: Moment) -> u64 {
    u64::try_from(now.since(process.since).as_millis()).unwrap_or(u64::MAX)
}

/// The end of a run.
pub fn exit(ended: &Ended) -> ExitView {
    ExitView {
        at: ended.at.wall,
        run: ended.run,
        pid: (ended.pid != 0).then_some(ended.pid),
        uptime: ended.uptime,
        exit: ended.exit.clone(),
        asked: ended.asked,
        killed: ended.killed,
        why: ended.why.clone(),
    }
}

/// What happened to an instance, after it has.
pub fn happening(instance: &Instance, happening: Happening, now: Moment) -> EventView {
    let mut view = event(instance, EventKind::Added, now);
    let (kind, exit, detail) = match happening {
        Happening::Launching => (EventKind::Launching, None, None),
        Happening::Online => (EventKind::Online, None, None),
        Happening::Late => (EventKind::Late, None, instance.reason()),
        Happening::StartFailed(failure) => (EventKind::StartFailed, None, Some(failure.to_string())),
        Happening::Leaving => (EventKind::Leaving, None, None),
        Happening::Stopping(why) => (EventKind::Stopping, None, why),
        Happening::Exited(exit) => (EventKind::Exited, Some(exit), None),
        Happening::Stopped => (EventKind::Stopped, None, None),
        Happening::Waiting(ms) => (EventKind::Waiting, None, Some(format!("restart in {ms} ms"))),
        Happening::Errored(why) => (EventKind::Errored, None, Some(why)),
    };
    (view.event, view.exit, view.detail) = (kind, exit, detail);
    view
}

/// An event, and what there is to say about it.
pub fn detailed(
    instance: &Instance,
    kind: EventKind,
    detail: impl Into<Option<String>>,
    now: Moment,
) -> EventView {
    EventView { detail: detail.into(), ..event(instance, kind, now) }
}

/// A bare event about an instance.
pub fn event(instance: &Instance, kind: EventKind, now: Moment) -> EventView {
    EventView {
        at: now.wall,
        event: kind,
        id: instance.id,
        name: instance.spec.name.clone(),
        run: instance.life.last_run,
        status: status(&instance.life.state),
        exit: None,
        detail: None,
    }
}

/// The pid file's content changes with these events: the new pid, or none.
pub fn process_change(event: &Event) -> Option<Option<i32>> {
    match event {
        Event::Spawned { pid, .. } => Some(Some(*pid)),
        Event::Exited { .. } => Some(None),
        Event::Start
        | Event::Stop
        | Event::Restart(_)
        | Event::Delete
        | Event::Retire
        | Event::Drained { .. }
        | Event::Listens { .. }
        | Event::Ready { .. }
        | Event::SpawnFailed { .. }
        | Event::Swept { .. }
        | Event::OrphanEnded
        | Event::Due { .. } => None,
    }
}
