//! What can go wrong with a command, as data; worded once, here, for people.
//!
//! An error says what, where and what to do: `error: …` and `help: …` on standard error. The exit
//! codes are stable: 1 the request failed, 2 wrong usage, 3 no daemon answers.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

/// An instance that did not come out as wished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceFailure {
    /// The instance's id.
    pub id: u32,
    /// The app's name.
    pub name: String,
    /// What is not as wished.
    pub reason: String,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line makes no sense, or is a call for help. Worded by clap.
    #[error("{0}")]
    Usage(clap::Error),
    /// `--env` where there is no file with blocks to choose from.
    #[error("--env requires an ecosystem file argument")]
    EnvWithoutFile,
    /// `--name` for several apps.
    #[error("--name cannot be used with {apps} apps")]
    NameForSeveralApps {
        /// How many.
        apps: usize,
    },
    /// Nothing was named and the usual file is not there.
    #[error("no ecosystem.toml in {}", directory.display())]
    NoConfigFile {
        /// Where it was looked for.
        directory: PathBuf,
    },
    /// The configuration has mistakes; each is a block of its own that tells what to do.
    #[error("{}", .0.join("\n"))]
    InvalidConfig(Vec<String>),
    /// Neither `RSM_HOME` nor a home directory is known, or the like.
    #[error("cannot determine the home directory: {0}")]
    HomeUnknown(io::Error),
    /// The directory the command was typed in is gone.
    #[error("cannot read the current directory: {0}")]
    CurrentDirUnreadable(io::Error),
    /// No daemon listens.
    #[error("the daemon is not running (no listener on {})", socket.display())]
    NotRunning {
        /// Where one would.
        socket: PathBuf,
    },
    /// The socket belongs to another user.
    #[error("permission denied: {}", socket.display())]
    PermissionDenied {
        /// The socket.
        socket: PathBuf,
    },
    /// No daemon could be started.
    #[error("failed to start the daemon: {reason}")]
    DaemonStartFailed {
        /// Why.
        reason: String,
        /// rsm's own log.
        log: PathBuf,
    },
    /// Another version did not take over.
    #[error("upgrade failed: {reason}")]
    UpgradeFailed {
        /// How, and what goes on.
        reason: String,
        /// rsm's own log.
        log: PathBuf,
    },
    /// The daemon went away, or what it said cannot be read.
    #[error("{reason}")]
    ConnectionLost {
        /// How.
        reason: String,
        /// rsm's own log.
        log: PathBuf,
    },
    /// A whole screen is wanted, and there is no terminal.
    #[error("monit requires a terminal")]
    NoTerminal,
    /// The daemon ended while its logs were followed.
    #[error("the daemon closed the stream")]
    StreamEnded,
    /// The daemon refused, in its own words.
    #[error("{message}")]
    Rejected {
        /// What and where.
        message: String,
        /// What to do.
        hint: Option<String>,
    },
    /// There is no daemon, so there are no apps.
    #[error("app \"{target}\" not found: the daemon is not running")]
    NoDaemonForTarget {
        /// What was asked for.
        target: String,
    },
    /// None of a file's apps is in the list.
    #[error("no app of {file} is in the list: {}", names.join(", "))]
    NoAppOfFileListed {
        /// The file.
        file: String,
        /// The apps it names.
        names: Vec<String>,
    },
    /// One instance is needed, none or several were named.
    #[error("\"{name}\" {}", if ids.is_empty() { "does not match any app or id".into() } else { format!("matches {} instances", ids.len()) })]
    NotOneInstance {
        /// As typed.
        name: String,
        /// The ids that it could mean.
        ids: Vec<u32>,
    },
    /// Instances that did not come out as wished.
    #[error("{}", describe_failures(.0))]
    InstancesFailed(Vec<InstanceFailure>),
    /// The address that was to be asked during a reload did not answer before it.
    #[error("{url} is not reachable: {reason}; reload not started")]
    VerifyUnreachable {
        /// What was asked.
        url: String,
        /// Why not.
        reason: String,
    },
    /// Ctrl-C while apps were reloaded.
    #[error("interrupted; the reload continues in the background")]
    ReloadDetached,
    /// Requests failed during a reload.
    #[error("{failed} of {sent} requests failed during the reload; first error: {first}")]
    VerifyRequestsFailed {
        /// How many were sent.
        sent: u64,
        /// How many failed.
        failed: u64,
        /// Why the first did.
        first: String,
    },
    /// One of rsm's own processes, run in the foreground, failed.
    #[error("{component}: {reason}")]
    ComponentFailed {
        /// Which one.
        component: &'static str,
        /// Why.
        reason: String,
    },
    /// What ran in the foreground has ended, and not well.
    #[error("{reason}")]
    AppsFailed {
        /// What to end with.
        code: u8,
        /// Who, and how.
        reason: String,
    },
    /// Standard output cannot be written to.
    #[error("cannot write to stdout: {0}")]
    Stdout(io::Error),
    /// The system refuses what every program needs.
    #[error("{context}: {error}")]
    Io {
        /// What was tried.
        context: &'static str,
        /// What came of it.
        error: io::Error,
    },
}

