//! The loop's body: an input comes in, instances decide, effects go out.
//!
//! The supervisor owns all state. It never waits: whatever takes time is done by the
//! [`World`] and comes back as another [`Input`]. Answers to commands are held until the
//! instances concerned have settled and the state is handed over for saving.

use std::collections::{BTreeMap, HashMap, VecDeque};

use tokio::sync::oneshot;

use super::saved;
use super::settle::{Done, Reply, Waiting, take_due};
use super::views;
use super::world::World;
use crate::instance::Instance;
use crate::instance::event::{Effect, Event};
use crate::instance::life::RunId;
use crate::instance::state::{Process, State, Want};
use crate::ipc::message::{ActOn, Action, EventKind, Report, ScaleTo, Selectors, StartApps};
use crate::metrics::Usage;

/// All that reaches the supervisor.
#[derive(Debug)]
pub enum Input {
    /// Something happened to an instance.
    Fact {
        /// Which one.
        instance: u32,
        /// What.
        event: Event,
    },
    /// Some process without parent ended; nobody knows whose it was.
    OrphanEnded,
    /// What the runs' trees use of the machine.
    Sampled(Vec<(RunId, Usage)>),
    /// A schedule or a changed file wants an app restarted.
    Triggered {
        /// The app's name.
        app: String,
        /// For people.
        why: String,
    },
    /// The save that was put off is due.
    SaveDue,
    /// A client wants something.
    Command(Command),
}

/// What a client can want of the supervisor.
#[derive(Debug)]
pub enum Command {
    /// Changes something.
    Change {
        /// What.
        change: Change,
        /// The client's word for it: one that was heard before is only answered again.
        key: Option<String>,
        /// Told once the instances concerned have settled.
        reply: Reply<Report>,
    },
    /// Copies of the selected instances and what they use; of all if nothing is selected.
    Look(Option<Selectors>, Reply<Vec<(Instance, Usage)>>),
    /// Every run that has a process: its number, pid and start time.
    Running(oneshot::Sender<Vec<(u64, i32, u64)>>),
    /// The whole list, to be saved.
    Snapshot(oneshot::Sender<(usize, Vec<u8>)>),
    /// Save, and decide nothing from now on.
    Freeze(oneshot::Sender<()>),
}

/// What a client can want to change.
#[derive(Clone, Debug)]
pub enum Change {
    /// Adds apps, or brings them up to date.
    Start(StartApps),
    /// Acts on instances.
    Act(Action, ActOn),
    /// Changes the number of instances of an app.
    Scale(String, ScaleTo),
    /// Sends a signal, by number.
    Signal(Selectors, i32),
    /// Adds what a saved list holds and is not there.
    Resurrect(saved::Saved),
}

/// All state, and the rules that cross instances.
pub struct Supervisor<W> {
    /// The outside.
    pub world: W,
    pub(super) instances: BTreeMap<u32, Instance>,
    pub(super) usage: HashMap<u32, Usage>,
    pub(super) next_id: u32,
    /// No run number up to this one is given to a new instance: ids are used again, runs never.
    pub(super) last_run: u32,
    pub(super) waiting: Vec<Waiting>,
    pub(super) answers: Vec<(Reply<Report>, Report)>,
    /// Runs that the keeper had and no instance is about.
    strays: BTreeMap<RunId, Stray>,
    /// Commands that may be asked for again, oldest first.
    pub(super) done: VecDeque<Done>,
    pub(super) unsaved: bool,
    apps_changed: bool,
    /// Another daemon follows. What comes is kept unanswered until this one ends: its answer would be
    /// that of a daemon which does nothing.
    frozen: Option<Vec<Input>>,
}

#[derive(Debug)]
struct Stray {
    process: Process,
    ended: bool,
}

impl<W: World> Supervisor<W> {
    /// A supervisor of nothing.
    pub fn new(world: W) -> Self {
        Self {
            world,
            instances: BTreeMap::new(),
            usage: HashMap::new(),
            next_id: 0,
            last_run: 0,
            waiting: Vec::new(),
            answers: Vec::new(),
            strays: BTreeMap::new(),
            done: VecDeque::new(),
            unsaved: false,
            apps_changed: false,
            frozen: None,
        }
    }

