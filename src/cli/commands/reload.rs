//! `reload`: new processes for apps, each ready before the old one goes; or new settings, from a file.

use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use hyper::Uri;

use crate::cli::app_flags::{AppFlags, ChangeFlags, InvocationContext, load_apps};
use crate::cli::commands::load_check;
use crate::cli::commands::load_check::LoadCheck;
use crate::cli::error::Error;
use crate::cli::render::style::tame;
use crate::cli::session::Session;
use crate::cli::{completion, environment};
use crate::config;
use crate::ipc::client::{Client, LineStream};
use crate::ipc::message::{EventKind, EventView, LogItem, LogQuery, Report, Request};
use crate::ipc::message::{Inherited, Reload as Wanted};

/// So many of the last lines of a new process that failed are shown.
const FAILURE_LINES: usize = 10;

// Arguments of `reload`.
#[derive(Args, Clone, Debug)]
pub(crate) struct ReloadArgs {
    /// Ids, names, namespaces, /regex/, `all`, or ecosystem files to apply
    #[arg(required_unless_present_any = ["watch", "log"], value_name = "APP", add = ArgValueCompleter::new(completion::complete_targets))]
    targets: Vec<String>,
    /// Number of instances of an app to replace at a time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    parallel: u32,
    /// Send requests to URL during the reload and report failures
    #[arg(long, value_name = "URL", value_parser = load_check::parse_url)]
    verify: Option<Uri>,
    #[command(flatten)]
    change: ChangeFlags,
    /// PM2 compatibility, ignored
    #[arg(short, long, hide = true)]
    force: bool,
    /// New arguments for the app
    #[arg(last = true)]
    args: Vec<String>,
    #[command(flatten)]
    settings: AppFlags,
}

pub(crate) async fn reload(mut reload: ReloadArgs, session: &Session) -> Result<(), Error> {
    if reload.targets.is_empty() {
        // clap lets `--watch` and `--log` stand for the target, which they may have swallowed.
        reload.targets.extend(reload.settings.take_swallowed_target());
    }
    reload.change.ignored.warn(session);
    let wanted = build_request(&reload, session)?;
    let mut client = match wanted.apps.is_empty() {
        true => session.connect_for(&reload.targets).await?,
        false => session.connect_or_start().await?,
    };
    let load = match &reload.verify {
        Some(address) => Some(LoadCheck::start(address).await?),
        None => None,
    };
    // To be told how far it is would be good to have: it is no reason not to reload.
    let events = client.stream(&Request::Events).await.ok();
    let began = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0);
    let request = Request::Reload(wanted);
    let asked = async { client.call::<Report>(&request).await };
    let report = tokio::select! {
        report = asked => report.map_err(|error| session.client_error(error)),
        Ok(()) = tokio::signal::ctrl_c() => return Err(Error::ReloadDetached),
        never = print_events(events, session) => match never {},
    };
    let asked = match load {
        Some(load) => Some(load.finish().await),
        None => None,
    };
    if let Ok(report) = &report {
        print_last_lines(report, began, &mut client, session).await;
    }
    let told = report.and_then(|report| session.print_report(&report));
    match asked {
        Some(tally) => {
            session.notice(format_args!(
                "{} requests sent during the reload, {} failed",
                tally.sent, tally.failed
            ));
            told.and(tally.into_result())
        }
        None => told,
    }
}

fn build_request(reload: &ReloadArgs, session: &Session) -> Result<Wanted, Error> {
    let ReloadArgs { targets, settings, change, args, parallel, .. } = reload;
    let (files, select): (Vec<String>, Vec<String>) =
        targets.iter().cloned().partition(|target| config::is_config_file(target));
    if change.env.is_some() && files.is_empty() {
        return Err(Error::EnvWithoutFile);
    }
    let context = InvocationContext::new(change.env.as_deref(), &change.only)?;
    let mut apps = Vec::new();
    for file in &files {
        apps.extend(load_apps(session, file, settings, args, &context)?);
    }
    let changes = if select.is_empty() { None } else { Some(settings.patch(args, &context)?) };
    let changes = changes.filter(|changes| !changes.is_empty());
    let inherited: Option<Inherited> =
        (!files.is_empty() || change.update_env).then(|| environment::collect_env(session));
    Ok(Wanted { select, apps, inherited, changes, parallel: *parallel })
}

/// Tells how far it is. Goes on until it is dropped: events may end when the daemon dies, the reload not.
async fn print_events(events: Option<LineStream>, session: &Session) -> std::convert::Infallible {
    let Some(mut events) = events else { return std::future::pending().await };
    while let Some(Ok(line)) = events.next().await {
        let Ok(event) = serde_json::from_slice::<EventView>(&line) else { continue };
        let (name, id, detail) = (tame(&event.name), event.id, event.detail.unwrap_or_default());
        match event.event {
            EventKind::Replacing => session.notice(format_args!("{name} ({id}): starting a replacement")),
            EventKind::Replaced => {
                session.notice(format_args!("{name} ({id}): replaced, draining the old process"));
            }
            EventKind::ReplaceFailed => {
                session.notice(format_args!("{name} ({id}): not replaced: {}", tame(&detail)))
            }
            _ => {}
        }
    }
    std::future::pending().await
}

/// What new processes that failed had to say.
async fn print_last_lines(report: &Report, began: u64, client: &mut Client, session: &Session) {
    for outcome in report.instances.iter().filter(|outcome| outcome.problem.is_some()) {
        let select = vec![outcome.id.to_string()];
        let query = LogQuery { select, lines: FAILURE_LINES, since: Some(began), ..LogQuery::default() };
        let Ok(mut lines) = client.stream(&Request::Logs(query)).await else { continue };
        while let Some(Ok(line)) = lines.next().await {
            if let Ok(LogItem::Line { line, .. }) = serde_json::from_slice(&line) {
                session.notice(format_args!("  {}: {}", tame(&outcome.name), tame(&line)));
            }
        }
    }
}
