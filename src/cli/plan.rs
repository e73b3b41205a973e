//! `plan` and `apply`: what differs between a file and what runs, and doing just that.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::Value;

use crate::config;
use crate::error::Error;
use crate::ipc::client::Client;
use crate::ipc::message::{ActOn, Action, Existing, InstanceDetail, Request, ScaleTo, StartApps, Status};
use crate::spec::{AppSpec, Vars};

use super::act::perform;
use super::environment;
use super::output;
use super::render::plan::{self, Change, Step};
use super::session::Session;
use super::settings::{Ground, mistakes, warn};

// Arguments of `plan` and `apply`.
#[derive(Args, Clone, Debug)]
pub(super) struct PlanOf {
    /// The ecosystem file
    file: String,
    /// Also delete what was started from this file and is not in it any more
    #[arg(long)]
    prune: bool,
    /// Lay the block `env_NAME` of the file over `env`
    #[arg(long, value_name = "NAME")]
    env: Option<String>,
    /// Only these apps of the file
    #[arg(long, value_delimiter = ',', value_name = "NAMES", conflicts_with = "prune")]
    only: Vec<String>,
}

pub(super) async fn plan(of: PlanOf, session: &Session) -> Result<(), Error> {
    let (steps, _) = look(&of, session).await?;
    output::text(&plan::plan(&steps))
}

pub(super) async fn apply(of: PlanOf, session: &Session) -> Result<(), Error> {
    let (steps, client) = look(&of, session).await?;
    let requests = requests(&steps, session);
    for line in plan::plan(&steps).lines() {
        session.note(format_args!("{line}"));
    }
    if requests.is_empty() {
        return Ok(());
    }
    let mut client = match client {
        Some(client) => client,
        None => session.connect_or_launch().await?,
    };
    let what = format!("the apps of {} to be as it says", of.file);
    perform(session, &mut client, &what, requests).await.map(drop)
}

/// The steps, and the connection if a daemon runs.
async fn look(of: &PlanOf, session: &Session) -> Result<(Vec<Step>, Option<Client>), Error> {
    let ground = Ground::new(of.env.as_deref(), &of.only)?;
    let path = Path::new(&of.file);
    let loaded = config::load(path, &ground.options).map_err(mistakes)?;
    warn(session, &loaded.warnings);
    let mut client = session.connect_if_running().await?;
    let there = match &mut client {
        Some(client) => details(client, session).await?,
        None => Vec::new(),
    };
    let file = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    // With `only` the other apps of the file are none of this command's business.
    let file = of.only.is_empty().then_some(file);
    Ok((steps(&loaded.apps, &there, file.as_ref(), of.prune), client))
}

/// Everything in the list, with the variables that each instance was given.
async fn details(client: &mut Client, session: &Session) -> Result<Vec<InstanceDetail>, Error> {
    let listed: Vec<serde::de::IgnoredAny> =
        client.call(&Request::List).await.map_err(|error| session.failed(error))?;
    if listed.is_empty() {
        return Ok(Vec::new());
    }
    let everything = Request::Describe(vec!["all".into()]);
    let mut details: Vec<InstanceDetail> =
        client.call(&everything).await.map_err(|error| session.failed(error))?;
    for detail in &mut details {
        let vars: Vars =
            client.call(&Request::Env(detail.view.id)).await.map_err(|error| session.failed(error))?;
        detail.spec.env = vars;
    }
    Ok(details)
}

/// What is to be done, in the order of the file; then what is not in it.
fn steps(wanted: &[AppSpec], there: &[InstanceDetail], file: Option<&PathBuf>, prune: bool) -> Vec<Step> {
    let mut steps: Vec<Step> = wanted.iter().flat_map(|app| of_app(app, there)).collect();
    let gone = there.iter().filter(|detail| {
        let from_here = file.is_some() && detail.spec.source.as_ref() == file;
        from_here && !wanted.iter().any(|app| app.name == detail.view.name)
    });
    for name in gone.map(|detail| &detail.view.name).collect::<BTreeSet<_>>() {
        let of_name = there.iter().filter(|detail| detail.view.name == *name);
        steps.push(match prune {
            true => Step::Delete {
                name: name.clone(),
                ids: of_name.map(|detail| detail.view.id.to_string()).collect(),
            },
            false => Step::Keep { name: name.clone() },
        });
    }
    steps
}

