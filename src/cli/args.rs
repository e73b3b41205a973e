//! The command line: global flags and commands. What each command takes is declared next to it.

use std::path::PathBuf;

use clap::{ArgAction, Parser, Subcommand, ValueHint};
use clap_complete::engine::ArgValueCandidates;

use super::commands::apply::{ApplyCommand, PlanArgs};
use super::commands::convert::ConvertArgs;
use super::commands::describe::{DescribeArgs, EnvArgs};
use super::commands::doctor::DoctorArgs;
use super::commands::export::ExportArgs;
use super::commands::lifecycle::RestartArgs;
use super::commands::list::ListArgs;
use super::commands::logs::LogsArgs;
use super::commands::reload::ReloadArgs;
use super::commands::runtime::RuntimeArgs;
use super::commands::scale::ScaleArgs;
use super::commands::serve::ServeCommand;
use super::commands::signal::SignalArgs;
use super::commands::start::StartArgs;
use super::commands::startup::{StartupArgs, UnstartupArgs};
use super::commands::stdin::{AttachArgs, SendArgs};
use super::commands::trigger::TriggerArgs;
use super::commands::upgrade::UpgradeArgs;
use super::completion::{Shell, complete_apps, complete_selectors, complete_settings, complete_sort};
use super::sort::{SortOrder, parse_sort};
use super::targets::Targets;
use crate::serve::ServeArgs;

/// Process manager for apps in any language, compatible with PM2
#[derive(Parser, Debug)]
#[command(name = "rsm", version = crate::version::version(), disable_version_flag = true, arg_required_else_help = true, args_override_self = true)]
pub(super) struct CliArgs {
    /// Print only results and errors
    #[arg(short, long, global = true)]
    pub(super) silent: bool,
    /// Disable colors (same as setting NO_COLOR)
    #[arg(long, global = true)]
    pub(super) no_color: bool,
    /// Sort the list by a field; append `:desc` to reverse the order
    #[arg(long, global = true, value_parser = parse_sort, value_name = "FIELD[:desc]", add = ArgValueCandidates::new(complete_sort))]
    pub(super) sort: Option<SortOrder>,
    /// Print the version
    #[arg(short = 'v', short_alias = 'V', long, action = ArgAction::Version)]
    pub(super) version: (),
    #[command(subcommand)]
    pub(super) command: CliCommand,
}

// Arguments are built only for the command that was given (`defer`): building all of the about one hundred
// flags would dominate the run time of a short command. A `///` comment on an arguments struct would replace
// the description of its command, and one on these enums that of `rsm`, so all of them have plain comments.
#[derive(Subcommand, Debug)]
pub(super) enum CliCommand {
    #[command(flatten)]
    Session(SessionCommand),
    #[command(flatten)]
    Local(LocalCommand),
    #[command(flatten)]
    Internal(InternalCommand),
}

