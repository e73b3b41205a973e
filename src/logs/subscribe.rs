//! Followers: told that files have grown, and handed the lines that no file has, through queues
//! that never hold up the reading of pipes.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::logs::capture::format::LineSource;
use crate::logs::item::{LogItem, OutputStream};

/// The most lines that wait for a follower.
const MAX_ITEMS: usize = 4096;
/// The most bytes of lines that wait for a follower. One line may be longer.
const MAX_BYTES: usize = 1024 * 1024;

/// Tells all who read log files that there is more to read.
#[derive(Debug, Default)]
pub struct LogNotify {
    changed: Notify,
    attach_count: AtomicU64,
}

impl LogNotify {
    /// Resolves when something was written after this call.
    pub fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// Grows whenever the output of a run is taken up: there may be files that are not read yet.
    pub fn attach_count(&self) -> u64 {
        self.attach_count.load(Ordering::Acquire)
    }

    /// Costs next to nothing while nobody waits.
    pub(super) fn notify(&self) {
        self.changed.notify_waiters();
    }

    pub(super) fn notify_attached(&self) {
        self.attach_count.fetch_add(1, Ordering::Release);
        self.notify();
    }
}

/// Which lines a follower gets.
#[derive(Clone, Debug)]
pub struct FollowFilter {
    /// Of which instances.
    pub target: FollowTarget,
    /// Those on standard output.
    pub out: bool,
    /// Those on standard error.
    pub err: bool,
}

/// Which instances are followed.
#[derive(Clone, Debug)]
pub enum FollowTarget {
    /// All, later ones too.
    All,
    /// Those with one of these ids, or of an app with one of these names: instances that are added
    /// to such an app later are followed too.
    Selected {
        /// Ids of instances.
        ids: BTreeSet<u32>,
        /// Names of apps.
        names: BTreeSet<String>,
    },
}

impl FollowFilter {
    /// Whether it lets a stream of an instance pass.
    pub fn matches(&self, id: u32, name: &str, stream: OutputStream) -> bool {
        let wanted = match stream {
            OutputStream::Out => self.out,
            OutputStream::Err => self.err,
        };
        wanted
            && match &self.target {
                FollowTarget::All => true,
                FollowTarget::Selected { ids, names } => ids.contains(&id) || names.contains(name),
            }
    }
}

/// The receiving end. Dropping it ends the following.
#[derive(Debug)]
pub struct Follower(Arc<FollowerQueue>);

impl Follower {
    /// The next line, or how many are missing here because they were not fetched in time. `None` once
    /// the log thread has ended. Cancel safe.
    pub async fn next(&mut self) -> Option<LogItem> {
        loop {
            if let Some(item) = self.try_next() {
                return Some(item);
            }
            if self.0.closed.load(Ordering::Acquire) {
                // What came just before the end.
                return self.try_next();
            }
            // What comes between the look above and this wait leaves a permit.
            self.0.changed.notified().await;
        }
    }

    /// The next item if there is one now.
    pub fn try_next(&mut self) -> Option<LogItem> {
        let mut waiting = self.0.queued();
        let item = waiting.items.pop_front()?;
        waiting.bytes -= size(&item);
        Some(item)
    }
}

/// Between the log thread and one follower.
#[derive(Debug, Default)]
struct FollowerQueue {
    queued: Mutex<QueuedItems>,
    changed: Notify,
    closed: AtomicBool,
}

#[derive(Debug, Default)]
struct QueuedItems {
    items: VecDeque<LogItem>,
    bytes: usize,
}

impl FollowerQueue {
    fn queued(&self) -> MutexGuard<'_, QueuedItems> {
        // Nothing under this lock can be left half done.
        self.queued.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl QueuedItems {
    /// Adds a line if there is room, else counts it as missed at this very place. After a gap lines
    /// are taken again only once half the queue is free: a few long gaps are better than many short.
    fn push(&mut self, bytes: usize, line: impl FnOnce() -> LogItem) {
        let gap = matches!(self.items.back(), Some(LogItem::Missed { .. }));
        let (items, most) = if gap { (MAX_ITEMS / 2, MAX_BYTES / 2) } else { (MAX_ITEMS, MAX_BYTES) };
        let full = self.items.len() >= items || (self.bytes > 0 && self.bytes + bytes > most);
        match self.items.back_mut() {
            _ if !full => {
                self.bytes += bytes;
                self.items.push_back(line());
            }
            Some(LogItem::Missed { lines }) => *lines += 1,
            _ => self.items.push_back(LogItem::Missed { lines: 1 }),
        }
    }
}

fn size(item: &LogItem) -> usize {
    match item {
        LogItem::Line { line, .. } => line.len(),
        LogItem::Missed { .. } | LogItem::Positions { .. } => 0,
    }
}

/// The sending end of a follower.
#[derive(Debug)]
pub(super) struct Subscription {
    filter: FollowFilter,
    queue: Arc<FollowerQueue>,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.queue.closed.store(true, Ordering::Release);
        self.queue.changed.notify_one();
    }
}

