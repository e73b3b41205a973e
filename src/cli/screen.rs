//! `list --watch`: the list, again and again, in its place on a terminal.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use crossterm::cursor::{Hide, MoveTo, Show};
use crossterm::style::Print;
use crossterm::terminal::{Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen};
use crossterm::{execute, queue};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::MissedTickBehavior;

use crate::cli::error::Error;
use crate::ipc::client::Client;

use crate::cli::commands::list::render_page;
use crate::cli::commands::logs;
use crate::cli::output;
use crate::cli::render::style::Style;
use crate::cli::session::Session;

/// Shows the list until Ctrl-C, SIGTERM, or nobody reads it any more. A daemon may come and go.
pub(super) async fn watch_list(seconds: u32, session: &Session) -> Result<(), Error> {
    let mut terminated = signal(SignalKind::terminate())
        .map_err(|error| Error::Io { context: "cannot install signal handlers", error })?;
    let mut place = WatchScreen::enter().map_err(Error::Stdout)?;
    let shown = tokio::select! {
        result = refresh_loop(seconds, &mut place, session) => result,
        _ = tokio::signal::ctrl_c() => Ok(()),
        _ = terminated.recv() => Ok(()),
        () = logs::wait_stdout_closed() => Ok(()),
    };
    drop(place);
    shown
}

async fn refresh_loop(seconds: u32, place: &mut WatchScreen, session: &Session) -> Result<(), Error> {
    let mut tick = tokio::time::interval(Duration::from_secs(seconds.into()));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let (width, height) = place.size(session.style.width);
        let style = Style { width, ..session.style };
        let page = match Client::connect(&session.home).await {
            Ok(mut client) => render_page(session, &mut client, style).await,
            Err(error) => Err(session.client_error(error)),
        };
        // Not to be reached for a while is what one watches for, too.
        let page = page.unwrap_or_else(|error| format!("{error}\n"));
        place.show(&page, height).map_err(Error::Stdout)?;
    }
}

/// Where the list is shown; given back when it is dropped.
struct WatchScreen {
    terminal: bool,
}

impl WatchScreen {
    fn enter() -> io::Result<Self> {
        let terminal = io::stdout().is_terminal();
        if terminal {
            execute!(io::stdout(), EnterAlternateScreen, Hide)?;
        }
        Ok(Self { terminal })
    }

    /// Columns and rows there are now.
    fn size(&self, columns: usize) -> (usize, usize) {
        match crossterm::terminal::size() {
            Ok((width, height)) if self.terminal => (width.into(), height.into()),
            _ => (columns, usize::MAX),
        }
    }

    /// Over what was there before, without a moment of emptiness; lines that have no room are counted.
    fn show(&self, page: &str, height: usize) -> io::Result<()> {
        if !self.terminal {
            return match output::print(page) {
                Err(Error::Stdout(error)) => Err(error),
                _ => Ok(()),
            };
        }
        let mut out = io::stdout().lock();
        queue!(out, MoveTo(0, 0))?;
        for line in fit_rows(page, height) {
            queue!(out, Print(line), Clear(ClearType::UntilNewLine), Print("\r\n"))?;
        }
        queue!(out, Clear(ClearType::FromCursorDown))?;
        out.flush()
    }
}

impl Drop for WatchScreen {
    fn drop(&mut self) {
        if self.terminal {
            let _ = execute!(io::stdout(), Show, LeaveAlternateScreen); // a terminal that is gone
        }
    }
}

/// The lines for so many rows. What stands below the table is not what is left out.
fn fit_rows(page: &str, height: usize) -> Vec<String> {
    let lines: Vec<&str> = page.lines().collect();
    let room = height.saturating_sub(1);
    if lines.len() <= room {
        return lines.into_iter().map(str::to_owned).collect();
    }
    let below = lines.iter().rev().take_while(|line| !line.starts_with('╰')).count() + 1;
    let above = room.saturating_sub(below + 1);
    let left_out = lines.len().saturating_sub(above + below);
    let mut fit: Vec<String> = lines.iter().take(above).map(|line| (*line).to_owned()).collect();
    fit.push(format!("  … {left_out} more rows; use `rsm monit` to scroll"));
    fit.extend(lines.iter().skip(lines.len().saturating_sub(below.min(room))).map(|line| (*line).to_owned()));
    fit.truncate(room);
    fit
}

#[cfg(test)]
mod tests {
    use crate::cli::screen::*;

    #[test]
    fn rows_that_have_no_room_are_counted_and_the_end_stays() {
        let page = format!("╭─╮\n{}╰─╯\nsums\nattention\n", "│x│\n".repeat(10));
        let fit = fit_rows(&page, 9);
        assert_eq!(fit.len(), 8);
        assert_eq!(fit[..2], ["╭─╮", "│x│"]);
        assert!(fit[4].contains("7 more rows"), "{fit:?}");
        assert_eq!(fit[5..], ["╰─╯", "sums", "attention"]);
        assert_eq!(fit_rows(&page, 100).len(), 14);
        assert!(fit_rows(&page, 2).len() <= 1 && fit_rows("", 0).is_empty());
    }
}
