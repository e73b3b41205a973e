//! The command line: arguments, and one line a command that says who does it.
//!
//! A command's file turns its arguments into a request and the answer into text. Data goes to
//! standard output, everything else to standard error. Exit codes are those of
//! [`Error::exit_code`].

mod app_flags;
mod completion;
mod environment;
mod hangup;
mod help;
mod monit;
mod output;
mod progress;
mod render;
mod session;

use std::ffi::OsString;
use std::path::Path;

use clap::{ArgAction, CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::engine::ArgValueCandidates;

pub use self::session::use_colour;
use self::session::{Session, env_is_set};
use crate::cli::commands::describe::DescribeArgs;
use crate::cli::error::Error;
use crate::cli::targets::Targets;
use crate::config;
use crate::ipc::message::Action;
use crate::keeper::StartMode;
use crate::paths::Home;
use crate::serve::ServeArgs;

/// Process manager for apps in any language, compatible with PM2
#[derive(Parser, Debug)]
#[command(name = "rsm", version = crate::version::version(), disable_version_flag = true, arg_required_else_help = true, args_override_self = true)]
struct CliArgs {
    /// Print only results and errors
    #[arg(short, long, global = true)]
    silent: bool,
    /// Disable colors (same as setting NO_COLOR)
    #[arg(long, global = true)]
    no_color: bool,
    /// Sort the list by a field; append `:desc` to reverse the order
    #[arg(long, global = true, value_parser = sort::parse_sort, value_name = "FIELD[:desc]")]
    sort: Option<sort::SortOrder>,
    /// Print the version
    #[arg(short = 'v', short_alias = 'V', long, action = ArgAction::Version)]
    version: (),
    #[command(subcommand)]
    command: CliCommand,
}

/// Each command's arguments are put together only when it is the one asked for (`defer`): there
/// are some hundred flags in all, and a list is wanted within a millisecond. A `///` comment on
/// the arguments would take the place of the command's text then, so they bear plain ones.
#[derive(Subcommand, Debug)]
#[command(rename_all = "lower", defer = true)]
enum CliCommand {
    /// Start apps from an ecosystem file, a script, a program or a shell command
    #[command(alias = "startOrRestart")]
    Start(Box<crate::cli::commands::start::StartArgs>),
    /// Stop apps but keep them in the list
    Stop(Targets),
    /// Restart apps, optionally with changed settings
    Restart(Box<crate::cli::commands::lifecycle::RestartArgs>),
    /// Replace the processes of apps without downtime
    #[command(aliases = ["gracefulReload", "gracefulreload", "softReload", "startOrReload", "startOrGracefulReload"])]
    Reload(Box<crate::cli::commands::reload::ReloadArgs>),
    /// Stop apps and remove them from the list
    #[command(visible_alias = "del")]
    Delete(Targets),
    /// Change the number of instances of an app
    Scale(crate::cli::commands::lifecycle::ScaleArgs),
    /// Reset the restart counters of apps
    Reset(Targets),
    /// Show the changes that `apply` would make
    Plan(crate::cli::commands::apply::PlanArgs),
    /// Make the running apps match an ecosystem file
    Apply(crate::cli::commands::apply::ApplyArgs),
    /// Send a signal to the processes of apps
    #[command(name = "sendSignal", aliases = ["send-signal", "sendsignal"])]
    SendSignal(crate::cli::commands::lifecycle::SignalArgs),
    /// Write a line to the standard input of an instance
    Send(crate::cli::commands::stdin::SendArgs),
    /// Attach to an instance: show its output and forward your input
    Attach(crate::cli::commands::stdin::AttachArgs),
    /// Run a custom action of an app (Node.js)
    Trigger(crate::cli::commands::stdin::TriggerArgs),
    /// List apps and instances
    #[command(visible_aliases = ["ls", "l", "ps", "status"])]
    List(crate::cli::commands::list::ListArgs),
    /// Open the full-screen dashboard
    #[command(visible_alias = "dash", alias = "dashboard")]
    Monit,
    /// Print the list as JSON, in the format of PM2
    Jlist,
    /// Print the list as indented JSON, in the format of PM2
    Prettylist,
    /// Show details of apps
    #[command(visible_aliases = ["show", "desc"])]
    Describe(DescribeArgs),
    /// Print the configured environment variables of an instance, including values
    Env(crate::cli::commands::describe::EnvArgs),
    /// Print the process ids of apps
    Pid {
        /// Name of the app [default: all apps]
        #[arg(add = ArgValueCandidates::new(completion::complete_apps))]
        name: Option<String>,
    },
    /// Print the ids of the instances of an app
    Id {
        /// Name of the app
        #[arg(add = ArgValueCandidates::new(completion::complete_apps))]
        name: String,
    },
    /// Show and follow the logs of apps
    #[command(alias = "log")]
    Logs(crate::cli::commands::logs::LogsArgs),
    /// Truncate log files
    Flush {
        /// Ids, names, namespaces or /regex/ [default: all]
        #[arg(value_name = "APP", add = ArgValueCandidates::new(completion::complete_selectors))]
        select: Vec<String>,
    },
    /// Reopen all log files, for example after logrotate
    #[command(name = "reloadLogs", aliases = ["reload-logs", "reloadlogs"])]
    ReloadLogs,
    /// Show or change the settings of rsm
    #[command(visible_alias = "config")]
    Conf {
        /// Name of a setting, such as `logs.budget` [default: show all settings]
        key: Option<String>,
        /// New value [default: show the current value]
        value: Option<String>,
    },
    /// Save the list of apps, to be restored at boot or by `resurrect`
    #[command(visible_alias = "dump")]
    Save {
        /// Save even if the list is empty
        #[arg(short, long)]
        force: bool,
    },
    /// Restore the saved list
    Resurrect,
    /// Clear the saved list
    Cleardump,
    /// Check whether the daemon is running
    Ping,
    /// Stop all apps and the daemon
    Kill,
    /// Upgrade the running daemon without restarting apps
    Upgrade(crate::cli::commands::upgrade::UpgradeArgs),
    /// Diagnose problems with rsm, the system and the saved apps
    Doctor(crate::cli::commands::doctor::DoctorArgs),
    /// Install a service that starts rsm and the saved apps at boot
    Startup(crate::cli::commands::startup::StartupArgs),
    /// Remove the boot service
    Unstartup(crate::cli::commands::startup::StartupArgs),
    /// Run apps in the foreground, as the main process of a container
    Runtime(Box<crate::cli::commands::runtime::RuntimeArgs>),
    /// Run as a service: restore the saved list and supervise the daemon
    #[command(hide = true)]
    Foreground {
        /// Restore the saved list and exit
        #[arg(long)]
        once: bool,
    },
    /// Show the processes, files and version of rsm
    Info {
        /// Describe these apps instead (PM2 compatibility)
        #[arg(value_name = "APP", add = ArgValueCandidates::new(completion::complete_selectors))]
        select: Vec<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the JSON Schema of the ecosystem file
    Schema,
    /// Convert an ecosystem file to TOML
    Convert(crate::cli::commands::convert::ConvertArgs),
    /// Print information for a bug report
    Report,
    /// Change a setting
    Set {
        /// Name of a setting, such as `logs.lines`
        key: String,
        /// New value
        value: String,
    },
    /// Print a setting, or all settings
    Get {
        /// Name of a setting, such as `logs.lines`
        key: Option<String>,
    },
    /// Reset a setting to its default, or `all` settings
    Unset {
        /// Name of a setting, such as `logs.lines`
        key: String,
    },
    /// Create an ecosystem.toml for the current directory
    #[command(alias = "ecosystem")]
    Init {
        /// PM2 compatibility, ignored
        #[arg(hide = true, value_parser = ["simple"])]
        template: Option<String>,
    },
    /// Serve a directory over HTTP
    Serve(crate::cli::commands::serve::ServeCommand),
    /// Print a shell completion script
    Completion {
        /// Shell to generate the script for
        shell: completion::Shell,
    },
    /// Generate man pages
    Man {
        /// Output directory
        #[arg(value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
        directory: std::path::PathBuf,
    },
    /// Run the file server in the foreground
    #[command(name = "serve-files", hide = true)]
    ServeFiles(ServeArgs),
    /// Run the keeper
    #[command(hide = true)]
    Keeper {
        /// Do not daemonize
        #[arg(long)]
        foreground: bool,
        /// Resume from the handover file at this descriptor
        #[arg(long, value_name = "FD")]
        resume: Option<i32>,
    },
    /// Run the daemon (started by the keeper)
    #[command(hide = true)]
    Daemon,
    /// Print which state and protocol versions this binary supports
    #[command(name = "can-take-over", hide = true)]
    CanTakeOver,
}

/// Runs one command line, the program's name first.
///
/// # Errors
/// Whatever kept the command from doing what was asked.
pub fn run(args: impl IntoIterator<Item = OsString>) -> Result<(), Error> {
    completion::complete_if_requested();
    let args = crate::cli::commands::runtime::rewrite_argv(args.into_iter().collect());
    let as_pm2 = args.first().is_some_and(|name| {
        let name = Path::new(name).file_name();
        name.is_some_and(|name| ["pm2", "pm2-runtime", "pm2-docker"].iter().any(|known| name == *known))
    });
    let cli = parse(args).map_err(|error| Error::Usage(suggestions::with_suggestion(error)))?;
    let home = || if as_pm2 { Home::from_env_or_pm2() } else { Home::from_env() }.map_err(Error::HomeUnknown);
    match cli.command {
        CliCommand::Keeper { foreground, resume } => {
            let began = match resume {
                Some(file) => StartMode::Resume(file),
                None if foreground => StartMode::Foreground,
                None => StartMode::Background,
            };
            run_component("keeper", crate::keeper::main(&home()?, began))
        }
        CliCommand::Daemon => run_component("daemon", crate::daemon::main(&home()?)),
        CliCommand::ServeFiles(args) => run_component("serve", crate::serve::run(args)),
        CliCommand::Schema => output::print_json(&config::schema()),
        CliCommand::CanTakeOver => crate::cli::commands::upgrade::print_capabilities(),
        CliCommand::Completion { shell } => completion::script(shell),
        CliCommand::Man { directory } => completion::man(&directory),
        command => {
            if matches!(command, CliCommand::Foreground { .. }) {
                crate::cli::commands::foreground::exec_with_login_path()?;
            }
            if matches!(command, CliCommand::Doctor(_)) {
                crate::cli::commands::doctor::exec_with_login_path()?;
            }
            let alone = match command {
                CliCommand::Runtime(_) => Some(crate::cli::commands::runtime::fork_if_pid1()?),
                _ => None,
            };
            let silent = alone.is_some() || cli.silent || (as_pm2 && env_is_set("PM2_SILENT"));
            let session = Session::new(home()?, silent, !cli.no_color && use_colour(), cli.sort);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime =
                runtime.map_err(|error| Error::Io { context: "cannot start the async runtime", error })?;
            runtime.block_on(async {
                match command {
                    CliCommand::Runtime(args) => {
                        crate::cli::commands::runtime::runtime(*args, alone.unwrap_or_default(), &session)
                            .await
                    }
                    command => dispatch(command, &session).await,
                }
            })
        }
    }
}

/// Help texts are built only when they are shown: other commands start faster without them.
fn parse(args: Vec<OsString>) -> Result<CliArgs, clap::Error> {
    let asks = |arg: &OsString| arg == "--help" || arg == "-h" || arg == "help";
    if args.len() > 1 && !args.iter().take_while(|arg| *arg != "--").any(asks) {
        return CliArgs::try_parse_from(args);
    }
    CliArgs::from_arg_matches(&help::documented(CliArgs::command()).try_get_matches_from(args)?)
}

async fn dispatch(command: CliCommand, session: &Session) -> Result<(), Error> {
    match command {
        CliCommand::Start(args) => crate::cli::commands::start::start(*args, session).await,
        CliCommand::Stop(targets) => {
            crate::cli::commands::lifecycle::run_action(Action::Stop, targets, session).await
        }
        CliCommand::Restart(args) => crate::cli::commands::lifecycle::restart(*args, session).await,
        CliCommand::Reload(args) => crate::cli::commands::reload::reload(*args, session).await,
        CliCommand::Delete(targets) => {
            crate::cli::commands::lifecycle::run_action(Action::Delete, targets, session).await
        }
        CliCommand::Scale(args) => crate::cli::commands::lifecycle::scale(args, session).await,
        CliCommand::Plan(args) => crate::cli::commands::apply::plan(args, session).await,
        CliCommand::Apply(args) => crate::cli::commands::apply::apply(args, session).await,
        CliCommand::Reset(targets) => {
            crate::cli::commands::lifecycle::run_action(Action::Reset, targets, session).await
        }
        CliCommand::SendSignal(args) => crate::cli::commands::lifecycle::send_signal(args, session).await,
        CliCommand::Send(args) => crate::cli::commands::stdin::send(args, session).await,
        CliCommand::Attach(args) => crate::cli::commands::stdin::attach(args, session).await,
        CliCommand::Trigger(args) => crate::cli::commands::stdin::trigger(args, session).await,
        CliCommand::List(args) => crate::cli::commands::list::list(args, session).await,
        CliCommand::Monit => monit::monit(session).await,
        CliCommand::Jlist => crate::cli::commands::list::jlist(session).await,
        CliCommand::Prettylist => crate::cli::commands::list::prettylist(session).await,
        CliCommand::Report => crate::cli::commands::report::report(session).await,
        CliCommand::Set { key, value } => {
            crate::cli::commands::config::run_conf(Some(key), Some(value), session).await
        }
        CliCommand::Get { key } => crate::cli::commands::config::run_conf(key, None, session).await,
        CliCommand::Unset { key } => crate::cli::commands::config::unset(&key, session).await,
        CliCommand::Describe(args) => crate::cli::commands::describe::describe(args, session).await,
        CliCommand::Env(args) => crate::cli::commands::describe::env(args, session).await,
        CliCommand::Pid { name } => crate::cli::commands::list::pid(name, session).await,
        CliCommand::Id { name } => crate::cli::commands::list::id(&name, session).await,
        CliCommand::Logs(args) => crate::cli::commands::logs::logs(args, session).await,
        CliCommand::Flush { select } => crate::cli::commands::logs::flush(select, session).await,
        CliCommand::ReloadLogs => crate::cli::commands::logs::reload_logs(session).await,
        CliCommand::Conf { key, value } => crate::cli::commands::config::run_conf(key, value, session).await,
        CliCommand::Save { force } => crate::cli::commands::save::save(force, session).await,
        CliCommand::Resurrect => crate::cli::commands::save::resurrect(session).await,
        CliCommand::Cleardump => crate::cli::commands::save::cleardump(session).await,
        CliCommand::Ping => crate::cli::commands::daemon::ping(session).await,
        CliCommand::Kill => crate::cli::commands::daemon::kill(session).await,
        CliCommand::Upgrade(args) => crate::cli::commands::upgrade::upgrade(args, session).await,
        CliCommand::Doctor(args) => crate::cli::commands::doctor::doctor(args, session).await,
        CliCommand::Startup(args) => crate::cli::commands::startup::startup(&args, session),
        CliCommand::Unstartup(args) => crate::cli::commands::startup::unstartup(&args, session),
        CliCommand::Foreground { once } => {
            crate::cli::commands::foreground::run_foreground(once, session).await
        }
        CliCommand::Info { select, json } if select.is_empty() => {
            crate::cli::commands::daemon::info(json, session).await
        }
        CliCommand::Info { select, json } => {
            crate::cli::commands::describe::describe(DescribeArgs { select, json }, session).await
        }
        CliCommand::Serve(args) => crate::cli::commands::serve::serve(args, session).await,
        CliCommand::Convert(args) => crate::cli::commands::convert::convert(&args, session),
        CliCommand::Init { .. } => crate::cli::commands::convert::init(session),
        // Run before there was a session, or beside this.
        CliCommand::Keeper { .. }
        | CliCommand::Runtime(_)
        | CliCommand::Daemon
        | CliCommand::ServeFiles(_)
        | CliCommand::Schema
        | CliCommand::Completion { .. }
        | CliCommand::Man { .. }
        | CliCommand::CanTakeOver => Ok(()),
    }
}

fn run_component<E: std::fmt::Display>(part: &'static str, result: Result<(), E>) -> Result<(), Error> {
    result.map_err(|error| Error::ComponentFailed { component: part, reason: error.to_string() })
}

mod commands;
pub mod error;
mod screen;
mod sort;
mod suggestions;
mod targets;
#[cfg(test)]
mod tests;
mod time_arg;
