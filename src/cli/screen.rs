//! The terminal: the alternate screen of `list --watch` and `monit`, restored on every exit, and detection of a
//! terminal or pipe that was closed.

use std::future::pending;
use std::io::{self, BufWriter, Stdout, Write};
use std::mem::ManuallyDrop;
use std::os::fd::AsFd;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use crossterm::cursor::{Hide, MoveTo, Show};
use crossterm::event::{
    DisableBracketedPaste, DisableMouseCapture, EnableBracketedPaste, EnableMouseCapture,
};
use crossterm::style::Print;
use crossterm::terminal::{
    Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use crossterm::{execute, queue};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, raise};
use ratatui::backend::CrosstermBackend;
use ratatui::{Frame, Terminal};
use tokio::sync::oneshot;

/// Whether the terminal is in raw mode on the alternate screen, so that it is restored only once.
static ACTIVE: AtomicBool = AtomicBool::new(false);

/// Size of the output buffer in bytes: a frame written at once does not flicker.
const BUFFER_SIZE: usize = 64 * 1024;

/// The alternate screen for output without input. The previous screen is restored on drop.
pub(super) struct WatchScreen(());

impl WatchScreen {
    pub(super) fn enter() -> io::Result<Self> {
        execute!(io::stdout(), EnterAlternateScreen, Hide)?;
        Ok(Self(()))
    }

    /// Replaces the previous lines, without clearing the screen in between, which would flicker.
    pub(super) fn show(&self, lines: &[String]) -> io::Result<()> {
        let mut out = io::stdout().lock();
        queue!(out, MoveTo(0, 0))?;
        for line in lines {
            queue!(out, Print(line), Clear(ClearType::UntilNewLine), Print("\r\n"))?;
        }
        queue!(out, Clear(ClearType::FromCursorDown))?;
        out.flush()
    }
}

impl Drop for WatchScreen {
    fn drop(&mut self) {
        let _ = execute!(io::stdout(), Show, LeaveAlternateScreen); // fails if the terminal was closed
    }
}

/// The terminal in raw mode on the alternate screen, with mouse events. Restored on drop.
pub(super) struct Screen(ManuallyDrop<ScreenBackend>);

type ScreenBackend = Terminal<CrosstermBackend<BufWriter<Stdout>>>;

impl Screen {
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

    /// Draws a frame; writes only the cells that changed.
    pub(super) fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        self.0.draw(draw).map(drop)
    }

    /// Clears the screen, so that the next frame is drawn completely.
    fn clear(&mut self) -> io::Result<()> {
        execute!(io::stdout(), Clear(ClearType::All))?;
        // `Terminal::clear` asks the terminal for the cursor position; the reply would be read as keys.
        *self.0 = new_terminal()?;
        Ok(())
    }

    /// Restores the terminal, stops this process as Ctrl-Z does, and reopens the screen when it is continued.
    /// In the background (`bg`) the kernel stops it again at the first change of the terminal settings.
    pub(super) fn suspend(&mut self) -> io::Result<()> {
        leave();
        // Not SIGTSTP, for which a handler may be installed.
        raise(Signal::SIGSTOP).map_err(io::Error::from)?;
        self.reopen()
    }

    /// Sets up the terminal again, after another program may have changed its settings.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        leave();
        enter()?;
        self.clear()
    }
}

impl Drop for Screen {
    /// Does not drop the `Terminal`: if the terminal was closed, its drop prints an error there and panics.
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

/// Restores the terminal. Errors are ignored: the terminal was closed.
fn leave() {
    if ACTIVE.swap(false, Ordering::SeqCst) {
        let mut out = io::stdout();
        let _ = execute!(out, DisableBracketedPaste, DisableMouseCapture, LeaveAlternateScreen, Show);
        let _ = out.flush();
        let _ = disable_raw_mode();
    }
}

/// Restores the terminal before a panic message is printed, which would otherwise be lost with the alternate
/// screen. Drop is not enough: a release build aborts on panic.
fn restore_on_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let default_hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            leave();
            default_hook(info);
        }));
    });
}

/// Returns a receiver that resolves when a terminal or pipe is closed by its other end. The thread that waits for
/// it ends with the process: a regular file is never closed.
pub(super) fn hangup(file: impl AsFd + Send + 'static) -> io::Result<oneshot::Receiver<()>> {
    let (sender, receiver) = oneshot::channel();
    let wait = move || {
        // No event is requested: POLLERR and POLLHUP are always reported.
        let mut fds = [PollFd::new(file.as_fd(), PollFlags::empty())];
        while let Ok(0) | Err(Errno::EINTR) = poll(&mut fds, PollTimeout::NONE) {}
        let _ = sender.send(()); // the receiver may be dropped
    };
    std::thread::Builder::new().name("hangup".into()).spawn(wait)?;
    Ok(receiver)
}

/// Resolves when standard output is a pipe whose reader has exited. Without this, `rsm logs | head` would wait for
/// one more line before it ends.
pub(super) async fn wait_stdout_closed() {
    let closed = async { hangup(io::stdout()).ok()?.await.ok() };
    if closed.await.is_none() {
        pending().await
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    #[ignore = "run by panic_restores_terminal, in a terminal of its own"]
    fn panics_with_open_screen() {
        // A release build aborts on panic: nothing is dropped.
        std::mem::forget(Screen::open().unwrap());
        panic!("as if something were wrong");
    }

    #[test]
    fn panic_restores_terminal() {
        let dir = tempfile::tempdir().unwrap();
        let test = format!("{}::panics_with_open_screen", module_path!().split_once("::").unwrap().1);
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
        let (entered, left) = (seen.find("\u{1b}[?1049h").unwrap(), seen.find("\u{1b}[?1049l").unwrap());
        let message = seen.find("as if something were wrong").unwrap();
        assert!(entered < left && left < message, "{seen}");
        assert!(seen.contains("\u{1b}[?25h") && read("before").contains(" icanon"), "{seen}");
        assert_eq!(read("before"), read("after"));
    }
}
