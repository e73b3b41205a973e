//! `plan` and `apply`: what differs between a file and what runs, and doing just that.

mod diff;

use std::path::Path;

use clap::Args;

use crate::cli::app_flags::{InvocationContext, print_warnings};
use crate::cli::error::Error;
use crate::cli::operation::send_all;
use crate::cli::render::plan;
use crate::cli::render::plan::{PlanAction, PlanStep};
use crate::cli::session::Session;
use crate::cli::{environment, output};
use crate::config;
use crate::ipc::client::{Client, ClientError};
use crate::ipc::message::{
    ActOn, Action, DescribeQuery, ErrorCode, Existing, InstanceDetail, Reload, Report, Request, ScaleTo,
    StartApps,
};
use crate::spec::AppSpec;

// Arguments of `plan` and `apply`.
#[derive(Args, Clone, Debug)]
pub(crate) struct ApplyArgs {
    /// Ecosystem file
    file: String,
    /// Delete apps that were started from this file and are no longer in it
    #[arg(long)]
    prune: bool,
    /// Environment block to use: `env_NAME` of the file
    #[arg(long, value_name = "NAME")]
    env: Option<String>,
    /// Only these apps of the file
    #[arg(long, value_delimiter = ',', value_name = "NAMES", conflicts_with = "prune")]
    only: Vec<String>,
}

// Arguments of `plan`.
#[derive(Args, Clone, Debug)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    of: ApplyArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What a file says, and what there is.
struct PlanInput {
    steps: Vec<PlanStep>,
    /// The connection, if a daemon runs.
    client: Option<Client>,
    apps: Vec<AppSpec>,
    current: Vec<InstanceDetail>,
}

pub(crate) async fn plan(plan: PlanArgs, session: &Session) -> Result<(), Error> {
    let look = load_input(&plan.of, session).await?;
    if plan.json {
        output::print_json(&plan::json(&look.steps))
    } else {
        output::print(&plan::text(&look.steps))
    }
}

pub(crate) async fn apply(of: ApplyArgs, session: &Session) -> Result<(), Error> {
    let look = load_input(&of, session).await?;
    for line in plan::text(&look.steps).lines() {
        session.notice(format_args!("{line}"));
    }
    let requests = requests(&look.steps, session);
    let mut client = match look.client {
        Some(client) => client,
        None if requests.is_empty() => return Ok(()),
        None => session.connect_or_start().await?,
    };
    // Before the list is shown: from here on they are as the file says.
    let kept = without_removed(&look.steps, &look.apps, &look.current);
    if !kept.is_empty() {
        let inherited = environment::collect_env(session);
        let note = Request::Start(StartApps { apps: kept, inherited, existing: Existing::Keep });
        client.call::<Report>(&note).await.map_err(|error| session.client_error(error))?;
    }
    if requests.is_empty() {
        return Ok(());
    }
    let what = format!("applying {}", of.file);
    send_all(session, &mut client, &what, requests).await.map(drop)
}

async fn load_input(of: &ApplyArgs, session: &Session) -> Result<PlanInput, Error> {
    let context = InvocationContext::new(of.env.as_deref(), &of.only)?;
    let path = Path::new(&of.file);
    let loaded = config::load(path, &context.options)?;
    print_warnings(session, &loaded.warnings);
    let mut client = session.connect_if_running().await?;
    let there = match &mut client {
        Some(client) => fetch_details(client, session).await?,
        None => Vec::new(),
    };
    let file = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    // With `only` the other apps of the file are none of this command's business.
    let file = of.only.is_empty().then_some(file);
    let apps = loaded.apps;
    Ok(PlanInput {
        steps: diff::plan_steps(&apps, &there, file.as_ref(), of.prune),
        client,
        apps,
        current: there,
    })
}

/// Everything in the list, with the variables that each instance was given.
async fn fetch_details(client: &mut Client, session: &Session) -> Result<Vec<InstanceDetail>, Error> {
    let everything = DescribeQuery { select: vec!["all".into()], env: true };
    match client.describe(everything).await {
        // No app is in the list.
        Err(ClientError::Rejected(error)) if error.code == ErrorCode::NotFound => Ok(Vec::new()),
        details => details.map_err(|error| session.client_error(error)),
    }
}

/// What to ask for. Whoever is not named here is not touched.
fn requests(steps: &[PlanStep], session: &Session) -> Vec<Request> {
    let (mut requests, mut started, mut reloaded) = (Vec::new(), Vec::new(), Vec::new());
    for PlanStep { action: work, ids, .. } in steps {
        let act = |action| {
            let select = ids.iter().map(u32::to_string).collect();
            Request::Act(action, ActOn { select, ..ActOn::default() })
        };
        match work {
            PlanAction::Start(app) | PlanAction::Restart(app) => started.push(AppSpec::clone(app)),
            PlanAction::Reload(app) => reloaded.push(AppSpec::clone(app)),
            PlanAction::Scale { name, to, .. } => {
                requests.push(Request::Scale(name.clone(), ScaleTo::Exactly(*to)));
            }
            PlanAction::StartStopped(_) => requests.push(act(Action::Start)),
            PlanAction::Delete(_) => requests.push(act(Action::Delete)),
            PlanAction::Update(_) | PlanAction::Keep(_) | PlanAction::Unchanged(_) => {}
        }
    }
    if !reloaded.is_empty() {
        let inherited = Some(environment::collect_env(session));
        requests.insert(0, Request::Reload(Reload { apps: reloaded, inherited, ..Reload::default() }));
    }
    if !started.is_empty() {
        let (inherited, existing) = (environment::collect_env(session), Existing::Restart);
        requests.insert(0, Request::Start(StartApps { apps: started, inherited, existing }));
    }
    requests
}

/// The apps whose processes stay, of which the daemon is yet to hear: that they are as this file says now, or
/// with what settings they are to be started one day.
fn without_removed(steps: &[PlanStep], apps: &[AppSpec], there: &[InstanceDetail]) -> Vec<AppSpec> {
    let stays = |app: &&AppSpec| {
        let differs = |detail: &InstanceDetail| {
            detail.view.name == app.name && (detail.view.drift.is_some() || detail.view.source != app.source)
        };
        steps.iter().any(|step| match &step.action {
            PlanAction::Update(set) => set.name == app.name,
            PlanAction::Scale { name, .. } | PlanAction::StartStopped(name) | PlanAction::Unchanged(name) => {
                *name == app.name && there.iter().any(differs)
            }
            PlanAction::Start(_)
            | PlanAction::Restart(_)
            | PlanAction::Reload(_)
            | PlanAction::Delete(_)
            | PlanAction::Keep(_) => false,
        })
    };
    apps.iter().filter(stays).cloned().collect()
}
