//! The handle to the supervisor: one async method for each command.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::input::{
    Input, Inspection, NewSettings, Operation, ReplySender, SampleRequest, SupervisorCommand,
};
use super::selection;
use crate::instance::Instance;
use crate::instance::snapshot::Snapshot;
use crate::instance::status::RunId;
use crate::ipc::message::{
    Action, ActionReport, ActionRequest, ApiError, ErrorCode, ScaleRequest, Selectors, StartRequest,
};
use crate::metrics::Usage;
use crate::spec::Condition;

/// How long regular expressions may take.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(30);

/// A handle to the supervisor, cheap to clone. Methods that change something resolve once the instances concerned have
/// settled, and fail if the daemon is shutting down.
#[derive(Clone, Debug)]
pub struct SupervisorHandle {
    queue: mpsc::UnboundedSender<Input>,
    closing: Rc<Cell<bool>>,
    key: Option<String>,
}

impl SupervisorHandle {
    /// A handle to the supervisor that receives from `queue`.
    pub fn new(queue: mpsc::UnboundedSender<Input>) -> Self {
        Self { queue, closing: Rc::default(), key: None }
    }

    /// A handle for one request with a key: a request with the same key is carried out only once.
    pub fn with_key(&self, key: Option<String>) -> Self {
        Self { key, ..self.clone() }
    }

    /// Adds or updates apps.
    ///
    /// # Errors
    /// The request is invalid; nothing has changed.
    pub async fn start(&self, apps: StartRequest) -> Result<ActionReport, ApiError> {
        self.apply(Operation::Start(apps)).await
    }

    /// Starts, stops, restarts, deletes or resets instances.
    ///
    /// # Errors
    /// The request is invalid; nothing has changed.
    pub async fn act(&self, action: Action, mut on: ActionRequest) -> Result<ActionReport, ApiError> {
        on.select = self.resolve(on.select).await?;
        self.apply(Operation::Act(action, on)).await
    }

    /// Changes the number of instances of an app.
    ///
    /// # Errors
    /// The request is invalid; nothing has changed.
    pub async fn scale(&self, name: String, to: ScaleRequest) -> Result<ActionReport, ApiError> {
        self.apply(Operation::Scale(name, to)).await
    }

    /// Replaces the process of an instance. Resolves once the former process has exited or the replacement has failed.
    ///
    /// # Errors
    /// The instance is being reloaded already, or the settings are invalid; nothing has changed.
    pub async fn replace(
        &self,
        id: u32,
        with: Option<Box<NewSettings>>,
        earlier_runs: Vec<RunId>,
    ) -> Result<ActionReport, ApiError> {
        self.apply(Operation::Replace { id, with, earlier_runs }).await
    }

    /// Waits until each of these apps has reached its condition, or cannot reach it without another command.
    ///
    /// # Errors
    /// The daemon is shutting down.
    pub async fn wait_for(&self, conditions: BTreeMap<String, Condition>) -> Result<ActionReport, ApiError> {
        self.apply(Operation::WaitFor(conditions)).await
    }

    /// Sends a signal to the first process of each selected instance.
    ///
    /// # Errors
    /// No selected instance is running.
    pub async fn signal(&self, select: Selectors, number: i32) -> Result<ActionReport, ApiError> {
        let select = self.resolve(select).await?;
        self.apply(Operation::Signal(select, number)).await
    }

    /// Adds the saved instances of apps that are not in the list.
    ///
    /// # Errors
    /// The daemon is shutting down.
    pub async fn resurrect(&self, saved: Snapshot) -> Result<ActionReport, ApiError> {
        self.apply(Operation::Resurrect(saved)).await
    }

    /// Returns copies of the selected instances, or of all, and their resource usage.
    ///
    /// # Errors
    /// A selector matches nothing.
    pub async fn get(&self, select: Option<Selectors>) -> Result<Vec<(Instance, Usage)>, ApiError> {
        let select = match select {
            Some(select) => Some(self.resolve(select).await?),
            None => None,
        };
        self.request(|reply| SupervisorCommand::Get(select, reply)).await
    }

