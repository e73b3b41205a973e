//! The supervisor: the single owner of all instances. An input comes in, instances decide, effects go out.
//!
//! The supervisor never waits: what takes time is done by the [`World`] and comes back as another [`Input`]. Replies to
//! commands are sent once the instances concerned have settled and the state is saved. The state has three owners:
//! [`Registry`], [`Health`] and [`PendingReplies`].

pub(super) mod commands;
pub mod handle;
mod health;
mod input;
mod pending;
mod recover;
mod registry;
pub(super) mod replacement;
pub(super) mod selection;
mod validate;
pub(super) mod views;
pub mod world;

use std::collections::BTreeMap;

use self::health::{Health, HealthChange};
pub use self::input::{
    Input, Inspection, NewSettings, Operation, ProbeReport, ReplySender, SampleRequest, SampleTarget,
    SupervisorCommand,
};
use self::pending::PendingReplies;
use self::registry::{InstanceRef, Registry};
use self::world::World;
use crate::instance::Instance;
use crate::instance::event::{Effect, InstanceEvent, Notice};
use crate::instance::replacement::Replacement;
use crate::instance::snapshot::{self, Snapshot};
use crate::instance::state::{RunProcess, State};
use crate::instance::status::RunId;
use crate::ipc::message::EventKind;
use crate::metrics::Usage;
use crate::spec::{Overlap, StopPolicy};

/// Connections to a stopped instance wait for its next start if that follows within this many milliseconds. If it
/// takes longer, they are refused, so that clients can react.
const MAX_PORT_HOLD_MS: u64 = 2000;

/// All instances, and the rules that concern several of them.
pub struct Supervisor<W> {
    /// The outside.
    pub world: W,
    registry: Registry,
    health: Health,
    replies: PendingReplies,
    /// The state differs from the saved one.
    dirty: bool,
    apps_changed: bool,
    /// Inputs since the state was frozen for the next daemon. They are kept until this daemon exits: dropping a command
    /// would answer it with an error.
    frozen: Option<Vec<Input>>,
}

impl<W: World> Supervisor<W> {
    /// A supervisor without instances.
    pub fn new(world: W) -> Self {
        Self {
            world,
            registry: Registry::default(),
            health: Health::default(),
            replies: PendingReplies::default(),
            dirty: false,
            apps_changed: false,
            frozen: None,
        }
    }

    /// Handles one input. After the last one at hand, call [`Supervisor::finish_batch`].
    pub fn handle(&mut self, input: Input) {
        if let Some(frozen) = &mut self.frozen {
            return frozen.push(input);
        }
        match input {
            Input::InstanceEvent { instance, event } => self.dispatch(instance, event),
            Input::OrphanExited => self.on_orphan_exited(),
            Input::ProbeResult(run, report) => self.on_probe_result(run, report),
            Input::UsageSampled(samples) => self.record_usage(samples),
            Input::Triggered { app, by_schedule, reason } => self.on_trigger(&app, by_schedule, &reason),
            Input::SaveDue => self.dirty = true,
            Input::Command(command) => self.handle_command(command),
        }
    }

    /// Saves the changed state, then sends the replies that depend on it.
    pub fn finish_batch(&mut self) {
        if self.frozen.is_some() {
            return;
        }
        self.replies.settle(&self.registry, &mut self.world);
        if std::mem::take(&mut self.apps_changed) {
            self.world.on_apps_changed(self.registry.instances());
        }
        if self.dirty {
            self.save(self.replies.has_due());
        }
        self.world.flush();
        self.replies.send_due();
    }

    /// All instances, by id.
    pub fn instances(&self) -> &BTreeMap<u32, Instance> {
        self.registry.instances()
    }

    /// The replacements of instances, by id.
    pub fn replacements(&self) -> &BTreeMap<u32, Replacement> {
        self.registry.replacements()
    }

    /// The instance or replacement whose state is about a run.
    pub fn instance_of(&self, run: RunId) -> Option<&Instance> {
        self.registry.instance_of(run)
    }

    /// Whether the keeper had a run at the start that no instance is about. It is being ended.
    pub fn is_orphan_run(&self, run: RunId) -> bool {
        self.registry.is_orphan_run(run)
    }

