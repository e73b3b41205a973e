//! What can go wrong with a command, as data; worded once, here, for people.
//!
//! An error says what, where and what to do: `error: …` and `help: …` on standard error. The exit
//! codes are stable: 1 the request failed, 2 wrong usage, 3 no daemon answers.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

/// An instance that did not come out as wished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
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
    Arguments(clap::Error),
    /// `--env` where there is no file with blocks to choose from.
    #[error("--env chooses a block of an ecosystem file, and there is none among the arguments")]
    EnvNeedsFile,
    /// `--name` for several apps.
    #[error("--name gives one name, but {apps} apps are to be started")]
    NameForSeveral {
        /// How many.
        apps: usize,
    },
    /// Nothing was named and the usual file is not there.
    #[error("nothing to start: no ecosystem.toml in {}", directory.display())]
    NoEcosystem {
        /// Where it was looked for.
        directory: PathBuf,
    },
    /// The configuration has mistakes; each is a block of its own that tells what to do.
    #[error("{}", .0.join("\n"))]
    Mistakes(Vec<String>),
    /// Neither `RSM_HOME` nor a home directory is known, or the like.
    #[error("rsm's home directory is not known: {0}")]
    NoHome(io::Error),
    /// The directory the command was typed in is gone.
    #[error("the current directory cannot be read: {0}")]
    NoDirectory(io::Error),
    /// No daemon listens.
    #[error("the daemon is not running (nobody listens on {})", socket.display())]
    NotRunning {
        /// Where one would.
        socket: PathBuf,
    },
    /// The socket belongs to another user.
    #[error("access to the daemon's socket {} is denied", socket.display())]
    Denied {
        /// The socket.
        socket: PathBuf,
    },
    /// No daemon could be started.
    #[error("the daemon did not start: {reason}")]
    Launch {
        /// Why.
        reason: String,
        /// rsm's own log.
        log: PathBuf,
    },
    /// Another version did not take over.
    #[error("the upgrade failed: {reason}")]
    Upgrade {
        /// How, and what goes on.
        reason: String,
        /// rsm's own log.
        log: PathBuf,
    },
    /// The daemon went away, or what it said cannot be read.
    #[error("{reason}")]
    Lost {
        /// How.
        reason: String,
        /// rsm's own log.
        log: PathBuf,
    },
    /// A whole screen is wanted, and there is no terminal.
    #[error("monit needs a terminal, and standard input or output is none")]
    NoTerminal,
    /// The daemon ended while its logs were followed.
    #[error("the daemon ended the stream")]
    StreamEnded,
    /// The daemon refused, in its own words.
    #[error("{message}")]
    Refused {
        /// What and where.
        message: String,
        /// What to do.
        hint: Option<String>,
    },
    /// There is no daemon, so there are no apps.
    #[error("no app \"{wanted}\": the daemon is not running")]
    NothingRuns {
        /// What was asked for.
        wanted: String,
    },
    /// None of a file's apps is in the list.
    #[error("none of the apps of {file} is in the list: {}", names.join(", "))]
    NoneOfFile {
        /// The file.
        file: String,
        /// The apps it names.
        names: Vec<String>,
    },
    /// One instance is needed, none or several were named.
    #[error("\"{name}\" is {}", if ids.is_empty() { "no app or id".into() } else { format!("{} instances", ids.len()) })]
    NotOne {
        /// As typed.
        name: String,
        /// The ids that it could mean.
        ids: Vec<u32>,
    },
    /// Instances that did not come out as wished.
    #[error("{}", worded(.0))]
    Failed(Vec<Problem>),
    /// The address that was to be asked during a reload did not answer before it.
    #[error("{url} does not answer: {reason}; nothing was reloaded")]
    NoAnswer {
        /// What was asked.
        url: String,
        /// Why not.
        reason: String,
    },
    /// Ctrl-C while apps were reloaded.
    #[error("interrupted; the reload goes on without this command")]
    LeftReload,
    /// Requests failed during a reload.
    #[error("{failed} of {sent} requests failed while it was reloaded, the first: {first}")]
    Requests {
        /// How many were sent.
        sent: u64,
        /// How many failed.
        failed: u64,
        /// Why the first did.
        first: String,
    },
    /// One of rsm's own processes, run in the foreground, failed.
    #[error("{part}: {reason}")]
    Part {
        /// Which one.
        part: &'static str,
        /// Why.
        reason: String,
    },
    /// What ran in the foreground has ended, and not well.
    #[error("{reason}")]
    Ended {
        /// What to end with.
        code: u8,
        /// Who, and how.
        reason: String,
    },
    /// Standard output cannot be written to.
    #[error("writing to standard output: {0}")]
    Output(io::Error),
    /// The system refuses what every program needs.
    #[error("{what}: {error}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What came of it.
        error: io::Error,
    },
}

