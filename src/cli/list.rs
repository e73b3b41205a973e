//! `list`, `jlist`, `pid`, `id`: what is in the list.

use std::cmp::Ordering;

use clap::{Args, ValueEnum};

use crate::error::Error;
use crate::ipc::client::Client;
use crate::ipc::message::{InstanceDetail, InstanceView, Request};

use super::output;
use super::preferences::preference;
use super::render::{list, mini};
use super::session::Session;

// Arguments of `list`.
#[derive(Args, Clone, Debug)]
pub(super) struct List {
    /// One JSON array instead of the table
    #[arg(long)]
    json: bool,
    /// Plain blocks of `key : value` lines
    #[arg(short, long, conflicts_with = "json")]
    mini_list: bool,
}

/// What the list is sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Order {
    field: Field,
    descending: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Field {
    Name,
    Namespace,
    Pid,
    Id,
    Cpu,
    Memory,
    Uptime,
    Status,
}

pub(super) async fn list(list: List, session: &Session) -> Result<(), Error> {
    let Some(mut client) = session.connect_if_running().await? else {
        return match (list.json, list.mini_list) {
            (true, _) => output::line(b"[]"),
            (false, true) => Ok(()),
            (false, false) => output::text(&list::list(&[], session.style)),
        };
    };
    if list.json {
        let bytes = client.bytes(&Request::List).await.map_err(|error| session.failed(error))?;
        return output::line(&bytes);
    }
    if list.mini_list {
        return blocks(session, &mut client).await;
    }
    show(session, &mut client).await
}

/// The table, by itself and after an action.
pub(super) async fn show(session: &Session, client: &mut Client) -> Result<(), Error> {
    let order = wanted(session)?;
    let mut instances = instances(session, client).await?;
    instances.sort_by(|one, other| order.compare(one, other));
    output::text(&list::list(&instances, session.style))
}

/// The order asked for, else the one that was set.
fn wanted(session: &Session) -> Result<Order, Error> {
    let by_name = Order { field: Field::Name, descending: false };
    match session.sort {
        Some(order) => Ok(order),
        None => {
            Ok(preference(&session.home, "list.sort")?.and_then(|text| order(&text).ok()).unwrap_or(by_name))
        }
    }
}

async fn blocks(session: &Session, client: &mut Client) -> Result<(), Error> {
    let order = wanted(session)?;
    let ids: Vec<String> = instances(session, client).await?.iter().map(|view| view.id.to_string()).collect();
    if ids.is_empty() {
        return Ok(());
    }
    let everything = Request::Describe(vec!["all".into()]);
    let mut details: Vec<InstanceDetail> =
        client.call(&everything).await.map_err(|error| session.failed(error))?;
    details.sort_by(|one, other| order.compare(&one.view, &other.view));
    output::text(&mini::mini(&details))
}

async fn instances(session: &Session, client: &mut Client) -> Result<Vec<InstanceView>, Error> {
    client.call(&Request::List).await.map_err(|error| session.failed(error))
}

/// `jlist`: PM2's shape, as the daemon wrote it.
pub(super) async fn jlist(session: &Session) -> Result<(), Error> {
    match session.connect_if_running().await? {
        Some(mut client) => {
            output::line(&client.bytes(&Request::Jlist).await.map_err(|error| session.failed(error))?)
        }
        None => output::line(b"[]"),
    }
}

/// `prettylist`: the same, indented. (PM2's is JavaScript, which no program reads.)
pub(super) async fn prettylist(session: &Session) -> Result<(), Error> {
    let Some(mut client) = session.connect_if_running().await? else { return output::line(b"[]") };
    let there: Vec<serde_json::Value> =
        client.call(&Request::Jlist).await.map_err(|error| session.failed(error))?;
    output::json(&there)
}

/// `pid [NAME]`: a process id a line; 0 for one that does not run.
pub(super) async fn pid(name: Option<String>, session: &Session) -> Result<(), Error> {
    let mut instances = everything(session).await?;
    if let Some(name) = name {
        instances.retain(|view| view.name == name);
        if instances.is_empty() {
            return Err(Error::NotOne { name, ids: Vec::new() });
        }
    }
    let lines: String = instances.iter().map(|view| format!("{}\n", view.pid.unwrap_or(0))).collect();
    output::text(&lines)
}

/// `id NAME`: the ids of an app as an array; an unknown name has none.
pub(super) async fn id(name: &str, session: &Session) -> Result<(), Error> {
    let instances = everything(session).await?;
    let ids: Vec<String> =
        instances.iter().filter(|view| view.name == name).map(|view| view.id.to_string()).collect();
    let array = if ids.is_empty() { "[]".to_owned() } else { format!("[ {} ]", ids.join(", ")) };
    output::line(array.as_bytes())
}

async fn everything(session: &Session) -> Result<Vec<InstanceView>, Error> {
    match session.connect_if_running().await? {
        Some(mut client) => instances(session, &mut client).await,
        None => Ok(Vec::new()),
    }
}

/// `field`, `field:asc` or `field:desc`.
pub(super) fn order(text: &str) -> Result<Order, String> {
    let (field, way) = text.split_once(':').unwrap_or((text, "asc"));
    let descending = match way {
        "asc" => false,
        "desc" => true,
        other => return Err(format!("the order is asc or desc, not {other:?}")),
    };
    let field = Field::from_str(field, true).map_err(|_| {
        let known: Vec<String> =
            Field::value_variants().iter().map(|field| format!("{field:?}").to_lowercase()).collect();
        format!("the fields are {}", known.join(", "))
    })?;
    Ok(Order { field, descending })
}

impl Order {
    /// Name and id decide what the field leaves open, so that the order is always the same.
    fn compare(self, one: &InstanceView, other: &InstanceView) -> Ordering {
        let by_field = match self.field {
            Field::Name => one.name.cmp(&other.name),
            Field::Namespace => one.namespace.cmp(&other.namespace),
            Field::Pid => one.pid.cmp(&other.pid),
            Field::Id => one.id.cmp(&other.id),
            Field::Cpu => one.cpu.total_cmp(&other.cpu),
            Field::Memory => one.memory.cmp(&other.memory),
            Field::Uptime => one.uptime.cmp(&other.uptime),
            Field::Status => one.status.as_str().cmp(other.status.as_str()),
        };
        let by_field = if self.descending { by_field.reverse() } else { by_field };
        by_field.then_with(|| one.name.cmp(&other.name)).then(one.id.cmp(&other.id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::render::list::tests::view;
    use crate::ipc::message::Status;

    fn ids(sort: &str) -> Vec<u32> {
        let order = order(sort).unwrap();
        let mut views = [
            view(2, "a", Status::Online),
            view(0, "b", Status::Stopped),
            view(3, "c", Status::Online),
            view(1, "a", Status::Online),
        ];
        views.sort_by(|one, other| order.compare(one, other));
        views.iter().map(|view| view.id).collect()
    }

    #[test]
    fn orders() {
        assert_eq!(ids("name"), [1, 2, 0, 3]);
        assert_eq!(ids("name:desc"), [3, 0, 1, 2]);
        assert_eq!(ids("id"), [0, 1, 2, 3]);
        assert_eq!(ids("status:asc"), [1, 2, 3, 0]);
        assert_eq!(ids("memory:desc"), [1, 2, 3, 0]);
        assert_eq!(
            order("size").unwrap_err(),
            "the fields are name, namespace, pid, id, cpu, memory, uptime, status"
        );
        assert!(order("name:up").is_err());
    }
}
