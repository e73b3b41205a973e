//! `monit`: the full-screen dashboard.
//!
//! `model` is the state as plain data. `keys` and updates of `feed` and `log_feed` change it; `view` draws it. The loop
//! here draws the effect of a key at once, updates at a limited rate, and nothing if nothing has changed.

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

/// Minimum interval between two frames drawn for updates.
const FRAME_INTERVAL: Duration = Duration::from_millis(66);
/// Details of the selection are requested up to this number of instances.
const DETAIL_LIMIT: usize = 32;

/// Runs the dashboard until the user quits.
pub(super) async fn monit(session: &Session) -> Result<(), Error> {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err(Error::NoTerminal);
    }
    let to_error = |error| Error::Io { context: "cannot use the terminal", error };
    let mut screen = Screen::open().map_err(to_error)?;
    let theme = Theme { color: session.style.color };
    let result = LocalSet::new().run_until(run_screen(&mut screen, theme, session)).await;
    drop(screen);
    match result {
        // The terminal was closed, so no error can be shown.
        Err(error) if is_hangup(&error) => Ok(()),
        result => result.map_err(to_error),
    }
}

fn is_hangup(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe) || error.raw_os_error() == Some(libc::EIO)
}

/// Signals that quit or suspend the dashboard.
struct Signals {
    terminate: Signal,
    hangup: Signal,
    interrupt: Signal,
    quit: Signal,
    stop: Signal,
    resume: Signal,
    /// The terminal was closed. Only its session leader gets SIGHUP; other readers would get end of file forever.
    closed: oneshot::Receiver<()>,
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
            closed: hangup(io::stdin())?,
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
            Ok(()) = &mut self.closed => UiCommand::Quit,
        }
    }
}

/// The event loop.
async fn run_screen(screen: &mut Screen, theme: Theme, session: &Session) -> io::Result<()> {
    let mut signals = Signals::listen()?;
    let mut input = spawn_input()?;
    let mut feed = DataFeed::start(session.home.clone());
    let logs = LogFeed::start(session.home.clone())?;
    let zone = TimeZone::system();
    let mut model = Model::default();
    model.changed = true;
    model.tree_options.sort = session.sort.map(|order| TreeSort::from(order.field())).unwrap_or_default();
    let mut log_selection = LogSelection::default();
    let mut next_frame = Instant::now();
    loop {
        if model.changed && Instant::now() >= next_frame {
            let mut areas = ClickAreas::default();
            screen.draw(|frame| areas = view::draw(&model, &theme, &zone, frame))?;
            model.set_areas(areas);
            next_frame = Instant::now() + FRAME_INTERVAL;
        }
        let command = tokio::select! {
            biased;
            event = input.recv() => {
                let Some(event) = event else { return Ok(()) };
                next_frame = Instant::now();
                handle_events(&mut model, event, &mut input)
            }
            command = signals.next() => Some(command),
            update = feed.updates.recv() => {
                update.into_iter().for_each(|update| model.apply_update(update));
                None
            }
            () = tokio::time::sleep_until(next_frame), if model.changed => None,
            // At most once per frame, also during a flood of lines.
            () = logs.changed(), if !model.log_pane.paused && Instant::now() >= next_frame => {
                let (items, dropped) = logs.drain();
                model.add_log_lines(items, dropped);
                if !model.changed {
                    next_frame = Instant::now() + FRAME_INTERVAL;
                }
                None
            }
            () = tokio::time::sleep_until(next_frame), if Instant::now() < next_frame => None,
        };
        update_subscription(&mut model, &feed, &logs, &mut log_selection);
        match command {
            Some(UiCommand::Quit) => return Ok(()),
            Some(UiCommand::Suspend) => {
                screen.suspend()?;
                (model.changed, next_frame) = (true, Instant::now());
            }
            Some(UiCommand::Redraw) => {
                screen.reopen()?;
                model.changed = true;
            }
            Some(UiCommand::Run(action, select)) => feed.perform(action, select),
            None => {}
        }
    }
}

/// Handles all pending events, so that a key that is held down does not lag behind. Stops after an event that results
/// in a command.
fn handle_events(
    model: &mut Model,
    first: Event,
    input: &mut mpsc::UnboundedReceiver<Event>,
) -> Option<UiCommand> {
    let mut command = model.handle_event(&first);
    while command.is_none() {
        let Ok(event) = input.try_recv() else { break };
        command = model.handle_event(&event);
    }
    command
}

/// Updates the feeds after a change of the selection.
fn update_subscription(model: &mut Model, feed: &DataFeed, logs: &LogFeed, current: &mut LogSelection) {
    let ids = model.ids();
    feed.select(if ids.len() <= DETAIL_LIMIT { ids } else { &[] });
    let (select, instances) = if ids.is_empty() { (Vec::new(), 0) } else { (model.selectors(), ids.len()) };
    if select != current.select {
        *current = LogSelection { number: current.number + 1, select, instances };
        logs.select(current.clone());
        model.log_pane.clear();
        model.details.clear();
    }
}

/// Reads keys and mouse events on a thread, which ends with the process.
fn spawn_input() -> io::Result<mpsc::UnboundedReceiver<Event>> {
    let (sender, events) = mpsc::unbounded_channel();
    let read = move || {
        while let Ok(event) = crossterm::event::read() {
            if sender.send(event).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("input".into()).spawn(read)?;
    Ok(events)
}
