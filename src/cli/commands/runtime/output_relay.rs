//! Output of the apps of `rsm runtime` on its standard output and error.
//!
//! The log files of the apps are named pipes that this process reads, so nothing is stored in the container. If the
//! reader of this process is slow, the apps wait, and no line is lost.

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
use crate::spec::{AppSpec, LogFormat, LogMirror, LogPath};

/// Size of the pipes, for bursts while the reader is busy. The maximum for unprivileged users.
const PIPE_SIZE: i32 = 1 << 20;

/// The pipes are drained when they were empty for this number of polls at this interval. The daemon writes again to a
/// full pipe after two milliseconds.
const POLL_INTERVAL: Duration = Duration::from_millis(5);
const IDLE_POLLS: u32 = 8;

// Flags of the output format.
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

/// A line in a pipe, unless the format is raw.
#[derive(Deserialize)]
struct JsonLine {
    message: String,
    timestamp: String,
    #[serde(rename = "type")]
    stream: OutputStream,
    process_id: u32,
    app_name: String,
}

/// The pipes and the threads that read them.
pub(crate) struct OutputRelay {
    flags: OutputFlags,
    out: PathBuf,
    err: PathBuf,
    /// Kept open so that the readers get no end of file when the daemon closes its end.
    write_ends: Vec<File>,
    /// To check whether the pipes are empty.
    read_ends: Vec<File>,
    readers: Vec<JoinHandle<()>>,
}

impl OutputRelay {
    /// Creates the pipes and starts to read them.
    pub(crate) fn new(home: &Home, flags: OutputFlags, style: Style) -> io::Result<Self> {
        let single_stream = flags.json || flags.format;
        let out = home.run_dir().join("runtime-out");
        // Both streams to the same output need a single pipe, or parts of lines would mix.
        let err = if single_stream { out.clone() } else { home.run_dir().join("runtime-err") };
        let mut relay =
            Self { flags, out, err, write_ends: Vec::new(), read_ends: Vec::new(), readers: Vec::new() };
        for path in
            if single_stream { vec![relay.out.clone()] } else { vec![relay.out.clone(), relay.err.clone()] }
        {
            let to_err = path != relay.out;
            let pipe = relay.pipe(&path)?;
            let work = move || relay_pipe(pipe, flags, to_err, style);
            relay.readers.push(std::thread::Builder::new().name("output".into()).spawn(work)?);
        }
        Ok(relay)
    }

    fn pipe(&mut self, path: &Path) -> io::Result<File> {
        let _ = std::fs::remove_file(path); // of a previous run
        nix::unistd::mkfifo(path, Mode::from_bits_truncate(0o600))?;
        // Nonblocking only to open without a writer.
        let pipe = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        fcntl(pipe.as_fd(), FcntlArg::F_SETFL(OFlag::empty()))?;
        let _ = fcntl(pipe.as_fd(), FcntlArg::F_SETPIPE_SZ(PIPE_SIZE)); // the default size is sufficient
        self.read_ends.push(pipe.try_clone()?);
        self.write_ends.push(OpenOptions::new().write(true).open(path)?);
        Ok(pipe)
    }

    /// Sends the output of an app to the pipes, in addition to its own log files if it has any.
    pub(crate) fn redirect_logs(&self, app: &mut AppSpec) {
        let logs = &mut app.logs;
        let is_own = |log: &LogPath| matches!(log, LogPath::File(path) if !is_device(path));
        if is_own(&logs.out) || is_own(&logs.err) {
            logs.mirror = Some(LogMirror { out: self.out.clone(), err: self.err.clone() });
            for log in [&mut logs.out, &mut logs.err] {
                if !is_own(log) {
                    *log = LogPath::Discard;
                }
            }
        } else {
            logs.out = LogPath::File(self.out.clone());
            logs.err = LogPath::File(self.err.clone());
            logs.merge = true;
        }
        if self.flags.prefix || self.flags.json || self.flags.format {
            logs.format = LogFormat::Json;
        }
    }

    /// Waits until the reader of this process has read all output. To be called after all apps have exited.
    pub(crate) async fn wait_drained(&self) {
        let mut idle_polls = 0;
        while idle_polls < IDLE_POLLS {
            idle_polls = if self.is_empty() { idle_polls + 1 } else { 0 };
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Whether the pipes are empty.
    fn is_empty(&self) -> bool {
        let mut fds: Vec<_> =
            self.read_ends.iter().map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)).collect();
        poll(&mut fds, PollTimeout::ZERO) == Ok(0)
    }

    /// Reads the rest of the pipes and removes them. To be called after the daemon has exited.
    pub(crate) fn finish(mut self) {
        self.write_ends.clear();
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        let _ = std::fs::remove_file(&self.out);
        let _ = std::fs::remove_file(&self.err);
    }
}

/// Whether a log file is a terminal or the output of the first process: in the foreground, the pipes replace it.
fn is_device(path: &Path) -> bool {
    path.starts_with("/dev") || path.starts_with("/proc")
}

/// Relays a pipe until its end. After the output was closed, discards the rest, so that the apps do not wait.
fn relay_pipe(pipe: File, flags: OutputFlags, to_err: bool, style: Style) {
    let result = match (flags.prefix || flags.format, to_err) {
        (true, _) => relay_formatted(&pipe, flags, style),
        (false, false) => io::copy(&mut &pipe, &mut io::stdout()).map(drop),
        (false, true) => io::copy(&mut &pipe, &mut io::stderr()).map(drop),
    };
    if result.is_err() {
        let _ = io::copy(&mut &pipe, &mut io::sink());
    }
}

fn relay_formatted(pipe: &File, flags: OutputFlags, style: Style) -> io::Result<()> {
    let (mut reader, mut prefix) = (BufReader::with_capacity(64 << 10, pipe), LinePrefix::default());
    let (mut line, mut out, mut err) = (Vec::new(), Vec::new(), Vec::new());
    while {
        line.clear();
        reader.read_until(b'\n', &mut line)? > 0
    } {
        // Other lines were written by another process.
        if let Ok(JsonLine { message, timestamp, stream, process_id, app_name }) =
            serde_json::from_slice(&line)
        {
            let text = match flags.format {
                true => pairs(process_id, &app_name, stream, &message, &timestamp),
                false => prefix.line(process_id, &app_name, stream, &message, style),
            };
            let buffer = if stream == OutputStream::Err && flags.prefix { &mut err } else { &mut out };
            buffer.extend_from_slice(text.as_bytes());
            buffer.push(b'\n');
        }
        // Lines that arrived together are written together.
        if reader.buffer().is_empty() {
            write(&mut io::stdout().lock(), &mut out)?;
            write(&mut io::stderr().lock(), &mut err)?;
        }
    }
    Ok(())
}

fn write(out: &mut impl Write, buffer: &mut Vec<u8>) -> io::Result<()> {
    out.write_all(buffer)?;
    buffer.clear();
    out.flush()
}
