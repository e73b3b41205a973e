//! `logs`, `flush`, `reloadLogs`: what the apps say, and the files it is kept in.

use std::future::{pending, poll_fn};
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::pin::pin;
use std::task::Poll;

use clap::Args;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::de::IgnoredAny;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::error::Error;
use crate::ipc::client::Lines;
use crate::ipc::message::{LogItem, LogQuery, Request, Stream};

use super::preferences::preference;
use super::render::lines::{Prefix, json_line};
use super::render::style::Style;
use super::session::Session;

/// Last lines of each file, as in PM2.
const LINES: usize = 15;

// Arguments of `logs`.
#[derive(Args, Clone, Debug)]
pub(super) struct Logs {
    /// Ids, names, namespaces or /regexes/; nothing: all
    #[arg(value_name = "APP")]
    select: Vec<String>,
    /// Last lines of each log file to begin with; 15 unless set otherwise (`rsm set logs.lines`)
    #[arg(long, value_name = "N")]
    lines: Option<usize>,
    /// Only standard output
    #[arg(long, conflicts_with = "err")]
    out: bool,
    /// Only standard error
    #[arg(long)]
    err: bool,
    /// Lines as they are; those of standard error go to standard error
    #[arg(long, conflicts_with = "json")]
    raw: bool,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    /// The last lines only
    #[arg(long)]
    nostream: bool,
}

/// How lines are shown.
enum Shape {
    Prefixed(Prefix, Style),
    Raw,
    Json,
}

/// Shows lines until there are no more, the reader goes, or Ctrl-C: the two latter are how one
/// leaves, so they are no failure.
pub(super) async fn logs(logs: Logs, session: &Session) -> Result<(), Error> {
    let mut client = session.connect().await?;
    let shape = match (logs.raw, logs.json) {
        (true, _) => Shape::Raw,
        (_, true) => Shape::Json,
        _ => Shape::Prefixed(Prefix::default(), session.style),
    };
    let follow = !logs.nostream;
    let select = if logs.select.iter().any(|selector| selector == "all") { Vec::new() } else { logs.select };
    let lines = match logs.lines {
        Some(lines) => lines,
        None => preference(&session.home, "logs.lines")?.and_then(|text| text.parse().ok()).unwrap_or(LINES),
    };
    let query = LogQuery { select, lines, follow, out: !logs.err, err: !logs.out };
    let lines = client.stream(&Request::Logs(query)).await.map_err(|error| session.failed(error))?;
    tokio::select! {
        result = show(lines, shape, session) => match follow {
            true => result.and(Err(Error::StreamEnded)),
            false => result,
        },
        _ = tokio::signal::ctrl_c() => Ok(()),
        () = reader_gone() => Ok(()),
    }
}

/// Shows what the selected apps say until the user has seen enough: Ctrl-C, or the reader goes.
pub(super) async fn attach(select: Vec<String>, session: &Session) -> Result<(), Error> {
    let mut client = session.connect().await?;
    let query = LogQuery { select, lines: LINES, follow: true, out: true, err: true };
    let lines = client.stream(&Request::Logs(query)).await.map_err(|error| session.failed(error))?;
    let shape = Shape::Prefixed(Prefix::default(), session.style);
    let mut terminated = signal(SignalKind::terminate())
        .map_err(|error| Error::System { what: "listening for SIGTERM", error })?;
    tokio::select! {
        result = show(lines, shape, session) => result.and(Err(Error::StreamEnded)),
        _ = tokio::signal::ctrl_c() => Ok(()),
        _ = terminated.recv() => Ok(()),
        () = reader_gone() => Ok(()),
    }
}

/// Writes lines as they come; flushes when none is waiting.
async fn show(mut lines: Lines, mut shape: Shape, session: &Session) -> Result<(), Error> {
    let mut out = BufWriter::new(io::stdout());
    loop {
        let item = {
            let mut next = pin!(lines.next());
            let ready = poll_fn(|context| {
                Poll::Ready(match next.as_mut().poll(context) {
                    Poll::Ready(item) => Some(item),
                    Poll::Pending => None,
                })
            });
            match ready.await {
                Some(item) => item,
                None => {
                    out.flush().map_err(Error::Output)?;
                    next.await
                }
            }
        };
        let Some(line) = item else { return out.flush().map_err(Error::Output) };
        let line = line.map_err(|error| session.failed(error))?;
        // What a newer daemon may say besides is not ours to show.
        if let Ok(item) = serde_json::from_slice(&line) {
            shape.write(&item, &mut out, session).map_err(Error::Output)?;
        }
    }
}

impl Shape {
    fn write(&mut self, item: &LogItem, out: &mut impl Write, session: &Session) -> io::Result<()> {
        match (self, item) {
            (Self::Json, item) => writeln!(out, "{}", json_line(item)),
            (Self::Raw, LogItem::Line { stream: Stream::Err, line, .. }) => {
                out.flush()?;
                writeln!(io::stderr().lock(), "{line}")
            }
            (Self::Raw, LogItem::Line { line, .. }) => writeln!(out, "{line}"),
            (Self::Prefixed(prefix, style), LogItem::Line { id, name, stream, line, .. }) => {
                writeln!(out, "{}", prefix.line(*id, name, *stream, line, *style))
            }
            (_, LogItem::Missed { lines }) => {
                session.note(format_args!(
                    "note: {lines} lines are left out here: they came faster than they were read"
                ));
                Ok(())
            }
        }
    }
}

/// Resolves when standard output is a pipe nobody reads any more. Without this `rsm logs | head`
/// would stay until the next line. A thread, which ends with the process: it waits for good
/// where the output is a file.
async fn reader_gone() {
    let (tell, told) = oneshot::channel();
    let watch = move || {
        let out = io::stdout();
        // No event is asked for: errors and hang-ups are always reported.
        let mut watched = [PollFd::new(out.as_fd(), PollFlags::empty())];
        while poll(&mut watched, PollTimeout::NONE) == Err(Errno::EINTR) {}
        let _ = tell.send(());
    };
    let _ = std::thread::Builder::new().name("reader".into()).spawn(watch);
    if told.await.is_err() {
        pending().await
    }
}

/// Empties log files.
pub(super) async fn flush(select: Vec<String>, session: &Session) -> Result<(), Error> {
    let Some(mut client) = session.connect_if_running().await? else {
        if !select.is_empty() {
            return Err(Error::NothingRuns { wanted: select.join(" ") });
        }
        session.note(format_args!("the daemon is not running: no app has a log file to empty"));
        return Ok(());
    };
    let request = Request::Flush(select);
    let files: Vec<PathBuf> = client.call(&request).await.map_err(|error| session.failed(error))?;
    for file in &files {
        session.note(format_args!("emptied {}", file.display()));
    }
    Ok(())
}

/// Makes the daemon open its log files anew, after something else moved them.
pub(super) async fn reopen(session: &Session) -> Result<(), Error> {
    let Some(mut client) = session.connect_if_running().await? else {
        session.note(format_args!("the daemon is not running: no log file is open"));
        return Ok(());
    };
    let _: IgnoredAny = client.call(&Request::ReopenLogs).await.map_err(|error| session.failed(error))?;
    session.note(format_args!("opened all log files anew"));
    Ok(())
}