impl Error {
    /// The code the command ends with: 0 where nothing went wrong after all (help, a closed
    /// pipe), 1 the request failed, 2 wrong usage, 3 no daemon answers.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Arguments(error) => u8::from(error.use_stderr()) * 2,
            Self::Ended { code, .. } => *code,
            Self::LeftReload => 130, // as the shell says of SIGINT
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            Self::EnvNeedsFile | Self::NameForSeveral { .. } | Self::NoTerminal => 2,
            Self::NotRunning { .. }
            | Self::Denied { .. }
            | Self::Launch { .. }
            | Self::Lost { .. }
            | Self::StreamEnded => 3,
            Self::NoEcosystem { .. }
            | Self::Mistakes(_)
            | Self::NoHome(_)
            | Self::NoDirectory(_)
            | Self::Refused { .. }
            | Self::NothingRuns { .. }
            | Self::Upgrade { .. }
            | Self::NoneOfFile { .. }
            | Self::NotOne { .. }
            | Self::Failed(_)
            | Self::NoAnswer { .. }
            | Self::Requests { .. }
            | Self::Part { .. }
            | Self::Output(_)
            | Self::System { .. } => 1,
        }
    }

    /// What to do about it. Never shows the value of an environment variable.
    pub fn help(&self) -> Option<String> {
        let text = match self {
            Self::EnvNeedsFile => "name the file: rsm restart ecosystem.toml --env production".into(),
            Self::NameForSeveral { .. } => "start them one by one, each with a name of its own".into(),
            Self::NoEcosystem { .. } => {
                "name what to start, a script or a file: rsm start app.js, rsm start /srv/ecosystem.toml"
                    .into()
            }
            Self::NoHome(_) => "set RSM_HOME to an absolute path".into(),
            Self::NoDirectory(_) => "change to a directory that exists".into(),
            Self::NotRunning { .. } => {
                "`rsm start` starts it together with an app, `rsm resurrect` with the saved ones".into()
            }
            Self::Denied { .. } => "it belongs to another user: use that user, or another RSM_HOME".into(),
            Self::Launch { log, .. } | Self::Lost { log, .. } => {
                format!("see {}, then try again", log.display())
            }
            Self::NoTerminal => "`rsm list` and `rsm logs` write to files and pipes, too".into(),
            Self::Upgrade { log, .. } => format!("{} may say why", log.display()),
            Self::StreamEnded => "run the command again to go on reading".into(),
            Self::Refused { hint, .. } => return hint.clone(),
            Self::NothingRuns { .. } => "`rsm start` starts an app, `rsm resurrect` the saved ones".into(),
            Self::NoneOfFile { file, .. } => format!("start them: rsm start {file}"),
            Self::NotOne { ids, .. } if ids.is_empty() => "`rsm list` shows what is there".into(),
            Self::NotOne { ids, .. } => {
                let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
                format!("name one of their ids: {}", ids.join(", "))
            }
            Self::Failed(problems) => {
                let first = problems.first().map_or(0, |problem| problem.id);
                format!("rsm describe {first} shows its last ends, rsm logs {first} --err what it said")
            }
            Self::NoAnswer { .. } => "give an http:// address that the app answers".into(),
            Self::LeftReload => "`rsm list` shows how far it is, `rsm stop` or `rsm restart` ends it".into(),
            Self::Requests { .. } => {
                "a graceful app answers what it has begun before it ends on its signal (kill_timeout)".into()
            }
            Self::Arguments(_)
            | Self::Mistakes(_)
            | Self::Part { .. }
            | Self::Ended { .. }
            | Self::Output(_)
            | Self::System { .. } => {
                return None;
            }
        };
        Some(text)
    }

    /// Writes the error to standard error; to standard output what clap prints there (`--help`).
    pub fn report(&self, colour: bool) {
        if let Self::Arguments(error) = self {
            let _ = error.print();
        } else if self.exit_code() != 0 {
            let colour = colour && io::stderr().is_terminal();
            let _ = io::stderr().lock().write_all(self.text(colour).as_bytes());
        }
    }

    /// The error as shown.
    fn text(&self, colour: bool) -> String {
        let (error, help) = match colour {
            true => ("\u{1b}[1;31merror:\u{1b}[0m", "\u{1b}[1;36mhelp:\u{1b}[0m"),
            false => ("error:", "help:"),
        };
        let blocks = match self {
            Self::Mistakes(blocks) => blocks.clone(),
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
fn worded(problems: &[Problem]) -> String {
    let mut groups: Vec<(&Problem, usize)> = Vec::new();
    for problem in problems {
        match groups
            .iter_mut()
            .find(|(first, _)| first.name == problem.name && first.reason == problem.reason)
        {
            Some((_, more)) => *more += 1,
            None => groups.push((problem, 0)),
        }
    }
    let line = |(problem, more): &(&Problem, usize)| {
        let Problem { id, name, reason } = problem;
        match more {
            0 => format!("app \"{name}\" (id {id}): {reason}"),
            more => format!("app \"{name}\" (id {id} and {more} more): {reason}"),
        }
    };
    groups.iter().map(line).collect::<Vec<_>>().join("\n       ")
}

#[cfg(test)]
mod tests;
