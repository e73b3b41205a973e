//! The log lines of the selection, read by a thread into a ring of the latest lines: a flood of lines fills the ring
//! and does not delay the handling of keys.

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

/// Delay before the log of a new selection is read, for fast scrolling through the tree.
const DEBOUNCE: Duration = Duration::from_millis(80);
/// Delay between two attempts to connect.
const RETRY_DELAY: Duration = Duration::from_millis(500);
/// Number of lines read first for a single instance.
const BACKLOG_LINES: usize = 500;

/// The instances whose lines are read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LogSelection {
    /// Incremented with each change, to detect lines of the previous selection.
    pub(super) number: u64,
    pub(super) select: Selectors,
    /// Number of instances.
    pub(super) instances: usize,
}

/// The latest lines of a selection.
#[derive(Default)]
struct LineRing {
    /// Number of the selection.
    number: u64,
    lines: VecDeque<Bytes>,
    /// Number of lines that were dropped because the ring was full.
    dropped: u64,
}

/// The interface for the event loop.
pub(super) struct LogFeed {
    ring: Arc<Mutex<LineRing>>,
    changed: Arc<Notify>,
    selection: watch::Sender<LogSelection>,
}

impl LogFeed {
    /// Starts the thread, without a selection.
    pub(super) fn start(home: Home) -> io::Result<Self> {
        let (ring, changed) = (Arc::<Mutex<LineRing>>::default(), Arc::<Notify>::default());
        let (selection, selected) = watch::channel(LogSelection::default());
        let feed = Self { ring: ring.clone(), changed: changed.clone(), selection };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let run = move || runtime.block_on(read(home, selected, FeedState { ring, changed }));
        std::thread::Builder::new().name("log lines".into()).spawn(run)?;
        Ok(feed)
    }

    /// Changes the selection.
    pub(super) fn select(&self, selection: LogSelection) {
        self.selection.send_replace(selection);
    }

    /// Resolves when there may be new lines.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Takes the new lines, and the number of lines dropped before them.
    pub(super) fn drain(&self) -> (Vec<LogItem>, u64) {
        let (lines, dropped) = {
            let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
            if ring.number != self.selection.borrow().number {
                return (Vec::new(), 0);
            }
            (std::mem::take(&mut ring.lines), std::mem::take(&mut ring.dropped))
        };
        // Unknown items of a newer daemon are skipped.
        (lines.iter().filter_map(|line| serde_json::from_slice(line).ok()).collect(), dropped)
    }
}

/// The state shared with the thread.
struct FeedState {
    ring: Arc<Mutex<LineRing>>,
    changed: Arc<Notify>,
}

impl FeedState {
    fn reset(&self, number: u64) {
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
        self.changed.notify_one();
    }
}

/// Reads lines until the feed is dropped.
async fn read(home: Home, mut selected: watch::Receiver<LogSelection>, state: FeedState) {
    let mut stream = None;
    loop {
        let selection = selected.borrow_and_update().clone();
        let current_stream = stream.get_or_insert_with(|| LogStream::new(query(&selection)));
        if current_stream.known_files() == 0 {
            state.reset(selection.number);
        }
        tokio::select! {
            changed = selected.changed() => {
                if changed.is_err() {
                    return;
                }
                tokio::time::sleep(DEBOUNCE).await;
                stream = None;
            }
            // After any end of the stream: the daemon exited or will respond again.
            _ = follow(&home, current_stream, &state), if !selection.select.is_empty() => {
                tokio::time::sleep(RETRY_DELAY).await;
            }
        }
    }
}

fn query(selection: &LogSelection) -> LogQuery {
    let lines = (2 * BACKLOG_LINES / selection.instances.max(1)).clamp(1, BACKLOG_LINES);
    LogQuery { select: selection.select.clone(), lines, follow: true, ..LogQuery::default() }
}

async fn follow(home: &Home, stream: &mut LogStream, state: &FeedState) -> Result<(), ClientError> {
    let mut client = Client::connect(home).await?;
    stream.open(&mut client).await?;
    while let Some(lines) = stream.next_batch().await {
        state.push(lines?.into_iter());
    }
    Ok(())
}
