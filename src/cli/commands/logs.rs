//! `logs`, `flush` and `reloadLogs`: output of apps, and their log files.

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
use crate::cli::targets::{could_be_path, resolve_paths};
use crate::cli::time_arg;
use crate::ipc::client::ClientError;
use crate::ipc::log_stream::LogStream;
use crate::ipc::message::{FlushRequest, LogItem, LogQuery, OutputStream, Request};
use crate::logs::timestamp::TimestampFormat;

/// Number of lines of each file that `attach` shows first, as in PM2.
const DEFAULT_LINES: usize = 15;

/// The format of timestamps if none is given.
const DEFAULT_TIMESTAMP: &str = "YYYY-MM-DDTHH:mm:ss";

// Arguments of `logs`.
#[derive(Args, Clone, Debug)]
pub(crate) struct LogsArgs {
    /// Ids, names, namespaces or /regex/ [default: all]
    #[arg(value_name = "APP", add = ArgValueCandidates::new(completion::complete_selectors))]
    select: Vec<String>,
    /// Number of recent lines to show per log file, or in total with --grep [default: 15, or all with --since]
    #[arg(long, short = 'n', visible_alias = "tail", value_name = "N")]
    lines: Option<usize>,
    /// Show standard output only
    #[arg(long, conflicts_with = "err")]
    out: bool,
    /// Show standard error only
    #[arg(long)]
    err: bool,
    /// Print lines unmodified, with all escape sequences; lines from stderr go to stderr
    #[arg(long, conflicts_with = "json")]
    raw: bool,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
    /// Print key=value pairs
    #[arg(long, conflicts_with_all = ["json", "raw"])]
    format: bool,
    /// Print a timestamp before each line, in a format such as "HH:mm:ss"
    #[arg(long, value_name = "FORMAT", num_args = 0..=1, default_missing_value = DEFAULT_TIMESTAMP)]
    timestamp: Option<String>,
    /// Print a timestamp before each line (--timestamp with its default format)
    #[arg(short = 't', conflicts_with = "timestamp")]
    timestamps: bool,
    /// Follow new lines, which is the default
    #[arg(short, long, conflicts_with = "nostream")]
    follow: bool,
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

/// Maximum number of consecutive streams that end without a line.
const MAX_EMPTY_RETRIES: u32 = 8;

/// The format of lines.
enum OutputFormat {
    Prefixed(LinePrefix, Style),
    Pairs,
    Raw,
    Json,
}

/// Prints lines.
struct LogPrinter {
    format: OutputFormat,
    timestamp_format: Option<TimestampFormat>,
    highlight: Option<String>,
}

/// Prints lines until the stream ends, standard output is closed, or Ctrl-C. The last two are no errors.
pub(crate) async fn logs(args: LogsArgs, session: &Session) -> Result<(), Error> {
    let mut query = query(&args, session)?;
    if query.select.iter().any(|word| could_be_path(word)) {
        let mut client = session.connect_for(&query.select).await?;
        query.select = resolve_paths(&query.select, session, &mut client).await?;
    }
    let printer = LogPrinter::new(&args, session.style);
    tokio::select! {
        result = stream_with_resume(query, printer, session) => result,
        _ = tokio::signal::ctrl_c() => Ok(()),
        () = wait_stdout_closed() => Ok(()),
    }
}

fn query(args: &LogsArgs, session: &Session) -> Result<LogQuery, Error> {
    let all = args.select.iter().any(|selector| selector == "all");
    let lines = match (args.lines, args.since) {
        (Some(lines), _) => lines,
        (None, Some(_)) => usize::MAX,
        (None, None) => config::load(&session.home)?.log_lines(),
    };
    Ok(LogQuery {
        select: if all { Vec::new() } else { args.select.clone() },
        lines,
        // After the end of the time range, no line can match.
        follow: !args.nostream && args.until.is_none(),
        out: !args.err,
        err: !args.out,
        since: args.since,
        until: args.until,
        grep: args.grep.clone(),
        positions: None,
    })
}

/// Follows the logs of the selected apps until Ctrl-C, SIGTERM, or until standard output is closed.
pub(crate) async fn attach(select: Vec<String>, session: &Session) -> Result<(), Error> {
    let query = LogQuery { select, lines: DEFAULT_LINES, follow: true, ..LogQuery::default() };
    let printer = LogPrinter {
        format: OutputFormat::Prefixed(LinePrefix::default(), session.style),
        timestamp_format: None,
        highlight: None,
    };
    let mut terminated = signal(SignalKind::terminate())
        .map_err(|error| Error::Io { context: "cannot install signal handlers", error })?;
    tokio::select! {
        result = stream_with_resume(query, printer, session) => result,
        _ = tokio::signal::ctrl_c() => Ok(()),
        _ = terminated.recv() => Ok(()),
        () = wait_stdout_closed() => Ok(()),
    }
}

/// Prints the lines of a query. If the daemon exits, the next one continues the stream at the same position.
async fn stream_with_resume(
    query: LogQuery,
    mut printer: LogPrinter,
    session: &Session,
) -> Result<(), Error> {
    let follow = query.follow;
    let (mut stream, mut attempts) = (LogStream::new(query), 0);
    loop {
        let mut client = match session.connect().await {
            Err(error) if attempts > 0 && error.is_not_running() => return Err(Error::StreamEnded),
            connected => connected?,
        };
        let known_files = stream.known_files();
        let streamed = match stream.open(&mut client).await {
            Ok(()) => copy_stream(&mut stream, &mut printer, session).await?,
            Err(ClientError::ConnectionLost(reason)) => {
                StreamResult { result: Err(ClientError::ConnectionLost(reason)), received: false }
            }
            Err(ClientError::NotRunning { .. }) if attempts > 0 => return Err(Error::StreamEnded),
            Err(error) => return Err(session.client_error(error)),
        };
        let progressed = streamed.received || stream.known_files() > known_files;
        attempts = if progressed { 1 } else { attempts + 1 };
        match streamed.result {
            Ok(()) if !follow => return Ok(()),
            Ok(()) | Err(ClientError::ConnectionLost(_)) if attempts < MAX_EMPTY_RETRIES => {}
            Ok(()) => return Err(Error::StreamEnded),
            Err(error) => return Err(session.client_error(error)),
        }
    }
}

/// The end of a stream, and whether it contained any line.
struct StreamResult {
    result: Result<(), ClientError>,
    received: bool,
}

/// Prints lines as they arrive; flushes when none is pending.
async fn copy_stream(
    stream: &mut LogStream,
    printer: &mut LogPrinter,
    session: &Session,
) -> Result<StreamResult, Error> {
    let mut out = BufWriter::new(io::stdout());
    let mut received = false;
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
            end => {
                out.flush().map_err(Error::Stdout)?;
                return Ok(StreamResult { result: end.map_or(Ok(()), |result| result.map(drop)), received });
            }
        };
        // Unknown items of a newer version are skipped.
        for item in lines.iter().filter_map(|line| serde_json::from_slice(line).ok()) {
            printer.write(&item, &mut out, session).map_err(Error::Stdout)?;
            received = true;
        }
    }
}

