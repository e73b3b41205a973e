//! What instances decided goes out to the world; and runs that belong to none are seen to their end.

use std::collections::BTreeSet;

use crate::daemon::supervisor::views;
use crate::daemon::supervisor::world::World;
use crate::daemon::supervisor::{InstanceRef, Supervisor};
use crate::instance::Instance;
use crate::instance::event::{Effect, InstanceEvent, Notice};
use crate::instance::state::State;
use crate::instance::status::RunId;
use crate::ipc::message::EventKind;

/// Connections to an instance that is down wait for its next start if that comes within this many
/// milliseconds; a client can do better with the time than wait for longer.
const MAX_PORT_HOLD_MS: u64 = 2000;

impl<W: World> Supervisor<W> {
    /// Performs what the instance at this place decided.
    pub(in crate::daemon) fn run_effects(&mut self, place: InstanceRef, effects: Vec<Effect>) {
        let id = place.id();
        for effect in effects {
            self.dirty = true;
            let instance = match place {
                InstanceRef::Current(id) => self.instances.get(&id),
                InstanceRef::Replacement(id) => self.replacements.get(&id).map(|beside| &beside.instance),
            };
            let Some(instance) = instance else { return };
            let run = |number| RunId { instance: id, number };
            match effect {
                Effect::Spawn { run: number } => {
                    self.world.spawn(run(number), instance);
                    self.record_run_number(id, number);
                }
                Effect::Drain { run: number } => self.world.drain(run(number)),
                Effect::SendStopSignal { process } => self.world.stop(run(process.run), process, instance),
                Effect::Kill { process } => self.world.kill(run(process.run), process),
                Effect::CleanUpTree { process, force: kill } => {
                    self.world.clean_up_tree(run(process.run), process, kill)
                }
                Effect::ReleaseRun { run: number } => {
                    self.world.release_run(run(number));
                    if place == InstanceRef::Current(id) {
                        self.usage.remove(&id);
                    }
                }
                Effect::SetTimer { at } => self.world.set_timer(id, at),
                Effect::Publish(happening) => match place {
                    InstanceRef::Current(_) => self.publish(id, happening),
                    InstanceRef::Replacement(_) => self.publish_replacement(id, happening),
                },
                Effect::Remove => match place {
                    InstanceRef::Current(_) => self.remove_instance(id),
                    InstanceRef::Replacement(_) => self.remove_replacement(id),
                },
            }
        }
    }

    /// An instance tells how it is: its sockets are kept accordingly, and who wants to know is told.
    fn publish(&mut self, id: u32, happening: Notice) {
        let Some(instance) = self.instances.get(&id) else { return };
        match &happening {
            Notice::Online => {
                let run = instance.status.state.run().map(|number| RunId { instance: id, number });
                run.into_iter().for_each(|run| self.world.on_ready(run));
            }
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
        self.world.publish(views::notice_view(instance, happening, now));
    }

    /// A number that one process of an instance has no other gets.
    fn record_run_number(&mut self, id: u32, number: u32) {
        let other = self.replacements.get_mut(&id).map(|beside| &mut beside.instance);
        for instance in self.instances.get_mut(&id).into_iter().chain(other) {
            instance.status.last_run = instance.status.last_run.max(number);
        }
    }

    fn remove_instance(&mut self, id: u32) {
        let Some(instance) = self.instances.remove(&id) else { return };
        self.usage.remove(&id);
        self.memory_offenders.remove(&id);
        self.last_run = self.last_run.max(instance.status.last_run);
        if self.instances.is_empty() && self.orphan_runs.is_empty() && self.replacements.is_empty() {
            self.next_id = 0; // as PM2: an empty list counts from the start again
        }
        let now = self.world.now();
        self.world.publish(views::event_view(&instance, EventKind::Deleted, now));
        self.mark_apps_changed();
    }

    /// News of a run that belongs to no instance: it is swept and released like any other.
    pub(in crate::daemon) fn handle_orphan_event(&mut self, run: RunId, event: &InstanceEvent) -> bool {
        let Some(stray) = self.orphan_runs.get_mut(&run) else { return false };
        match event {
            InstanceEvent::Exited { .. } => {
                stray.ended = true;
                self.world.clean_up_tree(run, stray.process, true);
            }
            InstanceEvent::TreeChecked { remaining: left, .. } if left.is_empty() => {
                self.orphan_runs.remove(&run);
                self.world.release_run(run);
            }
            InstanceEvent::SpawnFailed { .. } => drop(self.orphan_runs.remove(&run)),
            InstanceEvent::TreeChecked { .. }
            | InstanceEvent::Spawned { .. }
            | InstanceEvent::Listening { .. }
            | InstanceEvent::Ready { .. }
            | InstanceEvent::Drained { .. } => {}
            InstanceEvent::Start
            | InstanceEvent::Stop
            | InstanceEvent::Restart(_)
            | InstanceEvent::Delete
            | InstanceEvent::DrainAndDelete
            | InstanceEvent::OrphanExited
            | InstanceEvent::TimerFired { .. } => return false,
        }
        true
    }

    pub(in crate::daemon) fn on_orphan_exited(&mut self) {
        for (run, stray) in self.orphan_runs.iter().filter(|(_, stray)| stray.ended) {
            self.world.clean_up_tree(*run, stray.process, true);
        }
        let clearing = |instance: &&Instance| matches!(instance.status.state, State::CleaningUp { .. });
        let beside = self.replacements.values().map(|beside| &beside.instance);
        let all = self.instances.values().chain(beside);
        let ids: BTreeSet<u32> = all.filter(clearing).map(|instance| instance.id).collect();
        ids.into_iter().for_each(|id| self.dispatch(id, InstanceEvent::OrphanExited));
    }
}
