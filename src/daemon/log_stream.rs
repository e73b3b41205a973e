//! `/v1/logs`: the last lines of each file, then those to come.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::mpsc;

use super::handle::Handle;
use crate::instance::Instance;
use crate::ipc::message::{ApiError, ErrorCode, LogItem, LogQuery, Stream};
use crate::ipc::server::Answer;
use crate::logs::{self, Filter, Follower, Logs, Which};
use crate::paths::Home;

/// How many lines wait for a slow reader here, besides those that the follower holds.
const BACKLOG: usize = 256;

/// Opens the stream. Following begins before the files are read, so no line falls between.
///
/// # Errors
/// A selector matches nothing.
pub async fn open(handle: &Handle, logs: &Logs, home: &Home, query: LogQuery) -> Result<Answer, ApiError> {
    if !query.out && !query.err {
        return Err(ApiError::new(ErrorCode::Invalid, "neither out nor err is asked for"));
    }
    let all = query.select.is_empty() || query.select.iter().any(|selector| selector == "all");
    let chosen = handle.look((!all).then(|| query.select.clone())).await?;
    let instances: Vec<Instance> = chosen.into_iter().map(|(instance, _)| instance).collect();
    let follower = query.follow.then(|| logs.follow(filter(&instances, &query, all)));
    let tails = tails(&instances, &query, home);
    let (send, lines) = mpsc::channel(BACKLOG);
    tokio::task::spawn_local(pour(tails, query.lines, follower, send));
    Ok(Answer::Stream(lines))
}

/// What is followed: apps by name, so that new instances are included; a single instance by id.
fn filter(instances: &[Instance], query: &LogQuery, all: bool) -> Filter {
    let which = if all {
        Which::All
    } else {
        let by_id =
            |instance: &&Instance| query.select.iter().any(|selector| *selector == instance.id.to_string());
        let (ids, names): (Vec<&Instance>, Vec<&Instance>) = instances.iter().partition(by_id);
        Which::These {
            ids: ids.into_iter().map(|instance| instance.id).collect(),
            names: names.into_iter().map(|instance| instance.spec.name.clone()).collect::<BTreeSet<_>>(),
        }
    };
    Filter { which, out: query.out, err: query.err }
}

/// A file to be read, and whose lines are in it.
struct Tail {
    id: u32,
    name: String,
    stream: Stream,
}

/// Each file once, though instances may share it; the oldest change first, as PM2.
fn tails(instances: &[Instance], query: &LogQuery, home: &Home) -> Vec<(PathBuf, Tail)> {
    let mut files: BTreeMap<PathBuf, Tail> = BTreeMap::new();
    for instance in instances {
        let of = logs::files(&instance.spec, instance.id, home);
        let mut add = |path: Option<PathBuf>, stream| {
            if let Some(path) = path {
                let tail = || Tail { id: instance.id, name: instance.spec.name.clone(), stream };
                files.entry(path).or_insert_with(tail);
            }
        };
        add(of.out.filter(|_| query.out), Stream::Out);
        add(of.err.filter(|_| query.err), Stream::Err);
    }
    let changed = |path: &Path| std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
    let mut files: Vec<_> = files.into_iter().collect();
    files.sort_by_key(|(path, _)| changed(path));
    files
}

async fn pour(
    tails: Vec<(PathBuf, Tail)>,
    lines: usize,
    follower: Option<Follower>,
    send: mpsc::Sender<Bytes>,
) {
    for (path, Tail { id, name, stream }) in tails {
        let read = tokio::task::spawn_blocking(move || logs::last_lines(&path, lines)).await;
        for text in read.ok().and_then(Result::ok).unwrap_or_default() {
            let text = String::from_utf8_lossy(&text).into_owned();
            let item = LogItem::Line { id, name: name.clone(), stream, at: None, line: text };
            if send.send(line(&item)).await.is_err() {
                return;
            }
        }
    }
    let Some(mut follower) = follower else { return };
    loop {
        let item = tokio::select! {
            item = follower.next() => item,
            () = send.closed() => return,
        };
        let Some(item) = item else { return };
        if send.send(line(&item)).await.is_err() {
            return;
        }
    }
}

/// A line of a stream.
pub(super) fn line(value: &impl Serialize) -> Bytes {
    let mut bytes = serde_json::to_vec(value).unwrap_or_default();
    bytes.push(b'\n');
    bytes.into()
}
