//! `trigger`: runs a custom action of apps, through the Node.js channel.

use clap::Args;
use clap_complete::engine::ArgValueCandidates;

use crate::cli::completion;
use crate::cli::error::{Error, InstanceFailure};
use crate::cli::output;
use crate::cli::session::Session;
use crate::cli::targets::resolve_paths;
use crate::ipc::message::{Request, TriggerReply, TriggerRequest};

// Arguments of `trigger`.
#[derive(Args, Clone, Debug)]
pub(crate) struct TriggerArgs {
    /// Id, name, namespace, /regex/ or `all`
    #[arg(value_name = "APP", add = ArgValueCandidates::new(completion::complete_selectors))]
    select: String,
    /// Name of the action
    action: String,
    /// Parameter of the action
    #[arg(allow_hyphen_values = true)]
    param: Option<String>,
}

/// Runs the action and prints the reply of each instance.
pub(crate) async fn trigger(args: TriggerArgs, session: &Session) -> Result<(), Error> {
    let TriggerArgs { select, action, param } = args;
    let mut client = session.connect_for(std::slice::from_ref(&select)).await?;
    let description = format!("running {action} of {select}");
    let trigger = TriggerRequest {
        select: resolve_paths(&[select], session, &mut client).await?,
        action,
        param: param.map(Into::into),
    };
    let request = Request::Trigger(trigger);
    let replies = session.wait(&description, client.call::<Vec<TriggerReply>>(&request)).await;
    let replies = replies.map_err(|error| session.client_error(error))?;
    let mut lines = String::new();
    let mut failures = Vec::new();
    for TriggerReply { id, name, namespace, reply, problem } in replies {
        match problem {
            Some(reason) => failures.push(InstanceFailure { id, name, reason, output: Vec::new() }),
            None => lines.push_str(&format!("[{name}:{id}:{namespace}]={reply}\n")),
        }
    }
    output::print(&lines)?;
    if failures.is_empty() { Ok(()) } else { Err(Error::InstancesFailed(failures)) }
}
