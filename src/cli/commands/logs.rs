//! `logs`, `flush`, `reloadLogs`: what the apps say, and the files it is kept in.

use std::future::poll_fn;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::pin::pin;
use std::task::Poll;

use clap::Args;
use clap_complete::engine::ArgValueCandidates;
use serde::de::IgnoredAny;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::commands::config;
use crate::cli::completion;
use crate::cli::error::Error;
use crate::cli::render::log_line::{LinePrefix, highlighted, json_line, pairs};
use crate::cli::render::style::Style;
use crate::cli::screen::wait_stdout_closed;
use crate::cli::session::Session;
use crate::cli::time_arg;
use crate::ipc::client::ClientError;
use crate::ipc::log_stream::LogStream;
use crate::ipc::message::{FlushRequest, LogItem, LogQuery, OutputStream, Request};
use crate::logs::timestamp::TimestampFormat;

/// Last lines of each file, unless said otherwise: as many as PM2 shows.
const DEFAULT_LINES: usize = 15;

// Arguments of `logs`.
#[derive(Args, Clone, Debug)]
pub(crate) struct LogsArgs {
    /// Ids, names, namespaces or /regex/ [default: all]
    #[arg(value_name = "APP", add = ArgValueCandidates::new(completion::complete_selectors))]
    select: Vec<String>,
    /// Number of recent lines to show per log file, or in total with --grep [default: 15, or all with --since]
    #[arg(long, short = 'n', value_name = "N")]
    lines: Option<usize>,
    /// Show standard output only
    #[arg(long, conflicts_with = "err")]
    out: bool,
    /// Show standard error only
    #[arg(long)]
    err: bool,
    /// Print lines unmodified; lines from stderr go to stderr
    #[arg(long, conflicts_with = "json")]
    raw: bool,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
    /// Print key=value pairs
    #[arg(long, conflicts_with_all = ["json", "raw"])]
    format: bool,
    /// Print a timestamp before each line, in a format such as "HH:mm:ss"
    #[arg(long, value_name = "FORMAT", num_args = 0..=1, default_missing_value = "YYYY-MM-DDTHH:mm:ss")]
    timestamp: Option<String>,
    /// Print recent lines and exit
    #[arg(long)]
    nostream: bool,
    /// Show lines since TIME: "10m" (ago), "14:05", "2026-11-21 14:05"
    #[arg(long, value_name = "TIME", value_parser = time_arg::parse_time)]
    since: Option<u64>,
    /// Show lines until TIME
    #[arg(long, value_name = "TIME", value_parser = time_arg::parse_time)]
    until: Option<u64>,
    /// Show only lines that match a regular expression
    #[arg(long, value_name = "REGEX")]
    grep: Option<String>,
    /// Highlight TEXT
    #[arg(long, value_name = "TEXT")]
    highlight: Option<String>,
}

/// So many streams in a row that broke before they brought anything are enough.
const MAX_EMPTY_RETRIES: u32 = 8;

/// How lines are shown.
enum OutputFormat {
    Prefixed(LinePrefix, Style),
    Pairs,
    Raw,
    Json,
}

/// What is put to each line as it is shown.
struct LogPrinter {
    shape: OutputFormat,
    stamp: Option<TimestampFormat>,
    highlight: Option<String>,
}

/// Shows lines until there are no more, the reader goes, or Ctrl-C: the two latter are how one
/// leaves, so they are no failure.
pub(crate) async fn logs(logs: LogsArgs, session: &Session) -> Result<(), Error> {
    let query = query(&logs, session)?;
    let show = LogPrinter::new(&logs, session.style);
    tokio::select! {
        result = stream_with_resume(query, show, session) => result,
        _ = tokio::signal::ctrl_c() => Ok(()),
        () = wait_stdout_closed() => Ok(()),
    }
}