impl LogPrinter {
    fn new(args: &LogsArgs, style: Style) -> Self {
        let format = match args {
            LogsArgs { raw: true, .. } => OutputFormat::Raw,
            LogsArgs { json: true, .. } => OutputFormat::Json,
            LogsArgs { format: true, .. } => OutputFormat::Pairs,
            _ => OutputFormat::Prefixed(LinePrefix::default(), style),
        };
        let highlight = args.highlight.clone().filter(|text| style.color && !text.is_empty());
        let format_text = args.timestamp.as_deref().or(args.timestamps.then_some(DEFAULT_TIMESTAMP));
        let timestamp_format = format_text.map(TimestampFormat::new);
        Self { format, timestamp_format, highlight }
    }

    fn write(&mut self, item: &LogItem, out: &mut impl Write, session: &Session) -> io::Result<()> {
        let LogItem::Line { id, name, stream, at, line } = item else {
            return self.print_missed(item, out, session);
        };
        let timestamp = self.timestamp(*at);
        let highlighted_line = self.highlight.as_ref().map(|text| line.replace(text, &highlighted(text)));
        let line = highlighted_line.as_deref().unwrap_or(line);
        match &mut self.format {
            OutputFormat::Json => writeln!(out, "{}", json_line(item)),
            OutputFormat::Pairs => writeln!(out, "{}", pairs(*id, name, *stream, line, &timestamp)),
            OutputFormat::Raw if *stream == OutputStream::Err => {
                out.flush()?;
                writeln!(io::stderr().lock(), "{timestamp}{line}")
            }
            OutputFormat::Raw => writeln!(out, "{timestamp}{line}"),
            OutputFormat::Prefixed(prefix, style) => {
                writeln!(out, "{timestamp}{}", prefix.line(*id, name, *stream, line, *style))
            }
        }
    }

    /// The timestamp and a space, or nothing if none is configured.
    fn timestamp(&self, at: Option<u64>) -> String {
        let Some((format, at)) = self.timestamp_format.as_ref().zip(at.and_then(|at| i64::try_from(at).ok()))
        else {
            return String::new();
        };
        let mut text = Vec::new();
        format.write(at, &mut text);
        text.push(b' ');
        String::from_utf8_lossy(&text).into_owned()
    }

    fn print_missed(&self, item: &LogItem, out: &mut impl Write, session: &Session) -> io::Result<()> {
        match (&self.format, item) {
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

/// Truncates log files.
pub(crate) async fn flush(select: Vec<String>, session: &Session) -> Result<(), Error> {
    let Some(mut client) = session.connect_if_running().await? else {
        if !select.is_empty() {
            return Err(Error::NoDaemonForTarget { target: select.join(" ") });
        }
        session.notice(format_args!("the daemon is not running, nothing to flush"));
        return Ok(());
    };
    let select = resolve_paths(&select, session, &mut client).await?;
    let request = Request::Flush(FlushRequest { select });
    let files: Vec<PathBuf> = client.call(&request).await.map_err(|error| session.client_error(error))?;
    for file in &files {
        session.notice(format_args!("truncated {}", file.display()));
    }
    Ok(())
}

/// Makes the daemon reopen its log files, after another program has moved them.
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