fn of_app(app: &AppSpec, there: &[InstanceDetail]) -> Vec<Step> {
    let of_name: Vec<&InstanceDetail> = there.iter().filter(|detail| detail.view.name == app.name).collect();
    let Some(changes) = of_name.iter().map(|detail| changes(&detail.spec, app)).max_by_key(Vec::len) else {
        return vec![Step::Start(Box::new(app.clone()))];
    };
    if !changes.is_empty() {
        return vec![Step::Restart { app: Box::new(app.clone()), changes }];
    }
    let (name, from) = (app.name.clone(), of_name.len());
    let mut steps = Vec::new();
    if app.instances as usize != from {
        steps.push(Step::Scale { name: name.clone(), from, to: app.instances });
    }
    let rests = |detail: &&&InstanceDetail| matches!(detail.view.status, Status::Stopped | Status::Errored);
    let ids: Vec<String> = of_name.iter().filter(rests).map(|detail| detail.view.id.to_string()).collect();
    if app.autostart && !ids.is_empty() {
        steps.push(Step::Wake { name: name.clone(), ids });
    }
    if steps.is_empty() { vec![Step::Unchanged { name }] } else { steps }
}

/// What differs. Not the number of instances, which is changed without a restart; nor what only tells
/// where the app is from.
fn changes(is: &AppSpec, wanted: &AppSpec) -> Vec<Change> {
    let neutral = |spec: &AppSpec| {
        let vars = Vars::new();
        let spec = AppSpec { instances: 1, version: None, source: None, env: vars, ..spec.clone() };
        serde_json::to_value(spec).unwrap_or_default()
    };
    let mut changes = Vec::new();
    differ("", &neutral(is), &neutral(wanted), &mut changes);
    let names: BTreeSet<&String> = is.env.keys().chain(wanted.env.keys()).collect();
    for name in names {
        let how = match (is.env.get(name), wanted.env.get(name)) {
            (None, _) => "added",
            (_, None) => "removed",
            (before, after) if before != after => "changed",
            _ => continue,
        };
        changes.push(Change { path: format!("env.{name}"), values: None, how });
    }
    changes
}

/// Whether more differs than variables and the number of instances.
pub(super) fn differ_in_settings(is: &AppSpec, wanted: &AppSpec) -> bool {
    changes(is, wanted).iter().any(|change| !change.path.starts_with("env."))
}

fn differ(path: &str, is: &Value, wanted: &Value, changes: &mut Vec<Change>) {
    match (is, wanted) {
        (Value::Object(one), Value::Object(other)) => {
            let keys: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
            for key in keys {
                let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                differ(&below, &one[key.as_str()], &other[key.as_str()], changes);
            }
        }
        _ if is == wanted => {}
        _ => changes.push(Change {
            path: path.to_owned(),
            values: Some((is.clone(), wanted.clone())),
            how: "changed",
        }),
    }
}

/// What to ask for. Whoever is not named here is not touched.
fn requests(steps: &[Step], session: &Session) -> Vec<Request> {
    let mut requests = Vec::new();
    let mut apps = Vec::new();
    for step in steps {
        match step {
            Step::Start(app) | Step::Restart { app, .. } => apps.push(AppSpec::clone(app)),
            Step::Scale { name, to, .. } => {
                requests.push(Request::Scale { name: name.clone(), to: ScaleTo::Exactly(*to) });
            }
            Step::Wake { ids, .. } => {
                requests.push(Request::Act(Action::Start, ActOn { select: ids.clone(), ..ActOn::default() }));
            }
            Step::Delete { ids, .. } => {
                requests
                    .push(Request::Act(Action::Delete, ActOn { select: ids.clone(), ..ActOn::default() }));
            }
            Step::Keep { .. } | Step::Unchanged { .. } => {}
        }
    }
    if !apps.is_empty() {
        let inherited = environment::inherited(session);
        requests.insert(0, Request::Start(StartApps { apps, inherited, existing: Existing::Restart }));
    }
    requests
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_named_without_values_of_variables() {
        let mut is = AppSpec::new("api", "/a", "/");
        is.env = [("KEPT", "1"), ("GONE", "hunter2"), ("OTHER", "hunter2")]
            .map(|(a, b)| (a.into(), b.into()))
            .into();
        let mut wanted = is.clone();
        assert!(changes(&is, &wanted).is_empty());
        (wanted.instances, wanted.version) = (4, Some("2".into()));
        assert!(changes(&is, &wanted).is_empty());
        wanted.stop.timeout = std::time::Duration::from_secs(1);
        wanted.env =
            [("KEPT", "1"), ("NEW", "hunter2"), ("OTHER", "x")].map(|(a, b)| (a.into(), b.into())).into();
        let changes = changes(&is, &wanted);
        let told: Vec<String> =
            changes.iter().map(|change| format!("{} {}", change.path, change.how)).collect();
        assert_eq!(told, ["stop.timeout changed", "env.GONE removed", "env.NEW added", "env.OTHER changed"]);
        assert!(!format!("{changes:?}").contains("hunter2"));
    }
}
