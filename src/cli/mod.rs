//! The command line: arguments, and one line a command that says who does it.
//!
//! A command's file turns its arguments into a request and the answer into text. Data goes to
//! standard output, everything else to standard error. Exit codes are those of
//! [`Error::exit_code`].

mod act;
mod app_flags;
mod completion;
mod conf;
mod convert;
mod daemon;
mod describe;
mod doctor;
mod dump;
mod environment;
mod foreground;
mod hangup;
mod help;
mod list;
mod logs;
mod monit;
mod order;
mod output;
mod plan;
mod progress;
mod reload;
mod render;
mod report;
mod runtime;
mod selectors;
mod serve;
mod session;
mod speak;
mod start;
mod startup;
mod upgrade;
mod verify;
mod watch;
mod when;
mod words;

use std::ffi::OsString;
use std::path::Path;

use clap::{ArgAction, CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::engine::ArgValueCandidates;

use self::describe::Describe;
use self::selectors::Targets;
pub use self::session::colour_wanted;
use self::session::{Session, is_set};
use crate::config;
use crate::error::Error;
use crate::ipc::message::Action;
use crate::keeper::StartMode;
use crate::paths::Home;
use crate::serve::ServeArgs;

/// Process manager for apps in any language, compatible with PM2
#[derive(Parser, Debug)]
#[command(name = "rsm", version = crate::version::version(), disable_version_flag = true, arg_required_else_help = true, args_override_self = true)]
struct Cli {
    /// Print only results and errors
    #[arg(short, long, global = true)]
    silent: bool,
    /// Disable colors (same as setting NO_COLOR)
    #[arg(long, global = true)]
    no_color: bool,
    /// Sort the list by a field; append `:desc` to reverse the order
    #[arg(long, global = true, value_parser = order::order, value_name = "FIELD[:desc]")]
    sort: Option<order::Order>,
    /// Print the version
    #[arg(short = 'v', short_alias = 'V', long, action = ArgAction::Version)]
    version: (),
    #[command(subcommand)]
    command: Command,
}

/// Each command's arguments are put together only when it is the one asked for (`defer`): there
/// are some hundred flags in all, and a list is wanted within a millisecond. A `///` comment on
/// the arguments would take the place of the command's text then, so they bear plain ones.
#[derive(Subcommand, Debug)]
#[command(rename_all = "lower", defer = true)]
enum Command {
    /// Start apps from an ecosystem file, a script, a program or a shell command
    #[command(alias = "startOrRestart")]
    Start(Box<start::Start>),
    /// Stop apps but keep them in the list
    Stop(Targets),
    /// Restart apps, optionally with changed settings
    Restart(Box<act::Restart>),
    /// Replace the processes of apps without downtime
    #[command(aliases = ["gracefulReload", "gracefulreload", "softReload", "startOrReload", "startOrGracefulReload"])]
    Reload(Box<reload::Reload>),
    /// Stop apps and remove them from the list
    #[command(visible_alias = "del")]
    Delete(Targets),
    /// Change the number of instances of an app
    Scale(act::Scale),
    /// Reset the restart counters of apps
    Reset(Targets),
    /// Show the changes that `apply` would make
    Plan(plan::Plan),
    /// Make the running apps match an ecosystem file
    Apply(plan::PlanOf),
    /// Send a signal to the processes of apps
    #[command(name = "sendSignal", aliases = ["send-signal", "sendsignal"])]
    SendSignal(act::SendSignal),
    /// Write a line to the standard input of an instance
    Send(speak::Send),
    /// Attach to an instance: show its output and forward your input
    Attach(speak::Attach),
    /// Run a custom action of an app (Node.js)
    Trigger(speak::Trigger),
    /// List apps and instances
    #[command(visible_aliases = ["ls", "l", "ps", "status"])]
    List(list::List),
    /// Open the full-screen dashboard
    #[command(visible_alias = "dash", alias = "dashboard")]
    Monit,
    /// Print the list as JSON, in the format of PM2
    Jlist,
    /// Print the list as indented JSON, in the format of PM2
    Prettylist,
    /// Show details of apps
    #[command(visible_aliases = ["show", "desc"])]
    Describe(Describe),
    /// Print the environment variables of an instance, including values
    Env(describe::Env),
    /// Print the process ids of apps
    Pid {
        /// Name of the app [default: all apps]
        #[arg(add = ArgValueCandidates::new(completion::apps))]
        name: Option<String>,
    },
    /// Print the ids of the instances of an app
    Id {
        /// Name of the app
        #[arg(add = ArgValueCandidates::new(completion::apps))]
        name: String,
    },
    /// Show and follow the logs of apps
    #[command(alias = "log")]
    Logs(logs::Logs),
    /// Truncate log files
    Flush {
        /// Ids, names, namespaces or /regex/ [default: all]
        #[arg(value_name = "APP", add = ArgValueCandidates::new(completion::selectors))]
        select: Vec<String>,
    },
    /// Reopen all log files, for example after logrotate
    #[command(name = "reloadLogs", aliases = ["reload-logs", "reloadlogs"])]
    ReloadLogs,
    /// Show or change the configuration of the daemon
    #[command(visible_alias = "config")]
    Conf {
        /// Key: `logs.budget` (maximum size of all logs), `log.level` (level of the daemon log), `autosave` (save the list after each change)
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
    Upgrade(upgrade::Upgrade),
    /// Diagnose problems with rsm, the system and the saved apps
    Doctor(doctor::Doctor),
    /// Install a service that starts rsm and the saved apps at boot
    Startup(startup::Startup),
    /// Remove the boot service
    Unstartup(startup::Startup),
    /// Run apps in the foreground, as the main process of a container
    Runtime(Box<runtime::Runtime>),
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
        #[arg(value_name = "APP", add = ArgValueCandidates::new(completion::selectors))]
        select: Vec<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the JSON Schema of the ecosystem file
    Schema,
    /// Convert an ecosystem file to TOML
    Convert(convert::Convert),
    /// Print a report to attach to a bug report
    Report,
    /// Set a preference
    Set {
        /// Key, such as `logs.lines`
        key: String,
        /// Value
        value: String,
    },
    /// Print a preference, or all of them
    Get {
        /// Key, such as `logs.lines`
        key: Option<String>,
    },
    /// Reset a preference to its default; `all` resets all of them
    Unset {
        /// Key, such as `logs.lines`
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
    Serve(serve::Serve),
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
    completion::answer_if_asked();
    let args = runtime::by_its_name(args.into_iter().collect());
    let as_pm2 = args.first().is_some_and(|name| {
        let name = Path::new(name).file_name();
        name.is_some_and(|name| ["pm2", "pm2-runtime", "pm2-docker"].iter().any(|known| name == *known))
    });
    let cli = parse(args).map_err(|error| Error::Arguments(words::explained(error)))?;
    let home = || if as_pm2 { Home::from_env_as_pm2() } else { Home::from_env() }.map_err(Error::NoHome);
    match cli.command {
        Command::Keeper { foreground, resume } => {
            let began = match resume {
                Some(file) => StartMode::Resume(file),
                None if foreground => StartMode::Foreground,
                None => StartMode::Background,
            };
            part("keeper", crate::keeper::main(&home()?, began))
        }
        Command::Daemon => part("daemon", crate::daemon::main(&home()?)),
        Command::ServeFiles(args) => part("serve", crate::serve::run(args)),
        Command::Schema => output::json(&config::schema()),
        Command::CanTakeOver => upgrade::can_take_over(),
        Command::Completion { shell } => completion::script(shell),
        Command::Man { directory } => completion::man(&directory),
        command => {
            if matches!(command, Command::Foreground { .. }) {
                foreground::resolve_path()?;
            }
            if matches!(command, Command::Doctor(_)) {
                doctor::with_login_path()?;
            }
            let alone = match command {
                Command::Runtime(_) => Some(runtime::stand_aside()?),
                _ => None,
            };
            let silent = alone.is_some() || cli.silent || (as_pm2 && is_set("PM2_SILENT"));
            let session = Session::new(home()?, silent, !cli.no_color && colour_wanted(), cli.sort);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime =
                runtime.map_err(|error| Error::System { what: "cannot start the async runtime", error })?;
            runtime.block_on(async {
                match command {
                    Command::Runtime(args) => {
                        runtime::runtime(*args, alone.unwrap_or_default(), &session).await
                    }
                    command => dispatch(command, &session).await,
                }
            })
        }
    }
}

/// Help texts are built only when they are shown: other commands start faster without them.
fn parse(args: Vec<OsString>) -> Result<Cli, clap::Error> {
    let asks = |arg: &OsString| arg == "--help" || arg == "-h" || arg == "help";
    if args.len() > 1 && !args.iter().take_while(|arg| *arg != "--").any(asks) {
        return Cli::try_parse_from(args);
    }
    Cli::from_arg_matches(&help::documented(Cli::command()).try_get_matches_from(args)?)
}

async fn dispatch(command: Command, session: &Session) -> Result<(), Error> {
    match command {
        Command::Start(args) => start::start(*args, session).await,
        Command::Stop(targets) => act::act(Action::Stop, targets, session).await,
        Command::Restart(args) => act::restart(*args, session).await,
        Command::Reload(args) => reload::reload(*args, session).await,
        Command::Delete(targets) => act::act(Action::Delete, targets, session).await,
        Command::Scale(args) => act::scale(args, session).await,
        Command::Plan(args) => plan::plan(args, session).await,
        Command::Apply(args) => plan::apply(args, session).await,
        Command::Reset(targets) => act::act(Action::Reset, targets, session).await,
        Command::SendSignal(args) => act::send_signal(args, session).await,
        Command::Send(args) => speak::send(args, session).await,
        Command::Attach(args) => speak::attach(args, session).await,
        Command::Trigger(args) => speak::trigger(args, session).await,
        Command::List(args) => list::list(args, session).await,
        Command::Monit => monit::monit(session).await,
        Command::Jlist => list::jlist(session).await,
        Command::Prettylist => list::prettylist(session).await,
        Command::Report => report::report(session).await,
        Command::Set { key, value } => conf::conf(Some(key), Some(value), session).await,
        Command::Get { key } => conf::conf(key, None, session).await,
        Command::Unset { key } => conf::unset(&key, session).await,
        Command::Describe(args) => describe::describe(args, session).await,
        Command::Env(args) => describe::env(args, session).await,
        Command::Pid { name } => list::pid(name, session).await,
        Command::Id { name } => list::id(&name, session).await,
        Command::Logs(args) => logs::logs(args, session).await,
        Command::Flush { select } => logs::flush(select, session).await,
        Command::ReloadLogs => logs::reopen(session).await,
        Command::Conf { key, value } => conf::conf(key, value, session).await,
        Command::Save { force } => dump::save(force, session).await,
        Command::Resurrect => dump::resurrect(session).await,
        Command::Cleardump => dump::clear(session).await,
        Command::Ping => daemon::ping(session).await,
        Command::Kill => daemon::kill(session).await,
        Command::Upgrade(args) => upgrade::upgrade(args, session).await,
        Command::Doctor(args) => doctor::doctor(args, session).await,
        Command::Startup(args) => startup::startup(&args, session),
        Command::Unstartup(args) => startup::unstartup(&args, session),
        Command::Foreground { once } => foreground::foreground(once, session).await,
        Command::Info { select, json } if select.is_empty() => daemon::info(json, session).await,
        Command::Info { select, json } => describe::describe(Describe { select, json }, session).await,
        Command::Serve(args) => serve::serve(args, session).await,
        Command::Convert(args) => convert::convert(&args, session),
        Command::Init { .. } => convert::init(session),
        // Run before there was a session, or beside this.
        Command::Keeper { .. }
        | Command::Runtime(_)
        | Command::Daemon
        | Command::ServeFiles(_)
        | Command::Schema
        | Command::Completion { .. }
        | Command::Man { .. }
        | Command::CanTakeOver => Ok(()),
    }
}

fn part<E: std::fmt::Display>(part: &'static str, result: Result<(), E>) -> Result<(), Error> {
    result.map_err(|error| Error::Part { part, reason: error.to_string() })
}

#[cfg(test)]
mod tests;
