//! `send`, `attach`, `trigger`: words to running apps, and their answers.

use clap::Args;
use tokio::sync::mpsc;

use crate::cli::error::{Error, InstanceFailure};
use crate::ipc::client::Client;
use crate::ipc::message::{InputRequest, InstanceView, Report, Request, TriggerReply};

use crate::cli::commands::logs;
use crate::cli::output;
use crate::cli::session::Session;
use crate::cli::targets::require_one;

// Arguments of `send`.
#[derive(Args, Clone, Debug)]
pub(in crate::cli) struct SendArgs {
    /// Id, or name of an app with a single instance
    #[arg(value_name = "ID")]
    instance: String,
    /// Line to write; a newline is appended
    #[arg(allow_hyphen_values = true)]
    line: String,
}

// Arguments of `attach`.
#[derive(Args, Clone, Debug)]
pub(in crate::cli) struct AttachArgs {
    /// Id, or name of an app with a single instance
    #[arg(value_name = "ID")]
    instance: String,
    /// Line separator to send instead of a newline
    #[arg(default_value = "\n", hide_default_value = true)]
    separator: String,
}

// Arguments of `trigger`.
#[derive(Args, Clone, Debug)]
pub(in crate::cli) struct TriggerArgs {
    /// Id, name, namespace, /regex/ or `all`
    #[arg(value_name = "APP")]
    select: String,
    /// Name of the action
    action: String,
    /// Parameter of the action
    #[arg(allow_hyphen_values = true)]
    param: Option<String>,
}

/// Writes one line to the standard input of an instance.
pub(in crate::cli) async fn send(send: SendArgs, session: &Session) -> Result<(), Error> {
    let mut client = session.connect_for(std::slice::from_ref(&send.instance)).await?;
    let id = find(&send.instance, &mut client, session).await?;
    send_line(&mut client, session, id, format!("{}\n", send.line)).await?;
    session.notice(format_args!("sent a line to {}", send.instance));
    Ok(())
}

/// Shows the log of an instance and writes what is typed to its standard input, until that ends.
pub(in crate::cli) async fn attach(attach: AttachArgs, session: &Session) -> Result<(), Error> {
    let mut client = session.connect_for(std::slice::from_ref(&attach.instance)).await?;
    let id = find(&attach.instance, &mut client, session).await?;
    session.notice(format_args!("attached to {}; press Ctrl-D or Ctrl-C to detach", attach.instance));
    let typed = read_stdin_lines()?;
    tokio::select! {
        shown = logs::attach(vec![id.to_string()], session) => shown,
        written = relay_input(typed, &mut client, session, id, &attach.separator) => written,
    }
}

/// Asks for an action and prints each answer.
pub(in crate::cli) async fn trigger(trigger: TriggerArgs, session: &Session) -> Result<(), Error> {
    let TriggerArgs { select, action, param } = trigger;
    let mut client = session.connect_for(std::slice::from_ref(&select)).await?;
    let what = format!("running {action} of {select}");
    let wanted = crate::ipc::message::Trigger { select: vec![select], action, param: param.map(Into::into) };
    let request = Request::Trigger(wanted);
    let replies: Vec<TriggerReply> =
        session.wait(&what, client.call(&request)).await.map_err(|error| session.client_error(error))?;
    let mut lines = String::new();
    let mut problems = Vec::new();
    for TriggerReply { id, name, namespace, reply, problem } in replies {
        match problem {
            Some(reason) => problems.push(InstanceFailure { id, name, reason }),
            None => lines.push_str(&format!("[{name}:{id}:{namespace}]={reply}\n")),
        }
    }
    output::print(&lines)?;
    if problems.is_empty() { Ok(()) } else { Err(Error::InstancesFailed(problems)) }
}

/// The instance that is meant; there must be just one.
async fn find(selector: &str, client: &mut Client, session: &Session) -> Result<u32, Error> {
    let list: Vec<InstanceView> =
        client.call(&Request::List).await.map_err(|error| session.client_error(error))?;
    require_one(selector, &list)
}

async fn send_line(client: &mut Client, session: &Session, id: u32, text: String) -> Result<(), Error> {
    let request = Request::Input(InputRequest { select: vec![id.to_string()], text });
    let report: Report = client.call(&request).await.map_err(|error| session.client_error(error))?;
    session.check_report(&report)
}

async fn relay_input(
    mut typed: mpsc::Receiver<String>,
    client: &mut Client,
    session: &Session,
    id: u32,
    separator: &str,
) -> Result<(), Error> {
    while let Some(line) = typed.recv().await {
        send_line(client, session, id, format!("{line}{separator}")).await?;
    }
    Ok(())
}

/// Lines of standard input, read by a thread: a terminal cannot be waited for otherwise without
/// changing it for the shell, too. It ends with the process.
fn read_stdin_lines() -> Result<mpsc::Receiver<String>, Error> {
    let (send, lines) = mpsc::channel(1);
    let read = move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if send.blocking_send(line).is_err() {
                return;
            }
        }
    };
    let thread = std::thread::Builder::new().name("typed".into()).spawn(read);
    thread.map(|_| lines).map_err(|error| Error::Io { context: "cannot read stdin", error })
}
