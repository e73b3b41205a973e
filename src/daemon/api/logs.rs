//! `/v1/logs`: the last lines of each file, then those to come.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use regex::bytes::Regex;
use serde::Serialize;
use tokio::sync::mpsc;

use crate::daemon::supervisor::handle::SupervisorHandle;
use crate::instance::Instance;
use crate::ipc::message::{ApiError, ErrorCode, LogItem, LogQuery, OutputStream};
use crate::ipc::server::HandlerResponse;
use crate::logs::{self, FollowFilter, FollowTarget, Follower, LogHandle, LogReader, ReadQuery, ReadTarget};
use crate::paths::Home;

/// How many blocks wait for a slow reader here: one, while the next is read.
const CHANNEL_CAPACITY: usize = 1;
/// Bytes sent at once, about: the last line may go beyond.
const BLOCK_SIZE: usize = 64 * 1024;
/// What is set aside for that, so that a block is not twice as large as what is in it.
const BLOCK_CAPACITY: usize = BLOCK_SIZE + BLOCK_SIZE / 8;
/// How long the beginning of a line waits for its end.
const PARTIAL_LINE_TIMEOUT: Duration = Duration::from_secs(1);

/// Opens the stream. Lines come from the files, so none is lost or doubled between the last ones
/// and those to come; streams that no file has are handed over live.
///
/// # Errors
/// A selector matches nothing, or the pattern is none.
pub async fn open_log_stream(
    handle: &SupervisorHandle,
    logs: &LogHandle,
    home: &Home,
    query: LogQuery,
) -> Result<HandlerResponse, ApiError> {
    if !query.out && !query.err {
        return Err(ApiError::new(ErrorCode::Invalid, "at least one of `out` and `err` must be true"));
    }
    let wanted = read_query(&query)?;
    let instances = select_instances(handle, &query).await?;
    let follower = query.follow.then(|| logs.follow(follow_filter(&instances, &query)));
    let attached = logs.notify_handle().attach_count();
    let reader = LogReader::new(logs.indexes(), wanted);
    let source = LogRequest {
        handle: handle.clone(),
        logs: logs.clone(),
        home: home.clone(),
        query,
        attach_count: attached,
    };
    let (send, lines) = mpsc::channel(CHANNEL_CAPACITY);
    tokio::task::spawn_local(async move {
        if let Err(error) = stream_logs(source, instances, reader, follower, send).await {
            tracing::warn!("cannot read logs: {error}");
        }
    });
    Ok(HandlerResponse::Stream(lines))
}

fn read_query(query: &LogQuery) -> Result<ReadQuery, ApiError> {
    let pattern = |text: &String| {
        Regex::new(text).map_err(|error| {
            let what = error.to_string();
            let what =
                what.lines().last().unwrap_or("not a regular expression").trim_start_matches("error: ");
            ApiError::new(ErrorCode::Invalid, format!("invalid regular expression \"{text}\": {what}"))
        })
    };
    Ok(ReadQuery {
        lines: query.lines,
        since: query.since.map(|millis| millis.saturating_mul(1000)),
        until: query.until.map(|millis| millis.saturating_mul(1000).saturating_add(999)),
        grep: query.grep.as_ref().map(pattern).transpose()?,
        positions: query
            .positions
            .iter()
            .flatten()
            .map(|place| (place.path.clone(), place.clone()))
            .collect(),
    })
}

fn is_all(query: &LogQuery) -> bool {
    query.select.is_empty() || query.select.iter().any(|selector| selector == "all")
}

async fn select_instances(handle: &SupervisorHandle, query: &LogQuery) -> Result<Vec<Instance>, ApiError> {
    let chosen = handle.get((!is_all(query)).then(|| query.select.clone())).await?;
    Ok(chosen.into_iter().map(|(instance, _)| instance).collect())
}

/// What is followed: apps by name, so that new instances are included; a single instance by id.
fn follow_filter(instances: &[Instance], query: &LogQuery) -> FollowFilter {
    let which = if is_all(query) {
        FollowTarget::All
    } else {
        let by_id =
            |instance: &&Instance| query.select.iter().any(|selector| *selector == instance.id.to_string());
        let (ids, names): (Vec<&Instance>, Vec<&Instance>) = instances.iter().partition(by_id);
        FollowTarget::Selected {
            ids: ids.into_iter().map(|instance| instance.id).collect(),
            names: names.into_iter().map(|instance| instance.spec.name.clone()).collect::<BTreeSet<_>>(),
        }
    };
    FollowFilter { target: which, out: query.out, err: query.err }
}

