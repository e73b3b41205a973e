//! The logs of instances: streams of recent and new lines, truncation, reopening.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use regex::bytes::Regex;
use tokio::sync::mpsc;

use crate::daemon::api::encode::write_line;
use crate::daemon::supervisor::handle::SupervisorHandle;
use crate::instance::Instance;
use crate::ipc::message::{ApiError, ErrorCode, LogItem, LogQuery, OutputStream, Selectors};
use crate::ipc::server::HandlerResponse;
use crate::logs::{
    self, FileErrors, FollowFilter, FollowTarget, Follower, LogAccess, LogHandle, LogReader, ReadQuery,
    ReadTarget,
};
use crate::paths::Home;
use crate::secure_fs::FileUser;
use crate::settings::RsmSettings;

/// How many blocks wait for a slow client: one, while the next is read.
const CHANNEL_CAPACITY: usize = 1;

/// Size of a block in bytes; the last line may exceed it.
const BLOCK_SIZE: usize = 64 * 1024;

/// Initial capacity of a block, so that it is not doubled for the last line.
const BLOCK_CAPACITY: usize = BLOCK_SIZE + BLOCK_SIZE / 8;

/// How long an incomplete line waits for its end.
const PARTIAL_LINE_TIMEOUT: Duration = Duration::from_secs(1);

/// Opens a stream. Lines are read from the files, so that none is lost or repeated between recent and new lines;
/// output without a file is streamed live.
///
/// # Errors
/// A selector matches nothing, or the pattern is invalid.
pub async fn open_log_stream(
    handle: &SupervisorHandle,
    logs: &LogHandle,
    home: &Home,
    query: LogQuery,
) -> Result<HandlerResponse, ApiError> {
    if !query.out && !query.err {
        return Err(ApiError::new(ErrorCode::Invalid, "at least one of `out` and `err` must be true"));
    }
    let read_query = read_query(&query)?;
    let instances = select_instances(handle, &query).await?;
    let follower = query.follow.then(|| logs.follow(follow_filter(&instances, &query)));
    let attach_count = logs.notify_handle().attach_count();
    let reader = LogReader::new(read_query);
    let request =
        LogRequest { handle: handle.clone(), logs: logs.clone(), home: home.clone(), query, attach_count };
    let (sender, lines) = mpsc::channel(CHANNEL_CAPACITY);
    tokio::task::spawn_local(async move {
        if let Err(error) = stream_logs(request, instances, reader, follower, sender).await {
            tracing::warn!("cannot read logs: {error}");
        }
    });
    Ok(HandlerResponse::Stream(lines))
}

