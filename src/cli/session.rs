//! What every command works with: where the daemon is, who looks at the output, and how to wait.

use std::io::{self, IsTerminal, Write};

use crate::error::{Error, InstanceFailure};
use crate::ipc::client::{Client, ClientError};
use crate::ipc::message::Report;
use crate::ipc::start_daemon::{self, StartDaemonError};
use crate::paths::Home;
use crate::version::version;

use super::order::SortOrder;
use super::progress;
use super::render::report::outcomes;
use super::render::style::Style;

/// One run of the command line.
pub(super) struct Session {
    /// Where the daemon lives.
    pub(super) home: Home,
    /// How standard output is dressed.
    pub(super) style: Style,
    /// `--sort`.
    pub(super) sort: Option<SortOrder>,
    quiet: bool,
}

impl Session {
    /// A session as the global flags want it.
    pub(super) fn new(home: Home, quiet: bool, colour: bool, sort: Option<SortOrder>) -> Self {
        let style = match io::stdout().is_terminal() {
            true => Style { colour, width: columns() },
            false => Style::plain(),
        };
        Self { home, style, sort, quiet }
    }

    /// A connection to the daemon that runs, or should: one that left its state behind did not end
    /// by itself, and what it kept running is taken up by another.
    ///
    /// # Errors
    /// None runs, or it cannot be talked to.
    pub(super) async fn connect(&self) -> Result<Client, Error> {
        match Client::connect(&self.home).await {
            Err(ClientError::NotRunning { .. }) if self.home.has_state() => self.connect_or_launch().await,
            connected => connected.map(|client| self.minded(client)).map_err(|error| self.failed(error)),
        }
    }

    /// A client that says so if the daemon is of another version, and goes on with the next one when
    /// daemon and keeper die.
    fn minded(&self, mut client: Client) -> Client {
        client.on_death(|socket| {
            Box::pin(async move {
                if let Some(home) = socket.parent().map(Home::at).filter(Home::has_state) {
                    let _ = start_daemon::connect_or_start(&home).await; // why not is told by who asks again
                }
            })
        });
        if !self.quiet {
            client.on_other_version(|theirs| {
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
        let wanted = || Error::NothingRuns { wanted: wanted.join(" ") };
        self.connect_if_running().await?.ok_or_else(wanted)
    }

    /// A connection to the daemon, which is started where none runs.
    ///
    /// # Errors
    /// It does not start, or it cannot be talked to.
    pub(super) async fn connect_or_launch(&self) -> Result<Client, Error> {
        let launched = self.wait("starting the daemon", start_daemon::connect_or_start(&self.home)).await;
        let failed = |error| match error {
            StartDaemonError::Client(error) => self.failed(error),
            StartDaemonError::Failed(reason) => Error::Launch { reason, log: self.home.own_log() },
            StartDaemonError::Home { .. }
            | StartDaemonError::Spawn(_)
            | StartDaemonError::TimedOut { .. } => {
                Error::Launch { reason: error.to_string(), log: self.home.own_log() }
            }
        };
        let (client, new) = launched.map_err(failed)?;
        if new {
            self.note(format_args!("started the daemon in {}", self.home.dir().display()));
        }
        Ok(self.minded(client))
    }

    /// What a failed call means to the user.
    pub(super) fn failed(&self, error: ClientError) -> Error {
        match error {
            ClientError::NotRunning { socket } => Error::NotRunning { socket },
            ClientError::Denied { socket } => Error::Denied { socket },
            ClientError::Refused(error) => Error::Refused { message: error.message, hint: error.hint },
            other => Error::Lost { reason: other.to_string(), log: self.home.own_log() },
        }
    }

    /// Says something to the person, unless silence is asked for.
    pub(super) fn note(&self, text: std::fmt::Arguments<'_>) {
        if !self.quiet {
            let _ = writeln!(io::stderr().lock(), "{text}");
        }
    }

    /// Whether results that were not asked for, as the list after an action, are unwanted.
    pub(super) fn quiet(&self) -> bool {
        self.quiet
    }

    /// Tells how each instance came out.
    ///
    /// # Errors
    /// One is not as wished.
    pub(super) fn tell(&self, report: &Report) -> Result<(), Error> {
        for line in outcomes(report) {
            self.note(format_args!("{line}"));
        }
        self.judge(report)
    }

    /// Nothing, if every instance came out as wished.
    ///
    /// # Errors
    /// One is not as wished.
    pub(super) fn judge(&self, report: &Report) -> Result<(), Error> {
        let problems = report.instances.iter().filter_map(|outcome| {
            let reason = outcome.problem.clone()?;
            Some(InstanceFailure { id: outcome.id, name: outcome.name.clone(), reason })
        });
        match problems.collect::<Vec<_>>() {
            problems if problems.is_empty() => Ok(()),
            problems => Err(Error::Failed(problems)),
        }
    }

    /// Awaits `work`; after half a second says for what, unless silence is asked for.
    pub(super) async fn wait<T>(&self, what: &str, work: impl Future<Output = T>) -> T {
        if self.quiet { work.await } else { progress::wait(&self.home, what, work).await }
    }
}

/// Columns of the terminal; what a teletype had where it does not tell.
fn columns() -> usize {
    match crossterm::terminal::window_size() {
        Ok(size) if size.columns > 0 => usize::from(size.columns),
        _ => 80,
    }
}

/// Whether a variable has a value.
pub(super) fn is_set(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| !value.is_empty())
}

/// Whether the environment and the command line allow colours where there is a terminal.
pub fn colour_wanted() -> bool {
    let no_color = is_set("NO_COLOR");
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    let flag = std::env::args_os().take_while(|arg| arg != "--").any(|arg| arg == "--no-color");
    !(no_color || dumb || flag)
}
