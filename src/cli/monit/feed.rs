//! What the daemon is asked for while the screen is open: the list each second and after each event, more
//! about the selection, and what is to be done. Daemons may come and go.

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
use crate::ipc::message::{ActOn, Info, InstanceDetail, InstanceView, Reload, Report, Request, Selectors};
use crate::ipc::start_daemon;
use crate::paths::Home;

/// Between two samples.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Events come in swarms; the list is asked for once after one.
const DEBOUNCE: Duration = Duration::from_millis(30);
/// Between two looks at rsm itself and the machine.
const INFO_INTERVAL: Duration = Duration::from_secs(5);
/// Between two looks at the selection in full.
const DETAIL_INTERVAL: Duration = Duration::from_secs(2);
/// A daemon that takes longer is as good as none.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Keeper and daemon that died leave their state behind; so does, for a moment, `rsm kill`.
const DISCONNECT_AFTER: Duration = Duration::from_secs(3);

/// The model's end.
pub(super) struct DataFeed {
    /// What comes.
    pub(super) updates: mpsc::UnboundedReceiver<Update>,
    sender: mpsc::UnboundedSender<Update>,
    selection: watch::Sender<Selectors>,
    home: Home,
}

/// Why to look again.
#[derive(Clone, Default)]
struct RefreshSignal {
    now: Rc<Notify>,
    /// Also at rsm itself: another daemon may have come.
    info: Rc<Cell<bool>>,
}

impl DataFeed {
    /// Begins. Within a `LocalSet`.
    pub(super) fn begin(home: Home) -> Self {
        let (say, news) = mpsc::unbounded_channel();
        let (selection, selected) = watch::channel(Selectors::new());
        let poke = RefreshSignal::default();
        tokio::task::spawn_local(events(home.clone(), poke.clone()));
        tokio::task::spawn_local(Poller::new(home.clone(), say.clone(), selected, poke).run());
        Self { updates: news, sender: say, selection, home }
    }

    /// What to ask for in full; nothing if empty.
    pub(super) fn select(&self, ids: &[u32]) {
        let ids: Selectors = ids.iter().map(u32::to_string).collect();
        self.selection.send_if_modified(|before| {
            let other = *before != ids;
            if other {
                *before = ids;
            }
            other
        });
    }

    /// Has something done, and says what came of it.
    pub(super) fn perform(&self, deed: InstanceAction, select: Selectors) {
        let (home, say) = (self.home.clone(), self.sender.clone());
        tokio::task::spawn_local(async move {
            let asked = async { Client::connect(&home).await?.call::<Report>(&request(deed, &select)).await };
            let news = match asked.await {
                Ok(report) => result_message(deed, &report),
                Err(error) => Update::Message { text: format!("{}: {error}", deed.label()), good: false },
            };
            let _ = say.send(news); // the screen may be closed
        });
    }
}

fn request(deed: InstanceAction, select: &Selectors) -> Request {
    let select = select.clone();
    match deed {
        InstanceAction::Basic(action) => Request::Act(action, ActOn { select, ..ActOn::default() }),
        InstanceAction::Reload => Request::Reload(Reload { select, ..Reload::default() }),
        InstanceAction::Scale(to) => Request::Scale(select.into_iter().next().unwrap_or_default(), to),
    }
}

/// One line for all: the first problem, or how many came out well.
fn result_message(deed: InstanceAction, report: &Report) -> Update {
    let problem = report.instances.iter().find_map(|outcome| {
        let problem = outcome.problem.as_ref()?;
        Some(format!("{}: {} (id {}): {problem}", deed.label(), outcome.name, outcome.id))
    });
    if let Some(text) = problem {
        return Update::Message { text, good: false };
    }
    let lines = outcomes(report);
    let text = match lines.as_slice() {
        [] => format!("{}: done", deed.label()),
        [only] => only.clone(),
        several => format!("{}: {} instances done", deed.label(), several.len()),
    };
    Update::Message { text, good: true }
}

/// Pokes after each event, and when the stream breaks: that is how a daemon's end is heard of at once.
async fn events(home: Home, poke: RefreshSignal) {
    loop {
        let stream = async { Client::connect(&home).await?.stream(&Request::Events).await };
        if let Ok(mut stream) = stream.await {
            poke.info.set(true);
            poke.now.notify_one();
            while let Some(Ok(_)) = stream.next().await {
                poke.now.notify_one();
            }
        }
        poke.now.notify_one();
        tokio::time::sleep(POLL_INTERVAL / 2).await;
    }
}