fn query(logs: &LogsArgs, session: &Session) -> Result<LogQuery, Error> {
    let all = logs.select.iter().any(|selector| selector == "all");
    let lines = match (logs.lines, logs.since) {
        (Some(lines), _) => lines,
        (None, Some(_)) => usize::MAX,
        (None, None) => config::load(&session.home)?.log_lines(),
    };
    Ok(LogQuery {
        select: if all { Vec::new() } else { logs.select.clone() },
        lines,
        // What is over by then has nothing to come.
        follow: !logs.nostream && logs.until.is_none(),
        out: !logs.err,
        err: !logs.out,
        since: logs.since,
        until: logs.until,
        grep: logs.grep.clone(),
        positions: None,
    })
}

/// Shows what the selected apps say until the user has seen enough: Ctrl-C, or the reader goes.
pub(crate) async fn attach(select: Vec<String>, session: &Session) -> Result<(), Error> {
    let query = LogQuery { select, lines: DEFAULT_LINES, follow: true, ..LogQuery::default() };
    let show = LogPrinter {
        shape: OutputFormat::Prefixed(LinePrefix::default(), session.style),
        stamp: None,
        highlight: None,
    };
    let mut terminated = signal(SignalKind::terminate())
        .map_err(|error| Error::Io { context: "cannot install signal handlers", error })?;
    tokio::select! {
        result = stream_with_resume(query, show, session) => result,
        _ = tokio::signal::ctrl_c() => Ok(()),
        _ = terminated.recv() => Ok(()),
        () = wait_stdout_closed() => Ok(()),
    }
}

/// Shows all that is asked for, over the death of daemons: another one continues the stream where the last
/// one was.
async fn stream_with_resume(query: LogQuery, mut show: LogPrinter, session: &Session) -> Result<(), Error> {
    let follow = query.follow;
    let (mut stream, mut vain) = (LogStream::new(query), 0);
    loop {
        let mut client = match session.connect().await {
            Err(error) if vain > 0 && error.is_not_running() => return Err(Error::StreamEnded),
            connected => connected?,
        };
        let before = stream.known_files();
        let shown = match stream.open(&mut client).await {
            Ok(()) => copy_stream(&mut stream, &mut show, session).await?,
            Err(ClientError::ConnectionLost(reason)) => {
                StreamResult { result: Err(ClientError::ConnectionLost(reason)), received: false }
            }
            Err(ClientError::NotRunning { .. }) if vain > 0 => return Err(Error::StreamEnded),
            // It ended between the connection and the request.
            Err(ClientError::NotRunning { .. }) if vain > 0 => return Err(Error::StreamEnded),
            Err(error) => return Err(session.client_error(error)),
        };
        vain = if shown.received || stream.known_files() > before { 1 } else { vain + 1 };
        match shown.result {
            Ok(()) if !follow => return Ok(()),
            Ok(()) | Err(ClientError::ConnectionLost(_)) if vain < MAX_EMPTY_RETRIES => {}
            Ok(()) => return Err(Error::StreamEnded),
            Err(error) => return Err(session.client_error(error)),
        }
    }
}

/// How showing a stream came to its end, and whether it brought anything.
struct StreamResult {
    result: Result<(), ClientError>,
    received: bool,
}

/// Writes lines as they come; flushes when none is waiting.
async fn copy_stream(
    stream: &mut LogStream,
    show: &mut LogPrinter,
    session: &Session,
) -> Result<StreamResult, Error> {
    let mut out = BufWriter::new(io::stdout());
    let mut any = false;
    loop {
        let batch = {
            let mut next = pin!(stream.next_batch());
            let ready = poll_fn(|context| {
                Poll::Ready(match next.as_mut().poll(context) {
                    Poll::Ready(batch) => Some(batch),
                    Poll::Pending => None,
                })
            });
            match ready.await {
                Some(batch) => batch,
                None => {
                    out.flush().map_err(Error::Stdout)?;
                    next.await
                }
            }
        };
        let lines = match batch {
            Some(Ok(lines)) => lines,
            ended => {
                out.flush().map_err(Error::Stdout)?;
                return Ok(StreamResult {
                    result: ended.map_or(Ok(()), |failed| failed.map(drop)),
                    received: any,
                });
            }
        };
        // An item that only a newer version knows is not shown.
        for item in lines.iter().filter_map(|line| serde_json::from_slice(line).ok()) {
            show.write(&item, &mut out, session).map_err(Error::Stdout)?;
            any = true;
        }
    }
}

