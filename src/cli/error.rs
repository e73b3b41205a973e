//! Errors of commands: their message, what to do about it, and the exit code.
//!
//! Exit codes are part of the interface: 1 the request failed, 2 wrong usage, 3 the daemon cannot be reached.

use std::fmt;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};

use crate::cli::render::style::tame;
use crate::config::ConfigErrors;
use crate::ipc::client::ClientError;
use crate::ipc::start_daemon::StartDaemonError;

/// An instance for which an operation failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceFailure {
    /// Id of the instance.
    pub id: u32,
    /// Name of the app.
    pub name: String,
    /// Reason of the failure.
    pub reason: String,
    /// The last lines that it logged.
    pub output: Vec<String>,
}

/// Why a command failed.
#[derive(Debug)]
pub enum Error {
    /// The arguments ask for help or the version, or there are none. Formatted by clap.
    Usage(clap::Error),
    /// The arguments are invalid.
    WrongUsage {
        /// What is wrong.
        message: String,
        /// What to do instead.
        help: String,
    },
    /// `--name` was given for several apps.
    NameForSeveralApps {
        /// Number of apps.
        apps: usize,
    },
    /// No target was given, and the directory has no ecosystem file.
    NoConfigFile {
        /// The current directory.
        directory: PathBuf,
    },
    /// The configuration is invalid; one formatted message for each error, with its help.
    InvalidConfig(Vec<String>),
    /// The home directory of rsm cannot be determined.
    HomeUnknown(io::Error),
    /// The current directory was removed, or is not accessible.
    CurrentDirUnreadable(io::Error),
    /// A request to the daemon failed.
    Client {
        /// The error.
        error: ClientError,
        /// The log of the daemon.
        log: PathBuf,
    },
    /// The daemon could not be started.
    DaemonStartFailed {
        /// The error.
        error: StartDaemonError,
        /// The log of the daemon.
        log: PathBuf,
    },
    /// The new version could not take over.
    UpgradeFailed {
        /// Reason of the failure, and the resulting state.
        reason: String,
        /// The log of the daemon.
        log: PathBuf,
    },
    /// A full-screen command was run without a terminal.
    NoTerminal,
    /// The daemon exited while its logs were followed.
    StreamEnded,
    /// The daemon is not running, so the target does not exist.
    NoDaemonForTarget {
        /// The target as given.
        target: String,
    },
    /// None of the apps of a file is in the list.
    NoAppOfFileListed {
        /// The file.
        file: String,
        /// Names of the apps in the file.
        names: Vec<String>,
    },
    /// A command for a single instance was given a name of none or of several.
    NotOneInstance {
        /// The name as given.
        name: String,
        /// Ids of the instances with this name.
        ids: Vec<u32>,
    },
    /// The operation failed for some instances.
    InstancesFailed(Vec<InstanceFailure>),
    /// The URL of `--verify` did not respond before the reload.
    VerifyUnreachable {
        /// The URL.
        url: String,
        /// Reason of the failure.
        reason: String,
    },
    /// The reload was interrupted with Ctrl-C.
    ReloadDetached,
    /// Some requests to the URL of `--verify` failed during the reload.
    VerifyRequestsFailed {
        /// Number of requests.
        sent: u64,
        /// Number of failed requests.
        failed: u64,
        /// Reason of the first failure.
        first: String,
    },
    /// A component of rsm failed.
    ComponentFailed {
        /// Name of the component.
        component: &'static str,
        /// Reason of the failure.
        reason: String,
    },
    /// The apps of `rsm runtime` exited with an error.
    AppsFailed {
        /// Exit code of this command.
        code: u8,
        /// The app, and how it exited.
        reason: String,
    },
    /// Standard output cannot be written.
    Stdout(io::Error),
    /// An operation of the system failed.
    Io {
        /// The operation, such as `cannot read stdin`.
        context: &'static str,
        /// The system error.
        error: io::Error,
    },
}

/// How an error is presented to the user.
struct Presentation {
    exit_code: u8,
    message: String,
    help: Option<String>,
}

impl Presentation {
    fn new(exit_code: u8, message: impl Into<String>) -> Self {
        Self { exit_code, message: message.into(), help: None }
    }

