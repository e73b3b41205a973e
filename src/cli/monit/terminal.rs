//! The terminal: taken over, and given back as it was on every way out.

use std::io::{self, BufWriter, Stdout, Write};
use std::mem::ManuallyDrop;
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
static ACTIVE: AtomicBool = AtomicBool::new(false);

/// Bytes collected before they are written: a whole screen in one go does not flicker.
const BUFFER_SIZE: usize = 64 * 1024;

/// The terminal while it is ours. Dropped, it is given back.
pub(super) struct Screen(ManuallyDrop<ScreenBackend>);

type ScreenBackend = Terminal<CrosstermBackend<BufWriter<Stdout>>>;

impl Screen {
    /// Takes the terminal over.
    ///
    /// # Errors
    /// It is none, or cannot be written to.
    pub(super) fn open() -> io::Result<Self> {
        restore_on_panic();
        enter()?;
        match new_terminal() {
            Ok(terminal) => Ok(Self(ManuallyDrop::new(terminal))),
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
        *self.0 = new_terminal()?;
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
        self.reopen()
    }

    /// Takes the terminal over again, after something else may have changed its settings.
    ///
    /// # Errors
    /// It cannot be written to.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        leave();
        enter()?;
        self.clear()
    }
}

impl Drop for Screen {
    /// All but the memory, which goes with the process: where the terminal has hung up, a `Terminal` that is
    /// dropped would say so on it, and panic.
    fn drop(&mut self) {
        leave();
    }
}

fn new_terminal() -> io::Result<ScreenBackend> {
    Terminal::new(CrosstermBackend::new(BufWriter::with_capacity(BUFFER_SIZE, io::stdout())))
}

fn enter() -> io::Result<()> {
    enable_raw_mode()?;
    ACTIVE.store(true, Ordering::SeqCst);
    let entered =
        execute!(io::stdout(), EnterAlternateScreen, EnableMouseCapture, EnableBracketedPaste, Hide);
    entered.inspect_err(|_| leave())
}

/// What cannot be given back any more is gone: a terminal that hung up.
fn leave() {
    if ACTIVE.swap(false, Ordering::SeqCst) {
        let mut out = io::stdout();
        let _ = execute!(out, DisableBracketedPaste, DisableMouseCapture, LeaveAlternateScreen, Show);
        let _ = out.flush();
        let _ = disable_raw_mode();
    }
}

/// A panic's message would be lost on the other screen, and the shell be left without echo. A release
/// build aborts then, so that nothing is dropped.
fn restore_on_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            leave();
            usual(info);
        }));
    });
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    #[ignore = "run by the other one, in a terminal of its own"]
    fn panics_with_the_screen_taken() {
        // As where a panic aborts: nothing is dropped.
        std::mem::forget(Screen::open().unwrap());
        panic!("as if something were wrong");
    }

    #[test]
    fn a_panic_gives_the_terminal_back_and_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let test = format!("{}::panics_with_the_screen_taken", module_path!().split_once("::").unwrap().1);
        let me = std::env::current_exe().unwrap();
        let line = format!(
            "stty -a >before; '{}' --exact {test} --ignored --nocapture; stty -a >after",
            me.display()
        );
        let mut script = Command::new("script");
        script.args(["-qec", &line, "seen"]).current_dir(&dir).stdin(Stdio::null()).stdout(Stdio::null());
        assert!(script.status().unwrap().success());
        let read =
            |name| String::from_utf8_lossy(&std::fs::read(dir.path().join(name)).unwrap()).into_owned();
        let seen = read("seen");
        let (taken, given_back) = (seen.find("\u{1b}[?1049h").unwrap(), seen.find("\u{1b}[?1049l").unwrap());
        let told = seen.find("as if something were wrong").unwrap();
        assert!(taken < given_back && given_back < told, "{seen}");
        assert!(seen.contains("\u{1b}[?25h") && read("before").contains(" icanon"), "{seen}");
        assert_eq!(read("before"), read("after"));
    }
}
