//! Followers: notifications that log files have grown, and queues for lines that no file contains.
//!
//! A queue is bounded: a slow follower misses lines and gets their number, and never delays the capture of
//! output.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::logs::capture::format::LineSource;
use crate::logs::item::{LogItem, OutputStream};

/// Maximum number of queued items of a follower.
const MAX_ITEMS: usize = 4096;
/// Maximum number of queued bytes of a follower. A single line may be longer.
const MAX_BYTES: usize = 1024 * 1024;

/// Wakes readers of log files when there is more to read.
#[derive(Debug, Default)]
pub struct LogNotify {
    changed: Notify,
    attach_count: AtomicU64,
}

impl LogNotify {
    /// Resolves when output is written after this call.
    pub fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// Number of runs attached so far. When it grows, there may be new files to read.
    pub fn attach_count(&self) -> u64 {
        self.attach_count.load(Ordering::Acquire)
    }

    /// Cheap if nothing waits: called for each write.
    pub(super) fn notify(&self) {
        self.changed.notify_waiters();
    }

    pub(super) fn notify_attached(&self) {
        self.attach_count.fetch_add(1, Ordering::Release);
        self.notify();
    }
}

/// Lines that a follower gets.
#[derive(Clone, Debug)]
pub struct FollowFilter {
    /// Instances.
    pub target: FollowTarget,
    /// Include standard output.
    pub out: bool,
    /// Include standard error.
    pub err: bool,
}

/// Instances to follow.
#[derive(Clone, Debug)]
pub enum FollowTarget {
    /// All instances, including those added later.
    All,
    /// Instances with one of these ids, and all instances of apps with one of these names, including those
    /// added later.
    Selected {
        /// Instance ids.
        ids: BTreeSet<u32>,
        /// App names.
        names: BTreeSet<String>,
    },
}

impl FollowFilter {
    /// Whether the filter includes a stream of an instance.
    pub fn matches(&self, id: u32, name: &str, stream: OutputStream) -> bool {
        let includes_stream = match stream {
            OutputStream::Out => self.out,
            OutputStream::Err => self.err,
        };
        includes_stream
            && match &self.target {
                FollowTarget::All => true,
                FollowTarget::Selected { ids, names } => ids.contains(&id) || names.contains(name),
            }
    }
}

/// Receives lines. Dropping it ends the subscription.
#[derive(Debug)]
pub struct Follower(Arc<FollowerQueue>);

impl Follower {
    /// The next line, or the number of lines missed at this point because the queue was full. `None` once the
    /// log workers have ended. Cancel safe.
    pub async fn next(&mut self) -> Option<LogItem> {
        loop {
            if let Some(item) = self.try_next() {
                return Some(item);
            }
            if self.0.closed.load(Ordering::Acquire) {
                // An item may have been queued just before the end.
                return self.try_next();
            }
            // If an item was queued since `try_next`, there is a permit, and this returns at once.
            self.0.changed.notified().await;
        }
    }

