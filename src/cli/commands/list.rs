//! `list`, `jlist`, `prettylist`, `pid` and `id`: printing the list of instances.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal};
use std::time::Duration;

use clap::Args;
use clap_complete::engine::ArgValueCandidates;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::MissedTickBehavior;

use super::config;
use crate::cli::completion;
use crate::cli::error::Error;
use crate::cli::output;
use crate::cli::render::alerts::AlertContext;
use crate::cli::render::style::Style;
use crate::cli::render::{blocks, list, units};
use crate::cli::screen::{WatchScreen, wait_stdout_closed};
use crate::cli::session::Session;
use crate::cli::sort::{SortOrder, parse_sort};
use crate::cli::targets::{resolve_path, resolve_paths};
use crate::daemon::jobs::dump;
use crate::ipc::client::Client;
use crate::ipc::message::{DaemonInfo, InstanceDetail, InstanceView, Request};
use crate::paths::Home;
use crate::version::version;

// Arguments of `list`.
#[derive(Args, Clone, Debug)]
pub(crate) struct ListArgs {
    /// Ids, names, namespaces, paths of scripts or /regex/ [default: all]
    #[arg(value_name = "APP", add = ArgValueCandidates::new(completion::complete_selectors))]
    select: Vec<String>,
    /// All apps are listed anyway
    #[arg(short, long, hide = true)]
    all: bool,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
    /// Print `key : value` blocks instead of a table
    #[arg(short, long, conflicts_with = "json")]
    mini_list: bool,
    /// Refresh every SECONDS until Ctrl-C [default: 1]
    #[arg(short, long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1",
        value_parser = clap::value_parser!(u32).range(1..), conflicts_with_all = ["json", "mini_list"])]
    watch: Option<u32>,
}

pub(crate) async fn list(args: ListArgs, session: &Session) -> Result<(), Error> {
    let select = &args.select;
    if let Some(seconds) = args.watch {
        return watch_list(select, seconds, session).await;
    }
    let Some(mut client) = session.connect_if_running().await? else {
        if !select.is_empty() {
            return Err(Error::NoDaemonForTarget { target: select.join(" ") });
        }
        return match (args.json, args.mini_list) {
            (true, _) => output::print_line(b"[]"),
            (false, true) => Ok(()),
            (false, false) => {
                session.notice(format_args!("{}", not_running_hint(&session.home)));
                output::print(&list::list(&[], None, session.style))
            }
        };
    };
    match (args.json, args.mini_list) {
        (true, _) if select.is_empty() => {
            let bytes = client.call_raw(&Request::List).await.map_err(|error| session.client_error(error))?;
            output::print_line(&bytes)
        }
        (true, _) => {
            let instances = selected_instances(select, session, &mut client).await?;
            let text = serde_json::to_vec(&instances).map_err(|error| Error::Stdout(error.into()))?;
            output::print_line(&text)
        }
        (false, true) => print_blocks(select, session, &mut client).await,
        (false, false) => output::print(&render_page(select, session, &mut client, session.style).await?),
    }
}

/// What to do if rsm is not running: restore the saved apps, or start the first one.
fn not_running_hint(home: &Home) -> String {
    let saved = dump::load(home).map(|(saved, _)| saved).unwrap_or_default();
    let names: BTreeSet<&str> = saved.instances().iter().map(|instance| &*instance.spec().name).collect();
    match names.len() {
        0 => "rsm is not running, and no apps are saved. To start an app: rsm start app.js; to create a file of apps: rsm init".into(),
        count => format!(
            "rsm is not running; {} {} saved. To start {}: rsm resurrect",
            units::pluralize(count, "app"),
            if count == 1 { "is" } else { "are" },
            if count == 1 { "it" } else { "them" },
        ),
    }
}

/// Prints the table.
pub(crate) async fn print_list(session: &Session, client: &mut Client) -> Result<(), Error> {
    output::print(&render_page(&[], session, client, session.style).await?)
}

/// Renders the table, totals and alerts.
async fn render_page(
    select: &[String],
    session: &Session,
    client: &mut Client,
    style: Style,
) -> Result<String, Error> {
    let order = sort_order(session)?;
    let mut instances = selected_instances(select, session, client).await?;
    instances.sort_by(|one, other| order.compare(one, other));
    let info: DaemonInfo = client.call(&Request::Info).await.map_err(|error| session.client_error(error))?;
    let context = AlertContext {
        daemon_version: (info.version != version()).then(|| info.version.clone()),
        unsaved: info.unsaved,
        host: info.host,
    };
    Ok(list::list(&instances, Some(&context), style))
}

/// `list --watch`: prints the list repeatedly, until Ctrl-C, SIGTERM or until standard output is closed. The daemon
/// may exit and start in the meantime.
async fn watch_list(select: &[String], seconds: u32, session: &Session) -> Result<(), Error> {
    let mut terminated = signal(SignalKind::terminate())
        .map_err(|error| Error::Io { context: "cannot install signal handlers", error })?;
    let screen = io::stdout().is_terminal().then(WatchScreen::enter).transpose().map_err(Error::Stdout)?;
    tokio::select! {
        result = refresh_loop(select, seconds, screen.as_ref(), session) => result,
        _ = tokio::signal::ctrl_c() => Ok(()),
        _ = terminated.recv() => Ok(()),
        () = wait_stdout_closed() => Ok(()),
    }
}

