//! `monit`: the whole screen, for a person who leaves it open.
//!
//! `model` is all that is shown, as plain data; `keys` and the news of `feed` and `log_feed` change it;
//! `view` draws it. Here is the loop that joins them: a key is drawn at once, news at most so many times
//! a second, and nothing at all where nothing has changed.

mod commands;
mod feed;
mod history;
mod keys;
mod log_feed;
mod log_pane;
mod model;
mod mouse;
mod prompt;
#[cfg(test)]
mod tests;
mod text;
mod tree;
mod view;

use std::io::{self, IsTerminal};
use std::time::Duration;

use crossterm::event::Event;
use jiff::tz::TimeZone;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;
use tokio::time::Instant;

use self::feed::DataFeed;
use self::log_feed::{LogFeed, LogSelection};
use self::model::{ClickAreas, Model};
use self::tree::TreeSort;
use self::view::Theme;
use super::session::Session;
use crate::cli::error::Error;
use crate::cli::monit::commands::UiCommand;
use crate::cli::screen::{Screen, hangup};

/// News are drawn at most this often: more nobody can read.
const FRAME_INTERVAL: Duration = Duration::from_millis(66);
/// The selection is asked for in full if it has no more instances than this.
const DETAIL_LIMIT: usize = 32;

/// Shows the screen until the person leaves it.
///
/// # Errors
/// There is no terminal, or it cannot be used.
pub(super) async fn monit(session: &Session) -> Result<(), Error> {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err(Error::NoTerminal);
    }
    let failed = |error| Error::Io { context: "cannot use the terminal", error };
    let mut screen = Screen::open().map_err(failed)?;
    let look = Theme { color: session.style.color };
    let shown = LocalSet::new().run_until(run_screen(&mut screen, look, session)).await;
    drop(screen);
    match shown {
        // The terminal is gone, and with it who could read an error.
        Err(error) if hung_up(&error) => Ok(()),
        shown => shown.map_err(failed),
    }
}

fn hung_up(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe) || error.raw_os_error() == Some(libc::EIO)
}

/// Signals that end it, and the one that stops it for a while.
struct Signals {
    terminate: Signal,
    hangup: Signal,
    interrupt: Signal,
    quit: Signal,
    stop: Signal,
    resume: Signal,
    /// The terminal hung up, which only those hear by signal whose own it was. Whoever reads keys would be told of
    /// the end of the input again and again, and never end.
    gone: oneshot::Receiver<()>,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            stop: signal(SignalKind::from_raw(libc::SIGTSTP))?,
            resume: signal(SignalKind::from_raw(libc::SIGCONT))?,
            gone: hangup(io::stdin())?,
        })
    }

    async fn next(&mut self) -> UiCommand {
        tokio::select! {
            _ = self.terminate.recv() => UiCommand::Quit,
            _ = self.hangup.recv() => UiCommand::Quit,
            _ = self.interrupt.recv() => UiCommand::Quit,
            _ = self.quit.recv() => UiCommand::Quit,
            _ = self.stop.recv() => UiCommand::Suspend,
            _ = self.resume.recv() => UiCommand::Redraw,
            Ok(()) = &mut self.gone => UiCommand::Quit,
        }
    }
}

/// The loop.
async fn run_screen(screen: &mut Screen, look: Theme, session: &Session) -> io::Result<()> {
    let mut signals = Signals::listen()?;
    let mut input = spawn_input()?;
    let mut feed = DataFeed::begin(session.home.clone());
    let logs = LogFeed::begin(session.home.clone())?;
    let zone = TimeZone::system();
    let mut model = Model::default();
    model.changed = true;
    model.tree_options.sort = session.sort.map(|order| TreeSort::from(order.field())).unwrap_or_default();
    let mut followed = LogSelection::default();
    let mut next = Instant::now();
    loop {
        if model.changed && Instant::now() >= next {
            let mut areas = ClickAreas::default();
            screen.draw(|frame| areas = view::draw(&model, &look, &zone, frame))?;
            model.set_areas(areas);
            next = Instant::now() + FRAME_INTERVAL;
        }
        let wish = tokio::select! {
            biased;
            event = input.recv() => {
                let Some(event) = event else { return Ok(()) };
                next = Instant::now();
                handle_events(&mut model, event, &mut input)
            }
            wish = signals.next() => Some(wish),
            news = feed.updates.recv() => {
                news.into_iter().for_each(|news| model.apply_update(news));
                None
            }
            () = tokio::time::sleep_until(next), if model.changed => None,
            // A flood is looked at once a frame.
            () = logs.changed(), if !model.log_pane.paused && Instant::now() >= next => {
                let (items, passed) = logs.drain();
                model.add_log_lines(items, passed);
                if !model.changed {
                    next = Instant::now() + FRAME_INTERVAL;
                }
                None
            }
            () = tokio::time::sleep_until(next), if Instant::now() < next => None,
        };
        update_subscription(&mut model, &feed, &logs, &mut followed);
        match wish {
            Some(UiCommand::Quit) => return Ok(()),
            Some(UiCommand::Suspend) => {
                screen.suspend()?;
                (model.changed, next) = (true, Instant::now());
            }
            Some(UiCommand::Redraw) => {
                screen.reopen()?;
                model.changed = true;
            }
            Some(UiCommand::Run(deed, select)) => feed.perform(deed, select),
            None => {}
        }
    }
}

/// Takes in what was typed, all of it that waits: a held key must not run behind itself. What ends a
/// row of keys is a wish.
fn handle_events(
    model: &mut Model,
    first: Event,
    input: &mut mpsc::UnboundedReceiver<Event>,
) -> Option<UiCommand> {
    let mut wish = model.handle_event(&first);
    while wish.is_none() {
        let Ok(event) = input.try_recv() else { break };
        wish = model.handle_event(&event);
    }
    wish
}

/// Has the feeds follow the selection.
fn update_subscription(model: &mut Model, feed: &DataFeed, logs: &LogFeed, followed: &mut LogSelection) {
    let ids = model.ids();
    feed.select(if ids.len() <= DETAIL_LIMIT { ids } else { &[] });
    let (select, instances) = if ids.is_empty() { (Vec::new(), 0) } else { (model.selectors(), ids.len()) };
    if select != followed.select {
        *followed = LogSelection { number: followed.number + 1, select, instances };
        logs.select(followed.clone());
        model.log_pane.clear();
        model.details.clear();
    }
}

/// Keys and the mouse, read on a thread that ends with the process.
fn spawn_input() -> io::Result<mpsc::UnboundedReceiver<Event>> {
    let (send, events) = mpsc::unbounded_channel();
    let read = move || {
        while let Ok(event) = crossterm::event::read() {
            if send.send(event).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("input".into()).spawn(read)?;
    Ok(events)
}