    /// Restores the state that a former daemon saved. `runs` are those that the keeper has; one that belongs to no
    /// instance is killed.
    pub fn restore_snapshot(&mut self, mut saved: Snapshot, runs: &BTreeMap<RunId, RunProcess>) {
        self.replies.restore_completed(std::mem::take(&mut saved.completed));
        let now = self.world.now();
        let recovery = recover::restore(&mut self.registry, saved, runs, now);
        for (target, effects) in recovery.effects {
            self.run_effects(target, effects);
        }
        for (run, process) in recovery.orphan_runs {
            self.world.kill(run, process, &StopPolicy::default());
        }
        self.mark_apps_changed();
    }

    /// Saves the state and handles no input from now on.
    fn freeze(&mut self) {
        self.dirty = true;
        self.world.flush();
        self.save(true);
        self.frozen = Some(Vec::new());
    }

    fn save(&mut self, urgent: bool) {
        let registry = &self.registry;
        let state = || {
            snapshot::encode(
                registry.instances(),
                registry.replacements(),
                (registry.next_id(), registry.last_run()),
                self.replies.completed(),
            )
        };
        self.dirty = !self.world.save(urgent, &state);
    }

    /// Lets an instance handle an event, and performs the effects.
    fn dispatch(&mut self, id: u32, event: InstanceEvent) {
        let run = event.run().map(|number| RunId { instance: id, number });
        if run.is_some_and(|run| self.registry.handle_orphan_event(run, &event, &mut self.world)) {
            return;
        }
        if self.route_to_replacement(id, &event) {
            return;
        }
        let now = self.world.now();
        let Some(instance) = self.registry.get_mut(id) else { return };
        let pid_change = event.pid_change();
        let (run, want) = (instance.current_run(), instance.status().want);
        let effects = instance.handle(event, now);
        self.dirty |= want != instance.status().want;
        if let (Some(pid), true) = (pid_change, run == instance.current_run() && !effects.is_empty()) {
            if pid.is_some() {
                self.world.on_run_started(instance);
            }
            self.world.write_pid_file(instance, pid);
        }
        self.run_effects(InstanceRef::Current(id), effects);
    }

    /// Performs the effects of an event.
    fn run_effects(&mut self, target: InstanceRef, effects: Vec<Effect>) {
        let id = target.id();
        let is_current = target == InstanceRef::Current(id);
        let run = |number| RunId { instance: id, number };
        for effect in effects {
            self.dirty = true;
            let Some(instance) = self.registry.find(target) else { return };
            match effect {
                Effect::Spawn { run: number } => {
                    self.world.spawn(run(number), instance);
                    self.registry.reserve_run_number(id, number);
                }
                Effect::Drain { run: number } => self.world.drain(run(number)),
                Effect::SendStopSignal { process } => self.world.stop(run(process.run), process, instance),
                Effect::Kill { process } => {
                    self.world.kill(run(process.run), process, &instance.spec().stop);
                }
                Effect::CleanUpTree { process, mode } => {
                    self.world.clean_up_tree(run(process.run), process, mode, &instance.spec().stop);
                }
                Effect::ReleaseRun { run: number } => {
                    self.world.release_run(run(number));
                    if is_current {
                        self.health.forget_usage(id);
                    }
                }
                Effect::SetTimer { at } => self.world.set_timer(id, at),
                Effect::Publish(notice) if is_current => self.publish(id, notice),
                Effect::Publish(notice) => self.publish_replacement(id, notice),
                Effect::Remove if is_current => self.remove_instance(id),
                Effect::Remove => self.registry.remove_replacement(id),
            }
        }
    }

    /// Publishes a notice of an instance, and adjusts its shared ports.
    fn publish(&mut self, id: u32, notice: Notice) {
        let Some(instance) = self.registry.get(id) else { return };
        match &notice {
            Notice::Online => instance.current_run().into_iter().for_each(|run| self.world.on_ready(run)),
            Notice::Stopped | Notice::Errored(_) => self.world.on_slot_idle(instance),
            Notice::RestartScheduled(delay) if *delay > MAX_PORT_HOLD_MS => self.world.on_slot_idle(instance),
            Notice::Launching
            | Notice::ReadyTimeout
            | Notice::StartFailed(_)
            | Notice::Draining
            | Notice::Stopping(_)
            | Notice::Exited(_)
            | Notice::RestartScheduled(_) => {}
        }
        let now = self.world.now();
        self.world.publish(views::notice_view(instance, notice, now));
    }