// Commands that run in a session; most of them talk to the daemon.
#[derive(Subcommand, Debug)]
#[command(rename_all = "lower", defer = true)]
pub(super) enum SessionCommand {
    /// Start apps from an ecosystem file, a script, a program or a shell command
    #[command(alias = "startOrRestart")]
    Start(Box<StartArgs>),
    /// Stop apps but keep them in the list
    Stop(Targets),
    /// Restart apps, optionally with changed settings
    Restart(Box<RestartArgs>),
    /// Replace the processes of apps without downtime
    #[command(aliases = ["gracefulReload", "gracefulreload", "softReload", "startOrReload", "startOrGracefulReload"])]
    Reload(Box<ReloadArgs>),
    /// Stop apps and remove them from the list
    #[command(visible_alias = "del")]
    Delete(Targets),
    /// Change the number of instances of an app
    Scale(ScaleArgs),
    /// Reset the restart counters of apps
    Reset(Targets),
    /// Show the changes that `apply` would make
    Plan(PlanArgs),
    /// Make the running apps match an ecosystem file
    Apply(ApplyCommand),
    /// Send a signal to the processes of apps
    #[command(name = "sendSignal", aliases = ["send-signal", "sendsignal"])]
    SendSignal(SignalArgs),
    /// Write a line to the standard input of an instance
    Send(SendArgs),
    /// Attach to an instance: show its output and forward your input
    Attach(AttachArgs),
    /// Run a custom action of an app (Node.js)
    Trigger(TriggerArgs),
    /// List apps and instances
    #[command(visible_aliases = ["ls", "l", "ps", "status"])]
    List(ListArgs),
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
    Env(EnvArgs),
    /// Print the process ids of apps
    Pid {
        /// Name of the app [default: all apps]
        #[arg(add = ArgValueCandidates::new(complete_apps))]
        name: Option<String>,
    },
    /// Print the ids of the instances of an app
    Id {
        /// Name of the app
        #[arg(add = ArgValueCandidates::new(complete_apps))]
        name: String,
    },
    /// Show and follow the logs of apps
    #[command(alias = "log")]
    Logs(LogsArgs),
    /// Truncate log files
    Flush {
        /// Ids, names, namespaces or /regex/ [default: all]
        #[arg(value_name = "APP", add = ArgValueCandidates::new(complete_selectors))]
        select: Vec<String>,
    },
    /// Reopen all log files, for example after logrotate
    #[command(name = "reloadLogs", aliases = ["reload-logs", "reloadlogs"])]
    ReloadLogs,
    /// Show or change the settings of rsm
    #[command(visible_alias = "config")]
    Conf {
        /// Name of a setting, such as `logs.budget` [default: show all settings]
        #[arg(add = ArgValueCandidates::new(complete_settings))]
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
    Upgrade(UpgradeArgs),
    /// Upgrade the running daemon if this binary is newer (PM2 compatibility)
    #[command(hide = true, aliases = ["updatePM2", "deepUpdate"])]
    Update,
    /// Diagnose problems with rsm, the system and the saved apps
    Doctor(DoctorArgs),
    /// Install a service that starts rsm and the saved apps at boot
    Startup(StartupArgs),
    /// Remove the boot service
    Unstartup(UnstartupArgs),
    /// Run apps in the foreground, as the main process of a container
    Runtime(Box<RuntimeArgs>),
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
        #[arg(value_name = "APP", add = ArgValueCandidates::new(complete_selectors))]
        select: Vec<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Convert an ecosystem file to TOML
    Convert(ConvertArgs),
    /// Generate configuration for systemd, Compose, Kubernetes, Nomad, nginx or Caddy
    Export(ExportArgs),
    /// Print information for a bug report
    Report,
    /// Change a setting
    Set {
        /// Name of a setting, such as `logs.lines`
        #[arg(add = ArgValueCandidates::new(complete_settings))]
        key: String,
        /// New value
        value: String,
    },
    /// Print a setting, or all settings
    Get {
        /// Name of a setting, such as `logs.lines`
        #[arg(add = ArgValueCandidates::new(complete_settings))]
        key: Option<String>,
    },
    /// Reset a setting to its default, or `all` settings
    Unset {
        /// Name of a setting, such as `logs.lines`
        #[arg(add = ArgValueCandidates::new(complete_settings))]
        key: String,
    },
    /// Create an ecosystem.toml for the current directory
    #[command(alias = "ecosystem")]
    Init {
        /// PM2 compatibility, ignored
        #[arg(hide = true)]
        template: Option<String>,
    },
    /// Serve a directory over HTTP
    Serve(ServeCommand),
}

// Commands that need neither a daemon nor a home directory.
#[derive(Subcommand, Debug)]
#[command(rename_all = "lower", defer = true)]
pub(super) enum LocalCommand {
    /// Print the version
    #[command(hide = true)]
    Version,
    /// Print the JSON Schema of the ecosystem file
    Schema,
    /// Print a shell completion script
    Completion {
        /// Shell to generate the script for
        shell: Shell,
    },
    /// Generate man pages
    Man {
        /// Output directory
        #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
        directory: PathBuf,
    },
}

// Processes that rsm starts itself.
#[derive(Subcommand, Debug)]
#[command(rename_all = "lower", defer = true)]
pub(super) enum InternalCommand {
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