impl Error {
    /// The code the command ends with: 0 where nothing went wrong after all (help, a closed
    /// pipe), 1 the request failed, 2 wrong usage, 3 no daemon answers.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(error) => u8::from(error.use_stderr()) * 2,
            Self::AppsFailed { code, .. } => *code,
            Self::ReloadDetached => 130, // as the shell says of SIGINT
            Self::Stdout(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            Self::EnvWithoutFile | Self::NameForSeveralApps { .. } | Self::NoTerminal => 2,
            Self::NotRunning { .. }
            | Self::PermissionDenied { .. }
            | Self::DaemonStartFailed { .. }
            | Self::ConnectionLost { .. }
            | Self::StreamEnded => 3,
            Self::NoConfigFile { .. }
            | Self::InvalidConfig(_)
            | Self::HomeUnknown(_)
            | Self::CurrentDirUnreadable(_)
            | Self::Rejected { .. }
            | Self::NoDaemonForTarget { .. }
            | Self::UpgradeFailed { .. }
            | Self::NoAppOfFileListed { .. }
            | Self::NotOneInstance { .. }
            | Self::InstancesFailed(_)
            | Self::VerifyUnreachable { .. }
            | Self::VerifyRequestsFailed { .. }
            | Self::ComponentFailed { .. }
            | Self::Stdout(_)
            | Self::Io { .. } => 1,
        }
    }

    /// What to do about it. Never shows the value of an environment variable.
    pub fn help(&self) -> Option<String> {
        let text = match self {
            Self::EnvWithoutFile => "for example: rsm restart ecosystem.toml --env production".into(),
            Self::NameForSeveralApps { .. } => "start them separately".into(),
            Self::NoConfigFile { .. } => "specify a script or a file: rsm start app.js".into(),
            Self::HomeUnknown(_) => "set RSM_HOME to an absolute path".into(),
            Self::CurrentDirUnreadable(_) => "change to a directory that exists".into(),
            Self::NotRunning { .. } => "`rsm start` and `rsm resurrect` start it".into(),
            Self::PermissionDenied { .. } => {
                "the daemon belongs to another user; switch to that user or set RSM_HOME".into()
            }
            Self::DaemonStartFailed { log, .. } | Self::ConnectionLost { log, .. } => {
                format!("see {}", log.display())
            }
            Self::NoTerminal => "use `rsm list` or `rsm logs` in scripts".into(),
            Self::UpgradeFailed { log, .. } => format!("see {}", log.display()),
            Self::StreamEnded => "run the command again".into(),
            Self::Rejected { hint, .. } => return hint.clone(),
            Self::NoDaemonForTarget { .. } => {
                "start apps with `rsm start`, or restore the saved list with `rsm resurrect`".into()
            }
            Self::NoAppOfFileListed { file, .. } => format!("run `rsm start {file}`"),
            Self::NotOneInstance { ids, .. } if ids.is_empty() => "see `rsm list`".into(),
            Self::NotOneInstance { ids, .. } => {
                let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
                format!("use an id: {}", ids.join(", "))
            }
            Self::InstancesFailed(problems) => {
                let first = problems.first().map_or(0, |problem| problem.id);
                format!("see `rsm describe {first}` and `rsm logs {first} --err`")
            }
            Self::VerifyUnreachable { .. } => "specify an http:// URL that the app serves".into(),
            Self::ReloadDetached => "see `rsm list`; `rsm stop` or `rsm restart` cancels it".into(),
            Self::VerifyRequestsFailed { .. } => {
                "on its stop signal, an app must finish open requests before it exits (see kill_timeout)"
                    .into()
            }
            Self::Usage(_)
            | Self::InvalidConfig(_)
            | Self::ComponentFailed { .. }
            | Self::AppsFailed { .. }
            | Self::Stdout(_)
            | Self::Io { .. } => {
                return None;
            }
        };
        Some(text)
    }

    /// Writes the error to standard error; to standard output what clap prints there (`--help`).
    pub fn print(&self, colour: bool) {
        if let Self::Usage(error) = self {
            let _ = error.print();
        } else if self.exit_code() != 0 {
            let colour = colour && io::stderr().is_terminal();
            let _ = io::stderr().lock().write_all(self.render(colour).as_bytes());
        }
    }

    /// The error as shown.
    fn render(&self, colour: bool) -> String {
        let (error, help) = match colour {
            true => ("\u{1b}[1;31merror:\u{1b}[0m", "\u{1b}[1;36mhelp:\u{1b}[0m"),
            false => ("error:", "help:"),
        };
        let blocks = match self {
            Self::InvalidConfig(blocks) => blocks.clone(),
            other => vec![other.to_string()],
        };
        let mut text: String = blocks.iter().map(|block| format!("{error} {}\n", block.trim_end())).collect();
        if let Some(todo) = self.help() {
            text.push_str(&format!("{help} {todo}\n"));
        }
        text
    }
}

/// Problems with the same reason are told once.
fn describe_failures(problems: &[InstanceFailure]) -> String {
    let mut groups: Vec<(&InstanceFailure, usize)> = Vec::new();
    for problem in problems {
        match groups
            .iter_mut()
            .find(|(first, _)| first.name == problem.name && first.reason == problem.reason)
        {
            Some((_, more)) => *more += 1,
            None => groups.push((problem, 0)),
        }
    }
    let line = |(problem, more): &(&InstanceFailure, usize)| {
        let InstanceFailure { id, name, reason } = problem;
        match more {
            0 => format!("app \"{name}\" (id {id}): {reason}"),
            more => format!("app \"{name}\" (id {id} and {more} more): {reason}"),
        }
    };
    groups.iter().map(line).collect::<Vec<_>>().join("\n       ")
}

#[cfg(test)]
mod tests;
