//! What the apps of `rsm runtime` say, on its own standard output and error.
//!
//! Apps write to the daemon as always; their log files are named pipes that this process reads. So nothing is
//! kept on the container's disk, and when whoever reads our output is slow the apps wait, and lose nothing.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use clap::Args;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use serde::Deserialize;

use crate::cli::render::log_line::{LinePrefix, pairs};
use crate::cli::render::style::Style;
use crate::ipc::message::OutputStream;
use crate::paths::Home;
use crate::spec::{AppSpec, LogFormat, LogPath};

/// A pipe of this size takes a burst while our reader is busy. The most that a user may have.
const PIPE_SIZE: i32 = 1 << 20;

/// How often it is looked whether pipes are empty, and how often in a row they must be. The daemon tries a
/// full one again after two milliseconds.
const POLL_INTERVAL: Duration = Duration::from_millis(5);
const IDLE_POLLS: u32 = 8;

// How lines are shown.
#[derive(Args, Clone, Copy, Debug)]
#[group(multiple = false)]
pub(crate) struct OutputFlags {
    /// Print lines unmodified (default)
    #[arg(long)]
    raw: bool,
    /// Prefix each line with `id|app | `
    #[arg(long, alias = "formatted")]
    prefix: bool,
    /// Print one JSON object per line on stdout (message, timestamp, type, process_id, app_name)
    #[arg(long)]
    json: bool,
    /// Print key=value pairs on stdout
    #[arg(long)]
    format: bool,
}

/// A line as it comes through the pipe, unless it is raw.
#[derive(Deserialize)]
struct JsonLine {
    message: String,
    timestamp: String,
    #[serde(rename = "type")]
    stream: OutputStream,
    process_id: u32,
    app_name: String,
}

/// The pipes and who reads them.
pub(crate) struct OutputRelay {
    shape: OutputFlags,
    out: PathBuf,
    err: PathBuf,
    /// While these are open the readers see no end, whatever the daemon does.
    write_ends: Vec<File>,
    /// The same pipes, to see whether they are empty.
    read_ends: Vec<File>,
    readers: Vec<JoinHandle<()>>,
}

impl OutputRelay {
    /// Makes the pipes and begins to read them.
    ///
    /// # Errors
    /// The home's file system takes no pipes, or is read-only.
    pub(crate) fn new(home: &Home, shape: OutputFlags, style: Style) -> io::Result<Self> {
        let one = shape.json || shape.format;
        let out = home.run_dir().join("runtime-out");
        // Lines of both streams that go to one place must come by one way, or they would mix.
        let err = if one { out.clone() } else { home.run_dir().join("runtime-err") };
        let mut voice =
            Self { shape, out, err, write_ends: Vec::new(), read_ends: Vec::new(), readers: Vec::new() };
        for path in if one { vec![voice.out.clone()] } else { vec![voice.out.clone(), voice.err.clone()] } {
            let to_err = path != voice.out;
            let pipe = voice.pipe(&path)?;
            let work = move || relay(pipe, shape, to_err, style);
            voice.readers.push(std::thread::Builder::new().name("voice".into()).spawn(work)?);
        }
        Ok(voice)
    }

    fn pipe(&mut self, path: &Path) -> io::Result<File> {
        let _ = std::fs::remove_file(path); // of a former life
        nix::unistd::mkfifo(path, Mode::from_bits_truncate(0o600))?;
        // Not to wait for a writer; what is read later is waited for.
        let pipe = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        fcntl(pipe.as_fd(), FcntlArg::F_SETFL(OFlag::empty()))?;
        let _ = fcntl(pipe.as_fd(), FcntlArg::F_SETPIPE_SZ(PIPE_SIZE)); // the usual size must do
        self.read_ends.push(pipe.try_clone()?);
        self.write_ends.push(OpenOptions::new().write(true).open(path)?);
        Ok(pipe)
    }

    /// Has an app speak through the pipes, unless it names log files of its own.
    pub(crate) fn redirect_logs(&self, app: &mut AppSpec) {
        for (place, pipe) in [(&mut app.logs.out, &self.out), (&mut app.logs.err, &self.err)] {
            if *place == LogPath::Default {
                *place = LogPath::File(pipe.clone());
            }
        }
        app.logs.merge = true;
        app.logs.format = if self.shape.prefix || self.shape.json || self.shape.format {
            LogFormat::Json
        } else {
            LogFormat::Raw
        };
    }

    /// Resolves once the pipes have been empty for a moment: whoever reads our output has caught up. For
    /// when no app runs any more.
    pub(crate) async fn wait_drained(&self) {
        let mut quiet = 0;
        while quiet < IDLE_POLLS {
            quiet = if self.is_empty() { quiet + 1 } else { 0 };
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Whether nothing in the pipes waits to be read.
    fn is_empty(&self) -> bool {
        let mut fds: Vec<_> =
            self.read_ends.iter().map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)).collect();
        poll(&mut fds, PollTimeout::ZERO) == Ok(0)
    }

    /// Reads what is still in the pipes. For when the daemon has ended.
    pub(crate) fn finish(mut self) {
        self.write_ends.clear();
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        let _ = std::fs::remove_file(&self.out);
        let _ = std::fs::remove_file(&self.err);
    }
}

/// Until the pipe ends. An output that nobody reads any more swallows the rest: the apps must not wait for it.
fn relay(pipe: File, shape: OutputFlags, to_err: bool, style: Style) {
    let done = match (shape.prefix || shape.format, to_err) {
        (true, _) => relay_formatted(&pipe, shape, style),
        (false, false) => io::copy(&mut &pipe, &mut io::stdout()).map(drop),
        (false, true) => io::copy(&mut &pipe, &mut io::stderr()).map(drop),
    };
    if done.is_err() {
        let _ = io::copy(&mut &pipe, &mut io::sink());
    }
}

fn relay_formatted(pipe: &File, shape: OutputFlags, style: Style) -> io::Result<()> {
    let (mut reader, mut prefix) = (BufReader::with_capacity(64 << 10, pipe), LinePrefix::default());
    let (mut line, mut out, mut err) = (Vec::new(), Vec::new(), Vec::new());
    while {
        line.clear();
        reader.read_until(b'\n', &mut line)? > 0
    } {
        // What is not of our making, somebody else wrote into the pipe.
        if let Ok(JsonLine { message, timestamp, stream, process_id, app_name }) =
            serde_json::from_slice(&line)
        {
            let text = match shape.format {
                true => pairs(process_id, &app_name, stream, &message, &timestamp),
                false => prefix.line(process_id, &app_name, stream, &message, style),
            };
            let to = if stream == OutputStream::Err && shape.prefix { &mut err } else { &mut out };
            to.extend_from_slice(text.as_bytes());
            to.push(b'\n');
        }
        // What has come in one go is written in one go.
        if reader.buffer().is_empty() {
            write(&mut io::stdout().lock(), &mut out)?;
            write(&mut io::stderr().lock(), &mut err)?;
        }
    }
    Ok(())
}

fn write(to: &mut impl Write, text: &mut Vec<u8>) -> io::Result<()> {
    to.write_all(text)?;
    text.clear();
    to.flush()
}
