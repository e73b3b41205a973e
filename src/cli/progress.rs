//! Progress of operations that take longer than half a second, on standard error: a line that is updated in place on
//! a terminal, plain lines elsewhere.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::{Instant, MissedTickBehavior};

use super::render::report::in_transition;
use crate::ipc::client::{Client, ClientError, LineStream};
use crate::ipc::message::{DisplayStatus, EventKind, EventView, InstanceView, Request};
use crate::paths::Home;

/// Operations that take longer than this show progress.
const SHOW_AFTER: Duration = Duration::from_millis(500);
/// Interval between updates on a terminal.
const TICK: Duration = Duration::from_millis(125);
/// Minimum interval between lines elsewhere, such as in the log of a build.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Awaits `work`. After a while, shows `description` and the instances in transition.
pub(super) async fn wait<T>(home: &Home, description: &str, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    tokio::select! {
        biased;
        done = &mut work => return done,
        () = tokio::time::sleep(SHOW_AFTER) => {}
    }
    let mut line = ProgressLine::new(description);
    let mut tick = tokio::time::interval(if line.bar.is_some() { TICK } else { LINE_INTERVAL });
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    // Without a daemon, which may be starting, only the elapsed time is shown.
    let mut instances = tokio::select! {
        biased;
        done = &mut work => return done,
        instances = InTransition::fetch(home) => instances.unwrap_or_default(),
    };
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = instances.next_change() => {}
            _ = tick.tick() => line.refresh(&instances.0),
        }
    }
}

/// Names and statuses of the instances in transition, and the event stream that updates them.
#[derive(Default)]
struct InTransition(BTreeMap<u32, (String, DisplayStatus)>, Option<LineStream>);

impl InTransition {
    async fn fetch(home: &Home) -> Result<Self, ClientError> {
        let mut client = Client::connect(home).await?;
        // In this order, so that no change between the two is missed.
        let events = Client::connect(home).await?.stream(&Request::Events).await?;
        let list: Vec<InstanceView> = client.call(&Request::List).await?;
        let mut instances = Self(BTreeMap::new(), Some(events));
        for view in list {
            instances.update(view.id, view.name, view.status);
        }
        Ok(instances)
    }

    fn update(&mut self, id: u32, name: String, status: DisplayStatus) {
        match status {
            DisplayStatus::Launching | DisplayStatus::Stopping => drop(self.0.insert(id, (name, status))),
            DisplayStatus::Online
            | DisplayStatus::Stopped
            | DisplayStatus::Waiting
            | DisplayStatus::Errored
            | DisplayStatus::Completed
            | DisplayStatus::Failed
            | DisplayStatus::Scheduled => drop(self.0.remove(&id)),
        }
    }

    /// Resolves with the next change; never, after the event stream has ended.
    async fn next_change(&mut self) {
        let Some(lines) = &mut self.1 else { return std::future::pending().await };
        match lines.next().await {
            Some(Ok(line)) => {
                if let Ok(EventView { id, name, status, event, .. }) = serde_json::from_slice(&line) {
                    let status = if event == EventKind::Deleted { DisplayStatus::Stopped } else { status };
                    self.update(id, name, status);
                }
            }
            Some(Err(_)) | None => self.1 = None,
        }
    }
}

/// The output.
struct ProgressLine<'a> {
    description: &'a str,
    start: Instant,
    /// `None` if standard error is not a terminal.
    bar: Option<ProgressBar>,
    /// The last line without a terminal, so that no line is repeated.
    last: String,
}

impl<'a> ProgressLine<'a> {
    fn new(description: &'a str) -> Self {
        let start = Instant::now() - SHOW_AFTER;
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            let style = ProgressStyle::with_template("{spinner} {wide_msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar
        });
        Self { description, start, bar, last: String::new() }
    }

    fn refresh(&mut self, instances: &BTreeMap<u32, (String, DisplayStatus)>) {
        let transition = in_transition(instances);
        let description = self.description;
        if let Some(bar) = &self.bar {
            let seconds = self.start.elapsed().as_secs();
            bar.set_message(format!("{description}… {seconds} s{transition}"));
            return bar.tick();
        }
        let line = format!("{description}…{transition}");
        if line != self.last {
            let _ = writeln!(io::stderr().lock(), "{line}"); // ignored, as for all notices
            self.last = line;
        }
    }
}

impl Drop for ProgressLine<'_> {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
