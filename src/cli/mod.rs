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
mod examples;
mod foreground;
mod hangup;
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
use crate::keeper::Began;
use crate::paths::Home;
use crate::serve::ServeArgs;

/// A process manager for any language
#[derive(Parser, Debug)]
#[command(name = "rsm", version = crate::version::version(), disable_version_flag = true, arg_required_else_help = true, args_override_self = true)]
struct Cli {
    /// Say nothing but what was asked for, and errors
    #[arg(short, long, global = true)]
    silent: bool,
    /// No colours (as with NO_COLOR set)
    #[arg(long, global = true)]
    no_color: bool,
    /// Order of the list: a field, with `:desc` from the other end
    #[arg(long, global = true, value_parser = order::order, value_name = "FIELD[:asc|desc]")]
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
    /// Start apps: a file, a script, a program, a "shell line", or what is in the list
    #[command(alias = "startOrRestart")]
    Start(Box<start::Start>),
    /// Stop apps and keep them in the list
    Stop(Targets),
    /// Restart apps, with new settings if flags say so
    Restart(Box<act::Restart>),
    /// Give apps new processes without a gap: each is ready before the old one goes
    #[command(aliases = ["gracefulReload", "gracefulreload", "softReload", "startOrReload", "startOrGracefulReload"])]
    Reload(Box<reload::Reload>),
    /// Stop apps and take them from the list
    #[command(visible_alias = "del")]
    Delete(Targets),
    /// Change how many instances an app has
    Scale(act::Scale),
    /// Set the counters of apps to zero
    Reset(Targets),
    /// Show what `apply` would do
    Plan(plan::Plan),
    /// Make what runs as a file says, and touch nothing else
    Apply(plan::PlanOf),
    /// Send a signal to apps
    #[command(name = "sendSignal", aliases = ["send-signal", "sendsignal"])]
    SendSignal(act::SendSignal),
    /// Write a line to the standard input of an app
    Send(speak::Send),
    /// Show what an app says, and write to it what you type
    Attach(speak::Attach),
    /// Have apps do what they offer through Node's channel
    Trigger(speak::Trigger),
    /// Show the list
    #[command(visible_aliases = ["ls", "l", "ps", "status"])]
    List(list::List),
    /// Watch apps, logs and charts on the whole screen
    #[command(visible_alias = "dash", alias = "dashboard")]
    Monit,
    /// Print the list as JSON in PM2's shape
    Jlist,
    /// The same for people: indented
    Prettylist,
    /// Show everything about apps
    #[command(visible_aliases = ["show", "desc"])]
    Describe(Describe),
    /// Show the variables given to an instance, with their values
    Env(describe::Env),
    /// Print process ids
    Pid {
        /// Of this app only
        #[arg(add = ArgValueCandidates::new(completion::apps))]
        name: Option<String>,
    },
    /// Print the ids of an app
    Id {
        /// The app's name
        #[arg(add = ArgValueCandidates::new(completion::apps))]
        name: String,
    },
    /// Show logs, and go on with what comes
    #[command(alias = "log")]
    Logs(logs::Logs),
    /// Empty log files
    Flush {
        /// Of these apps only
        #[arg(value_name = "APP", add = ArgValueCandidates::new(completion::selectors))]
        select: Vec<String>,
    },
    /// Open all log files anew, after something else moved them
    #[command(name = "reloadLogs", aliases = ["reload-logs", "reloadlogs"])]
    ReloadLogs,
    /// Show what is set for all of rsm, or change it
    #[command(visible_alias = "config")]
    Conf {
        /// `logs.budget`: bytes of all logs together; `log.level`: what rsm's own log tells; `autosave`: save the list after each change
        key: Option<String>,
        /// The new value
        value: Option<String>,
    },
    /// Save the list
    #[command(visible_alias = "dump")]
    Save {
        /// Even if it is empty
        #[arg(short, long)]
        force: bool,
    },
    /// Start what was saved and is not in the list
    Resurrect,
    /// Forget what was saved
    Cleardump,
    /// Ask whether the daemon is there
    Ping,
    /// Stop all apps and the daemon
    Kill,
    /// Put another version of rsm in the place of the one that runs; the apps go on
    Upgrade(upgrade::Upgrade),
    /// Look for what keeps rsm or the saved apps from working
    Doctor(doctor::Doctor),
    /// Have the saved apps started with the machine
    Startup(startup::Startup),
    /// Have them started no more
    Unstartup(startup::Startup),
    /// Run apps in the foreground, as the first process of a container may
    Runtime(Box<runtime::Runtime>),
    /// What an init system starts: bring the saved apps back, and stay
    #[command(hide = true)]
    Foreground {
        /// Only bring them back
        #[arg(long)]
        once: bool,
    },
    /// Show rsm's own processes and files; with a name as `describe`
    Info {
        /// Apps to describe instead
        #[arg(value_name = "APP", add = ArgValueCandidates::new(completion::selectors))]
        select: Vec<String>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the JSON Schema of ecosystem.toml
    Schema,
    /// Print a file of another format as ecosystem.toml
    Convert(convert::Convert),
    /// Print what a bug report needs
    Report,
    /// Set what commands do where nothing else is said
    Set {
        /// Such as logs.lines
        key: String,
        /// Its value
        value: String,
    },
    /// Print a setting; without a key all of them
    Get {
        /// Such as logs.lines
        key: Option<String>,
    },
    /// Put a setting back to its default; `all` for all of them
    Unset {
        /// Such as logs.lines
        key: String,
    },
    /// Write a first ecosystem.toml
    #[command(alias = "ecosystem")]
    Init {
        /// PM2's `simple`; there is but one first file
        #[arg(hide = true, value_parser = ["simple"])]
        template: Option<String>,
    },
    /// Serve a directory over HTTP, as an app
    Serve(serve::Serve),
    /// Print the script that lets a shell complete commands and the names of apps
    Completion {
        /// The shell
        shell: completion::Shell,
    },
    /// Write the manual, a page for each command
    Man {
        /// Where to
        #[arg(value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
        directory: std::path::PathBuf,
    },
    /// The file server in the foreground
    #[command(name = "serve-files", hide = true)]
    ServeFiles(ServeArgs),
    /// The apps' parent
    #[command(hide = true)]
    Keeper {
        /// Stay in the foreground
        #[arg(long)]
        foreground: bool,
        /// Take over what a former keeper left at this descriptor
        #[arg(long, value_name = "FD")]
        resume: Option<i32>,
    },
    /// All decisions; started by the keeper
    #[command(hide = true)]
    Daemon,
    /// Say what this binary can take over, given the state of another on standard input
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
                Some(file) => Began::BySuccession(file),
                None if foreground => Began::InForeground,
                None => Began::InBackground,
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
            let runtime = runtime.map_err(|error| Error::System { what: "starting up", error })?;
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

/// Examples are put together only for those who read them: a list is wanted within a millisecond.
fn parse(args: Vec<OsString>) -> Result<Cli, clap::Error> {
    let help = |arg: &OsString| arg == "--help" || arg == "-h" || arg == "help";
    if !args.iter().take_while(|arg| *arg != "--").any(help) {
        return Cli::try_parse_from(args);
    }
    Cli::from_arg_matches(&examples::with_examples(Cli::command()).try_get_matches_from(args)?)
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
