//! `stop`, `restart`, `delete`, `reset`, `scale`, `sendSignal`: acting on what is in the list.

use clap::Args;
use clap_complete::engine::{ArgValueCandidates, ArgValueCompleter};

use crate::cli::error::Error;
use crate::config;
use crate::ipc::client::Client;
use crate::ipc::message::{ActOn, Action, Existing, Report, Request, ScaleTo, SignalRequest, StartApps};

use crate::cli::app_flags::{AppFlags, Ground, IgnoredFlags, load};
use crate::cli::commands::{list, logs};
use crate::cli::session::Session;
use crate::cli::targets::Targets;
use crate::cli::{completion, environment};

// Flags of `start` and `restart` that are no settings of the app.
#[derive(Args, Clone, Debug)]
pub(in crate::cli) struct ChangeFlags {
    /// Environment block to use: `env_NAME` of the file
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) env: Option<String>,
    /// Select only these apps from the file
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub(in crate::cli) only: Vec<String>,
    /// Update the environment of the apps from this shell
    #[arg(short = 'a', long)]
    pub(in crate::cli) update_env: bool,
    /// Follow the logs of the apps afterwards
    #[arg(long)]
    pub(in crate::cli) attach: bool,
    #[command(flatten)]
    pub(in crate::cli) ignored: IgnoredFlags,
}

// Arguments of `restart`.
#[derive(Args, Clone, Debug)]
pub(in crate::cli) struct RestartArgs {
    /// Ids, names, namespaces, /regex/, `all`, or ecosystem files
    #[arg(required_unless_present_any = ["watch", "log"], value_name = "APP", add = ArgValueCompleter::new(completion::complete_targets))]
    targets: Vec<String>,
    #[command(flatten)]
    change: ChangeFlags,
    /// PM2 compatibility, ignored: all are restarted at once
    #[arg(long, hide = true, value_name = "N")]
    parallel: Option<u32>,
    /// New arguments for the app
    #[arg(last = true)]
    args: Vec<String>,
    #[command(flatten)]
    settings: AppFlags,
}

// Arguments of `scale`.
#[derive(Args, Clone, Debug)]
pub(in crate::cli) struct ScaleArgs {
    /// Name of the app
    #[arg(add = ArgValueCandidates::new(completion::complete_apps))]
    name: String,
    /// Number of instances: N, +N to add, -N to remove
    #[arg(allow_hyphen_values = true, value_parser = parse_scale, value_name = "N")]
    to: ScaleTo,
}

// Arguments of `sendSignal`.
#[derive(Args, Clone, Debug)]
pub(in crate::cli) struct SignalArgs {
    /// Signal name, such as SIGUSR2 or HUP
    signal: String,
    #[command(flatten)]
    targets: Targets,
}

/// `stop`, `delete`, `reset`.
pub(in crate::cli) async fn run_action(
    action: Action,
    targets: Targets,
    session: &Session,
) -> Result<(), Error> {
    let mut client = session.connect_for(&targets.targets).await?;
    let select = targets.resolve(session, &mut client).await?;
    let doing = match action {
        Action::Stop => "stopping",
        Action::Delete => "deleting",
        Action::Start => "starting",
        Action::Restart => "restarting",
        Action::Reset => "resetting",
    };
    let what = format!("{doing} {}", targets.targets.join(", "));
    let request = Request::Act(action, ActOn { select, ..ActOn::default() });
    send_all(session, &mut client, &what, vec![request]).await.map(drop)
}

