//! `describe` and `env`: everything about some instances.

use clap::Args;
use clap_complete::engine::ArgValueCandidates;
use jiff::tz::TimeZone;

use crate::cli::completion;
use crate::cli::error::Error;
use crate::cli::output;
use crate::cli::render::describe;
use crate::cli::render::style::tame;
use crate::cli::session::Session;
use crate::cli::targets::require_one;
use crate::ipc::client::Client;
use crate::ipc::message::{InstanceDetail, InstanceView, LogItem, LogQuery, Request};
use crate::spec::EnvVars;

/// How many of the last lines of an errored instance are shown. Node puts the error above a stack
/// of ten lines, and some of its own around both.
const STDERR_LINES: usize = 20;

// Arguments of `describe`.
#[derive(Args, Clone, Debug)]
pub(crate) struct DescribeArgs {
    /// Ids, names, namespaces, /regex/ or `all`
    #[arg(required = true, value_name = "APP", add = ArgValueCandidates::new(completion::complete_selectors))]
    pub(crate) select: Vec<String>,
    /// Print a JSON array
    #[arg(long)]
    pub(crate) json: bool,
}

// Arguments of `env`.
#[derive(Args, Clone, Debug)]
pub(crate) struct EnvArgs {
    /// Id, or name of an app with a single instance
    #[arg(value_name = "ID", add = ArgValueCandidates::new(completion::complete_apps))]
    instance: String,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) async fn describe(describe: DescribeArgs, session: &Session) -> Result<(), Error> {
    let mut client = session.connect_for(&describe.select).await?;
    let request = Request::Describe(describe.select.into());
    if describe.json {
        let bytes = client.call_raw(&request).await.map_err(|error| session.client_error(error))?;
        return output::print_line(&bytes);
    }
    let details: Vec<InstanceDetail> =
        client.call(&request).await.map_err(|error| session.client_error(error))?;
    let zone = TimeZone::system();
    let mut pages = Vec::new();
    for detail in &details {
        let said = match describe::needs_stderr(detail) {
            true => last_stderr_lines(detail.view.id, &mut client).await,
            false => Vec::new(),
        };
        pages.push(describe::describe(detail, &said, &zone, session.style));
    }
    output::print(&pages.join("\n"))
}

/// The last lines of standard error; none where they cannot be had, which fails nothing.
async fn last_stderr_lines(id: u32, client: &mut Client) -> Vec<String> {
    let select = vec![id.to_string()];
    let query = LogQuery { select, lines: STDERR_LINES, out: false, ..LogQuery::default() };
    let Ok(mut lines) = client.stream(&Request::Logs(query)).await else { return Vec::new() };
    let mut said = Vec::new();
    while let Some(Ok(line)) = lines.next().await {
        if let Ok(LogItem::Line { line, .. }) = serde_json::from_slice(&line) {
            said.push(line);
        }
    }
    said
}

/// The variables given to an instance by file and flags, with their values: asked for by name.
pub(crate) async fn env(env: EnvArgs, session: &Session) -> Result<(), Error> {
    let mut client = session.connect_for(std::slice::from_ref(&env.instance)).await?;
    let there: Vec<InstanceView> =
        client.call(&Request::List).await.map_err(|error| session.client_error(error))?;
    let request = Request::Env(require_one(&env.instance, &there)?);
    let vars: EnvVars = client.call(&request).await.map_err(|error| session.client_error(error))?;
    if env.json {
        return output::print_json(&vars);
    }
    output::print(&vars.iter().map(|(name, value)| format!("{name}: {}\n", tame(value))).collect::<String>())
}
