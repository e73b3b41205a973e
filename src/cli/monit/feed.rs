//! Requests to the daemon while the dashboard is open: the list each second and after each event, details of the
//! selection, and actions. The daemon may exit and restart.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};

use super::model::Update;
use crate::cli::monit::commands::InstanceAction;
use crate::cli::render::report::outcomes;
use crate::ipc::client::{Client, ClientError};
use crate::ipc::message::{
    ActionReport, ActionRequest, DaemonInfo, InstanceDetail, InstanceView, ReloadRequest, Request, Selectors,
};
use crate::ipc::start_daemon;
use crate::paths::Home;

/// Interval between two samples.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Events come in bursts; the list is requested once after this time.
const DEBOUNCE: Duration = Duration::from_millis(30);
/// Interval between two requests for information about rsm and the host.
const INFO_INTERVAL: Duration = Duration::from_secs(5);
/// Interval between two requests for details.
const DETAIL_INTERVAL: Duration = Duration::from_secs(2);
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Time after which killed keeper and daemon are started again. Their state file remains after a kill, but for a moment
/// also during `rsm kill`.
const DISCONNECT_AFTER: Duration = Duration::from_secs(3);

/// The interface for the event loop.
pub(super) struct DataFeed {
    pub(super) updates: mpsc::UnboundedReceiver<Update>,
    sender: mpsc::UnboundedSender<Update>,
    selection: watch::Sender<Selectors>,
    home: Home,
}

/// A request to refresh.
#[derive(Clone, Default)]
struct RefreshSignal {
    now: Rc<Notify>,
    /// Whether to refresh the information about rsm, too: the daemon may have restarted.
    info: Rc<Cell<bool>>,
}

impl DataFeed {
    /// Starts the feed. Must be called in a `LocalSet`.
    pub(super) fn start(home: Home) -> Self {
        let (sender, updates) = mpsc::unbounded_channel();
        let (selection, selected) = watch::channel(Selectors::new());
        let refresh = RefreshSignal::default();
        tokio::task::spawn_local(watch_events(home.clone(), refresh.clone()));
        tokio::task::spawn_local(Poller::new(home.clone(), sender.clone(), selected, refresh).run());
        Self { updates, sender, selection, home }
    }

    /// Sets the instances whose details are requested.
    pub(super) fn select(&self, ids: &[u32]) {
        let ids: Selectors = ids.iter().map(u32::to_string).collect();
        self.selection.send_if_modified(|current| {
            let changed = *current != ids;
            if changed {
                *current = ids;
            }
            changed
        });
    }

    /// Runs an action and reports its result.
    pub(super) fn perform(&self, action: InstanceAction, select: Selectors) {
        let (home, sender) = (self.home.clone(), self.sender.clone());
        tokio::task::spawn_local(async move {
            let call =
                async { Client::connect(&home).await?.call::<ActionReport>(&request(action, &select)).await };
            let update = match call.await {
                Ok(report) => result_message(action, &report),
                Err(error) => {
                    Update::Message { text: format!("{}: {error}", action.label()), success: false }
                }
            };
            let _ = sender.send(update); // the screen may be closed
        });
    }
}

fn request(action: InstanceAction, select: &Selectors) -> Request {
    let select = select.clone();
    match action {
        InstanceAction::Basic(action) => {
            Request::Act(action, ActionRequest { select, ..ActionRequest::default() })
        }
        InstanceAction::Reload => Request::Reload(ReloadRequest { select, ..ReloadRequest::default() }),
        InstanceAction::Scale(to) => Request::Scale(select.into_iter().next().unwrap_or_default(), to.into()),
    }
}

/// A line with the first failure, or with the number of instances.
fn result_message(action: InstanceAction, report: &ActionReport) -> Update {
    let failure = report.instances.iter().find_map(|outcome| {
        let problem = outcome.problem.as_ref()?;
        Some(format!("{}: {} (id {}): {problem}", action.label(), outcome.name, outcome.id))
    });
    if let Some(text) = failure {
        return Update::Message { text, success: false };
    }
    let lines = outcomes(report, "");
    let text = match lines.as_slice() {
        [] => format!("{}: done", action.label()),
        [only] => only.clone(),
        several => format!("{}: {} instances done", action.label(), several.len()),
    };
    Update::Message { text, success: true }
}