    fn with_help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }
}

impl Error {
    /// Exit code, message and help of each error. None of them contains the value of an environment variable.
    fn presentation(&self) -> Presentation {
        match self {
            Self::Usage(error) => Presentation::new(u8::from(error.use_stderr()) * 2, error.to_string()),
            Self::WrongUsage { message, help } => {
                Presentation::new(2, message.as_str()).with_help(help.as_str())
            }
            Self::NameForSeveralApps { apps } => {
                Presentation::new(2, format!("--name cannot be used with {apps} apps"))
                    .with_help("start them separately")
            }
            Self::NoTerminal => Presentation::new(2, "monit requires a terminal")
                .with_help("use `rsm list` or `rsm logs` in scripts"),
            Self::NoConfigFile { directory } => {
                Presentation::new(1, format!("no ecosystem.toml in {}", directory.display()))
                    .with_help("specify a script or a file: rsm start app.js")
            }
            Self::InvalidConfig(errors) => Presentation::new(1, errors.join("\n")),
            Self::HomeUnknown(error) => {
                Presentation::new(1, format!("cannot determine the home directory: {error}"))
                    .with_help("set RSM_HOME to an absolute path")
            }
            Self::CurrentDirUnreadable(error) => {
                Presentation::new(1, format!("cannot read the current directory: {error}"))
                    .with_help("change to a directory that exists")
            }
            Self::Client { error, log } => client_presentation(error, log),
            Self::DaemonStartFailed { error: StartDaemonError::Client(error), log } => {
                client_presentation(error, log)
            }
            Self::DaemonStartFailed { error, log } => {
                let help = error.help().unwrap_or_else(|| format!("see {}", log.display()));
                Presentation::new(3, error.message()).with_help(help)
            }
            Self::UpgradeFailed { reason, log } => Presentation::new(1, format!("upgrade failed: {reason}"))
                .with_help(format!("see {}", log.display())),
            Self::StreamEnded => {
                Presentation::new(3, "the daemon closed the stream").with_help("run the command again")
            }
            Self::NoDaemonForTarget { target } => {
                Presentation::new(1, format!("app \"{target}\" not found: the daemon is not running"))
                    .with_help("start apps with `rsm start`, or restore the saved list with `rsm resurrect`")
            }
            Self::NoAppOfFileListed { file, names } => {
                Presentation::new(1, format!("no app of {file} is in the list: {}", names.join(", ")))
                    .with_help(format!("run `rsm start {file}`"))
            }
            Self::NotOneInstance { name, ids } if ids.is_empty() => {
                Presentation::new(1, format!("\"{name}\" does not match any app or id"))
                    .with_help("see `rsm list`")
            }
            Self::NotOneInstance { name, ids } => {
                let listed: Vec<String> = ids.iter().map(u32::to_string).collect();
                Presentation::new(1, format!("\"{name}\" matches {} instances", ids.len()))
                    .with_help(format!("use an id: {}", listed.join(", ")))
            }
            Self::InstancesFailed(failures) => {
                let first = failures.first().map_or(0, |failure| failure.id);
                Presentation::new(1, describe_failures(failures))
                    .with_help(format!("see `rsm describe {first}` and `rsm logs {first} --err`"))
            }
            Self::VerifyUnreachable { url, reason } => {
                Presentation::new(1, format!("{url} is not reachable: {reason}; reload not started"))
                    .with_help("specify an http:// URL that the app serves")
            }
            // 130 is what a shell reports for SIGINT.
            Self::ReloadDetached => {
                Presentation::new(130, "interrupted; the reload continues in the background")
                    .with_help("see `rsm list`; `rsm stop` or `rsm restart` cancels it")
            }
            Self::VerifyRequestsFailed { sent, failed, first } => Presentation::new(
                1,
                format!("{failed} of {sent} requests failed during the reload; first error: {first}"),
            )
            .with_help(
                "on its stop signal, an app must finish open requests before it exits (see kill_timeout)",
            ),
            Self::ComponentFailed { component, reason } => {
                Presentation::new(1, format!("{component}: {reason}"))
            }
            Self::AppsFailed { code, reason } => Presentation::new(*code, reason.as_str()),
            Self::Stdout(error) => {
                // `rsm logs | head` is no failure.
                let exit_code = u8::from(error.kind() != ErrorKind::BrokenPipe);
                Presentation::new(exit_code, format!("cannot write to stdout: {error}"))
            }
            Self::Io { context, error } => Presentation::new(1, format!("{context}: {error}")),
        }
    }

