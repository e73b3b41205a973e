//! `send` and `attach`: writing to the standard input of an instance.

use std::io;

use clap::Args;
use clap_complete::engine::ArgValueCandidates;
use tokio::sync::mpsc;

use super::logs;
use crate::cli::completion;
use crate::cli::error::Error;
use crate::cli::session::Session;
use crate::cli::targets::require_one;
use crate::ipc::client::Client;
use crate::ipc::message::{ActionReport, InputRequest, InstanceView, Request};

// Arguments of `send`.
#[derive(Args, Clone, Debug)]
pub(crate) struct SendArgs {
    /// Id, or name of an app with a single instance
    #[arg(value_name = "ID", add = ArgValueCandidates::new(completion::complete_apps))]
    instance: String,
    /// Line to write; a newline is appended
    #[arg(allow_hyphen_values = true)]
    line: String,
}

// Arguments of `attach`.
#[derive(Args, Clone, Debug)]
pub(crate) struct AttachArgs {
    /// Id, or name of an app with a single instance
    #[arg(value_name = "ID", add = ArgValueCandidates::new(completion::complete_apps))]
    instance: String,
    /// Line separator to send instead of a newline
    #[arg(default_value = "\n", hide_default_value = true)]
    separator: String,
}

/// Writes one line to the standard input of an instance.
pub(crate) async fn send(args: SendArgs, session: &Session) -> Result<(), Error> {
    let SendArgs { instance, line } = args;
    let mut client = session.connect_for(std::slice::from_ref(&instance)).await?;
    let id = find_instance(&instance, &mut client, session).await?;
    write_input(&mut client, session, id, format!("{line}\n")).await?;
    session.notice(format_args!("sent a line to {instance}"));
    Ok(())
}

/// Follows the log of an instance and forwards standard input to it, until either ends.
pub(crate) async fn attach(args: AttachArgs, session: &Session) -> Result<(), Error> {
    let AttachArgs { instance, separator } = args;
    let mut client = session.connect_for(std::slice::from_ref(&instance)).await?;
    let id = find_instance(&instance, &mut client, session).await?;
    session.notice(format_args!("attached to {instance}; press Ctrl-D or Ctrl-C to detach"));
    let lines = read_stdin_lines()?;
    tokio::select! {
        result = logs::attach(vec![id.to_string()], session) => result,
        result = relay_input(lines, &mut client, session, id, &separator) => result,
    }
}

async fn find_instance(selector: &str, client: &mut Client, session: &Session) -> Result<u32, Error> {
    let instances: Vec<InstanceView> =
        client.call(&Request::List).await.map_err(|error| session.client_error(error))?;
    require_one(selector, &instances)
}

async fn write_input(client: &mut Client, session: &Session, id: u32, text: String) -> Result<(), Error> {
    let request = Request::Input(InputRequest { select: vec![id.to_string()], text });
    let report: ActionReport = client.call(&request).await.map_err(|error| session.client_error(error))?;
    session.check_report(&report)
}

async fn relay_input(
    mut lines: mpsc::Receiver<String>,
    client: &mut Client,
    session: &Session,
    id: u32,
    separator: &str,
) -> Result<(), Error> {
    while let Some(line) = lines.recv().await {
        write_input(client, session, id, format!("{line}{separator}")).await?;
    }
    Ok(())
}

/// Reads lines of standard input on a thread, which ends with the process. Asynchronous reads would make the
/// terminal non-blocking for the shell, too.
fn read_stdin_lines() -> Result<mpsc::Receiver<String>, Error> {
    let (sender, lines) = mpsc::channel(1);
    let read = move || {
        for line in io::stdin().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    };
    let thread = std::thread::Builder::new().name("stdin".into()).spawn(read);
    thread.map(|_| lines).map_err(|error| Error::Io { context: "cannot read stdin", error })
}