/// Requests a refresh after each event, and when the stream ends, so that the exit of the daemon is shown at once.
async fn watch_events(home: Home, refresh: RefreshSignal) {
    loop {
        let stream = async { Client::connect(&home).await?.stream(&Request::Events).await };
        if let Ok(mut stream) = stream.await {
            refresh.info.set(true);
            refresh.now.notify_one();
            while let Some(Ok(_)) = stream.next().await {
                refresh.now.notify_one();
            }
        }
        refresh.now.notify_one();
        tokio::time::sleep(POLL_INTERVAL / 2).await;
    }
}

/// Sends the requests.
struct Poller {
    home: Home,
    sender: mpsc::UnboundedSender<Update>,
    selection: watch::Receiver<Selectors>,
    refresh: RefreshSignal,
    client: Option<Client>,
    next_info: Instant,
    next_details: Instant,
    /// The time of the first failed request.
    failed_since: Option<Instant>,
}

impl Poller {
    fn new(
        home: Home,
        sender: mpsc::UnboundedSender<Update>,
        selection: watch::Receiver<Selectors>,
        refresh: RefreshSignal,
    ) -> Self {
        let now = Instant::now();
        Self {
            home,
            sender,
            selection,
            refresh,
            client: None,
            next_info: now,
            next_details: now,
            failed_since: None,
        }
    }

    /// Runs until the feed is dropped.
    async fn run(mut self) {
        let mut tick = tokio::time::interval(POLL_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            let sample = tokio::select! {
                _ = tick.tick() => true,
                () = self.refresh.now.notified() => {
                    tokio::time::sleep(DEBOUNCE).await;
                    self.next_details = Instant::now();
                    false
                }
                changed = self.selection.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    tokio::time::sleep(DEBOUNCE).await;
                    self.next_details = Instant::now();
                    false
                }
            };
            match self.refresh(sample).await {
                Ok(()) => self.failed_since = None,
                Err(error) => self.on_error(error).await,
            }
        }
    }

    async fn refresh(&mut self, sample: bool) -> Result<(), ClientError> {
        let instances: Vec<InstanceView> = self.call(&Request::List).await?;
        let listed: Vec<String> = instances.iter().map(|view| view.id.to_string()).collect();
        self.send(Update::Listed { instances, sample });
        let now = Instant::now();
        if self.refresh.info.take() || now >= self.next_info {
            let info: DaemonInfo = self.call(&Request::Info).await?;
            self.send(Update::Info(Box::new(info)));
            self.next_info = now + INFO_INTERVAL;
        }
        if now >= self.next_details {
            let select = self.selection.borrow_and_update().clone();
            // An instance that was deleted in the meantime would fail the whole request.
            let select: Selectors = select.into_iter().filter(|id| listed.contains(id)).collect();
            let details: Vec<InstanceDetail> = match select.is_empty() {
                true => Vec::new(),
                false => self.call(&Request::Describe(select.into())).await.or_else(ignore_not_found)?,
            };
            self.send(Update::Details(details));
            self.next_details = now + DETAIL_INTERVAL;
        }
        Ok(())
    }

    async fn call<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T, ClientError> {
        let response = async {
            let mut client = match self.client.take() {
                Some(client) => client,
                None => Client::connect(&self.home).await?,
            };
            let response = client.call(request).await?;
            self.client = Some(client);
            Ok(response)
        };
        let timeout_error =
            || ClientError::ConnectionLost(format!("no response within {} s", CALL_TIMEOUT.as_secs()));
        tokio::time::timeout(CALL_TIMEOUT, response).await.unwrap_or_else(|_| Err(timeout_error()))
    }

    async fn on_error(&mut self, error: ClientError) {
        let reason = match &error {
            ClientError::NotRunning { .. } => "the daemon is not running".to_owned(),
            ClientError::ConnectionLost(_) => "the daemon is not responding".to_owned(),
            other => other.to_string(),
        };
        self.send(Update::Disconnected(reason));
        let since = *self.failed_since.get_or_insert_with(Instant::now);
        let was_killed = matches!(error, ClientError::NotRunning { .. }) && self.home.has_state();
        if was_killed && since.elapsed() > DISCONNECT_AFTER {
            // The next refresh reports the error if it cannot be started.
            self.client = start_daemon::connect_or_start(&self.home).await.ok().map(|(client, _)| client);
        }
    }

    fn send(&self, update: Update) {
        let _ = self.sender.send(update); // the screen may be closed
    }
}

/// Ignores that an instance was deleted between two requests.
fn ignore_not_found(error: ClientError) -> Result<Vec<InstanceDetail>, ClientError> {
    match error {
        ClientError::Rejected(_) => Ok(Vec::new()),
        error => Err(error),
    }
}
