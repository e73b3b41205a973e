//! `sendSignal`: sends a signal to the processes of apps.

use clap::Args;

use crate::cli::error::Error;
use crate::cli::session::Session;
use crate::cli::targets::Targets;
use crate::ipc::message::{ActionReport, Request, SignalRequest};

// Arguments of `sendSignal`.
#[derive(Args, Clone, Debug)]
pub(crate) struct SignalArgs {
    /// Signal name, such as SIGUSR2 or HUP
    signal: String,
    #[command(flatten)]
    targets: Targets,
}

pub(crate) async fn send_signal(args: SignalArgs, session: &Session) -> Result<(), Error> {
    let SignalArgs { signal, targets } = args;
    let mut client = session.connect_for(&targets.targets).await?;
    let select = targets.resolve(session, &mut client).await?;
    let request = Request::Signal(SignalRequest { select, signal: signal.clone() });
    let report: ActionReport = client.call(&request).await.map_err(|error| session.client_error(error))?;
    // The status of each instance is not printed: the signal takes effect later.
    session.notice(format_args!("sent {signal} to {}", targets.targets.join(", ")));
    session.check_report(&report)
}
