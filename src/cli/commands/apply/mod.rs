//! `plan` and `apply`: show the differences between a file and the list, and apply them.

mod diff;

use std::path::Path;

use clap::{Args, ValueHint};

use crate::cli::app_flags::{InvocationContext, WaitFlags, print_warnings};
use crate::cli::commands::start::default_file;
use crate::cli::error::Error;
use crate::cli::operation::send_all;
use crate::cli::render::plan::{self, PlanAction, PlanStep};
use crate::cli::session::Session;
use crate::cli::{environment, output};
use crate::config;
use crate::ipc::client::{Client, ClientError};
use crate::ipc::message::{
    Action, ActionReport, ActionRequest, DescribeQuery, ErrorCode, Existing, InstanceDetail, ReloadRequest,
    Request, ScaleTo, StartRequest,
};
use crate::spec::AppSpec;

// Arguments of `plan` and `apply`.
#[derive(Args, Clone, Debug)]
pub(crate) struct ApplyArgs {
    /// Ecosystem file [default: ecosystem.toml]
    #[arg(value_hint = ValueHint::FilePath)]
    file: Option<String>,
    /// Delete apps that were started from this file and are no longer in it
    #[arg(long)]
    prune: bool,
    /// Environment block to use: `env_NAME` of the file
    #[arg(long, value_name = "NAME")]
    env: Option<String>,
    /// Select only these apps from the file
    #[arg(long, value_name = "NAMES", conflicts_with = "prune")]
    only: Vec<String>,
}

// Arguments of `apply`.
#[derive(Args, Clone, Debug)]
pub(crate) struct ApplyCommand {
    #[command(flatten)]
    target: ApplyArgs,
    #[command(flatten)]
    wait: WaitFlags,
}

// Arguments of `plan`.
#[derive(Args, Clone, Debug)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    target: ApplyArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The plan for a file, with what it was made from.
struct PlanInput {
    steps: Vec<PlanStep>,
    /// The connection; `None` if the daemon is not running.
    client: Option<Client>,
    apps: Vec<AppSpec>,
    current: Vec<InstanceDetail>,
}

pub(crate) async fn plan(args: PlanArgs, session: &Session) -> Result<(), Error> {
    let input = load_input(&args.target, session).await?;
    if args.json {
        output::print_json(&plan::json(&input.steps))
    } else {
        output::print(&plan::text(&input.steps))
    }
}

pub(crate) async fn apply(
    ApplyCommand { target: args, wait }: ApplyCommand,
    session: &Session,
) -> Result<(), Error> {
    let input = load_input(&args, session).await?;
    for line in plan::text(&input.steps).lines() {
        session.notice(format_args!("{line}"));
    }
    let mut requests = requests(&input.steps, session);
    if wait.no_wait {
        requests.iter_mut().for_each(Request::do_not_wait);
    }
    let mut client = match input.client {
        Some(client) => client,
        None if requests.is_empty() => return Ok(()),
        None => session.connect_or_start().await?,
    };
    // First, because the list that is printed at the end shows drift.
    let recorded = specs_to_record(&input.steps, &input.apps, &input.current);
    if !recorded.is_empty() {
        let inherited = environment::collect_env(session);
        let record = Request::Start(StartRequest {
            apps: recorded,
            inherited,
            existing: Existing::Keep,
            no_wait: true,
        });
        client.call::<ActionReport>(&record).await.map_err(|error| session.client_error(error))?;
    }
    if requests.is_empty() {
        return Ok(());
    }
    let description = format!("applying {}", args.file.as_deref().unwrap_or("the ecosystem file"));
    send_all(session, &mut client, &description, requests).await.map(drop)
}

async fn load_input(args: &ApplyArgs, session: &Session) -> Result<PlanInput, Error> {
    let context = InvocationContext::new(args.env.as_deref(), &args.only)?;
    let file = args.file.clone().map_or_else(default_file, Ok)?;
    let path = Path::new(&file);
    let loaded = config::load(path, &context.options)?;
    print_warnings(session, &loaded.warnings);
    let mut client = session.connect_if_running().await?;
    let current = match &mut client {
        Some(client) => fetch_details(client, session).await?,
        None => Vec::new(),
    };
    let file = crate::paths::absolute(path);
    // With `--only`, the other apps of the file are not part of the plan.
    let file = args.only.is_empty().then_some(file);
    let apps = loaded.apps;
    Ok(PlanInput {
        steps: diff::plan_steps(&apps, &current, file.as_ref(), args.prune),
        client,
        apps,
        current,
    })
}

/// Details of all instances, with their environment variables.
async fn fetch_details(client: &mut Client, session: &Session) -> Result<Vec<InstanceDetail>, Error> {
    let query = DescribeQuery { select: vec!["all".into()], env: true };
    match client.describe(query).await {
        // The list is empty.
        Err(ClientError::Rejected(error)) if error.code == ErrorCode::NotFound => Ok(Vec::new()),
        details => details.map_err(|error| session.client_error(error)),
    }
}

/// The requests that execute the steps. Apps without a step are not affected.
fn requests(steps: &[PlanStep], session: &Session) -> Vec<Request> {
    let (mut requests, mut started, mut reloaded) = (Vec::new(), Vec::new(), Vec::new());
    for PlanStep { action, ids, .. } in steps {
        let action_request = |action| {
            let select = ids.iter().map(u32::to_string).collect();
            Request::Act(action, ActionRequest { select, ..ActionRequest::default() })
        };
        match action {
            PlanAction::Start(app) | PlanAction::Restart(app) => started.push(AppSpec::clone(app)),
            PlanAction::Reload(app) => reloaded.push(AppSpec::clone(app)),
            PlanAction::Scale { name, to, .. } => {
                requests.push(Request::Scale(name.clone(), ScaleTo::Exactly(*to).into()));
            }
            PlanAction::StartStopped(_) => requests.push(action_request(Action::Start)),
            PlanAction::Delete(_) => requests.push(action_request(Action::Delete)),
            PlanAction::Update(_) | PlanAction::Keep(_) | PlanAction::Unchanged(_) => {}
        }
    }
    if !reloaded.is_empty() {
        let inherited = Some(environment::collect_env(session));
        requests.insert(
            0,
            Request::Reload(ReloadRequest { apps: reloaded, inherited, ..ReloadRequest::default() }),
        );
    }
    if !started.is_empty() {
        let (inherited, existing) = (environment::collect_env(session), Existing::Restart);
        requests
            .insert(0, Request::Start(StartRequest { apps: started, inherited, existing, no_wait: false }));
    }
    requests
}

/// The apps whose processes stay but whose spec the daemon must record: the file they come from has changed, or they
/// are stopped and have new settings for their next start.
fn specs_to_record(steps: &[PlanStep], apps: &[AppSpec], current: &[InstanceDetail]) -> Vec<AppSpec> {
    let must_be_recorded = |app: &&AppSpec| {
        let differs = |detail: &InstanceDetail| {
            detail.view.name == app.name && (detail.view.drift.is_some() || detail.view.source != app.source)
        };
        steps.iter().any(|step| match &step.action {
            PlanAction::Update(updated) => updated.name == app.name,
            PlanAction::Scale { name, .. } | PlanAction::StartStopped(name) | PlanAction::Unchanged(name) => {
                *name == app.name && current.iter().any(differs)
            }
            PlanAction::Start(_)
            | PlanAction::Restart(_)
            | PlanAction::Reload(_)
            | PlanAction::Delete(_)
            | PlanAction::Keep(_) => false,
        })
    };
    apps.iter().filter(must_be_recorded).cloned().collect()
}
