//! Inputs of the supervisor: events, measurements and commands.

use std::collections::BTreeMap;

use tokio::sync::oneshot;

use crate::instance::Instance;
use crate::instance::event::InstanceEvent;
use crate::instance::snapshot::Snapshot;
use crate::instance::status::RunId;
use crate::ipc::message::{
    Action, ActionReport, ActionRequest, ApiError, InheritedEnv, ScaleRequest, Selectors, StartRequest,
};
use crate::metrics::Usage;
use crate::process::process_ref::ProcessRef;
use crate::spec::{AppSpec, Condition};

/// Where the answer to a command is sent.
pub type ReplySender<T> = oneshot::Sender<Result<T, ApiError>>;

/// An input of the supervisor.
#[derive(Debug)]
pub enum Input {
    /// Something happened to an instance.
    InstanceEvent {
        /// Id of the instance.
        instance: u32,
        /// What happened.
        event: InstanceEvent,
    },
    /// An orphan exited; its run is unknown.
    OrphanExited,
    /// The result of a probe of a run.
    ProbeResult(RunId, ProbeReport),
    /// The resource usage of the process trees of runs.
    UsageSampled(Vec<(RunId, Usage)>),
    /// A schedule or a changed file triggers a restart of an app.
    Triggered {
        /// Name of the app.
        app: String,
        /// Whether it is a schedule, which has a rule for a run that has not ended.
        by_schedule: bool,
        /// The reason, for users.
        reason: String,
    },
    /// A save that was put off is due.
    SaveDue,
    /// A command of a client.
    Command(SupervisorCommand),
}

/// The result of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeReport {
    /// The readiness probe failed.
    NotReady(String),
    /// The liveness probe succeeded.
    Healthy,
    /// The liveness probe failed. Repeated as long as it fails.
    Unhealthy(String),
}

/// Commands of clients.
#[derive(Debug)]
pub enum SupervisorCommand {
    /// Changes something.
    Apply {
        /// What to change.
        change: Operation,
        /// The key that the client gave to the command: one with the same key is only answered again.
        key: Option<String>,
        /// Gets the report once the instances concerned have settled.
        reply: ReplySender<ActionReport>,
    },
    /// Returns copies of the selected instances, or of all, and their resource usage.
    Get(Option<Selectors>, ReplySender<Vec<(Instance, Usage)>>),
    /// Returns copies of the instances of autoscaled apps, and their resource usage.
    ListAutoscaled(oneshot::Sender<Vec<(Instance, Usage)>>),
    /// Reads the instances in place.
    Inspect(Inspection),
    /// Returns the runs whose resource usage is to be sampled.
    ListRunning(oneshot::Sender<SampleRequest>),
    /// Returns the number of instances, and the list as a document to be saved.
    Snapshot(oneshot::Sender<(usize, Vec<u8>)>),
    /// Saves the state and handles no input from then on.
    Freeze(oneshot::Sender<()>),
}

/// The runs whose resource usage is to be sampled.
#[derive(Debug)]
pub struct SampleRequest {
    /// All runs with a process.
    pub targets: Vec<SampleTarget>,
    /// Whether an app has a memory limit to watch.
    pub has_limits: bool,
}

/// A run, and the first process of its tree.
#[derive(Clone, Copy, Debug)]
pub struct SampleTarget {
    /// The run.
    pub run: RunId,
    /// The first process.
    pub process: ProcessRef,
}

type Inspect = dyn FnOnce(&BTreeMap<u32, Instance>) + Send;

/// A function that reads the instances in place, which saves a copy of all of them.
pub struct Inspection(Box<Inspect>);

impl Inspection {
    /// Wraps a function.
    pub(crate) fn new(inspect: impl FnOnce(&BTreeMap<u32, Instance>) + Send + 'static) -> Self {
        Self(Box::new(inspect))
    }

    /// Calls the function.
    pub(super) fn run(self, instances: &BTreeMap<u32, Instance>) {
        (self.0)(instances);
    }
}

impl std::fmt::Debug for Inspection {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Inspection")
    }
}

/// Changes that clients can request.
#[derive(Clone, Debug)]
pub enum Operation {
    /// Adds apps, or updates existing ones.
    Start(StartRequest),
    /// Starts, stops, restarts, deletes or resets instances.
    Act(Action, ActionRequest),
    /// Changes the number of instances of an app.
    Scale(String, ScaleRequest),
    /// Replaces the process of an instance; the current one is stopped once the new one has passed its probation.
    Replace {
        /// Id of the instance.
        id: u32,
        /// Settings of the new process, if they change.
        with: Option<Box<NewSettings>>,
        /// Instances that were replaced before, and their last runs until then.
        earlier_runs: Vec<RunId>,
    },
    /// Changes nothing; the report is sent once each app has reached its condition, or cannot reach it.
    WaitFor(BTreeMap<String, Condition>),
    /// Sends a signal, by number.
    Signal(Selectors, i32),
    /// Adds the saved instances of apps that are not in the list.
    Resurrect(Snapshot),
}

impl Operation {
    /// Whether the report is sent without waiting until started processes are ready.
    pub(super) fn no_wait(&self) -> bool {
        match self {
            Self::Start(StartRequest { no_wait, .. })
            | Self::Act(_, ActionRequest { no_wait, .. })
            | Self::Scale(_, ScaleRequest { no_wait, .. }) => *no_wait,
            Self::Replace { .. } | Self::WaitFor(_) | Self::Signal(..) | Self::Resurrect(_) => false,
        }
    }
}

/// The settings of a process that replaces another.
#[derive(Clone, Debug)]
pub struct NewSettings {
    /// The spec of the app.
    pub spec: AppSpec,
    /// The environment of the shell.
    pub inherited: InheritedEnv,
}