/// The one that asks.
struct Poller {
    home: Home,
    sender: mpsc::UnboundedSender<Update>,
    selection: watch::Receiver<Selectors>,
    refresh: RefreshSignal,
    client: Option<Client>,
    /// When something is asked for again.
    info: Instant,
    details: Instant,
    /// Since when nobody listens.
    down: Option<Instant>,
}

impl Poller {
    fn new(
        home: Home,
        say: mpsc::UnboundedSender<Update>,
        selection: watch::Receiver<Selectors>,
        poke: RefreshSignal,
    ) -> Self {
        let now = Instant::now();
        Self {
            home,
            sender: say,
            selection,
            refresh: poke,
            client: None,
            info: now,
            details: now,
            down: None,
        }
    }

    /// Until the screen is closed.
    async fn run(mut self) {
        let mut tick = tokio::time::interval(POLL_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            let sample = tokio::select! {
                _ = tick.tick() => true,
                () = self.refresh.now.notified() => {
                    tokio::time::sleep(DEBOUNCE).await;
                    self.details = Instant::now();
                    false
                }
                changed = self.selection.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    tokio::time::sleep(DEBOUNCE).await;
                    self.details = Instant::now();
                    false
                }
            };
            match self.refresh(sample).await {
                Ok(()) => self.down = None,
                Err(error) => self.on_error(error).await,
            }
        }
    }

    async fn refresh(&mut self, sample: bool) -> Result<(), ClientError> {
        let instances: Vec<InstanceView> = self.call(&Request::List).await?;
        let there: Vec<String> = instances.iter().map(|view| view.id.to_string()).collect();
        self.send(Update::Listed { instances, sample });
        let now = Instant::now();
        if self.refresh.info.take() || now >= self.info {
            let info: Info = self.call(&Request::Info).await?;
            self.send(Update::Info(Box::new(info)));
            self.info = now + INFO_INTERVAL;
        }
        if now >= self.details {
            let select = self.selection.borrow_and_update().clone();
            // One that has gone meanwhile would fail the whole request.
            let select: Selectors = select.into_iter().filter(|id| there.contains(id)).collect();
            let details: Vec<InstanceDetail> = match select.is_empty() {
                true => Vec::new(),
                false => self.call(&Request::Describe(select.into())).await.or_else(ignore_not_found)?,
            };
            self.send(Update::Details(details));
            self.details = now + DETAIL_INTERVAL;
        }
        Ok(())
    }

    async fn call<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T, ClientError> {
        let asked = async {
            let mut client = match self.client.take() {
                Some(client) => client,
                None => Client::connect(&self.home).await?,
            };
            let answer = client.call(request).await?;
            self.client = Some(client);
            Ok(answer)
        };
        let late = || ClientError::ConnectionLost(format!("no response within {} s", CALL_TIMEOUT.as_secs()));
        tokio::time::timeout(CALL_TIMEOUT, asked).await.unwrap_or_else(|_| Err(late()))
    }

    async fn on_error(&mut self, error: ClientError) {
        let why = match &error {
            ClientError::NotRunning { .. } => "the daemon is not running".to_owned(),
            ClientError::ConnectionLost(_) => "the daemon is not responding".to_owned(),
            other => other.to_string(),
        };
        self.send(Update::Disconnected(why));
        let since = *self.down.get_or_insert_with(Instant::now);
        let died = matches!(error, ClientError::NotRunning { .. }) && self.home.has_state();
        if died && since.elapsed() > DISCONNECT_AFTER {
            // Why not, if it cannot be started, is told by the next look.
            self.client = start_daemon::connect_or_start(&self.home).await.ok().map(|(client, _)| client);
        }
    }

    fn send(&self, news: Update) {
        let _ = self.sender.send(news); // the screen may be closed
    }
}

/// An instance that went between two requests is not worth a word.
fn ignore_not_found(error: ClientError) -> Result<Vec<InstanceDetail>, ClientError> {
    match error {
        ClientError::Rejected(_) => Ok(Vec::new()),
        error => Err(error),
    }
}