/// Each file once, though instances and streams may share it.
fn read_targets(instances: &[Instance], query: &LogQuery, home: &Home) -> Vec<ReadTarget> {
    let mut files: BTreeMap<PathBuf, Vec<(u32, OutputStream)>> = BTreeMap::new();
    for instance in instances {
        let of = logs::log_files(&instance.spec, instance.id, home);
        let mut add = |path: Option<PathBuf>, stream| {
            if let Some(path) = path {
                files.entry(path).or_default().push((instance.id, stream));
            }
        };
        add(of.out.filter(|_| query.out), OutputStream::Out);
        add(of.err.filter(|_| query.err), OutputStream::Err);
    }
    let tail = |(path, whose): (PathBuf, Vec<(u32, OutputStream)>)| {
        let (id, stream) = whose.first().copied().unwrap_or((0, OutputStream::Out));
        ReadTarget { path, id, stream, shared: Some(whose) }
    };
    files.into_iter().map(tail).collect()
}

fn instance_names(instances: &[Instance]) -> HashMap<u32, String> {
    instances.iter().map(|instance| (instance.id, instance.spec.name.clone())).collect()
}

/// What the stream is about, to be asked again when apps are added.
struct LogRequest {
    handle: SupervisorHandle,
    logs: LogHandle,
    home: Home,
    query: LogQuery,
    attach_count: u64,
}

async fn stream_logs(
    mut source: LogRequest,
    instances: Vec<Instance>,
    mut reader: LogReader,
    mut follower: Option<Follower>,
    send: mpsc::Sender<Bytes>,
) -> io::Result<()> {
    let (found, called) = (read_targets(&instances, &source.query, &source.home), instance_names(&instances));
    reader = run_blocking(reader, move |reader| {
        reader.add(found, called, false);
        reader.read_ahead();
    })
    .await?
    .0;
    let news = source.logs.notify_handle();
    let mut overdue = false;
    loop {
        // What is written from here on wakes this task, should the files be at their end.
        let mut more = pin!(news.changed());
        more.as_mut().enable();
        let (all, tell) = (overdue || follower.is_none(), source.query.positions.is_some());
        let (back, block) = run_blocking(reader, move |reader| encode_block(reader, all, tell)).await?;
        reader = back;
        if !block.is_empty() {
            if send.send(block).await.is_err() {
                return Ok(());
            }
            continue;
        }
        let Some(live) = &mut follower else { return Ok(()) };
        overdue = false;
        let patience = if reader.has_partial() { PARTIAL_LINE_TIMEOUT } else { Duration::from_secs(3600) };
        tokio::select! {
            item = live.next() => match item {
                Some(item) if send.send(encode_item(&item, source.query.positions.is_some())).await.is_ok() => {}
                Some(_) | None => return Ok(()),
            },
            () = more => {}
            () = tokio::time::sleep(patience) => overdue = true,
            () = send.closed() => return Ok(()),
        }
        if news.attach_count() != source.attach_count {
            source.attach_count = news.attach_count();
            reader = add_new_files(&source, reader).await?;
        }
    }
}

/// Adds the files of apps that came meanwhile.
async fn add_new_files(source: &LogRequest, reader: LogReader) -> io::Result<LogReader> {
    // Of apps that are gone the files are still there, and read.
    let instances = select_instances(&source.handle, &source.query).await.unwrap_or_default();
    let (found, called) = (read_targets(&instances, &source.query, &source.home), instance_names(&instances));
    Ok(run_blocking(reader, move |reader| reader.add(found, called, true)).await?.0)
}

/// Lines for one block, followed by how far the files were read if that is to be told.
fn encode_block(reader: &mut LogReader, all: bool, tell: bool) -> Bytes {
    let mut bytes = Vec::new();
    while bytes.len() < BLOCK_SIZE {
        let Some(items) = reader.next(all) else { break };
        if bytes.is_empty() {
            bytes.reserve(BLOCK_CAPACITY);
        }
        items.iter().for_each(|item| write_line(item, &mut bytes));
    }
    let positions = if tell { reader.changed_positions() } else { Vec::new() };
    if !positions.is_empty() || (tell && !bytes.is_empty()) {
        write_line(&LogItem::Positions { positions }, &mut bytes);
    }
    bytes.into()
}

/// A line that is in no file: there is no place to go on from, so it is told as a whole by itself.
fn encode_item(item: &LogItem, tell: bool) -> Bytes {
    let mut bytes = Vec::new();
    write_line(item, &mut bytes);
    if tell {
        write_line(&LogItem::Positions { positions: Vec::new() }, &mut bytes);
    }
    bytes.into()
}

/// Reads files where waiting for them is in nobody's way.
async fn run_blocking<T: Send + 'static>(
    mut reader: LogReader,
    what: impl FnOnce(&mut LogReader) -> T + Send + 'static,
) -> io::Result<(LogReader, T)> {
    let done = tokio::task::spawn_blocking(move || {
        let made = what(&mut reader);
        (reader, made)
    });
    done.await.map_err(io::Error::other)
}

/// A line of a stream.
pub(in crate::daemon) fn json_line(value: &impl Serialize) -> Bytes {
    let mut bytes = Vec::new();
    write_line(value, &mut bytes);
    bytes.into()
}

fn write_line(value: &impl Serialize, bytes: &mut Vec<u8>) {
    // Text and numbers in memory: there is nothing that could fail.
    let _ = serde_json::to_writer(&mut *bytes, value);
    bytes.push(b'\n');
}
