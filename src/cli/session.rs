//! What every command works with: where the daemon is, who looks at the output, and how to wait.

use std::io::{self, IsTerminal, Write};

use crate::cli::error::{Error, InstanceFailure};
use crate::ipc::client::{Client, ClientError};
use crate::ipc::message::Report;
use crate::ipc::start_daemon::{self, StartDaemonError};
use crate::paths::Home;
use crate::version::version;

use super::progress;
use super::render::report::outcomes;
use super::render::style::Style;
use crate::cli::sort::SortOrder;

/// One run of the command line.
pub(super) struct Session {
    /// Where the daemon lives.
    pub(super) home: Home,
    /// How standard output is dressed.
    pub(super) style: Style,
    /// `--sort`.
    pub(super) sort: Option<SortOrder>,
    silent: bool,
}

impl Session {
    /// A session as the global flags want it.
    pub(super) fn new(home: Home, quiet: bool, colour: bool, sort: Option<SortOrder>) -> Self {
        let style = match io::stdout().is_terminal() {
            true => Style { colour, width: terminal_width() },
            false => Style::plain(),
        };
        Self { home, style, sort, silent: quiet }
    }

    /// A connection to the daemon that runs, or should: one that left its state behind did not end
    /// by itself, and what it kept running is taken up by another.
    ///
    /// # Errors
    /// None runs, or it cannot be talked to.
    pub(super) async fn connect(&self) -> Result<Client, Error> {
        match Client::connect(&self.home).await {
            Err(ClientError::NotRunning { .. }) if self.home.has_state() => self.connect_or_start().await,
            connected => {
                connected.map(|client| self.with_callbacks(client)).map_err(|error| self.client_error(error))
            }
        }
    }

    /// A client that says so if the daemon is of another version, and goes on with the next one when
    /// daemon and keeper die.
    fn with_callbacks(&self, mut client: Client) -> Client {
        client.on_disconnect(|socket| {
            Box::pin(async move {
                if let Some(home) = socket.parent().map(Home::new).filter(Home::has_state) {
                    let _ = start_daemon::connect_or_start(&home).await; // why not is told by who asks again
                }
            })
        });
        if !self.silent {
            client.on_version_mismatch(|theirs| {
                let ours = version();
                let _ = writeln!(
                    io::stderr().lock(),
                    "the daemon runs rsm {theirs}, this is rsm {ours}; run `rsm upgrade` to upgrade it (apps keep running)"
                );
            });
        }
        client
    }

    /// A connection to the daemon, or nothing where none runs.
    ///
    /// # Errors
    /// One runs and cannot be talked to.
    pub(super) async fn connect_if_running(&self) -> Result<Option<Client>, Error> {
        match self.connect().await {
            Ok(client) => Ok(Some(client)),
            Err(Error::NotRunning { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A connection to the daemon for acting on what is there: no daemon, no apps.
    ///
    /// # Errors
    /// None runs, so that nothing of what is `wanted` exists; or it cannot be talked to.
    pub(super) async fn connect_for(&self, wanted: &[String]) -> Result<Client, Error> {
        let wanted = || Error::NoDaemonForTarget { target: wanted.join(" ") };
        self.connect_if_running().await?.ok_or_else(wanted)
    }

    /// A connection to the daemon, which is started where none runs.
    ///
    /// # Errors
    /// It does not start, or it cannot be talked to.
    pub(super) async fn connect_or_start(&self) -> Result<Client, Error> {
        let launched = self.wait("starting the daemon", start_daemon::connect_or_start(&self.home)).await;
        let failed = |error| match error {
            StartDaemonError::Client(error) => self.client_error(error),
            StartDaemonError::Failed(reason) => {
                Error::DaemonStartFailed { reason, log: self.home.daemon_log() }
            }
            StartDaemonError::Home { .. }
            | StartDaemonError::Spawn(_)
            | StartDaemonError::TimedOut { .. } => {
                Error::DaemonStartFailed { reason: error.to_string(), log: self.home.daemon_log() }
            }
        };
        let (client, new) = launched.map_err(failed)?;
        if new {
            self.notice(format_args!("started the daemon in {}", self.home.path().display()));
        }
        Ok(self.with_callbacks(client))
    }

    /// What a failed call means to the user.
    pub(super) fn client_error(&self, error: ClientError) -> Error {
        match error {
            ClientError::NotRunning { socket } => Error::NotRunning { socket },
            ClientError::PermissionDenied { socket } => Error::PermissionDenied { socket },
            ClientError::Rejected(error) => Error::Rejected { message: error.message, hint: error.hint },
            other => Error::ConnectionLost { reason: other.to_string(), log: self.home.daemon_log() },
        }
    }

    /// Says something to the person, unless silence is asked for.
    pub(super) fn notice(&self, text: std::fmt::Arguments<'_>) {
        if !self.silent {
            let _ = writeln!(io::stderr().lock(), "{text}");
        }
    }

    /// Whether results that were not asked for, as the list after an action, are unwanted.
    pub(super) fn quiet(&self) -> bool {
        self.silent
    }

    /// Tells how each instance came out.
    ///
    /// # Errors
    /// One is not as wished.
    pub(super) fn print_report(&self, report: &Report) -> Result<(), Error> {
        for line in outcomes(report) {
            self.notice(format_args!("{line}"));
        }
        self.check_report(report)
    }

    /// Nothing, if every instance came out as wished.
    ///
    /// # Errors
    /// One is not as wished.
    pub(super) fn check_report(&self, report: &Report) -> Result<(), Error> {
        let problems = report.instances.iter().filter_map(|outcome| {
            let reason = outcome.problem.clone()?;
            Some(InstanceFailure { id: outcome.id, name: outcome.name.clone(), reason })
        });
        match problems.collect::<Vec<_>>() {
            problems if problems.is_empty() => Ok(()),
            problems => Err(Error::InstancesFailed(problems)),
        }
    }

    /// Awaits `work`; after half a second says for what, unless silence is asked for.
    pub(super) async fn wait<T>(&self, what: &str, work: impl Future<Output = T>) -> T {
        if self.silent { work.await } else { progress::wait(&self.home, what, work).await }
    }
}

/// Columns of the terminal; what a teletype had where it does not tell.
fn terminal_width() -> usize {
    match crossterm::terminal::window_size() {
        Ok(size) if size.columns > 0 => usize::from(size.columns),
        _ => 80,
    }
}

/// Whether a variable has a value.
pub(super) fn env_is_set(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| !value.is_empty())
}

/// Whether the environment and the command line allow colours where there is a terminal.
pub fn use_colour() -> bool {
    let no_color = env_is_set("NO_COLOR");
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    let flag = std::env::args_os().take_while(|arg| arg != "--").any(|arg| arg == "--no-color");
    !(no_color || dumb || flag)
}
