//! Words to running apps: their standard input, and Node's channel.
//!
//! Nothing is decided here and nothing changes, so it goes past the supervisor's loop: a look at the
//! instances says who is spoken to.

use std::io;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};

use crate::daemon::supervisor::handle::SupervisorHandle;
use crate::daemon::supervisor::views;
use crate::daemon::world::node_channel::{MAX_OUTGOING, NodeChannels};
use crate::instance::Instance;
use crate::instance::state::RunProcess;
use crate::instance::status::RunId;
use crate::ipc::message::{ApiError, ErrorCode, Outcome, Report, Selectors, Trigger, TriggerReply};
use crate::process::process_ref::ProcessRef;
use crate::process::spawn::stdio;

/// How long an app may take to read its input, once the pipe is full.
const STDIN_TIMEOUT: Duration = Duration::from_secs(2);

/// How long an action may take. PM2 waits for ever.
const ACTION_TIMEOUT: Duration = Duration::from_secs(30);

/// Writes to the standard input of the selected instances.
///
/// # Errors
/// None of them runs, or one selector means nothing.
pub async fn write_stdin(
    handle: &SupervisorHandle,
    select: Selectors,
    text: &str,
) -> Result<Report, ApiError> {
    let mut instances = Vec::new();
    for (instance, process) in running_instances(handle, select).await? {
        let to = ProcessRef { pid: process.pid, start_time: process.start_time };
        let problem = match timeout(STDIN_TIMEOUT, stdio::write_stdin(to, text.as_bytes())).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidInput => {
                Some("stdin is closed".to_owned())
            }
            Ok(Err(error)) => Some(format!("cannot write to stdin: {error}")),
            Err(_) => Some("stdin is full: only part of the text was written".to_owned()),
        };
        instances.push(outcome(&instance, problem));
    }
    Ok(Report { instances, notes: Vec::new() })
}

/// Sends a message through Node's channel to the selected instances.
///
/// # Errors
/// None of them runs, or one selector means nothing.
pub async fn send_message(
    handle: &SupervisorHandle,
    channels: &NodeChannels,
    select: Selectors,
    message: &serde_json::Value,
) -> Result<Report, ApiError> {
    let running = running_instances(handle, select).await?;
    let instances = running.into_iter().map(|(instance, process)| {
        let problem = channels.send(run(&instance, process), message).err();
        outcome(&instance, problem.map(|problem| problem.to_string()))
    });
    Ok(Report { instances: instances.collect(), notes: Vec::new() })
}

/// Has the selected instances do what they offer; all at once, so that together they take no longer
/// than [`ACTION_TIME`].
///
/// # Errors
/// None of them runs, one selector means nothing, or the parameter is too long.
pub async fn trigger_action(
    handle: &SupervisorHandle,
    channels: &NodeChannels,
    wanted: &Trigger,
) -> Result<Vec<TriggerReply>, ApiError> {
    if wanted.action.len() + wanted.param.as_ref().map_or(0, |param| param.to_string().len())
        > MAX_OUTGOING / 2
    {
        return Err(ApiError::new(ErrorCode::TooLarge, "parameter exceeds 32 KiB"));
    }
    let asked: Vec<_> = running_instances(handle, wanted.select.clone())
        .await?
        .into_iter()
        .map(|(instance, process)| {
            let answered = start_action(channels, run(&instance, process), wanted);
            (instance, answered)
        })
        .collect();
    let until = Instant::now() + ACTION_TIMEOUT;
    let mut replies = Vec::new();
    for (instance, answered) in asked {
        let answer = match answered {
            Err(problem) => Err(problem),
            Ok(answered) => match timeout_at(until, answered).await {
                Ok(answer) => answer.map_err(|_| "exited before it replied".to_owned()),
                Err(_) => Err(format!("no reply within {} s", ACTION_TIMEOUT.as_secs())),
            },
        };
        let (reply, problem) =
            answer.map_or_else(|problem| (serde_json::Value::Null, Some(problem)), |reply| (reply, None));
        let (name, namespace) = (instance.spec().name.clone(), instance.spec().namespace.clone());
        replies.push(TriggerReply { id: instance.id(), name, namespace, reply, problem });
    }
    Ok(replies)
}

/// An app that has told what it offers is not asked for anything else; one that has told nothing may
/// have done so to a daemon before this one.
fn start_action(
    channels: &NodeChannels,
    run: RunId,
    wanted: &Trigger,
) -> Result<oneshot::Receiver<serde_json::Value>, String> {
    let offers = channels.actions(run).unwrap_or_default().actions;
    if !offers.is_empty() && !offers.contains_key(&wanted.action) {
        let offers: Vec<&str> = offers.keys().map(String::as_str).collect();
        return Err(format!("unknown action \"{}\"; available: {}", wanted.action, offers.join(", ")));
    }
    channels.trigger(run, &wanted.action, wanted.param.as_ref()).map_err(|problem| problem.to_string())
}

/// The selected instances that have a process.
async fn running_instances(
    handle: &SupervisorHandle,
    select: Selectors,
) -> Result<Vec<(Instance, RunProcess)>, ApiError> {
    let chosen = handle.get(Some(select)).await?;
    let running = chosen.into_iter().filter_map(|(instance, _)| {
        let process = *instance.status().state.process()?;
        Some((instance, process))
    });
    let running: Vec<_> = running.collect();
    if running.is_empty() {
        return Err(ApiError::new(ErrorCode::Conflict, "no selected instance is running"));
    }
    Ok(running)
}

fn run(instance: &Instance, process: RunProcess) -> RunId {
    RunId { instance: instance.id(), number: process.run }
}

fn outcome(instance: &Instance, problem: Option<String>) -> Outcome {
    let status = Some(views::display_status(&instance.status().state));
    Outcome { id: instance.id(), name: instance.spec().name.clone(), status, problem, killed: false }
}