async fn refresh_loop(
    select: &[String],
    seconds: u32,
    screen: Option<&WatchScreen>,
    session: &Session,
) -> Result<(), Error> {
    let mut tick = tokio::time::interval(Duration::from_secs(seconds.into()));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        // The terminal may have been resized.
        let size = crossterm::terminal::size().ok().filter(|_| screen.is_some());
        let width = size.map_or(session.style.width, |(width, _)| width.into());
        let style = Style { width, ..session.style };
        let page = match Client::connect(&session.home).await {
            Ok(mut client) => render_page(select, session, &mut client, style).await,
            Err(error) => Err(session.client_error(error)),
        };
        let page = page.unwrap_or_else(|error| format!("{error}\n"));
        match screen {
            Some(screen) => {
                let height = size.map_or(usize::MAX, |(_, height)| height.into());
                screen.show(&list::fit_rows(&page, height)).map_err(Error::Stdout)?;
            }
            None => output::print(&page)?,
        }
    }
}

/// The order given by `--sort`, or else by the setting `list.sort`.
fn sort_order(session: &Session) -> Result<SortOrder, Error> {
    match session.sort {
        Some(order) => Ok(order),
        None => Ok(parse_sort(&config::load(&session.home)?.list_sort()).unwrap_or_default()),
    }
}

async fn print_blocks(select: &[String], session: &Session, client: &mut Client) -> Result<(), Error> {
    let order = sort_order(session)?;
    let instances = selected_instances(select, session, client).await?;
    let ids: Vec<String> = instances.iter().map(|view| view.id.to_string()).collect();
    if ids.is_empty() {
        return Ok(());
    }
    let describe_all = Request::Describe(ids.into());
    let mut details: Vec<InstanceDetail> =
        client.call(&describe_all).await.map_err(|error| session.client_error(error))?;
    details.sort_by(|one, other| order.compare(&one.view, &other.view));
    output::print(&blocks::blocks(&details))
}

async fn instances(session: &Session, client: &mut Client) -> Result<Vec<InstanceView>, Error> {
    client.call(&Request::List).await.map_err(|error| session.client_error(error))
}

/// The instances that the words select; all if there are none.
async fn selected_instances(
    select: &[String],
    session: &Session,
    client: &mut Client,
) -> Result<Vec<InstanceView>, Error> {
    let mut instances = instances(session, client).await?;
    if !select.is_empty() {
        let select = resolve_paths(select, session, client).await?;
        let request = Request::Describe(select.into());
        let details: Vec<InstanceDetail> =
            client.call(&request).await.map_err(|error| session.client_error(error))?;
        instances.retain(|view| details.iter().any(|detail| detail.view.id == view.id));
    }
    Ok(instances)
}

/// `jlist`: the format of PM2, as encoded by the daemon.
pub(crate) async fn jlist(session: &Session) -> Result<(), Error> {
    match session.connect_if_running().await? {
        Some(mut client) => output::print_line(
            &client.call_raw(&Request::Jlist).await.map_err(|error| session.client_error(error))?,
        ),
        None => output::print_line(b"[]"),
    }
}

/// `prettylist`: indented JSON. (PM2 prints JavaScript, which scripts cannot parse.)
pub(crate) async fn prettylist(session: &Session) -> Result<(), Error> {
    let Some(mut client) = session.connect_if_running().await? else { return output::print_line(b"[]") };
    let instances: Vec<serde_json::Value> =
        client.call(&Request::Jlist).await.map_err(|error| session.client_error(error))?;
    output::print_json(&instances)
}

/// `pid [NAME]`: one process id per line, 0 for an instance that is not running.
pub(crate) async fn pid(name: Option<String>, session: &Session) -> Result<(), Error> {
    let mut instances = all_instances(session).await?;
    if let Some(name) = name {
        let ids = resolve_path(&name, &instances);
        instances.retain(|view| view.name == name || ids.contains(&view.id.to_string()));
        if instances.is_empty() {
            return Err(Error::NotOneInstance { name, ids: Vec::new() });
        }
    }
    let lines: String = instances.iter().map(|view| format!("{}\n", view.pid.unwrap_or(0))).collect();
    output::print(&lines)
}

/// `id NAME`: the ids of an app as an array, empty for an unknown name.
pub(crate) async fn id(name: &str, session: &Session) -> Result<(), Error> {
    let instances = all_instances(session).await?;
    let ids: Vec<String> =
        instances.iter().filter(|view| view.name == name).map(|view| view.id.to_string()).collect();
    let array = if ids.is_empty() { "[]".to_owned() } else { format!("[ {} ]", ids.join(", ")) };
    output::print_line(array.as_bytes())
}

async fn all_instances(session: &Session) -> Result<Vec<InstanceView>, Error> {
    match session.connect_if_running().await? {
        Some(mut client) => instances(session, &mut client).await,
        None => Ok(Vec::new()),
    }
}