/// Both ends of a new following.
pub(super) fn subscribe(filter: FollowFilter) -> (Subscription, Follower) {
    let queue = Arc::new(FollowerQueue::default());
    (Subscription { filter, queue: Arc::clone(&queue) }, Follower(queue))
}

/// All followers.
#[derive(Debug, Default)]
pub(super) struct Subscribers(Vec<Subscription>);

impl Subscribers {
    /// Adds one.
    pub(super) fn add(&mut self, feed: Subscription) {
        self.0.push(feed);
    }

    /// Nothing comes any more.
    pub(super) fn close(&mut self) {
        self.0.clear();
    }

    /// Whether anyone listens to this stream.
    pub(super) fn has_matching(&self, origin: &LineSource, stream: OutputStream) -> bool {
        self.0.iter().any(|feed| feed.filter.matches(origin.id, &origin.name, stream))
    }

    /// Hands lines read at `at` (milliseconds since the epoch) to all who listen; forgets who left.
    pub(super) fn publish(&mut self, origin: &LineSource, stream: OutputStream, at: i64, lines: &[String]) {
        if lines.is_empty() || self.0.is_empty() {
            return;
        }
        self.0.retain(|feed| Arc::strong_count(&feed.queue) > 1);
        for feed in self.0.iter().filter(|feed| feed.filter.matches(origin.id, &origin.name, stream)) {
            let mut waiting = feed.queue.queued();
            for line in lines {
                waiting.push(line.len(), || LogItem::Line {
                    id: origin.id,
                    name: origin.name.clone(),
                    stream,
                    at: u64::try_from(at).ok(),
                    line: line.clone(),
                });
            }
            drop(waiting);
            feed.queue.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::logs::capture::format::LineFormat;
    use crate::logs::subscribe::*;

    fn all() -> FollowFilter {
        FollowFilter { target: FollowTarget::All, out: true, err: true }
    }

    fn origin() -> LineSource {
        LineSource { id: 3, name: "api".into(), run: 1, format: LineFormat::Raw }
    }

    fn drain(follower: &mut Follower) -> (u64, u64) {
        let (mut lines, mut missed) = (0, 0);
        while let Some(item) = follower.try_next() {
            match item {
                LogItem::Line { line, .. } => {
                    // Each line is its own number: a gap has to be exactly as long as it says.
                    assert_eq!(
                        line.trim_start_matches('0'),
                        (lines + missed).to_string().trim_start_matches('0')
                    );
                    lines += 1;
                }
                LogItem::Missed { lines } => missed += lines,
                LogItem::Positions { .. } => {}
            }
        }
        (lines, missed)
    }

    #[test]
    fn filters() {
        let these = FollowFilter {
            target: FollowTarget::Selected { ids: [1].into(), names: ["api".to_owned()].into() },
            out: true,
            err: false,
        };
        assert!(these.matches(1, "other", OutputStream::Out));
        assert!(these.matches(9, "api", OutputStream::Out));
        assert!(!these.matches(2, "other", OutputStream::Out));
        assert!(!these.matches(1, "api", OutputStream::Err));
        assert!(all().matches(2, "x", OutputStream::Err));
    }

    #[test]
    fn gaps_stand_where_they_are_and_add_up() {
        for (count, width) in [(10_000_u64, 1), (3_000, 1000)] {
            let (feed, mut follower) = subscribe(all());
            let mut hub = Subscribers::default();
            hub.add(feed);
            let lines: Vec<String> = (0..count).map(|n| format!("{n:0width$}")).collect();
            hub.publish(&origin(), OutputStream::Out, 0, &lines);
            let (got, missed) = drain(&mut follower);
            assert!(missed > 0 && got > 0);
            assert_eq!(got + missed, count);
        }
    }

    #[test]
    fn a_line_longer_than_the_queue_passes_alone() {
        let (feed, mut follower) = subscribe(all());
        let mut hub = Subscribers::default();
        hub.add(feed);
        hub.publish(&origin(), OutputStream::Out, 0, &["x".repeat(2 * MAX_BYTES), "y".into()]);
        assert!(matches!(follower.try_next(), Some(LogItem::Line { .. })));
        assert_eq!(follower.try_next(), Some(LogItem::Missed { lines: 1 }));
    }

    #[tokio::test]
    async fn ends_with_the_hub_after_the_last_line() {
        let (feed, mut follower) = subscribe(all());
        let mut hub = Subscribers::default();
        hub.add(feed);
        hub.publish(&origin(), OutputStream::Err, 5, &["bye".into()]);
        drop(hub);
        assert!(matches!(follower.next().await, Some(LogItem::Line { at: Some(5), .. })));
        assert_eq!(follower.next().await, None);
    }

    #[test]
    fn a_follower_that_left_is_forgotten() {
        let (feed, follower) = subscribe(all());
        let mut hub = Subscribers::default();
        hub.add(feed);
        drop(follower);
        hub.publish(&origin(), OutputStream::Out, 0, &["x".into()]);
        assert!(hub.0.is_empty());
    }
}
