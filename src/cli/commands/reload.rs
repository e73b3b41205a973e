//! `reload`: replaces the processes of apps without downtime.

use std::collections::BTreeSet;

use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use hyper::Uri;

use super::list;
use super::load_check::{self, LoadCheck};
use crate::cli::app_flags::{AppFlags, ChangeFlags, InvocationContext, load_apps};
use crate::cli::error::Error;
use crate::cli::operation::{self, find_failures};
use crate::cli::render::style::tame;
use crate::cli::session::Session;
use crate::cli::targets::resolve_paths;
use crate::cli::{completion, environment};
use crate::config;
use crate::ipc::client::{Client, LineStream};
use crate::ipc::message::{
    ActionReport, DisplayStatus, EventKind, EventView, InstanceView, ReloadRequest, Request,
};

// Arguments of `reload`.
#[derive(Args, Clone, Debug)]
pub(crate) struct ReloadArgs {
    /// Ids, names, namespaces, paths of scripts, /regex/, `all`, or ecosystem files to apply
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

pub(crate) async fn reload(mut args: ReloadArgs, session: &Session) -> Result<(), Error> {
    if args.targets.is_empty() {
        // clap accepts `--watch` or `--log` without a target: each may have taken the target as its value.
        args.targets.extend(args.settings.take_swallowed_target());
    }
    args.change.ignored.warn(session);
    args.settings.warn_about_error_file(session);
    let mut reload = build_request(&args, session)?;
    let mut client = match reload.apps.is_empty() {
        true => session.connect_for(&args.targets).await?,
        false => session.connect_or_start().await?,
    };
    reload.select = resolve_paths(&reload.select, session, &mut client).await?;
    let load_check = match &args.verify {
        Some(url) => Some(LoadCheck::start(url).await?),
        None => None,
    };
    let ids = online_ids(&reload, &mut client).await;
    // Without events there is no progress, but the reload works.
    let events = client.stream(&Request::Events).await.ok();
    let begin = operation::now();
    let request = Request::Reload(reload);
    let response = async { client.call::<ActionReport>(&request).await };
    let report = tokio::select! {
        report = response => report.map_err(|error| session.client_error(error)),
        Ok(()) = tokio::signal::ctrl_c() => return Err(Error::ReloadDetached),
        never = print_events(events, ids, session) => match never {},
    };
    let tally = match load_check {
        Some(load_check) => Some(load_check.finish().await),
        None => None,
    };
    let reported = match report {
        Ok(report) => {
            session.print_outcomes(&report, "reloaded");
            let failures = find_failures(&report, begin, &mut client).await;
            if !session.quiet() {
                list::print_list(session, &mut client).await?;
            }
            match failures {
                failures if failures.is_empty() => Ok(()),
                failures => Err(Error::InstancesFailed(failures)),
            }
        }
        Err(error) => Err(error),
    };
    match tally {
        Some(tally) => {
            session.notice(format_args!(
                "{} requests sent during the reload, {} failed",
                tally.sent, tally.failed
            ));
            reported.and(tally.into_result())
        }
        None => reported,
    }
}

fn build_request(reload_args: &ReloadArgs, session: &Session) -> Result<ReloadRequest, Error> {
    let ReloadArgs { targets, settings, change, args, parallel, .. } = reload_args;
    let (files, select): (Vec<String>, Vec<String>) =
        targets.iter().cloned().partition(|target| config::is_config_file(target));
    if files.is_empty() {
        change.warn_without_file(session);
    }
    let context = InvocationContext::new(change.env.as_deref(), &change.only)?;
    let mut apps = Vec::new();
    for file in &files {
        apps.extend(load_apps(session, file, settings, args, &context)?);
    }
    let changes = if select.is_empty() { None } else { Some(settings.patch(args, &context, session)?) };
    let changes = changes.filter(|changes| !changes.is_empty());
    let inherited = (!files.is_empty() || change.update_env).then(|| environment::collect_env(session));
    Ok(ReloadRequest { select, apps, inherited, changes, parallel: *parallel })
}

/// The instances that the reload will replace; empty if they are not known.
async fn online_ids(reload: &ReloadRequest, client: &mut Client) -> BTreeSet<u32> {
    let mut views: Vec<InstanceView> = client.call(&Request::List).await.unwrap_or_default();
    let selected: BTreeSet<u32> = match reload.select.is_empty() {
        true => BTreeSet::new(),
        false => {
            let described = client.describe(reload.select.clone().into()).await.unwrap_or_default();
            described.into_iter().map(|detail| detail.view.id).collect()
        }
    };
    let in_file = |view: &InstanceView| reload.apps.iter().any(|app| app.name == view.name);
    views.retain(|view| {
        view.status == DisplayStatus::Online && (selected.contains(&view.id) || in_file(view))
    });
    views.into_iter().map(|view| view.id).collect()
}

/// Prints the progress. Never resolves: the event stream ends if the daemon exits, but the reload continues.
async fn print_events(
    events: Option<LineStream>,
    ids: BTreeSet<u32>,
    session: &Session,
) -> std::convert::Infallible {
    let Some(mut events) = events else { return std::future::pending().await };
    let mut replaced = BTreeSet::<u32>::new();
    while let Some(Ok(line)) = events.next().await {
        let Ok(event) = serde_json::from_slice::<EventView>(&line) else { continue };
        let (name, id, detail) = (tame(&event.name), event.id, event.detail.unwrap_or_default());
        match event.event {
            EventKind::Replacing => session.notice(format_args!("{name} ({id}): starting a replacement")),
            EventKind::Replaced => {
                replaced.extend(ids.get(&id));
                let count = match ids.contains(&id) {
                    true => format!(" ({}/{})", replaced.len(), ids.len()),
                    false => String::new(), // not by this reload
                };
                session.notice(format_args!("{name} ({id}): replaced, draining the old process{count}"));
            }
            EventKind::ReplaceFailed => {
                session.notice(format_args!("{name} ({id}): not replaced: {}", tame(&detail)))
            }
            _ => {}
        }
    }
    std::future::pending().await
}