    /// The exit code of the command; 0 for `--help` and for a closed pipe.
    pub fn exit_code(&self) -> u8 {
        self.presentation().exit_code
    }

    /// Whether the error is that the daemon is not running.
    pub(super) fn is_not_running(&self) -> bool {
        matches!(self, Self::Client { error: ClientError::NotRunning { .. }, .. })
    }

    /// Writes the error to standard error; help and version, for which clap uses this type, to standard output.
    pub fn print(&self, color: bool) {
        if let Self::Usage(error) = self {
            let _ = error.print();
        } else if self.exit_code() != 0 {
            let color = color && io::stderr().is_terminal();
            let _ = io::stderr().lock().write_all(self.render(color).as_bytes());
        }
    }

    fn render(&self, color: bool) -> String {
        let (error_label, help_label) = match color {
            true => ("\u{1b}[1;31merror:\u{1b}[0m", "\u{1b}[1;36mhelp:\u{1b}[0m"),
            false => ("error:", "help:"),
        };
        let Presentation { message, help, .. } = self.presentation();
        let messages = match self {
            Self::InvalidConfig(errors) => errors.clone(),
            _ => vec![message],
        };
        let messages = messages.iter().map(|message| without_os_error_numbers(message));
        let mut text: String =
            messages.map(|message| format!("{error_label} {}\n", message.trim_end())).collect();
        if let Some(help) = help {
            text.push_str(&format!("{help_label} {help}\n"));
        }
        text
    }
}

fn client_presentation(error: &ClientError, log: &Path) -> Presentation {
    let see_log = format!("see {}", log.display());
    let (exit_code, help) = match error {
        ClientError::Rejected(_) => (1, error.help()),
        ClientError::NotRunning { .. }
        | ClientError::PermissionDenied { .. }
        | ClientError::UnsafeHome(_) => (3, error.help()),
        ClientError::ConnectionLost(_) | ClientError::Protocol(_) | ClientError::Connect { .. } => {
            let help = error.help().map_or(see_log.clone(), |help| format!("{help}; {see_log}"));
            (3, Some(help))
        }
    };
    Presentation { exit_code, message: error.message(), help }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.presentation().message)
    }
}

impl std::error::Error for Error {}

impl From<ConfigErrors> for Error {
    fn from(errors: ConfigErrors) -> Self {
        Self::InvalidConfig(errors.0.iter().map(ToString::to_string).collect())
    }
}

/// The text without ` (os error 2)`, which the standard library adds to errors of the system.
fn without_os_error_numbers(text: &str) -> String {
    let mut parts = text.split(" (os error ");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.split_once(')').map_or(part, |(_, rest)| rest))
}

/// One line for each app and reason.
fn describe_failures(failures: &[InstanceFailure]) -> String {
    let mut groups: Vec<(&InstanceFailure, usize)> = Vec::new();
    for failure in failures {
        let group =
            groups.iter_mut().find(|(first, _)| first.name == failure.name && first.reason == failure.reason);
        match group {
            Some((_, more)) => *more += 1,
            None => groups.push((failure, 0)),
        }
    }
    let line = |(failure, more): &(&InstanceFailure, usize)| {
        let InstanceFailure { id, name, reason, output } = failure;
        let subject = match more {
            0 => format!("app \"{name}\" (id {id}): {reason}"),
            more => format!("app \"{name}\" (id {id} and {more} more): {reason}"),
        };
        let lines = output.iter().map(|line| format!("\n       | {}", tame(&line.replace('\t', "    "))));
        std::iter::once(subject).chain(lines).collect::<String>()
    };
    groups.iter().map(line).collect::<Vec<_>>().join("\n       ")
}

#[cfg(test)]
mod tests;
