//! The `rsm` command: parses the command line and runs one command.
//!
//! Each command has a file in `commands`, which turns arguments into requests and responses into text. Results
//! go to standard output, everything else to standard error. [`Error`] decides the exit code.

mod app_flags;
mod args;
mod commands;
mod completion;
mod environment;
pub mod error;
mod escape;
mod foreign_words;
mod help;
mod man;
mod monit;
mod operation;
mod output;
mod port_holder;
mod progress;
mod render;
mod screen;
mod session;
mod sort;
mod targets;
#[cfg(test)]
mod tests;
mod time_arg;
mod usage_error;

use std::ffi::OsString;
use std::fmt::Display;
use std::path::Path;

use clap::{CommandFactory, FromArgMatches, Parser};

use self::args::{CliArgs, CliCommand, InternalCommand, LocalCommand, SessionCommand};
use self::commands::describe::DescribeArgs;
use self::commands::{
    apply, config, convert, daemon, describe, doctor, export, foreground, init, lifecycle, list, logs,
    reload, report, runtime, save, scale, serve, signal, start, startup, stdin, trigger, upgrade,
};
use self::error::Error;
pub use self::session::use_color;
use self::session::{Session, env_is_set};
use crate::ipc::message::Action;
use crate::keeper::StartMode;
use crate::paths::Home;

/// Runs a command line, including the program name.
///
/// # Errors
/// The command failed.
pub fn run(args: impl IntoIterator<Item = OsString>) -> Result<(), Error> {
    completion::complete_if_requested(CliArgs::command);
    let args = runtime::rewrite_argv(args.into_iter().collect());
    let as_pm2 = is_named_pm2(&args);
    let CliArgs { silent, no_color, sort, command, .. } =
        parse(&args).map_err(|error| usage_error::convert(error, &args, &CliArgs::command()))?;
    let home = || if as_pm2 { Home::from_env_or_pm2() } else { Home::from_env() }.map_err(Error::HomeUnknown);
    match command {
        CliCommand::Internal(command) => run_internal(command, home),
        CliCommand::Local(command) => run_local(command),
        CliCommand::Session(command) => {
            let is_pid1 = prepare_process(&command)?;
            let in_foreground = matches!(command, SessionCommand::Runtime(_));
            let silent = in_foreground || silent || (as_pm2 && env_is_set("PM2_SILENT"));
            let session = Session::new(home()?, silent, !no_color && use_color(), sort);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime =
                runtime.map_err(|error| Error::Io { context: "cannot start the async runtime", error })?;
            runtime.block_on(dispatch(command, is_pid1, &session))
        }
    }
}

fn is_named_pm2(args: &[OsString]) -> bool {
    let name = args.first().and_then(|name| Path::new(name).file_name());
    name.is_some_and(|name| ["pm2", "pm2-runtime", "pm2-docker"].iter().any(|known| name == *known))
}

/// Parses the arguments. Help texts are built only if they are shown: they would slow down every command.
fn parse(args: &[OsString]) -> Result<CliArgs, clap::Error> {
    // clap takes the flag for a command.
    let is_plain_help = args.len() == 3 && args[1] == "help" && (args[2] == "--help" || args[2] == "-h");
    let args = if is_plain_help { &args[..2] } else { args };
    let asks_for_help = |arg: &OsString| arg == "--help" || arg == "-h" || arg == "help";
    if args.len() > 1 && !args.iter().take_while(|arg| *arg != "--").any(asks_for_help) {
        return CliArgs::try_parse_from(args);
    }
    CliArgs::from_arg_matches(&help::documented(CliArgs::command()).try_get_matches_from(args)?)
}

fn run_internal(command: InternalCommand, home: impl FnOnce() -> Result<Home, Error>) -> Result<(), Error> {
    match command {
        InternalCommand::Keeper { foreground, resume } => {
            let mode = match resume {
                Some(handover) => StartMode::Resume(handover),
                None if foreground => StartMode::Foreground,
                None => StartMode::Background,
            };
            component_result("keeper", crate::keeper::main(&home()?, mode))
        }
        InternalCommand::Daemon => component_result("daemon", crate::daemon::main(&home()?)),
        InternalCommand::ServeFiles(args) => component_result("serve", crate::serve::run(args)),
        InternalCommand::CanTakeOver => upgrade::print_capabilities(),
    }
}

fn component_result<E: Display>(component: &'static str, result: Result<(), E>) -> Result<(), Error> {
    result.map_err(|error| Error::ComponentFailed { component, reason: error.to_string() })
}