    /// Replaces regular expressions by the names that they match, on a thread: the loop must not wait for that.
    async fn resolve(&self, selectors: Selectors) -> Result<Selectors, ApiError> {
        if !selection::has_patterns(&selectors)? {
            return Ok(selectors);
        }
        let names = self.inspect(selection::selectable_names).await?;
        let resolve = move || selection::resolve_patterns(&selectors, &names);
        let resolved = tokio::time::timeout(RESOLVE_TIMEOUT, tokio::task::spawn_blocking(resolve)).await;
        match resolved {
            Ok(Ok(resolved)) => resolved,
            _ => Err(ApiError::new(ErrorCode::Invalid, "the regular expressions take too long")
                .hint("use simpler expressions")),
        }
    }

    /// Reads the instances in place.
    ///
    /// # Errors
    /// The daemon is shutting down.
    pub(crate) async fn inspect<T: Send + 'static>(
        &self,
        read: impl FnOnce(&BTreeMap<u32, Instance>) -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let inspect =
            |reply: oneshot::Sender<T>| Inspection::new(move |instances| drop(reply.send(read(instances))));
        self.query(|reply| SupervisorCommand::Inspect(inspect(reply))).await
    }

    /// Returns copies of the instances of autoscaled apps, and their resource usage.
    ///
    /// # Errors
    /// The daemon is shutting down.
    pub async fn autoscaled(&self) -> Result<Vec<(Instance, Usage)>, ApiError> {
        self.query(SupervisorCommand::ListAutoscaled).await
    }

    /// Returns the runs whose resource usage is to be sampled.
    ///
    /// # Errors
    /// The daemon is shutting down.
    pub async fn running_targets(&self) -> Result<SampleRequest, ApiError> {
        self.query(SupervisorCommand::ListRunning).await
    }

    /// Returns the number of instances, and the list as a document.
    ///
    /// # Errors
    /// The daemon is shutting down.
    pub async fn snapshot(&self) -> Result<(usize, Vec<u8>), ApiError> {
        self.query(SupervisorCommand::Snapshot).await
    }

    /// Saves the state for the next daemon; no input is handled from then on.
    pub async fn freeze(&self) {
        let _ = self.query(SupervisorCommand::Freeze).await; // a supervisor that has ended is frozen as well
    }

    /// Rejects changes from now on, except [`SupervisorHandle::stop_finally`]. False if they were rejected already.
    pub fn begin_close(&self) -> bool {
        !self.closing.replace(true)
    }

    /// Whether a shutdown is under way.
    pub fn is_closing(&self) -> bool {
        self.closing.get()
    }

    /// A handle for one step of a request, with a key of its own.
    pub fn with_step(&self, step: impl std::fmt::Display) -> Self {
        self.with_key(self.key.as_ref().map(|key| format!("{key}/{step}")))
    }

    /// Stops instances during a shutdown.
    ///
    /// # Errors
    /// The supervisor has ended.
    pub async fn stop_finally(&self, select: Selectors) -> Result<ActionReport, ApiError> {
        let on = ActionRequest { select, ..ActionRequest::default() };
        let change = Operation::Act(Action::Stop, on);
        match self.request(|reply| SupervisorCommand::Apply { change, key: None, reply }).await {
            Err(error) if error.code == ErrorCode::NotFound => Ok(ActionReport::default()),
            answer => answer,
        }
    }

    async fn apply(&self, change: Operation) -> Result<ActionReport, ApiError> {
        if self.closing.get() {
            return Err(shutting_down());
        }
        let key = self.key.clone();
        self.request(|reply| SupervisorCommand::Apply { change, key, reply }).await
    }

    /// Sends a command whose answer can be an error.
    async fn request<T>(
        &self,
        command: impl FnOnce(ReplySender<T>) -> SupervisorCommand,
    ) -> Result<T, ApiError> {
        self.query(command).await.flatten()
    }

    /// Sends a command that cannot fail, unless the supervisor has ended.
    async fn query<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> SupervisorCommand,
    ) -> Result<T, ApiError> {
        let (reply, answer) = oneshot::channel();
        let _ = self.queue.send(Input::Command(command(reply)));
        answer.await.map_err(|_| shutting_down())
    }
}

fn shutting_down() -> ApiError {
    ApiError::new(ErrorCode::Unavailable, "the daemon is shutting down").hint("try again later")
}