    /// Takes up the state that a former daemon saved. `kept` are the runs that the keeper has; one
    /// that belongs to no instance is ended, since nobody knows what it is.
    pub fn restore(&mut self, saved: saved::Saved, kept: &BTreeMap<RunId, Process>) {
        (self.next_id, self.last_run) = (saved.next_id, saved.last_run);
        self.done = saved.done.clone();
        for mut instance in saved.into_instances() {
            let (id, now) = (instance.id, self.world.now());
            let of_it = RunId { instance: id, number: 0 }..=RunId { instance: id, number: u32::MAX };
            let latest = kept.range(of_it).next_back().map(|(run, _)| run.number);
            if let Some(latest) = latest.filter(|number| *number > instance.life.last_run) {
                instance.catch_up(latest, now);
            }
            let run = instance.life.state.run().map(|number| RunId { instance: id, number });
            let effects = instance.resume(run.is_some_and(|run| kept.contains_key(&run)), now);
            self.instances.insert(id, instance);
            self.perform(id, effects);
        }
        for (run, process) in kept {
            // What was not saved in time must not be named again while the keeper knows it.
            self.last_run = self.last_run.max(run.number);
            if !self.is_current(*run) {
                self.world.kill(*run, *process);
                self.strays.insert(*run, Stray { process: *process, ended: false });
                self.next_id = self.next_id.max(run.instance.saturating_add(1));
            }
        }
        self.changed_apps();
    }

    /// Whether this run is what its instance is about.
    pub fn is_current(&self, run: RunId) -> bool {
        let instance = self.instances.get(&run.instance);
        instance.and_then(|instance| instance.life.state.run()) == Some(run.number)
    }

    /// Handles one input. After the last one at hand comes [`Supervisor::end_of_batch`].
    pub fn handle(&mut self, input: Input) {
        if let Some(frozen) = &mut self.frozen {
            return frozen.push(input);
        }
        match input {
            Input::Fact { instance, event } => self.on(instance, event),
            Input::OrphanEnded => self.orphan_ended(),
            Input::Sampled(samples) => self.sampled(samples),
            Input::Triggered { app, why } => self.triggered(&app, &why),
            Input::SaveDue => self.unsaved = true,
            Input::Command(command) => self.command(command),
        }
    }

    /// Hands over the changed state, then lets the answers go that vouch for it.
    pub fn end_of_batch(&mut self) {
        if self.frozen.is_some() {
            return;
        }
        self.answers.extend(take_due(&mut self.waiting, &self.instances));
        if std::mem::take(&mut self.apps_changed) {
            self.world.apps_changed(&self.instances);
        }
        if self.unsaved {
            let state = || saved::write(&self.instances, self.next_id, self.last_run, &self.done);
            self.unsaved = !self.world.save(!self.answers.is_empty(), &state);
        }
        self.world.flush();
        for (reply, report) in self.answers.drain(..) {
            let _ = reply.send(Ok(report)); // the client may have gone
        }
    }

    /// Decides nothing from now on.
    pub(super) fn freeze(&mut self) {
        self.unsaved = true;
        self.world.flush();
        let state = || saved::write(&self.instances, self.next_id, self.last_run, &self.done);
        self.unsaved = !self.world.save(true, &state);
        self.frozen = Some(Vec::new());
    }

    /// All instances by id.
    pub fn instances(&self) -> &BTreeMap<u32, Instance> {
        &self.instances
    }

    /// Lets an instance decide, and performs what it decided.
    pub(super) fn on(&mut self, id: u32, event: Event) {
        if event.run().is_some_and(|number| self.stray(RunId { instance: id, number }, &event)) {
            return;
        }
        let now = self.world.now();
        let Some(instance) = self.instances.get_mut(&id) else { return };
        let process_change = views::process_change(&event);
        let (run, want) = (instance.life.state.run(), instance.life.want);
        let effects = instance.on(event, now);
        self.unsaved |= want != instance.life.want;
        let same_run = run == instance.life.state.run();
        if let (Some(pid), true) = (process_change, same_run && !effects.is_empty()) {
            self.world.process_changed(instance, pid);
        }
        self.perform(id, effects);
    }

