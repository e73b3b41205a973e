//! Messages to running apps: signals, standard input, the Node channel and app actions.
//!
//! Input and messages change no state, so they bypass the supervisor.

use std::io;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::daemon::supervisor::handle::SupervisorHandle;
use crate::daemon::supervisor::views;
use crate::daemon::world::node_channel::{MAX_OUTGOING, NodeChannels};
use crate::instance::Instance;
use crate::instance::state::RunProcess;
use crate::instance::status::RunId;
use crate::ipc::message::{
    ActionReport, ApiError, ErrorCode, InstanceOutcome, Selectors, TriggerReply, TriggerRequest,
};
use crate::process::detached;
use crate::process::signal;
use crate::process::spawn::stdio;

/// How long to wait for an app to read its input when the pipe is full.
const STDIN_TIMEOUT: Duration = Duration::from_secs(2);

/// After its own timeout, a call that has not returned is blocked in the kernel.
const STALL_MARGIN: Duration = Duration::from_secs(1);

/// How long an app action can take. PM2 has no limit.
const ACTION_TIMEOUT: Duration = Duration::from_secs(30);

/// Sends a signal to the selected instances.
///
/// # Errors
/// The signal is unknown, or no selected instance is running.
pub async fn send_signal(
    handle: &SupervisorHandle,
    select: Selectors,
    name: &str,
) -> Result<ActionReport, ApiError> {
    let Some(number) = signal::parse(name) else {
        return Err(ApiError::new(ErrorCode::Invalid, format!("unknown signal \"{name}\""))
            .hint("use a name such as SIGUSR2 or HUP (see `kill -l`)"));
    };
    handle.signal(select, number).await
}

/// Writes to the standard input of the selected instances.
///
/// # Errors
/// No selected instance is running, or a selector matches nothing.
pub async fn write_stdin(
    handle: &SupervisorHandle,
    select: Selectors,
    text: &str,
) -> Result<ActionReport, ApiError> {
    let mut instances = Vec::new();
    for (instance, process) in running_instances(handle, select).await? {
        let target = process.reference();
        let (bytes, deadline) = (text.as_bytes().to_vec(), std::time::Instant::now() + STDIN_TIMEOUT);
        let subject = format!("stdin of app {} (pid {})", instance.spec().name, process.pid);
        let write = move || stdio::write_stdin(target, &bytes, deadline);
        let written = detached::run(subject, STDIN_TIMEOUT + STALL_MARGIN, write).await;
        let problem = match written.and_then(|written| written) {
            Ok(()) => None,
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Some("stdin is closed".to_owned()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Some("stdin is full: only part of the text was written".to_owned())
            }
            Err(error) => Some(format!("cannot write to stdin: {error}")),
        };
        instances.push(outcome(&instance, problem));
    }
    Ok(ActionReport { instances, ..ActionReport::default() })
}

/// Sends a message through the Node channel to the selected instances.
///
/// # Errors
/// No selected instance is running, or a selector matches nothing.
pub async fn send_message(
    handle: &SupervisorHandle,
    channels: &NodeChannels,
    select: Selectors,
    message: &serde_json::Value,
) -> Result<ActionReport, ApiError> {
    let running = running_instances(handle, select).await?;
    let instances = running.into_iter().map(|(instance, process)| {
        let problem = channels.send(run_id(&instance, process), message).err();
        outcome(&instance, problem.map(|problem| problem.to_string()))
    });
    Ok(ActionReport { instances: instances.collect(), ..ActionReport::default() })
}

/// Runs an app action in the selected instances, in parallel, with one timeout of [`ACTION_TIMEOUT`] for all.
///
/// # Errors
/// No selected instance is running, a selector matches nothing, or the parameter is too long.
pub async fn trigger_action(
    handle: &SupervisorHandle,
    channels: &NodeChannels,
    trigger: &TriggerRequest,
) -> Result<Vec<TriggerReply>, ApiError> {
    let param_size = trigger.param.as_ref().map_or(0, |param| param.to_string().len());
    if trigger.action.len() + param_size > MAX_OUTGOING / 2 {
        return Err(ApiError::new(ErrorCode::TooLarge, "parameter exceeds 32 KiB"));
    }
    let started: Vec<_> = running_instances(handle, trigger.select.clone())
        .await?
        .into_iter()
        .map(|(instance, process)| {
            let reply = start_action(channels, run_id(&instance, process), trigger);
            (instance, reply)
        })
        .collect();
    let deadline = Instant::now() + ACTION_TIMEOUT;
    let mut replies = Vec::new();
    for (instance, reply) in started {
        let result = match reply {
            Err(problem) => Err(problem),
            Ok(reply) => match timeout_at(deadline, reply).await {
                Ok(reply) => reply.map_err(|_| "exited before it replied".to_owned()),
                Err(_) => Err(format!("no reply within {} s", ACTION_TIMEOUT.as_secs())),
            },
        };
        let (reply, problem) =
            result.map_or_else(|problem| (serde_json::Value::Null, Some(problem)), |reply| (reply, None));
        let (name, namespace) = (instance.spec().name.clone(), instance.spec().namespace.clone());
        replies.push(TriggerReply { id: instance.id(), name, namespace, reply, problem });
    }
    Ok(replies)
}

/// Starts an action. An app without known actions may have registered them with a previous daemon, so it gets the
/// request.
fn start_action(
    channels: &NodeChannels,
    run: RunId,
    trigger: &TriggerRequest,
) -> Result<oneshot::Receiver<serde_json::Value>, String> {
    let actions = channels.actions(run).unwrap_or_default().actions;
    if !actions.is_empty() && !actions.contains_key(&trigger.action) {
        let names: Vec<&str> = actions.keys().map(String::as_str).collect();
        return Err(format!("unknown action \"{}\"; available: {}", trigger.action, names.join(", ")));
    }
    channels.trigger(run, &trigger.action, trigger.param.as_ref()).map_err(|problem| problem.to_string())
}

/// The selected instances that have a process.
async fn running_instances(
    handle: &SupervisorHandle,
    select: Selectors,
) -> Result<Vec<(Instance, RunProcess)>, ApiError> {
    let selected = handle.get(Some(select)).await?;
    let running = selected.into_iter().filter_map(|(instance, _)| {
        let process = *instance.status().state.process()?;
        Some((instance, process))
    });
    let running: Vec<_> = running.collect();
    if running.is_empty() {
        return Err(ApiError::new(ErrorCode::Conflict, "no selected instance is running"));
    }
    Ok(running)
}

fn run_id(instance: &Instance, process: RunProcess) -> RunId {
    RunId { instance: instance.id(), number: process.run }
}

fn outcome(instance: &Instance, problem: Option<String>) -> InstanceOutcome {
    let status = Some(views::display_status(instance));
    InstanceOutcome { id: instance.id(), name: instance.spec().name.clone(), status, problem, killed: false }
}
