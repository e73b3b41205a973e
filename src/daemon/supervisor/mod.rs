//! The loop's body: an input comes in, instances decide, effects go out.
//!
//! The supervisor owns all state. It never waits: whatever takes time is done by the
//! [`World`] and comes back as another [`Input`]. Answers to commands are held until the
//! instances concerned have settled and the state is handed over for saving.

pub mod commands;
pub mod handle;
pub mod health;
pub(super) mod memory_limit;
pub mod pending;
pub(super) mod probation;
pub(super) mod recover;
pub(super) mod registry;
pub(super) mod replacement;
pub mod selection;
pub(super) mod validate;
pub(super) mod views;
pub mod world;

use std::collections::{BTreeMap, HashMap, VecDeque};

use tokio::sync::oneshot;

use crate::daemon::supervisor::pending::{CompletedCommand, PendingReply, ReplySender, take_settled};
use crate::daemon::supervisor::world::World;
use crate::instance::Instance;
use crate::instance::event::InstanceEvent;
use crate::instance::replacement::Replacement;
use crate::instance::snapshot;
use crate::instance::state::{RunProcess, Want};
use crate::instance::status::RunId;
use crate::ipc::message::{ActOn, Action, Inherited, Report, ScaleTo, Selectors, StartApps};
use crate::metrics::Usage;
use crate::spec::AppSpec;

/// All that reaches the supervisor.
#[derive(Debug)]
pub enum Input {
    /// Something happened to an instance.
    InstanceEvent {
        /// Which one.
        instance: u32,
        /// What.
        event: InstanceEvent,
    },
    /// Some process without parent ended; nobody knows whose it was.
    OrphanExited,
    /// A check has found something out about a run.
    ProbeResult(RunId, ProbeReport),
    /// What the runs' trees use of the machine.
    UsageSampled(Vec<(RunId, Usage)>),
    /// A schedule or a changed file wants an app restarted.
    Triggered {
        /// The app's name.
        app: String,
        /// For people.
        reason: String,
    },
    /// The save that was put off is due.
    SaveDue,
    /// A client wants something.
    Command(SupervisorCommand),
}

/// What a check has found out about a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeReport {
    /// It is not ready yet.
    NotReady(String),
    /// It works.
    Healthy,
    /// It does not work. Told again for as long as that is so.
    Unhealthy(String),
}

/// A run as it is sampled: its number, the pid of its first process, and that one's start time.
pub type SampleTarget = (u64, i32, u64);

/// What a client can want of the supervisor.
#[derive(Debug)]
pub enum SupervisorCommand {
    /// Changes something.
    Apply {
        /// What.
        change: Operation,
        /// The client's word for it: one that was heard before is only answered again.
        key: Option<String>,
        /// Told once the instances concerned have settled.
        reply: ReplySender<Report>,
    },
    /// Copies of the selected instances and what they use; of all if nothing is selected.
    Get(Option<Selectors>, ReplySender<Vec<(Instance, Usage)>>),
    /// The same of the apps that scale by themselves.
    ListAutoscaled(oneshot::Sender<Vec<(Instance, Usage)>>),
    /// Reads the instances in place.
    Inspect(Inspection),
    /// Every run that has a process, and whether there are limits of memory to watch.
    ListRunning(oneshot::Sender<(Vec<SampleTarget>, bool)>),
    /// The whole list, to be saved.
    Snapshot(oneshot::Sender<(usize, Vec<u8>)>),
    /// Save, and decide nothing from now on.
    Freeze(oneshot::Sender<()>),
}

/// Reads the instances in place, so that nobody copies all of them for a few fields.
pub struct Inspection(pub(super) Box<dyn FnOnce(&BTreeMap<u32, Instance>) + Send>);

impl std::fmt::Debug for Inspection {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Inspection")
    }
}

/// What a client can want to change.
#[derive(Clone, Debug)]
pub enum Operation {
    /// Adds apps, or brings them up to date.
    Start(StartApps),
    /// Acts on instances.
    Act(Action, ActOn),
    /// Changes the number of instances of an app.
    Scale(String, ScaleTo),
    /// Gives an instance another process; the one that it has goes when the other is proven.
    Replace {
        /// Its id.
        id: u32,
        /// Settings and environment of the new process, if not those of the old one.
        with: Option<Box<(AppSpec, Inherited)>>,
        /// Instances that were replaced before, and their last runs until then.
        earlier_runs: Vec<RunId>,
    },
    /// Sends a signal, by number.
    Signal(Selectors, i32),
    /// Adds what a saved list holds and is not there.
    Resurrect(snapshot::Snapshot),
}

/// Where an instance is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InstanceRef {
    /// In the list.
    Current(u32),
    /// Beside the one in the list that has its id.
    Replacement(u32),
}

impl InstanceRef {
    pub(super) fn id(self) -> u32 {
        match self {
            Self::Current(id) | Self::Replacement(id) => id,
        }
    }
}

/// A run that the keeper had and no instance is about.
#[derive(Debug)]
pub(super) struct OrphanRun {
    /// Its process.
    pub process: RunProcess,
    /// Of which only a tree may be left.
    pub ended: bool,
}