fn read_query(query: &LogQuery) -> Result<ReadQuery, ApiError> {
    let pattern = |text: &String| {
        Regex::new(text).map_err(|error| {
            let message = error.to_string();
            let reason = message.lines().last().unwrap_or("unknown error").trim_start_matches("error: ");
            ApiError::new(ErrorCode::Invalid, format!("invalid regular expression \"{text}\": {reason}"))
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
            .map(|position| (position.path.clone(), position.clone()))
            .collect(),
    })
}

fn is_all(query: &LogQuery) -> bool {
    query.select.is_empty() || query.select.iter().any(|selector| selector == "all")
}

async fn select_instances(handle: &SupervisorHandle, query: &LogQuery) -> Result<Vec<Instance>, ApiError> {
    let selected = handle.get((!is_all(query)).then(|| query.select.clone())).await?;
    Ok(selected.into_iter().map(|(instance, _)| instance).collect())
}

/// Follows apps by name, so that new instances are included, and single instances by id.
fn follow_filter(instances: &[Instance], query: &LogQuery) -> FollowFilter {
    let target = if is_all(query) {
        FollowTarget::All
    } else {
        let by_id =
            |instance: &&Instance| query.select.iter().any(|selector| *selector == instance.id().to_string());
        let (ids, names): (Vec<&Instance>, Vec<&Instance>) = instances.iter().partition(by_id);
        FollowTarget::Selected {
            ids: ids.into_iter().map(|instance| instance.id()).collect(),
            names: names.into_iter().map(|instance| instance.spec().name.clone()).collect::<BTreeSet<_>>(),
        }
    };
    FollowFilter { target, out: query.out, err: query.err }
}

/// The files to read, each once even if instances and streams share it.
fn read_targets(instances: &[Instance], query: &LogQuery, home: &Home, logs: &LogHandle) -> Vec<ReadTarget> {
    let mut targets: BTreeMap<PathBuf, ReadTarget> = BTreeMap::new();
    for instance in instances {
        let (spec, id) = (instance.spec(), instance.id());
        let user = FileUser::of(spec.account.as_ref());
        let access = LogAccess::new(logs.home(), user, Arc::new(spec.logs.rotation.clone()));
        let mut add = |path: Option<PathBuf>, stream| {
            let Some(path) = path else { return };
            let path = logs.diversion(&path).map_or(path, |diversion| diversion.used);
            let target = targets.entry(path.clone()).or_insert_with(|| ReadTarget {
                path,
                access: access.clone(),
                id,
                stream,
                shared: Some(Vec::new()),
            });
            target.access.add(&access);
            target.shared.get_or_insert_default().push((id, stream));
        };
        let files = logs::log_files(spec, id, &instance.file_name(), home);
        add(files.out.filter(|_| query.out), OutputStream::Out);
        add(files.err.filter(|_| query.err), OutputStream::Err);
    }
    targets.into_values().collect()
}

fn instance_names(instances: &[Instance]) -> HashMap<u32, String> {
    instances.iter().map(|instance| (instance.id(), instance.spec().name.clone())).collect()
}

/// The request of a stream, evaluated again when runs are attached.
struct LogRequest {
    handle: SupervisorHandle,
    logs: LogHandle,
    home: Home,
    query: LogQuery,
    attach_count: u64,
}

async fn stream_logs(
    mut request: LogRequest,
    instances: Vec<Instance>,
    mut reader: LogReader,
    mut follower: Option<Follower>,
    sender: mpsc::Sender<Bytes>,
) -> io::Result<()> {
    let targets = read_targets(&instances, &request.query, &request.home, &request.logs);
    let names = instance_names(&instances);
    reader = run_blocking(reader, move |reader| {
        reader.add(targets, names, false);
        reader.read_ahead();
    })
    .await?
    .0;
    let notify = request.logs.notify_handle();
    let with_positions = request.query.positions.is_some();
    let mut is_overdue = false;
    loop {
        // Enabled before the read: lines that are written after it wake this task.
        let mut changed = pin!(notify.changed());
        changed.as_mut().enable();
        let all = is_overdue || follower.is_none();
        let block;
        (reader, block) =
            run_blocking(reader, move |reader| encode_block(reader, all, with_positions)).await?;
        if !block.is_empty() {
            if sender.send(block).await.is_err() {
                return Ok(());
            }
            continue;
        }
        let Some(live) = &mut follower else { return Ok(()) };
        is_overdue = false;
        let timeout = if reader.has_partial() { PARTIAL_LINE_TIMEOUT } else { Duration::from_secs(3600) };
        tokio::select! {
            item = live.next() => match item {
                Some(item) if sender.send(encode_item(&item, with_positions)).await.is_ok() => {}
                Some(_) | None => return Ok(()),
            },
            () = changed => {}
            () = tokio::time::sleep(timeout) => is_overdue = true,
            () = sender.closed() => return Ok(()),
        }
        if notify.attach_count() != request.attach_count {
            request.attach_count = notify.attach_count();
            reader = add_new_files(&request, reader).await?;
        }
    }
}

/// Adds the files of new instances. Files of deleted instances stay.
async fn add_new_files(request: &LogRequest, reader: LogReader) -> io::Result<LogReader> {
    let instances = select_instances(&request.handle, &request.query).await.unwrap_or_default();
    let targets = read_targets(&instances, &request.query, &request.home, &request.logs);
    let names = instance_names(&instances);
    Ok(run_blocking(reader, move |reader| reader.add(targets, names, true)).await?.0)
}

/// The next lines, at most about one block, and the positions of the files after them if requested.
fn encode_block(reader: &mut LogReader, all: bool, with_positions: bool) -> Bytes {
    let mut bytes = Vec::new();
    while bytes.len() < BLOCK_SIZE {
        let Some(items) = reader.next(all) else { break };
        if bytes.is_empty() {
            bytes.reserve(BLOCK_CAPACITY);
        }
        items.iter().for_each(|item| write_line(item, &mut bytes));
    }
    let positions = if with_positions { reader.changed_positions() } else { Vec::new() };
    if !positions.is_empty() || (with_positions && !bytes.is_empty()) {
        write_line(&LogItem::Positions { positions }, &mut bytes);
    }
    bytes.into()
}

/// A line that is in no file. It changes no position, so the list of positions is empty.
fn encode_item(item: &LogItem, with_positions: bool) -> Bytes {
    let mut bytes = Vec::new();
    write_line(item, &mut bytes);
    if with_positions {
        write_line(&LogItem::Positions { positions: Vec::new() }, &mut bytes);
    }
    bytes.into()
}

/// Reads files on another thread, so that a slow disk does not delay the loop.
async fn run_blocking<T: Send + 'static>(
    mut reader: LogReader,
    read: impl FnOnce(&mut LogReader) -> T + Send + 'static,
) -> io::Result<(LogReader, T)> {
    let task = tokio::task::spawn_blocking(move || {
        let result = read(&mut reader);
        (reader, result)
    });
    task.await.map_err(io::Error::other)
}

/// Truncates the files of the selected instances, or of all; returns their paths.
///
/// # Errors
/// A selector matches nothing, or a file cannot be truncated.
pub async fn truncate_files(
    handle: &SupervisorHandle,
    logs: &LogHandle,
    home: &Home,
    select: Selectors,
) -> Result<Vec<PathBuf>, ApiError> {
    let selected = handle.get((!select.is_empty()).then_some(select)).await?;
    let mut files: BTreeMap<PathBuf, FileUser> = BTreeMap::new();
    for (instance, _) in &selected {
        let user = FileUser::of(instance.spec().account.as_ref());
        let paths = logs::log_files(instance.spec(), instance.id(), &instance.file_name(), home);
        for path in [paths.out, paths.err, paths.combined].into_iter().flatten() {
            let path = logs.diversion(&path).map_or(path, |diversion| diversion.used);
            files.insert(path, user);
        }
    }
    check_file_errors(logs.flush(files.clone().into_iter().collect()).await, "truncate")?;
    Ok(files.into_keys().collect())
}

/// Reopens all log files, and applies the log budget of the settings.
///
/// # Errors
/// A file cannot be opened.
pub async fn reopen_files(logs: &LogHandle, home: &Home) -> Result<(), ApiError> {
    match RsmSettings::load(home) {
        Ok(settings) => logs.set_budget(settings.log_budget()),
        Err(error) => tracing::warn!("{error}"),
    }
    check_file_errors(logs.reopen().await, "reopen")
}

fn check_file_errors(errors: FileErrors, action: &str) -> Result<(), ApiError> {
    if errors.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> =
        errors.iter().map(|(path, error)| format!("{}: {error}", path.display())).collect();
    Err(ApiError::new(ErrorCode::Internal, format!("cannot {action} log files: {}", lines.join("; "))))
}