    fn perform(&mut self, id: u32, effects: Vec<Effect>) {
        for effect in effects {
            self.unsaved = true;
            let Some(instance) = self.instances.get(&id) else { return };
            let run = |number| RunId { instance: id, number };
            match effect {
                Effect::Spawn { run: number } => self.world.spawn(run(number), instance),
                Effect::Signal { process } => self.world.stop(run(process.run), process, instance),
                Effect::Kill { process } => self.world.kill(run(process.run), process),
                Effect::Sweep { process, kill } => self.world.sweep(run(process.run), process, kill),
                Effect::Release { run: number } => {
                    self.usage.remove(&id);
                    self.world.release(run(number));
                }
                Effect::Timer { at } => self.world.timer(id, at),
                Effect::Tell(happening) => {
                    let now = self.world.now();
                    self.world.tell(views::happening(instance, happening, now));
                }
                Effect::Forget => self.forget(id),
            }
        }
    }

    fn forget(&mut self, id: u32) {
        let Some(instance) = self.instances.remove(&id) else { return };
        self.usage.remove(&id);
        self.last_run = self.last_run.max(instance.life.last_run);
        if self.instances.is_empty() && self.strays.is_empty() {
            self.next_id = 0; // as PM2: an empty list counts from the start again
        }
        let now = self.world.now();
        self.world.tell(views::event(&instance, EventKind::Deleted, now));
        self.changed_apps();
    }

    /// Notes that apps were added, removed or changed.
    pub(super) fn changed_apps(&mut self) {
        self.unsaved = true;
        self.apps_changed = true;
    }

    /// News of a run that belongs to no instance: it is swept and released like any other.
    fn stray(&mut self, run: RunId, event: &Event) -> bool {
        let Some(stray) = self.strays.get_mut(&run) else { return false };
        match event {
            Event::Exited { .. } => {
                stray.ended = true;
                self.world.sweep(run, stray.process, true);
            }
            Event::Swept { left, .. } if left.is_empty() => {
                self.strays.remove(&run);
                self.world.release(run);
            }
            Event::SpawnFailed { .. } => drop(self.strays.remove(&run)),
            Event::Swept { .. } | Event::Spawned { .. } => {}
            Event::Start
            | Event::Stop
            | Event::Restart(_)
            | Event::Delete
            | Event::OrphanEnded
            | Event::Due { .. } => return false,
        }
        true
    }

    fn orphan_ended(&mut self) {
        for (run, stray) in self.strays.iter().filter(|(_, stray)| stray.ended) {
            self.world.sweep(*run, stray.process, true);
        }
        let clearing = |instance: &&Instance| matches!(instance.life.state, State::Clearing { .. });
        let ids: Vec<u32> = self.instances.values().filter(clearing).map(|instance| instance.id).collect();
        ids.into_iter().for_each(|id| self.on(id, Event::OrphanEnded));
    }

    fn sampled(&mut self, samples: Vec<(RunId, Usage)>) {
        for (run, usage) in samples {
            let current =
                self.instances.get(&run.instance).and_then(|instance| instance.life.state.process());
            if current.is_some_and(|process| process.run == run.number) {
                let over = self.over_memory(run.instance, usage.memory);
                self.usage.insert(run.instance, usage);
                if let Some(why) = over {
                    self.on(run.instance, Event::Restart(Some(why)));
                }
            }
        }
    }

    /// Why the instance must be restarted for its memory, if it must. Never takes down a second
    /// instance of an app while another is down.
    fn over_memory(&self, id: u32, memory: u64) -> Option<String> {
        let instance = self.instances.get(&id)?;
        let limit = instance.spec.max_memory_restart.filter(|limit| memory > *limit)?;
        let online = |instance: &Instance| matches!(instance.life.state, State::Online { .. });
        let others = self.instances.values().filter(|other| other.spec.name == instance.spec.name);
        let mut others = others.filter(|other| other.life.want == Want::Up);
        (online(instance) && others.all(online))
            .then(|| format!("its processes used {memory} bytes, more than max_memory_restart = {limit}"))
    }

    fn triggered(&mut self, app: &str, why: &str) {
        let wanted = |instance: &&Instance| instance.spec.name == app && instance.life.want == Want::Up;
        let ids: Vec<u32> = self.instances.values().filter(wanted).map(|instance| instance.id).collect();
        ids.into_iter().for_each(|id| self.on(id, Event::Restart(Some(why.to_owned()))));
    }
}