fn run_local(command: LocalCommand) -> Result<(), Error> {
    match command {
        LocalCommand::Version => output::print(&format!("rsm {}\n", crate::version::version())),
        LocalCommand::Schema => output::print_json(&crate::config::schema()),
        LocalCommand::Completion { shell } => completion::print_script(shell),
        LocalCommand::Man { directory } => man::write_pages(&directory, help::documented(CliArgs::command())),
    }
}

/// Does what a command needs before anything else runs in this process: it may replace the program, or fork.
/// Returns whether this is the main process of a container.
fn prepare_process(command: &SessionCommand) -> Result<bool, Error> {
    match command {
        SessionCommand::Foreground { .. } => foreground::exec_with_login_path()?,
        SessionCommand::Doctor(_) => doctor::exec_with_login_path()?,
        SessionCommand::Runtime(_) => return runtime::fork_if_pid1(),
        _ => {}
    }
    Ok(false)
}

async fn dispatch(command: SessionCommand, is_pid1: bool, session: &Session) -> Result<(), Error> {
    match command {
        SessionCommand::Start(args) => start::start(*args, session).await,
        SessionCommand::Stop(targets) => lifecycle::run_action(Action::Stop, targets, session).await,
        SessionCommand::Restart(args) => lifecycle::restart(*args, session).await,
        SessionCommand::Reload(args) => reload::reload(*args, session).await,
        SessionCommand::Delete(targets) => lifecycle::run_action(Action::Delete, targets, session).await,
        SessionCommand::Scale(args) => scale::scale(args, session).await,
        SessionCommand::Plan(args) => apply::plan(args, session).await,
        SessionCommand::Apply(args) => apply::apply(args, session).await,
        SessionCommand::Reset(targets) => lifecycle::run_action(Action::Reset, targets, session).await,
        SessionCommand::SendSignal(args) => signal::send_signal(args, session).await,
        SessionCommand::Send(args) => stdin::send(args, session).await,
        SessionCommand::Attach(args) => stdin::attach(args, session).await,
        SessionCommand::Trigger(args) => trigger::trigger(args, session).await,
        SessionCommand::List(args) => list::list(args, session).await,
        SessionCommand::Monit => monit::monit(session).await,
        SessionCommand::Jlist => list::jlist(session).await,
        SessionCommand::Prettylist => list::prettylist(session).await,
        SessionCommand::Report => report::report(session).await,
        SessionCommand::Set { key, value } => config::run_conf(Some(key), Some(value), session).await,
        SessionCommand::Get { key } => config::run_conf(key, None, session).await,
        SessionCommand::Unset { key } => config::unset(&key, session).await,
        SessionCommand::Describe(args) => describe::describe(args, session).await,
        SessionCommand::Env(args) => describe::env(args, session).await,
        SessionCommand::Pid { name } => list::pid(name, session).await,
        SessionCommand::Id { name } => list::id(&name, session).await,
        SessionCommand::Logs(args) => logs::logs(args, session).await,
        SessionCommand::Flush { select } => logs::flush(select, session).await,
        SessionCommand::ReloadLogs => logs::reload_logs(session).await,
        SessionCommand::Conf { key, value } => config::run_conf(key, value, session).await,
        SessionCommand::Save { force } => save::save(force, session).await,
        SessionCommand::Resurrect => save::resurrect(session).await,
        SessionCommand::Cleardump => save::cleardump(session).await,
        SessionCommand::Ping => daemon::ping(session).await,
        SessionCommand::Kill => daemon::kill(session).await,
        SessionCommand::Upgrade(args) => upgrade::upgrade(args, session).await,
        SessionCommand::Update => upgrade::update(session).await,
        SessionCommand::Doctor(args) => doctor::doctor(args, session).await,
        SessionCommand::Startup(args) => startup::startup(&args, session),
        SessionCommand::Unstartup(args) => startup::unstartup(&args, session),
        SessionCommand::Foreground { once } => foreground::run_foreground(once, session).await,
        SessionCommand::Info { select, json } if select.is_empty() => daemon::info(json, session).await,
        SessionCommand::Info { select, json } => {
            describe::describe(DescribeArgs { select, json }, session).await
        }
        SessionCommand::Serve(args) => serve::serve(args, session).await,
        SessionCommand::Convert(args) => convert::convert(&args, session),
        SessionCommand::Export(args) => export::export(&args, session),
        SessionCommand::Init { .. } => init::init(session),
        SessionCommand::Runtime(args) => runtime::runtime(*args, is_pid1, session).await,
    }
}
