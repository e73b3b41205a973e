//! How all others talk to the loop.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use tokio::sync::{mpsc, oneshot};

use crate::daemon::supervisor::pending::ReplySender;
use crate::daemon::supervisor::{Input, Inspection, Operation, SampleTarget, SupervisorCommand};
use crate::instance::Instance;
use crate::instance::snapshot::Snapshot;
use crate::instance::status::RunId;
use crate::ipc::message::{
    ActOn, Action, ApiError, ErrorCode, Inherited, Report, ScaleTo, Selectors, StartApps,
};
use crate::metrics::Usage;
use crate::spec::AppSpec;

/// A handle to the supervisor's loop. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SupervisorHandle {
    queue: mpsc::UnboundedSender<Input>,
    closing: Rc<Cell<bool>>,
    key: Option<String>,
}

impl SupervisorHandle {
    /// A handle to the loop that reads the other end of `queue`.
    pub fn new(queue: mpsc::UnboundedSender<Input>) -> Self {
        Self { queue, closing: Rc::default(), key: None }
    }

    /// A handle for one request, which the client calls by this word: should it ask for the same again,
    /// that changes nothing more.
    pub fn with_key(&self, key: Option<String>) -> Self {
        Self { key, ..self.clone() }
    }

    /// Adds apps; resolves once they have settled.
    ///
    /// # Errors
    /// The request is refused; nothing is changed.
    pub async fn start(&self, apps: StartApps) -> Result<Report, ApiError> {
        self.apply(Operation::Start(apps)).await
    }

    /// Acts on instances; resolves once they have settled.
    ///
    /// # Errors
    /// The request is refused; nothing is changed.
    pub async fn act(&self, action: Action, on: ActOn) -> Result<Report, ApiError> {
        self.apply(Operation::Act(action, on)).await
    }

    /// Changes the number of instances; resolves once they have settled.
    ///
    /// # Errors
    /// The request is refused; nothing is changed.
    pub async fn scale(&self, name: String, to: ScaleTo) -> Result<Report, ApiError> {
        self.apply(Operation::Scale(name, to)).await
    }

    /// Gives an instance another process, with these settings and this environment if not its own;
    /// resolves once the old one is gone, or the new one has failed, or one of those that were replaced
    /// before has.
    ///
    /// # Errors
    /// It is under way already, or the settings make no sense; nothing is changed.
    pub async fn replace(
        &self,
        id: u32,
        with: Option<Box<(AppSpec, Inherited)>>,
        after: Vec<RunId>,
    ) -> Result<Report, ApiError> {
        self.apply(Operation::Replace { id, with, earlier_runs: after }).await
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// None of the selected instances runs.
    pub async fn signal(&self, select: Selectors, number: i32) -> Result<Report, ApiError> {
        self.apply(Operation::Signal(select, number)).await
    }

    /// Adds what a saved list holds; resolves once it has settled.
    ///
    /// # Errors
    /// The daemon is shutting down.
    pub async fn resurrect(&self, saved: Snapshot) -> Result<Report, ApiError> {
        self.apply(Operation::Resurrect(saved)).await
    }

    /// Copies of the selected instances, or of all.
    ///
    /// # Errors
    /// A selector matches nothing.
    pub async fn get(&self, select: Option<Selectors>) -> Result<Vec<(Instance, Usage)>, ApiError> {
        self.request(|reply| SupervisorCommand::Get(select, reply)).await
    }

    /// Reads the instances in place.
    ///
    /// # Errors
    /// The loop has ended.
    pub(in crate::daemon) async fn inspect<T: Send + 'static>(
        &self,
        read: impl FnOnce(&BTreeMap<u32, Instance>) -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let (reply, answer) = oneshot::channel();
        let inspect = Inspection(Box::new(move |instances| drop(reply.send(read(instances)))));
        let _ = self.queue.send(Input::Command(SupervisorCommand::Inspect(inspect)));
        answer.await.map_err(|_| shutting_down())
    }

    /// Copies of the instances of apps that scale by themselves; most have none.
    ///
    /// # Errors
    /// The loop has ended.
    pub async fn autoscaled(&self) -> Result<Vec<(Instance, Usage)>, ApiError> {
        let (reply, answer) = oneshot::channel();
        let _ = self.queue.send(Input::Command(SupervisorCommand::ListAutoscaled(reply)));
        answer.await.map_err(|_| shutting_down())
    }

    /// Every run that has a process, and whether there are limits of memory to watch.
    ///
    /// # Errors
    /// The loop has ended.
    pub async fn running_targets(&self) -> Result<(Vec<SampleTarget>, bool), ApiError> {
        let (reply, answer) = oneshot::channel();
        let _ = self.queue.send(Input::Command(SupervisorCommand::ListRunning(reply)));
        answer.await.map_err(|_| shutting_down())
    }

    /// The whole list as a document, and how many instances it holds.
    ///
    /// # Errors
    /// The loop has ended.
    pub async fn snapshot(&self) -> Result<(usize, Vec<u8>), ApiError> {
        let (reply, answer) = oneshot::channel();
        let _ = self.queue.send(Input::Command(SupervisorCommand::Snapshot(reply)));
        answer.await.map_err(|_| shutting_down())
    }

    /// Nothing is decided any more: what has been is saved, and left to the daemon that follows.
    pub async fn freeze(&self) {
        let (reply, frozen) = oneshot::channel();
        let _ = self.queue.send(Input::Command(SupervisorCommand::Freeze(reply)));
        let _ = frozen.await; // a loop that has ended decides nothing either
    }

    /// From now on nothing may be changed any more, except by who shuts down.
    /// False if that was so already.
    pub fn begin_close(&self) -> bool {
        !self.closing.replace(true)
    }

    /// Whether a shutdown is under way.
    pub fn is_closing(&self) -> bool {
        self.closing.get()
    }

    /// A handle for one step of what its key names.
    pub fn with_step(&self, step: impl std::fmt::Display) -> Self {
        self.with_key(self.key.as_ref().map(|key| format!("{key}/{step}")))
    }

    /// Stops these, though nothing may be changed any more.
    ///
    /// # Errors
    /// The loop has ended.
    pub async fn stop_finally(&self, select: Selectors) -> Result<Report, ApiError> {
        let on = ActOn { select, ..ActOn::default() };
        let change = Operation::Act(Action::Stop, on);
        match self.request(|reply| SupervisorCommand::Apply { change, key: None, reply }).await {
            Err(error) if error.code == ErrorCode::NotFound => Ok(Report::default()),
            answer => answer,
        }
    }

    async fn apply(&self, change: Operation) -> Result<Report, ApiError> {
        if self.closing.get() {
            return Err(shutting_down());
        }
        let key = self.key.clone();
        self.request(|reply| SupervisorCommand::Apply { change, key, reply }).await
    }

    async fn request<T>(
        &self,
        command: impl FnOnce(ReplySender<T>) -> SupervisorCommand,
    ) -> Result<T, ApiError> {
        let (reply, answer) = oneshot::channel();
        let _ = self.queue.send(Input::Command(command(reply)));
        answer.await.unwrap_or_else(|_| Err(shutting_down()))
    }
}

fn shutting_down() -> ApiError {
    ApiError::new(ErrorCode::Unavailable, "the daemon is shutting down").hint("try again later")
}