pub(in crate::cli) async fn restart(mut restart: RestartArgs, session: &Session) -> Result<(), Error> {
    if restart.targets.is_empty() {
        // clap lets these two stand for the target, which they may have swallowed.
        restart.targets.push(restart.settings.take_swallowed_target().ok_or_else(error_no_target)?);
    }
    restart.settings.fix_exit_codes(&mut restart.targets);
    let RestartArgs { targets, settings, change, args, .. } = restart;
    change.ignored.warn(session);
    let (files, selectors): (Vec<String>, Vec<String>) =
        targets.iter().cloned().partition(|target| config::is_config_file(target));
    if change.env.is_some() && files.is_empty() {
        return Err(Error::EnvWithoutFile);
    }
    let ground = Ground::new(change.env.as_deref(), &change.only)?;
    let mut requests = Vec::new();
    for file in &files {
        let apps = load(session, file, &settings, &args, &ground)?;
        let inherited = environment::collect_env(session);
        requests.push(Request::Start(StartApps { apps, inherited, existing: Existing::Restart }));
    }
    if !selectors.is_empty() {
        let changes = settings.patch(&args, &ground)?;
        let changes = (!changes.is_empty()).then_some(changes);
        let inherited = change.update_env.then(|| environment::collect_env(session));
        requests.push(Request::Act(Action::Restart, ActOn { select: selectors, inherited, changes }));
    }
    let mut client = match files.is_empty() {
        true => session.connect_for(&targets).await?,
        false => session.connect_or_start().await?,
    };
    let done =
        send_all(session, &mut client, &format!("restarting {}", targets.join(", ")), requests).await?;
    if change.attach { logs::attach(done, session).await } else { Ok(()) }
}

fn error_no_target() -> Error {
    let message = "no app specified\n\nhelp: for example: rsm restart api --watch\n";
    Error::Usage(clap::Error::raw(clap::error::ErrorKind::MissingRequiredArgument, message))
}

pub(in crate::cli) async fn scale(scale: ScaleArgs, session: &Session) -> Result<(), Error> {
    let ScaleArgs { name, to } = scale;
    let mut client = session.connect_for(std::slice::from_ref(&name)).await?;
    let request = Request::Scale(name.clone(), to);
    send_all(session, &mut client, &format!("scaling {name}"), vec![request]).await.map(drop)
}

pub(in crate::cli) async fn send_signal(send: SignalArgs, session: &Session) -> Result<(), Error> {
    let SignalArgs { signal, targets } = send;
    let mut client = session.connect_for(&targets.targets).await?;
    let select = targets.resolve(session, &mut client).await?;
    let request = Request::Signal(SignalRequest { select, signal: signal.clone() });
    let report: Report = client.call(&request).await.map_err(|error| session.client_error(error))?;
    // Not how they are: what the signal does to them shows later.
    session.notice(format_args!("sent {signal} to {}", targets.targets.join(", ")));
    session.check_report(&report)
}

/// Sends requests one after another until one fails, tells how instances came out, and shows
/// the list. `what` says what is being waited for. Returns the ids of the instances.
pub(in crate::cli) async fn send_all(
    session: &Session,
    client: &mut Client,
    what: &str,
    requests: Vec<Request>,
) -> Result<Vec<String>, Error> {
    let mut ids = Vec::new();
    for request in &requests {
        let report: Report =
            session.wait(what, client.call(request)).await.map_err(|error| session.client_error(error))?;
        session.print_report(&report)?;
        ids.extend(report.instances.iter().map(|outcome| outcome.id.to_string()));
    }
    if !session.quiet() {
        list::print_list(session, client).await?;
    }
    Ok(ids)
}

/// `3`, `+3` or `-3`.
pub(in crate::cli) fn parse_scale(text: &str) -> Result<ScaleTo, String> {
    let number = |digits: &str| match digits.bytes().all(|c| c.is_ascii_digit()) {
        true => digits.parse().map_err(|_| format!("{digits:?} is not a valid number of instances")),
        false => Err("expected N, +N or -N".to_owned()),
    };
    match (text.strip_prefix('+'), text.strip_prefix('-')) {
        (Some(more), _) => number(more).map(ScaleTo::Add),
        (_, Some(fewer)) => number(fewer).map(ScaleTo::Remove),
        (None, None) => number(text).map(ScaleTo::Exactly),
    }
}

#[cfg(test)]
mod tests {
    use crate::cli::commands::lifecycle::*;

    #[test]
    fn numbers_of_instances() {
        assert_eq!(parse_scale("3"), Ok(ScaleTo::Exactly(3)));
        assert_eq!(parse_scale("+2"), Ok(ScaleTo::Add(2)));
        assert_eq!(parse_scale("-2"), Ok(ScaleTo::Remove(2)));
        for wrong in ["", "+", "-", "x", "--1", "+-1", "1.5", "99999999999"] {
            assert!(parse_scale(wrong).is_err(), "{wrong}");
        }
    }
}
