//! The log lines of the selection, read on a thread of their own into a ring of the latest: an app that
//! floods its log fills the ring and never keeps a key waiting.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, watch};

use super::pane::SCROLLBACK;
use crate::ipc::client::{Client, ClientError};
use crate::ipc::message::{LogItem, LogPlace, LogQuery, Request, Selectors};
use crate::paths::Home;

/// Who goes through the tree quickly does not want every app's log.
const SETTLED: Duration = Duration::from_millis(80);
/// Between two tries to reach a daemon.
const AGAIN: Duration = Duration::from_millis(500);
/// Last lines of a stream to begin with, of an instance alone.
const LINES: usize = 500;
/// How an element of the stream begins that is no line: most are not read until they are looked at.
const PLACES: &[u8] = b"{\"type\":\"places\"";

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

    fn push(&self, lines: impl Iterator<Item = Bytes>) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        for line in lines {
            if ring.lines.len() == SCROLLBACK {
                ring.lines.pop_front();
                ring.passed += 1;
            }
            ring.lines.push_back(line);
        }
        drop(ring);
        self.news.notify_one();
    }
}

/// How far each file was read: the next daemon goes on from there.
type Places = HashMap<PathBuf, LogPlace>;

/// Until nobody wants lines any more.
async fn read(home: Home, mut wanted: watch::Receiver<Wanted>, shared: Shared) {
    let mut places = Places::new();
    loop {
        let now = wanted.borrow_and_update().clone();
        if places.is_empty() {
            shared.begin(now.number);
        }
        tokio::select! {
            changed = wanted.changed() => {
                if changed.is_err() {
                    return;
                }
                tokio::time::sleep(SETTLED).await;
                places.clear();
            }
            // However it ended, the daemon went or will answer again.
            _ = follow(&home, &now, &mut places, &shared), if !now.select.is_empty() => {
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

/// Lines count once they are told as a whole: the others are told again by the next daemon.
async fn follow(
    home: &Home,
    wanted: &Wanted,
    places: &mut Places,
    shared: &Shared,
) -> Result<(), ClientError> {
    let query = LogQuery {
        select: wanted.select.clone(),
        lines: (2 * LINES / wanted.instances.max(1)).clamp(1, LINES),
        follow: true,
        places: Some(places.values().cloned().collect()),
        ..LogQuery::default()
    };
    let mut client = Client::connect(home).await?;
    let mut stream = client.stream(&Request::Logs(query)).await?;
    let mut lines = Vec::new();
    while let Some(line) = stream.next().await {
        let line = line?;
        if !line.starts_with(PLACES) {
            lines.push(line);
        } else if let Ok(LogItem::Places { places: told }) = serde_json::from_slice(&line) {
            shared.push(lines.drain(..));
            places.extend(told.into_iter().map(|place| (place.path.clone(), place)));
        }
    }
    Ok(())
}
