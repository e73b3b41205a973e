//! `stop`, `restart`, `delete` and `reset`.

use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use serde_json::Map;

use super::logs;
use crate::cli::app_flags::{AppFlags, ChangeFlags, InvocationContext, WaitFlags, load_apps};
use crate::cli::error::Error;
use crate::cli::operation::send_all;
use crate::cli::session::Session;
use crate::cli::targets::{Targets, resolve_paths};
use crate::cli::{completion, environment};
use crate::config;
use crate::ipc::message::{Action, ActionRequest, Existing, Request, StartRequest};

// Arguments of `restart`.
#[derive(Args, Clone, Debug)]
pub(crate) struct RestartArgs {
    /// Ids, names, namespaces, paths of scripts, /regex/, `all`, or ecosystem files
    #[arg(required_unless_present_any = ["watch", "log"], value_name = "APP", add = ArgValueCompleter::new(completion::complete_targets))]
    targets: Vec<String>,
    #[command(flatten)]
    change: ChangeFlags,
    /// PM2 compatibility, ignored: all are restarted at once
    #[arg(long, hide = true, value_name = "N")]
    parallel: Option<u32>,
    #[command(flatten)]
    wait: WaitFlags,
    /// New arguments for the app
    #[arg(last = true)]
    args: Vec<String>,
    #[command(flatten)]
    settings: AppFlags,
}

/// Runs `stop`, `delete` or `reset`.
pub(crate) async fn run_action(action: Action, targets: Targets, session: &Session) -> Result<(), Error> {
    let mut client = session.connect_for(&targets.targets).await?;
    let select = targets.resolve(session, &mut client).await?;
    let participle = match action {
        Action::Stop => "stopping",
        Action::Delete => "deleting",
        Action::Start => "starting",
        Action::Restart => "restarting",
        Action::Reset => "resetting",
    };
    let description = format!("{participle} {}", targets.targets.join(", "));
    let request = Request::Act(action, ActionRequest { select, ..ActionRequest::default() });
    send_all(session, &mut client, &description, vec![request]).await.map(drop)
}

pub(crate) async fn restart(mut restart: RestartArgs, session: &Session) -> Result<(), Error> {
    if restart.targets.is_empty() {
        // clap accepts `--watch` or `--log` without a target: each may have taken the target as its value.
        restart.targets.push(restart.settings.take_swallowed_target().ok_or_else(no_target_error)?);
    }
    restart.settings.fix_exit_codes(&mut restart.targets);
    let RestartArgs { targets, settings, change, args, wait: WaitFlags { no_wait }, .. } = restart;
    change.ignored.warn(session);
    settings.warn_about_error_file(session);
    let (files, selectors): (Vec<String>, Vec<String>) =
        targets.iter().cloned().partition(|target| config::is_config_file(target));
    if files.is_empty() {
        change.warn_without_file(session);
    }
    let context = InvocationContext::new(change.env.as_deref(), &change.only)?;
    let mut requests = Vec::new();
    for file in &files {
        let apps = load_apps(session, file, &settings, &args, &context)?;
        let inherited = environment::collect_env(session);
        requests.push(Request::Start(StartRequest { apps, inherited, existing: Existing::Restart, no_wait }));
    }
    let changes = if selectors.is_empty() { Map::new() } else { settings.patch(&args, &context, session)? };
    let mut client = match files.is_empty() {
        true => session.connect_for(&targets).await?,
        false => session.connect_or_start().await?,
    };
    if !selectors.is_empty() {
        let select = resolve_paths(&selectors, session, &mut client).await?;
        let changes = (!changes.is_empty()).then_some(changes);
        let inherited = change.update_env.then(|| environment::collect_env(session));
        requests.push(Request::Act(Action::Restart, ActionRequest { select, inherited, changes, no_wait }));
    }
    let description = format!("restarting {}", targets.join(", "));
    let ids = send_all(session, &mut client, &description, requests).await?;
    if change.attach { logs::attach(ids, session).await } else { Ok(()) }
}

fn no_target_error() -> Error {
    Error::WrongUsage {
        message: "no app specified".into(),
        help: "name the apps, or `all`: rsm restart all".into(),
    }
}