impl LogPrinter {
    fn new(logs: &LogsArgs, style: Style) -> Self {
        let shape = match logs {
            LogsArgs { raw: true, .. } => OutputFormat::Raw,
            LogsArgs { json: true, .. } => OutputFormat::Json,
            LogsArgs { format: true, .. } => OutputFormat::Pairs,
            _ => OutputFormat::Prefixed(LinePrefix::default(), style),
        };
        let highlight = logs.highlight.clone().filter(|text| style.color && !text.is_empty());
        Self { shape, stamp: logs.timestamp.as_deref().map(TimestampFormat::new), highlight }
    }

    fn write(&mut self, item: &LogItem, out: &mut impl Write, session: &Session) -> io::Result<()> {
        let LogItem::Line { id, name, stream, at, line } = item else {
            return self.print_missed(item, out, session);
        };
        let stamp = self.timestamp(*at);
        let marked = self.highlight.as_ref().map(|text| line.replace(text, &highlighted(text)));
        let line = marked.as_deref().unwrap_or(line);
        match &mut self.shape {
            OutputFormat::Json => writeln!(out, "{}", json_line(item)),
            OutputFormat::Pairs => writeln!(out, "{}", pairs(*id, name, *stream, line, &self.timestamp(*at))),
            OutputFormat::Raw if *stream == OutputStream::Err => {
                out.flush()?;
                writeln!(io::stderr().lock(), "{stamp}{line}")
            }
            OutputFormat::Raw => writeln!(out, "{stamp}{line}"),
            OutputFormat::Prefixed(prefix, style) => {
                writeln!(out, "{stamp}{}", prefix.line(*id, name, *stream, line, *style))
            }
        }
    }

    /// The time and a blank, if it is wanted.
    fn timestamp(&self, at: Option<u64>) -> String {
        let Some((stamp, at)) = self.stamp.as_ref().zip(at.and_then(|at| i64::try_from(at).ok())) else {
            return String::new();
        };
        let mut text = Vec::new();
        stamp.write(at, &mut text);
        text.push(b' ');
        String::from_utf8_lossy(&text).into_owned()
    }

    fn print_missed(&self, item: &LogItem, out: &mut impl Write, session: &Session) -> io::Result<()> {
        match (&self.shape, item) {
            (OutputFormat::Json, item) => writeln!(out, "{}", json_line(item)),
            (_, LogItem::Missed { lines }) => {
                out.flush()?;
                session
                    .notice(format_args!("note: {lines} lines skipped: output was faster than this reader"));
                Ok(())
            }
            (_, LogItem::Line { .. } | LogItem::Positions { .. }) => Ok(()),
        }
    }
}

/// Empties log files.
pub(crate) async fn flush(select: Vec<String>, session: &Session) -> Result<(), Error> {
    let Some(mut client) = session.connect_if_running().await? else {
        if !select.is_empty() {
            return Err(Error::NoDaemonForTarget { target: select.join(" ") });
        }
        session.notice(format_args!("the daemon is not running, nothing to flush"));
        return Ok(());
    };
    let request = Request::Flush(FlushRequest { select });
    let files: Vec<PathBuf> = client.call(&request).await.map_err(|error| session.client_error(error))?;
    for file in &files {
        session.notice(format_args!("truncated {}", file.display()));
    }
    Ok(())
}

/// Makes the daemon open its log files anew, after something else moved them.
pub(crate) async fn reload_logs(session: &Session) -> Result<(), Error> {
    let Some(mut client) = session.connect_if_running().await? else {
        session.notice(format_args!("the daemon is not running, no log files are open"));
        return Ok(());
    };
    let _: IgnoredAny =
        client.call(&Request::ReopenLogs).await.map_err(|error| session.client_error(error))?;
    session.notice(format_args!("reopened all log files"));
    Ok(())
}
