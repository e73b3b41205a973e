//! The terminal: taken over, and given back as it was on every way out.

use std::io::{self, BufWriter, Stdout, Write};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use crossterm::cursor::{Hide, Show};
use crossterm::event::{
    DisableBracketedPaste, DisableMouseCapture, EnableBracketedPaste, EnableMouseCapture,
};
use crossterm::execute;
use crossterm::terminal::{Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen};
use crossterm::terminal::{disable_raw_mode, enable_raw_mode};
use nix::sys::signal::{Signal, raise};
use ratatui::backend::CrosstermBackend;
use ratatui::{Frame, Terminal};

/// Whether the terminal is taken over at the moment: it is given back once.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// Bytes collected before they are written: a whole screen in one go does not flicker.
const BUFFER: usize = 64 * 1024;

/// The terminal while it is ours. Dropped, it is given back.
pub(super) struct Screen(Terminal<CrosstermBackend<BufWriter<Stdout>>>);

impl Screen {
    /// Takes the terminal over.
    ///
    /// # Errors
    /// It is none, or cannot be written to.
    pub(super) fn take() -> io::Result<Self> {
        give_back_on_panic();
        enter()?;
        match fresh() {
            Ok(terminal) => Ok(Self(terminal)),
            Err(error) => {
                leave();
                Err(error)
            }
        }
    }

    /// Draws; only what differs is written.
    ///
    /// # Errors
    /// The terminal cannot be written to.
    pub(super) fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        self.0.draw(draw).map(drop)
    }

    /// Has everything drawn anew.
    ///
    /// # Errors
    /// The terminal cannot be written to.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        execute!(io::stdout(), Clear(ClearType::All))?;
        // Its own `clear` asks the terminal where the cursor is, and the answer would be taken for keys.
        self.0 = fresh()?;
        Ok(())
    }

    /// Gives the terminal back, stops this process as Ctrl-Z does, and takes the terminal over again
    /// once `fg` continues it. In the background (`bg`) the kernel stops it again at the first change
    /// of the terminal's settings.
    ///
    /// # Errors
    /// The terminal cannot be taken over again.
    pub(super) fn suspend(&mut self) -> io::Result<()> {
        leave();
        // SIGTSTP itself may be listened to.
        raise(Signal::SIGSTOP).map_err(io::Error::from)?;
        self.retake()
    }

    /// Takes the terminal over again, after something else may have changed its settings.
    ///
    /// # Errors
    /// It cannot be written to.
    pub(super) fn retake(&mut self) -> io::Result<()> {
        leave();
        enter()?;
        self.clear()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        leave();
    }
}

fn fresh() -> io::Result<Terminal<CrosstermBackend<BufWriter<Stdout>>>> {
    Terminal::new(CrosstermBackend::new(BufWriter::with_capacity(BUFFER, io::stdout())))
}

fn enter() -> io::Result<()> {
    enable_raw_mode()?;
    TAKEN.store(true, Ordering::SeqCst);
    let entered =
        execute!(io::stdout(), EnterAlternateScreen, EnableMouseCapture, EnableBracketedPaste, Hide);
    entered.inspect_err(|_| leave())
}

/// What cannot be given back any more is gone: a terminal that hung up.
fn leave() {
    if TAKEN.swap(false, Ordering::SeqCst) {
        let mut out = io::stdout();
        let _ = execute!(out, DisableBracketedPaste, DisableMouseCapture, LeaveAlternateScreen, Show);
        let _ = out.flush();
        let _ = disable_raw_mode();
    }
}

/// A panic's message would be lost on the other screen, and the shell be left without echo. A release
/// build aborts then, so that nothing is dropped.
fn give_back_on_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            leave();
            usual(info);
        }));
    });
}
