//! What a command waits for, told to the person once it takes longer than half a second: in place on a
//! terminal, in plain lines elsewhere. Always on standard error.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::{Instant, MissedTickBehavior};

use super::render::report::in_transition;
use crate::ipc::client::{Client, ClientError, LineStream};
use crate::ipc::message::{EventKind, EventView, InstanceView, Request, Status};
use crate::paths::Home;

/// A request that takes longer than this is announced.
const SHOW_AFTER: Duration = Duration::from_millis(500);
/// Between two looks of the line on a terminal.
const TICK: Duration = Duration::from_millis(125);
/// Between two lines elsewhere: the log of a build is to be read afterwards.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Awaits `work`, and tells after a while that it waits for `what`, and which instances are on their way.
pub(super) async fn wait<T>(home: &Home, what: &str, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    tokio::select! {
        biased;
        done = &mut work => return done,
        () = tokio::time::sleep(SHOW_AFTER) => {}
    }
    let mut told = ProgressLine::new(what);
    let mut tick = tokio::time::interval(if told.bar.is_some() { TICK } else { LINE_INTERVAL });
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    // Where no daemon answers, as none may yet, the time alone is told.
    let mut moving = tokio::select! {
        biased;
        done = &mut work => return done,
        moving = InTransition::fetch(home) => moving.unwrap_or_default(),
    };
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = moving.next_change() => {}
            _ = tick.tick() => told.refresh(&moving.0),
        }
    }
}

/// Instances that are on their way somewhere: their names and states, and where the news come from.
#[derive(Default)]
struct InTransition(BTreeMap<u32, (String, Status)>, Option<LineStream>);

impl InTransition {
    async fn fetch(home: &Home) -> Result<Self, ClientError> {
        let mut client = Client::connect(home).await?;
        // In this order, so that nothing is missed between the two.
        let events = Client::connect(home).await?.stream(&Request::Events).await?;
        let there: Vec<InstanceView> = client.call(&Request::List).await?;
        let mut moving = Self(BTreeMap::new(), Some(events));
        for view in there {
            moving.update(view.id, view.name, view.status);
        }
        Ok(moving)
    }

    fn update(&mut self, id: u32, name: String, status: Status) {
        match status {
            Status::Launching | Status::Stopping => drop(self.0.insert(id, (name, status))),
            Status::Online | Status::Stopped | Status::Waiting | Status::Errored => drop(self.0.remove(&id)),
        }
    }

    /// Resolves with the next change; never, where no news come any more.
    async fn next_change(&mut self) {
        let Some(lines) = &mut self.1 else { return std::future::pending().await };
        match lines.next().await {
            Some(Ok(line)) => {
                if let Ok(EventView { id, name, status, event, .. }) = serde_json::from_slice(&line) {
                    let status = if event == EventKind::Deleted { Status::Stopped } else { status };
                    self.update(id, name, status);
                }
            }
            Some(Err(_)) | None => self.1 = None,
        }
    }
}

/// How it is told.
struct ProgressLine<'a> {
    what: &'a str,
    begin: Instant,
    /// On a terminal.
    bar: Option<ProgressBar>,
    /// The line before, elsewhere: nothing is said twice.
    last: String,
}

impl<'a> ProgressLine<'a> {
    fn new(what: &'a str) -> Self {
        let begin = Instant::now() - SHOW_AFTER;
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            let style = ProgressStyle::with_template("{spinner} {wide_msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar
        });
        Self { what, begin, bar, last: String::new() }
    }

    fn refresh(&mut self, moving: &BTreeMap<u32, (String, Status)>) {
        let on_their_way = in_transition(moving);
        let what = self.what;
        if let Some(bar) = &self.bar {
            let seconds = self.begin.elapsed().as_secs();
            bar.set_message(format!("{what}… {seconds} s{on_their_way}"));
            return bar.tick();
        }
        let line = format!("{what}…{on_their_way}");
        if line != self.last {
            let _ = writeln!(io::stderr().lock(), "{line}"); // as all notes
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
