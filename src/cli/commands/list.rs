//! `list`, `jlist`, `pid`, `id`: what is in the list.

use clap::Args;

use crate::cli::error::Error;
use crate::ipc::client::Client;
use crate::ipc::message::{Info, InstanceDetail, InstanceView, Request};
use crate::version::version;

use crate::cli::commands::config;
use crate::cli::render::alerts::AlertContext;
use crate::cli::render::style::Style;
use crate::cli::render::{blocks, list};
use crate::cli::session::Session;
use crate::cli::sort::{SortOrder, parse_sort};
use crate::cli::{output, screen};

// Arguments of `list`.
#[derive(Args, Clone, Debug)]
pub(in crate::cli) struct ListArgs {
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

pub(in crate::cli) async fn list(list: ListArgs, session: &Session) -> Result<(), Error> {
    if let Some(seconds) = list.watch {
        return screen::watch_list(seconds, session).await;
    }
    let Some(mut client) = session.connect_if_running().await? else {
        return match (list.json, list.mini_list) {
            (true, _) => output::print_line(b"[]"),
            (false, true) => Ok(()),
            (false, false) => output::print(&list::list(&[], None, session.style)),
        };
    };
    if list.json {
        let bytes = client.call_raw(&Request::List).await.map_err(|error| session.client_error(error))?;
        return output::print_line(&bytes);
    }
    if list.mini_list {
        return print_blocks(session, &mut client).await;
    }
    print_list(session, &mut client).await
}

/// The table, by itself and after an action.
pub(in crate::cli) async fn print_list(session: &Session, client: &mut Client) -> Result<(), Error> {
    output::print(&render_page(session, client, session.style).await?)
}

/// The table and what stands below it.
pub(in crate::cli) async fn render_page(
    session: &Session,
    client: &mut Client,
    style: Style,
) -> Result<String, Error> {
    let order = sort_order(session)?;
    let mut instances = instances(session, client).await?;
    instances.sort_by(|one, other| order.compare(one, other));
    let info: Info = client.call(&Request::Info).await.map_err(|error| session.client_error(error))?;
    let around = AlertContext {
        daemon_version: (info.version != version()).then(|| info.version.clone()),
        unsaved: info.unsaved,
        host: info.host,
    };
    Ok(list::list(&instances, Some(&around), style))
}

/// The order asked for, else the one that was set.
fn sort_order(session: &Session) -> Result<SortOrder, Error> {
    match session.sort {
        Some(order) => Ok(order),
        None => Ok(parse_sort(&config::load(&session.home)?.list_sort()).unwrap_or_default()),
    }
}

async fn print_blocks(session: &Session, client: &mut Client) -> Result<(), Error> {
    let order = sort_order(session)?;
    let ids: Vec<String> = instances(session, client).await?.iter().map(|view| view.id.to_string()).collect();
    if ids.is_empty() {
        return Ok(());
    }
    let everything = Request::Describe(vec!["all".into()].into());
    let mut details: Vec<InstanceDetail> =
        client.call(&everything).await.map_err(|error| session.client_error(error))?;
    details.sort_by(|one, other| order.compare(&one.view, &other.view));
    output::print(&blocks::blocks(&details))
}

async fn instances(session: &Session, client: &mut Client) -> Result<Vec<InstanceView>, Error> {
    client.call(&Request::List).await.map_err(|error| session.client_error(error))
}

/// `jlist`: PM2's shape, as the daemon wrote it.
pub(in crate::cli) async fn jlist(session: &Session) -> Result<(), Error> {
    match session.connect_if_running().await? {
        Some(mut client) => output::print_line(
            &client.call_raw(&Request::Jlist).await.map_err(|error| session.client_error(error))?,
        ),
        None => output::print_line(b"[]"),
    }
}

/// `prettylist`: the same, indented. (PM2's is JavaScript, which no program reads.)
pub(in crate::cli) async fn prettylist(session: &Session) -> Result<(), Error> {
    let Some(mut client) = session.connect_if_running().await? else { return output::print_line(b"[]") };
    let there: Vec<serde_json::Value> =
        client.call(&Request::Jlist).await.map_err(|error| session.client_error(error))?;
    output::print_json(&there)
}

/// `pid [NAME]`: a process id a line; 0 for one that does not run.
pub(in crate::cli) async fn pid(name: Option<String>, session: &Session) -> Result<(), Error> {
    let mut instances = all_instances(session).await?;
    if let Some(name) = name {
        instances.retain(|view| view.name == name);
        if instances.is_empty() {
            return Err(Error::NotOneInstance { name, ids: Vec::new() });
        }
    }
    let lines: String = instances.iter().map(|view| format!("{}\n", view.pid.unwrap_or(0))).collect();
    output::print(&lines)
}

/// `id NAME`: the ids of an app as an array; an unknown name has none.
pub(in crate::cli) async fn id(name: &str, session: &Session) -> Result<(), Error> {
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
