//! The log lines of the selection, read on a thread of their own into a ring of the latest: an app that
//! floods its log fills the ring and never keeps a key waiting.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::sync::{Notify, watch};

use super::pane::SCROLLBACK;
use crate::ipc::client::{Client, ClientError};
use crate::ipc::message::{LogItem, LogQuery, Request, Selectors};
use crate::paths::Home;

/// Who goes through the tree quickly does not want every app's log.
const SETTLED: Duration = Duration::from_millis(80);
/// Between two tries to reach a daemon.
const AGAIN: Duration = Duration::from_millis(500);
/// Last lines of a stream to begin with, of an instance alone.
const LINES: usize = 500;

/// Whose lines are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Grows with each change, so that lines of the one before are known as such.
    pub(super) number: u64,
    /// Empty: nobody's.
    pub(super) select: Selectors,
    /// How many instances that are.
    pub(super) instances: usize,
}

/// The latest lines.
#[derive(Default)]
struct Ring {
    /// Whose.
    number: u64,
    lines: VecDeque<Bytes>,
    /// How many were pushed out before anyone looked.
    passed: u64,
}

/// The reader's end.
pub(super) struct LogFeed {
    ring: Arc<Mutex<Ring>>,
    news: Arc<Notify>,
    wanted: watch::Sender<Wanted>,
}

impl LogFeed {
    /// Begins, with nobody's lines.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(super) fn begin(home: Home) -> io::Result<Self> {
        let (ring, news) = (Arc::<Mutex<Ring>>::default(), Arc::<Notify>::default());
        let (wanted, asked) = watch::channel(Wanted::default());
        let feed = Self { ring: ring.clone(), news: news.clone(), wanted };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let run = move || runtime.block_on(read(home, asked, Shared { ring, news }));
        std::thread::Builder::new().name("log lines".into()).spawn(run)?;
        Ok(feed)
    }

    /// Changes whose lines are read.
    pub(super) fn want(&self, wanted: Wanted) {
        self.wanted.send_replace(wanted);
    }

    /// Resolves when there may be lines to take.
    pub(super) async fn news(&self) {
        self.news.notified().await;
    }

    /// Takes the lines that came, and how many were pushed out before them.
    pub(super) fn take(&self) -> (Vec<LogItem>, u64) {
        let (lines, passed) = {
            let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
            if ring.number != self.wanted.borrow().number {
                return (Vec::new(), 0);
            }
            (std::mem::take(&mut ring.lines), std::mem::take(&mut ring.passed))
        };
        // What a newer daemon may say besides is not ours to show.
        (lines.iter().filter_map(|line| serde_json::from_slice(line).ok()).collect(), passed)
    }
}

/// The thread's end.
struct Shared {
    ring: Arc<Mutex<Ring>>,
    news: Arc<Notify>,
}

impl Shared {
    fn begin(&self, number: u64) {
        *self.ring.lock().unwrap_or_else(PoisonError::into_inner) = Ring { number, ..Ring::default() };
    }

    fn push(&self, line: Bytes) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        if ring.lines.len() == SCROLLBACK {
            ring.lines.pop_front();
            ring.passed += 1;
        }
        ring.lines.push_back(line);
        drop(ring);
        self.news.notify_one();
    }
}

/// Until nobody wants lines any more.
async fn read(home: Home, mut wanted: watch::Receiver<Wanted>, shared: Shared) {
    let mut since = None;
    loop {
        let now = wanted.borrow_and_update().clone();
        if since.is_none() {
            shared.begin(now.number);
        }
        tokio::select! {
            changed = wanted.changed() => {
                if changed.is_err() {
                    return;
                }
                tokio::time::sleep(SETTLED).await;
                since = None;
            }
            _ = follow(&home, &now, since, &shared), if !now.select.is_empty() => {
                // The daemon went. What its successor reads on from here was not shown yet.
                since = since.or(Some(millis()));
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

async fn follow(
    home: &Home,
    wanted: &Wanted,
    since: Option<u64>,
    shared: &Shared,
) -> Result<(), ClientError> {
    let lines = match since {
        Some(_) => usize::MAX,
        None => (2 * LINES / wanted.instances.max(1)).clamp(1, LINES),
    };
    let query = LogQuery { select: wanted.select.clone(), lines, follow: true, since, ..LogQuery::default() };
    let mut client = Client::connect(home).await?;
    let mut stream = client.stream(&Request::Logs(query)).await?;
    while let Some(line) = stream.next().await {
        shared.push(line?);
    }
    Ok(())
}

fn millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