    fn remove_instance(&mut self, id: u32) {
        let Some(instance) = self.registry.remove(id) else { return };
        self.health.forget(id);
        let now = self.world.now();
        self.world.publish(views::event_view(&instance, EventKind::Deleted, now));
        self.mark_apps_changed();
    }

    /// Records that apps were added, removed or changed.
    fn mark_apps_changed(&mut self) {
        self.dirty = true;
        self.apps_changed = true;
    }

    fn on_orphan_exited(&mut self) {
        self.registry.clean_up_orphan_runs(&mut self.world);
        for id in self.registry.cleaning_up() {
            self.dispatch(id, InstanceEvent::OrphanExited);
        }
    }

    /// An unhealthy instance gets no new connections, and is replaced or restarted.
    fn on_probe_result(&mut self, run: RunId, report: ProbeReport) {
        let (id, now) = (run.instance, self.world.now());
        let Some(change) = health::record_probe(&mut self.registry, run, report) else { return };
        let Some(instance) = self.registry.get(id) else { return };
        let problem = match change {
            HealthChange::Recovered => {
                self.world.publish(views::event_view(instance, EventKind::Healthy, now));
                self.world.on_ready(run);
                self.dirty = true;
                return;
            }
            HealthChange::Failed(problem) => {
                let event = views::event_with_detail(instance, EventKind::Unhealthy, problem.clone(), now);
                self.world.publish(event);
                self.world.pause_traffic(run);
                self.dirty = true;
                problem
            }
            HealthChange::StillUnhealthy(problem) => problem,
        };
        // If it cannot be replaced now, the next failure of the probe tries again.
        if health::can_replace_now(&self.registry, id) {
            self.replace_or_restart(id, format!("unhealthy: {problem}"));
        }
    }

    fn record_usage(&mut self, samples: Vec<(RunId, Usage)>) {
        for (run, usage) in samples {
            let now = self.world.now();
            if let Some(reason) = self.health.record_usage(&self.registry, run, usage, now) {
                self.replace_or_restart(run.instance, reason);
            }
        }
    }

    /// A schedule is due, or a file has changed: restarts the instances that are wanted. A schedule that is due while
    /// the previous run has not ended follows the rule of the app.
    fn on_trigger(&mut self, app: &str, by_schedule: bool, reason: &str) {
        let wanted = self.registry.wanted_instances(app);
        let runs: Vec<(u32, Overlap)> = wanted.map(|it| (it.id(), overlap(it, by_schedule))).collect();
        for (id, overlap) in runs {
            let Some(instance) = self.registry.get(id) else { continue };
            let (event, rule) = match overlap {
                Overlap::Replace => {
                    // A job that is killed by its own schedule has not done its work.
                    let is_cut_short = by_schedule && instance.spec().is_job() && is_running(instance);
                    let note = if is_cut_short {
                        ": the previous run had not ended (overlap = replace)"
                    } else {
                        ""
                    };
                    self.dispatch(id, InstanceEvent::Restart(Some(format!("{reason}{note}"))));
                    continue;
                }
                Overlap::Skip => (None, "skipped"),
                Overlap::Queue => (Some(InstanceEvent::Enqueue), "queued"),
            };
            let detail = format!("{reason}: {rule}, because the previous run has not ended");
            let now = self.world.now();
            self.world.publish(views::event_with_detail(instance, EventKind::Overlapped, detail, now));
            event.into_iter().for_each(|event| self.dispatch(id, event));
        }
    }
}

/// What a trigger does to an instance: nothing is to be replaced if no run is under way.
fn overlap(instance: &Instance, by_schedule: bool) -> Overlap {
    match by_schedule && is_running(instance) {
        true => instance.spec().overlap,
        false => Overlap::Replace,
    }
}

fn is_running(instance: &Instance) -> bool {
    let state = &instance.status().state;
    state.run().is_some() || matches!(state, State::Waiting { .. })
}
