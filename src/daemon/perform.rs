//! What instances decided goes out to the world; and runs that belong to none are seen to their end.

use std::collections::BTreeSet;

use super::supervisor::{InstanceRef, Supervisor};
use super::views;
use super::world::World;
use crate::instance::Instance;
use crate::instance::event::{Effect, InstanceEvent, Notice};
use crate::instance::life::RunId;
use crate::instance::state::State;
use crate::ipc::message::EventKind;

/// Connections to an instance that is down wait for its next start if that comes within this many
/// milliseconds; a client can do better with the time than wait for longer.
const LONGEST_HOLD: u64 = 2000;

impl<W: World> Supervisor<W> {
    /// Performs what the instance at this place decided.
    pub(super) fn perform(&mut self, place: InstanceRef, effects: Vec<Effect>) {
        let id = place.id();
        for effect in effects {
            self.unsaved = true;
            let instance = match place {
                InstanceRef::Listed(id) => self.instances.get(&id),
                InstanceRef::Beside(id) => self.beside.get(&id).map(|beside| &beside.instance),
            };
            let Some(instance) = instance else { return };
            let run = |number| RunId { instance: id, number };
            match effect {
                Effect::Spawn { run: number } => {
                    self.world.spawn(run(number), instance);
                    self.count_run(id, number);
                }
                Effect::Quiet { run: number } => self.world.quiet(run(number)),
                Effect::Signal { process } => self.world.stop(run(process.run), process, instance),
                Effect::Kill { process } => self.world.kill(run(process.run), process),
                Effect::Sweep { process, kill } => self.world.sweep(run(process.run), process, kill),
                Effect::Release { run: number } => {
                    self.world.release(run(number));
                    if place == InstanceRef::Listed(id) {
                        self.usage.remove(&id);
                    }
                }
                Effect::Timer { at } => self.world.timer(id, at),
                Effect::Tell(happening) => match place {
                    InstanceRef::Listed(_) => self.tell(id, happening),
                    InstanceRef::Beside(_) => self.tell_beside(id, happening),
                },
                Effect::Forget => match place {
                    InstanceRef::Listed(_) => self.forget(id),
                    InstanceRef::Beside(_) => self.forget_beside(id),
                },
            }
        }
    }

    /// An instance tells how it is: its sockets are kept accordingly, and who wants to know is told.
    fn tell(&mut self, id: u32, happening: Notice) {
        let Some(instance) = self.instances.get(&id) else { return };
        match &happening {
            Notice::Online => {
                let run = instance.life.state.run().map(|number| RunId { instance: id, number });
                run.into_iter().for_each(|run| self.world.ready(run));
            }
            Notice::Stopped | Notice::Errored(_) => self.world.idle(instance),
            Notice::Waiting(delay) if *delay > LONGEST_HOLD => self.world.idle(instance),
            Notice::Launching
            | Notice::Late
            | Notice::StartFailed(_)
            | Notice::Leaving
            | Notice::Stopping(_)
            | Notice::Exited(_)
            | Notice::Waiting(_) => {}
        }
        let now = self.world.now();
        self.world.tell(views::happening(instance, happening, now));
    }

    /// A number that one process of an instance has no other gets.
    fn count_run(&mut self, id: u32, number: u32) {
        let other = self.beside.get_mut(&id).map(|beside| &mut beside.instance);
        for instance in self.instances.get_mut(&id).into_iter().chain(other) {
            instance.life.last_run = instance.life.last_run.max(number);
        }
    }

    fn forget(&mut self, id: u32) {
        let Some(instance) = self.instances.remove(&id) else { return };
        self.usage.remove(&id);
        self.greedy.remove(&id);
        self.last_run = self.last_run.max(instance.life.last_run);
        if self.instances.is_empty() && self.strays.is_empty() && self.beside.is_empty() {
            self.next_id = 0; // as PM2: an empty list counts from the start again
        }
        let now = self.world.now();
        self.world.tell(views::event(&instance, EventKind::Deleted, now));
        self.changed_apps();
    }

    /// News of a run that belongs to no instance: it is swept and released like any other.
    pub(super) fn stray(&mut self, run: RunId, event: &InstanceEvent) -> bool {
        let Some(stray) = self.strays.get_mut(&run) else { return false };
        match event {
            InstanceEvent::Exited { .. } => {
                stray.ended = true;
                self.world.sweep(run, stray.process, true);
            }
            InstanceEvent::Swept { left, .. } if left.is_empty() => {
                self.strays.remove(&run);
                self.world.release(run);
            }
            InstanceEvent::SpawnFailed { .. } => drop(self.strays.remove(&run)),
            InstanceEvent::Swept { .. }
            | InstanceEvent::Spawned { .. }
            | InstanceEvent::Listens { .. }
            | InstanceEvent::Ready { .. }
            | InstanceEvent::Drained { .. } => {}
            InstanceEvent::Start
            | InstanceEvent::Stop
            | InstanceEvent::Restart(_)
            | InstanceEvent::Delete
            | InstanceEvent::Retire
            | InstanceEvent::OrphanEnded
            | InstanceEvent::Due { .. } => return false,
        }
        true
    }

    pub(super) fn orphan_ended(&mut self) {
        for (run, stray) in self.strays.iter().filter(|(_, stray)| stray.ended) {
            self.world.sweep(*run, stray.process, true);
        }
        let clearing = |instance: &&Instance| matches!(instance.life.state, State::Clearing { .. });
        let beside = self.beside.values().map(|beside| &beside.instance);
        let all = self.instances.values().chain(beside);
        let ids: BTreeSet<u32> = all.filter(clearing).map(|instance| instance.id).collect();
        ids.into_iter().for_each(|id| self.on(id, InstanceEvent::OrphanEnded));
    }
}
