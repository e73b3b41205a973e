//! `sendSignal`: sends a signal to the processes of apps.

use clap::Args;
use clap_complete::engine::ArgValueCandidates;

use crate::cli::completion;
use crate::cli::error::Error;
use crate::cli::session::Session;
use crate::cli::targets::Targets;
use crate::ipc::message::{ActionReport, Request, SignalRequest};
use crate::process::signal::parse as parse_signal;

// Arguments of `sendSignal`.
#[derive(Args, Clone, Debug)]
pub(crate) struct SignalArgs {
    /// Signal name, such as SIGUSR2 or HUP
    #[arg(add = ArgValueCandidates::new(completion::complete_signals))]
    signal: String,
    #[command(flatten)]
    targets: Targets,
}

pub(crate) async fn send_signal(args: SignalArgs, session: &Session) -> Result<(), Error> {
    let SignalArgs { signal, targets } = args;
    let is_signal = |word: &str| parse_signal(word).is_some();
    if let [.., last] = targets.targets.as_slice()
        && !is_signal(&signal)
        && is_signal(last)
    {
        return Err(Error::WrongUsage {
            message: format!("{signal:?} is not a signal"),
            help: format!("the signal comes first: rsm sendSignal {last} {signal}"),
        });
    }
    let mut client = session.connect_for(&targets.targets).await?;
    let select = targets.resolve(session, &mut client).await?;
    let request = Request::Signal(SignalRequest { select, signal: signal.clone() });
    let report: ActionReport = client.call(&request).await.map_err(|error| session.client_error(error))?;
    // The status of each instance is not printed: the signal takes effect later.
    session.notice(format_args!("sent {signal} to {}", targets.targets.join(", ")));
    session.check_report(&report)
}
