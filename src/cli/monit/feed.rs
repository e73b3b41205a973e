//! What the daemon is asked for while the screen is open: the list each second and after each event, more
//! about the selection, and what is to be done. Daemons may come and go.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};

use super::model::Update;
use super::wish::InstanceAction;
use crate::cli::render::report::outcomes;
use crate::ipc::client::{Client, ClientError};
use crate::ipc::message::{ActOn, Info, InstanceDetail, InstanceView, Reload, Report, Request, Selectors};
use crate::ipc::start_daemon;
use crate::paths::Home;

/// Between two samples.
const SECOND: Duration = Duration::from_secs(1);
/// Events come in swarms; the list is asked for once after one.
const SWARM: Duration = Duration::from_millis(30);
/// Between two looks at rsm itself and the machine.
const SELDOM: Duration = Duration::from_secs(5);
/// Between two looks at the selection in full.
const DETAILS: Duration = Duration::from_secs(2);
/// A daemon that takes longer is as good as none.
const PATIENCE: Duration = Duration::from_secs(5);
/// Keeper and daemon that died leave their state behind; so does, for a moment, `rsm kill`.
const DEAD: Duration = Duration::from_secs(3);

/// The model's end.
pub(super) struct DataFeed {
    /// What comes.
    pub(super) news: mpsc::UnboundedReceiver<Update>,
    say: mpsc::UnboundedSender<Update>,
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
        Self { news, say, selection, home }
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
        let (home, say) = (self.home.clone(), self.say.clone());
        tokio::task::spawn_local(async move {
            let asked = async { Client::connect(&home).await?.call::<Report>(&request(deed, &select)).await };
            let news = match asked.await {
                Ok(report) => told(deed, &report),
                Err(error) => Update::Said { text: format!("{}: {error}", deed.word()), good: false },
            };
            let _ = say.send(news); // the screen may be closed
        });
    }
}

fn request(deed: InstanceAction, select: &Selectors) -> Request {
    let select = select.clone();
    match deed {
        InstanceAction::Act(action) => Request::Act(action, ActOn { select, ..ActOn::default() }),
        InstanceAction::Reload => Request::Reload(Reload { select, ..Reload::default() }),
        InstanceAction::Scale(to) => Request::Scale(select.into_iter().next().unwrap_or_default(), to),
    }
}

/// One line for all: the first problem, or how many came out well.
fn told(deed: InstanceAction, report: &Report) -> Update {
    let problem = report.instances.iter().find_map(|outcome| {
        let problem = outcome.problem.as_ref()?;
        Some(format!("{}: {} (id {}): {problem}", deed.word(), outcome.name, outcome.id))
    });
    if let Some(text) = problem {
        return Update::Said { text, good: false };
    }
    let lines = outcomes(report);
    let text = match lines.as_slice() {
        [] => format!("{}: done", deed.word()),
        [only] => only.clone(),
        several => format!("{}: {} instances done", deed.word(), several.len()),
    };
    Update::Said { text, good: true }
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
        tokio::time::sleep(SECOND / 2).await;
    }
}

/// The one that asks.
struct Poller {
    home: Home,
    say: mpsc::UnboundedSender<Update>,
    selection: watch::Receiver<Selectors>,
    poke: RefreshSignal,
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
        Self { home, say, selection, poke, client: None, info: now, details: now, down: None }
    }

    /// Until the screen is closed.
    async fn run(mut self) {
        let mut tick = tokio::time::interval(SECOND);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            let sample = tokio::select! {
                _ = tick.tick() => true,
                () = self.poke.now.notified() => {
                    tokio::time::sleep(SWARM).await;
                    self.details = Instant::now();
                    false
                }
                changed = self.selection.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    tokio::time::sleep(SWARM).await;
                    self.details = Instant::now();
                    false
                }
            };
            match self.look(sample).await {
                Ok(()) => self.down = None,
                Err(error) => self.fail(error).await,
            }
        }
    }

    async fn look(&mut self, sample: bool) -> Result<(), ClientError> {
        let instances: Vec<InstanceView> = self.ask(&Request::List).await?;
        let there: Vec<String> = instances.iter().map(|view| view.id.to_string()).collect();
        self.tell(Update::Listed { instances, sample });
        let now = Instant::now();
        if self.poke.info.take() || now >= self.info {
            let info: Info = self.ask(&Request::Info).await?;
            self.tell(Update::Info(Box::new(info)));
            self.info = now + SELDOM;
        }
        if now >= self.details {
            let select = self.selection.borrow_and_update().clone();
            // One that has gone meanwhile would fail the whole request.
            let select: Selectors = select.into_iter().filter(|id| there.contains(id)).collect();
            let details: Vec<InstanceDetail> = match select.is_empty() {
                true => Vec::new(),
                false => self.ask(&Request::Describe(select.into())).await.or_else(gone)?,
            };
            self.tell(Update::Details(details));
            self.details = now + DETAILS;
        }
        Ok(())
    }

    async fn ask<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T, ClientError> {
        let asked = async {
            let mut client = match self.client.take() {
                Some(client) => client,
                None => Client::connect(&self.home).await?,
            };
            let answer = client.call(request).await?;
            self.client = Some(client);
            Ok(answer)
        };
        let late = || ClientError::Lost(format!("no response within {} s", PATIENCE.as_secs()));
        tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| Err(late()))
    }

    async fn fail(&mut self, error: ClientError) {
        let why = match &error {
            ClientError::NotRunning { .. } => "the daemon is not running".to_owned(),
            ClientError::Lost(_) => "the daemon is not responding".to_owned(),
            other => other.to_string(),
        };
        self.tell(Update::Down(why));
        let since = *self.down.get_or_insert_with(Instant::now);
        let died = matches!(error, ClientError::NotRunning { .. }) && self.home.has_state();
        if died && since.elapsed() > DEAD {
            // Why not, if it cannot be started, is told by the next look.
            self.client = start_daemon::connect_or_start(&self.home).await.ok().map(|(client, _)| client);
        }
    }

    fn tell(&self, news: Update) {
        let _ = self.say.send(news); // the screen may be closed
    }
}

/// An instance that went between two requests is not worth a word.
fn gone(error: ClientError) -> Result<Vec<InstanceDetail>, ClientError> {
    match error {
        ClientError::Refused(_) => Ok(Vec::new()),
        error => Err(error),
    }
}