    /// The next item, without waiting.
    pub fn try_next(&mut self) -> Option<LogItem> {
        let mut queued = self.0.queued();
        let item = queued.items.pop_front()?;
        queued.bytes -= size(&item);
        Some(item)
    }
}

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
        // A panic cannot leave the queue inconsistent.
        self.queued.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl QueuedItems {
    /// Adds a line, or counts it as missed if the queue is full. After a gap, lines are added again once half
    /// of the queue is free: a few long gaps are better than many short ones.
    fn push(&mut self, bytes: usize, line: impl FnOnce() -> LogItem) {
        let is_in_gap = matches!(self.items.back(), Some(LogItem::Missed { .. }));
        let (max_items, max_bytes) =
            if is_in_gap { (MAX_ITEMS / 2, MAX_BYTES / 2) } else { (MAX_ITEMS, MAX_BYTES) };
        let is_full = self.items.len() >= max_items || (self.bytes > 0 && self.bytes + bytes > max_bytes);
        match self.items.back_mut() {
            _ if !is_full => {
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

/// Sending end of a [`Follower`].
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

pub(super) fn subscribe(filter: FollowFilter) -> (Subscription, Follower) {
    let queue = Arc::new(FollowerQueue::default());
    (Subscription { filter, queue: Arc::clone(&queue) }, Follower(queue))
}

/// All subscriptions.
#[derive(Debug, Default)]
pub(super) struct Subscribers(Vec<Subscription>);

impl Subscribers {
    pub(super) fn add(&mut self, subscription: Subscription) {
        self.0.push(subscription);
    }

    /// Ends all subscriptions.
    pub(super) fn close(&mut self) {
        self.0.clear();
    }

    /// Whether a follower gets the lines of this stream.
    pub(super) fn has_matching(&self, source: &LineSource, stream: OutputStream) -> bool {
        self.0.iter().any(|subscription| subscription.filter.matches(source.id, &source.name, stream))
    }

    /// Queues lines read at `at` (milliseconds since the epoch) for all matching followers; removes followers
    /// that are gone.
    pub(super) fn publish(&mut self, source: &LineSource, stream: OutputStream, at: i64, lines: &[String]) {
        if lines.is_empty() || self.0.is_empty() {
            return;
        }
        self.0.retain(|subscription| Arc::strong_count(&subscription.queue) > 1);
        for subscription in &self.0 {
            if !subscription.filter.matches(source.id, &source.name, stream) {
                continue;
            }
            let mut queued = subscription.queue.queued();
            for line in lines {
                queued.push(line.len(), || LogItem::Line {
                    id: source.id,
                    name: source.name.clone(),
                    stream,
                    at: u64::try_from(at).ok(),
                    line: line.clone(),
                });
            }
            drop(queued);
            subscription.queue.changed.notify_one();
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

    fn source() -> LineSource {
        LineSource { id: 3, name: "api".into(), run: 1, format: LineFormat::Raw }
    }

    fn drain(follower: &mut Follower) -> (u64, u64) {
        let (mut lines, mut missed) = (0, 0);
        while let Some(item) = follower.try_next() {
            match item {
                LogItem::Line { line, .. } => {
                    // Each line is its own number, so that the length of each gap is checked.
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
    fn filter_matches_id_name_and_stream() {
        let filter = FollowFilter {
            target: FollowTarget::Selected { ids: [1].into(), names: ["api".to_owned()].into() },
            out: true,
            err: false,
        };
        assert!(filter.matches(1, "other", OutputStream::Out));
        assert!(filter.matches(9, "api", OutputStream::Out));
        assert!(!filter.matches(2, "other", OutputStream::Out));
        assert!(!filter.matches(1, "api", OutputStream::Err));
        assert!(all().matches(2, "x", OutputStream::Err));
    }

    #[test]
    fn gaps_report_missed_lines() {
        for (count, width) in [(10_000_u64, 1), (3_000, 1000)] {
            let (subscription, mut follower) = subscribe(all());
            let mut subscribers = Subscribers::default();
            subscribers.add(subscription);
            let lines: Vec<String> = (0..count).map(|n| format!("{n:0width$}")).collect();
            subscribers.publish(&source(), OutputStream::Out, 0, &lines);
            let (got, missed) = drain(&mut follower);
            assert!(missed > 0 && got > 0);
            assert_eq!(got + missed, count);
        }
    }

    #[test]
    fn empty_queue_accepts_line_of_any_length() {
        let (subscription, mut follower) = subscribe(all());
        let mut subscribers = Subscribers::default();
        subscribers.add(subscription);
        subscribers.publish(&source(), OutputStream::Out, 0, &["x".repeat(2 * MAX_BYTES), "y".into()]);
        assert!(matches!(follower.try_next(), Some(LogItem::Line { .. })));
        assert_eq!(follower.try_next(), Some(LogItem::Missed { lines: 1 }));
    }

    #[tokio::test]
    async fn follower_ends_after_last_line() {
        let (subscription, mut follower) = subscribe(all());
        let mut subscribers = Subscribers::default();
        subscribers.add(subscription);
        subscribers.publish(&source(), OutputStream::Err, 5, &["bye".into()]);
        drop(subscribers);
        assert!(matches!(follower.next().await, Some(LogItem::Line { at: Some(5), .. })));
        assert_eq!(follower.next().await, None);
    }

    #[test]
    fn dropped_follower_is_removed() {
        let (subscription, follower) = subscribe(all());
        let mut subscribers = Subscribers::default();
        subscribers.add(subscription);
        drop(follower);
        subscribers.publish(&source(), OutputStream::Out, 0, &["x".into()]);
        assert!(subscribers.0.is_empty());
    }
}
