//! The log lines of the selection, read on a thread of their own into a ring of the latest: an app that
//! floods its log fills the ring and never keeps a key waiting.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, watch};

use crate::cli::monit::log_pane::SCROLLBACK;
use crate::ipc::client::{Client, ClientError};
use crate::ipc::log_stream::LogStream;
use crate::ipc::message::{LogItem, LogQuery, Selectors};
use crate::paths::Home;

/// Who goes through the tree quickly does not want every app's log.
const DEBOUNCE: Duration = Duration::from_millis(80);
/// Between two tries to reach a daemon.
const RETRY_DELAY: Duration = Duration::from_millis(500);
/// Last lines of a stream to begin with, of an instance alone.
const BACKLOG_LINES: usize = 500;

/// Whose lines are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LogSelection {
    /// Grows with each change, so that lines of the one before are known as such.
    pub(super) number: u64,
    /// Empty: nobody's.
    pub(super) select: Selectors,
    /// How many instances that are.
    pub(super) instances: usize,
}

/// The latest lines.
#[derive(Default)]
struct LineRing {
    /// Whose.
    number: u64,
    lines: VecDeque<Bytes>,
    /// How many were pushed out before anyone looked.
    dropped: u64,
}

/// The reader's end.
pub(super) struct LogFeed {
    ring: Arc<Mutex<LineRing>>,
    changed: Arc<Notify>,
    selection: watch::Sender<LogSelection>,
}

impl LogFeed {
    /// Begins, with nobody's lines.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(super) fn begin(home: Home) -> io::Result<Self> {
        let (ring, news) = (Arc::<Mutex<LineRing>>::default(), Arc::<Notify>::default());
        let (wanted, asked) = watch::channel(LogSelection::default());
        let feed = Self { ring: ring.clone(), changed: news.clone(), selection: wanted };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let run = move || runtime.block_on(read(home, asked, FeedState { ring, news }));
        std::thread::Builder::new().name("log lines".into()).spawn(run)?;
        Ok(feed)
    }

    /// Changes whose lines are read.
    pub(super) fn select(&self, wanted: LogSelection) {
        self.selection.send_replace(wanted);
    }

    /// Resolves when there may be lines to take.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Takes the lines that came, and how many were pushed out before them.
    pub(super) fn drain(&self) -> (Vec<LogItem>, u64) {
        let (lines, passed) = {
            let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
            if ring.number != self.selection.borrow().number {
                return (Vec::new(), 0);
            }
            (std::mem::take(&mut ring.lines), std::mem::take(&mut ring.dropped))
        };
        // What a newer daemon may say besides is not ours to show.
        (lines.iter().filter_map(|line| serde_json::from_slice(line).ok()).collect(), passed)
    }
}

/// The thread's end.
struct FeedState {
    ring: Arc<Mutex<LineRing>>,
    news: Arc<Notify>,
}

impl FeedState {
    fn begin(&self, number: u64) {
        *self.ring.lock().unwrap_or_else(PoisonError::into_inner) =
            LineRing { number, ..LineRing::default() };
    }

    fn push(&self, lines: impl Iterator<Item = Bytes>) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        for line in lines {
            if ring.lines.len() == SCROLLBACK {
                ring.lines.pop_front();
                ring.dropped += 1;
            }
            ring.lines.push_back(line);
        }
        drop(ring);
        self.news.notify_one();
    }
}

/// Until nobody wants lines any more.
async fn read(home: Home, mut wanted: watch::Receiver<LogSelection>, shared: FeedState) {
    let mut stream = None;
    loop {
        let now = wanted.borrow_and_update().clone();
        let stream_now = stream.get_or_insert_with(|| LogStream::new(query(&now)));
        if stream_now.known_files() == 0 {
            shared.begin(now.number);
        }
        tokio::select! {
            changed = wanted.changed() => {
                if changed.is_err() {
                    return;
                }
                tokio::time::sleep(DEBOUNCE).await;
                stream = None;
            }
            // However it ended, the daemon went or will answer again.
            _ = follow(&home, stream_now, &shared), if !now.select.is_empty() => {
                tokio::time::sleep(RETRY_DELAY).await;
            }
        }
    }
}

fn query(wanted: &LogSelection) -> LogQuery {
    let lines = (2 * BACKLOG_LINES / wanted.instances.max(1)).clamp(1, BACKLOG_LINES);
    LogQuery { select: wanted.select.clone(), lines, follow: true, ..LogQuery::default() }
}

async fn follow(home: &Home, stream: &mut LogStream, shared: &FeedState) -> Result<(), ClientError> {
    let mut client = Client::connect(home).await?;
    stream.open(&mut client).await?;
    while let Some(lines) = stream.next_batch().await {
        shared.push(lines?.into_iter());
    }
    Ok(())
}
