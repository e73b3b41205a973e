//! `describe` and `env`: details of instances.

use clap::Args;
use clap_complete::engine::ArgValueCandidates;
use jiff::tz::TimeZone;

use crate::cli::completion;
use crate::cli::error::Error;
use crate::cli::output;
use crate::cli::render::describe;
use crate::cli::render::style::tame;
use crate::cli::session::Session;
use crate::cli::targets::{require_one, resolve_paths};
use crate::ipc::client::Client;
use crate::ipc::message::{InstanceDetail, InstanceView, LogItem, LogQuery, Request};
use crate::spec::EnvVars;

/// Number of log lines shown for an errored instance. Node.js prints about 20 lines for an uncaught error: the
/// message, a stack trace of ten lines, and some lines around both.
const STDERR_LINES: usize = 20;

// Arguments of `describe`.
#[derive(Args, Clone, Debug)]
pub(crate) struct DescribeArgs {
    /// Ids, names, namespaces, paths of scripts, /regex/ or `all`
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

pub(crate) async fn describe(args: DescribeArgs, session: &Session) -> Result<(), Error> {
    let mut client = session.connect_for(&args.select).await?;
    let select = resolve_paths(&args.select, session, &mut client).await?;
    let request = Request::Describe(select.into());
    if args.json {
        let bytes = client.call_raw(&request).await.map_err(|error| session.client_error(error))?;
        return output::print_line(&bytes);
    }
    let details: Vec<InstanceDetail> =
        client.call(&request).await.map_err(|error| session.client_error(error))?;
    let zone = TimeZone::system();
    let mut pages = Vec::new();
    for detail in &details {
        let stderr = match describe::needs_stderr(detail) {
            true => last_stderr_lines(detail.view.id, &mut client).await,
            false => Vec::new(),
        };
        pages.push(describe::describe(detail, &stderr, &zone, session.style));
    }
    output::print(&pages.join("\n"))
}

/// The last lines of standard error, empty if they cannot be read.
async fn last_stderr_lines(id: u32, client: &mut Client) -> Vec<String> {
    let select = vec![id.to_string()];
    let query = LogQuery { select, lines: STDERR_LINES, out: false, ..LogQuery::default() };
    let Ok(mut lines) = client.stream(&Request::Logs(query)).await else { return Vec::new() };
    let mut stderr = Vec::new();
    while let Some(Ok(line)) = lines.next().await {
        if let Ok(LogItem::Line { line, .. }) = serde_json::from_slice(&line) {
            stderr.push(line);
        }
    }
    stderr
}

/// Prints the environment variables given to an instance by file and flags, with their values.
pub(crate) async fn env(args: EnvArgs, session: &Session) -> Result<(), Error> {
    let mut client = session.connect_for(std::slice::from_ref(&args.instance)).await?;
    let instances: Vec<InstanceView> =
        client.call(&Request::List).await.map_err(|error| session.client_error(error))?;
    let request = Request::Env(require_one(&args.instance, &instances)?);
    let vars: EnvVars = client.call(&request).await.map_err(|error| session.client_error(error))?;
    if args.json {
        return output::print_json(&vars);
    }
    output::print(&vars.iter().map(|(name, value)| format!("{name}: {}\n", tame(value))).collect::<String>())
}