/// All state, and the rules that cross instances.
pub struct Supervisor<W> {
    /// The outside.
    pub world: W,
    pub(super) instances: BTreeMap<u32, Instance>,
    /// Second processes of instances, by their ids; see [`beside`](super::beside).
    pub(super) replacements: BTreeMap<u32, Replacement>,
    pub(super) usage: HashMap<u32, Usage>,
    /// How many processes of an instance in a row soon held too much memory.
    pub(super) memory_offenders: HashMap<u32, u32>,
    pub(super) next_id: u32,
    /// No run number up to this one is given to a new instance: ids are used again, runs never.
    pub(super) last_run: u32,
    pub(super) pending_replies: Vec<PendingReply>,
    pub(super) due_replies: Vec<(ReplySender<Report>, Report)>,
    /// Runs that the keeper had and no instance is about.
    pub(super) orphan_runs: BTreeMap<RunId, OrphanRun>,
    /// Commands that may be asked for again, oldest first.
    pub(super) completed: VecDeque<CompletedCommand>,
    pub(super) dirty: bool,
    apps_changed: bool,
    /// Another daemon follows. What comes is kept unanswered until this one ends: its answer would be
    /// that of a daemon which does nothing.
    frozen: Option<Vec<Input>>,
}

impl<W: World> Supervisor<W> {
    /// A supervisor of nothing.
    pub fn new(world: W) -> Self {
        Self {
            world,
            instances: BTreeMap::new(),
            replacements: BTreeMap::new(),
            usage: HashMap::new(),
            memory_offenders: HashMap::new(),
            next_id: 0,
            last_run: 0,
            pending_replies: Vec::new(),
            due_replies: Vec::new(),
            orphan_runs: BTreeMap::new(),
            completed: VecDeque::new(),
            dirty: false,
            apps_changed: false,
            frozen: None,
        }
    }

    /// Handles one input. After the last one at hand comes [`Supervisor::end_of_batch`].
    pub fn handle(&mut self, input: Input) {
        if let Some(frozen) = &mut self.frozen {
            return frozen.push(input);
        }
        match input {
            Input::InstanceEvent { instance, event } => self.dispatch(instance, event),
            Input::OrphanExited => self.on_orphan_exited(),
            Input::ProbeResult(run, finding) => self.record_probe(run, finding),
            Input::UsageSampled(samples) => self.record_usage(samples),
            Input::Triggered { app, reason: why } => self.on_trigger(&app, &why),
            Input::SaveDue => self.dirty = true,
            Input::Command(command) => self.handle_command(command),
        }
    }

    /// Hands over the changed state, then lets the answers go that vouch for it.
    pub fn finish_batch(&mut self) {
        if self.frozen.is_some() {
            return;
        }
        self.due_replies.extend(take_settled(
            &mut self.pending_replies,
            &self.instances,
            &self.replacements,
            &self.world,
        ));
        if std::mem::take(&mut self.apps_changed) {
            self.world.on_apps_changed(&self.instances);
        }
        if self.dirty {
            self.save(!self.due_replies.is_empty());
        }
        self.world.flush();
        for (reply, report) in self.due_replies.drain(..) {
            let _ = reply.send(Ok(report)); // the client may have gone
        }
    }

    /// Decides nothing from now on.
    pub(super) fn freeze(&mut self) {
        self.dirty = true;
        self.world.flush();
        self.save(true);
        self.frozen = Some(Vec::new());
    }

    fn save(&mut self, urgent: bool) {
        let state = || {
            snapshot::encode(
                &self.instances,
                &self.replacements,
                (self.next_id, self.last_run),
                &self.completed,
            )
        };
        self.dirty = !self.world.save(urgent, &state);
    }

    /// All instances by id.
    pub fn instances(&self) -> &BTreeMap<u32, Instance> {
        &self.instances
    }

    /// Second processes of instances, by their ids.
    pub fn replacements(&self) -> &BTreeMap<u32, Replacement> {
        &self.replacements
    }

    /// Lets an instance decide, and performs what it decided.
    pub(super) fn dispatch(&mut self, id: u32, event: InstanceEvent) {
        if event.run().is_some_and(|number| self.handle_orphan_event(RunId { instance: id, number }, &event))
        {
            return;
        }
        if self.route_to_replacement(id, &event) {
            return;
        }
        let now = self.world.now();
        let Some(instance) = self.instances.get_mut(&id) else { return };
        let process_change = views::process_change(&event);
        let (run, want) = (instance.status.state.run(), instance.status.want);
        let effects = instance.handle(event, now);
        self.dirty |= want != instance.status.want;
        let same_run = run == instance.status.state.run();
        if let (Some(pid), true) = (process_change, same_run && !effects.is_empty()) {
            if pid.is_some() {
                self.world.on_run_started(instance);
            }
            self.world.write_pid_file(instance, pid);
        }
        self.run_effects(InstanceRef::Current(id), effects);
    }

    /// Notes that apps were added, removed or changed.
    pub(super) fn mark_apps_changed(&mut self) {
        self.dirty = true;
        self.apps_changed = true;
    }

    fn record_usage(&mut self, samples: Vec<(RunId, Usage)>) {
        for (run, usage) in samples {
            let current =
                self.instances.get(&run.instance).and_then(|instance| instance.status.state.process());
            if current.is_some_and(|process| process.run == run.number) {
                let over = self.memory_excess(run.instance, &usage);
                self.usage.insert(run.instance, usage);
                if let Some(why) = over {
                    self.record_memory_restart(run.instance);
                    self.replace_or_restart(run.instance, why);
                }
            }
        }
    }

    fn on_trigger(&mut self, app: &str, why: &str) {
        let wanted = |instance: &&Instance| instance.spec.name == app && instance.status.want == Want::Up;
        let ids: Vec<u32> = self.instances.values().filter(wanted).map(|instance| instance.id).collect();
        ids.into_iter().for_each(|id| self.dispatch(id, InstanceEvent::Restart(Some(why.to_owned()))));
    }
}
