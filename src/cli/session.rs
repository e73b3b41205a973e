//! The session of a command: connection to the daemon, style of the output, notices and waiting.

use std::io::{self, IsTerminal, Write};

use super::progress;
use super::render::report::outcomes;
use super::render::style::{Style, tame};
use crate::cli::error::{Error, InstanceFailure};
use crate::cli::sort::SortOrder;
use crate::ipc::client::{Client, ClientError};
use crate::ipc::message::{ActionReport, InstanceOutcome};
use crate::ipc::start_daemon::{self, StartDaemonError};
use crate::paths::Home;
use crate::version::version;

/// What a command needs besides its arguments.
pub(super) struct Session {
    pub(super) home: Home,
    /// Style of standard output.
    pub(super) style: Style,
    /// `--sort`.
    pub(super) sort: Option<SortOrder>,
    silent: bool,
}

impl Session {
    pub(super) fn new(home: Home, silent: bool, color: bool, sort: Option<SortOrder>) -> Self {
        let style = match io::stdout().is_terminal() {
            true => Style { color, width: terminal_width() },
            false => Style::plain(),
        };
        Self { home, style, sort, silent }
    }

    /// Connects to the daemon. A daemon that left its state file did not shut down but was killed, and the keeper
    /// with it: then both are started again, and the daemon adopts the running processes.
    pub(super) async fn connect(&self) -> Result<Client, Error> {
        match Client::connect(&self.home).await {
            Ok(client) => Ok(self.with_callbacks(client)),
            Err(ClientError::NotRunning { .. }) if self.home.has_state() => self.connect_or_start().await,
            Err(error) => Err(self.client_error(error)),
        }
    }

    /// Makes the client warn about a daemon of another version, and reconnect if daemon and keeper are killed.
    fn with_callbacks(&self, mut client: Client) -> Client {
        client.on_disconnect(|socket| {
            Box::pin(async move {
                if let Some(home) = socket.parent().map(Home::new).filter(Home::has_state) {
                    let _ = start_daemon::connect_or_start(&home).await; // the next request reports the error
                }
            })
        });
        if !self.silent {
            client.on_version_mismatch(|daemon| {
                let own = version();
                let _ = writeln!(
                    io::stderr().lock(),
                    "the daemon runs rsm {daemon}, this is rsm {own}; run `rsm upgrade` to upgrade it (apps keep running)"
                );
            });
        }
        client
    }

    /// Connects to the daemon. Returns `None` if it is not running.
    pub(super) async fn connect_if_running(&self) -> Result<Option<Client>, Error> {
        match self.connect().await {
            Ok(client) => Ok(Some(client)),
            Err(error) if error.is_not_running() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Connects to the daemon for an operation on existing apps, which do not exist if it is not running.
    pub(super) async fn connect_for(&self, targets: &[String]) -> Result<Client, Error> {
        let no_daemon = || Error::NoDaemonForTarget { target: targets.join(" ") };
        self.connect_if_running().await?.ok_or_else(no_daemon)
    }

    /// Connects to the daemon; starts it if it is not running.
    pub(super) async fn connect_or_start(&self) -> Result<Client, Error> {
        let started = self.wait("starting the daemon", start_daemon::connect_or_start(&self.home)).await;
        let (client, is_new) = started.map_err(|error| match error {
            StartDaemonError::Client(error) => self.client_error(error),
            error => Error::DaemonStartFailed { error, log: self.home.daemon_log() },
        })?;
        if is_new {
            self.notice(format_args!("started the daemon in {}", self.home.path().display()));
        }
        Ok(self.with_callbacks(client))
    }

    /// Makes an error of a failed request.
    pub(super) fn client_error(&self, error: ClientError) -> Error {
        Error::Client { error, log: self.home.daemon_log() }
    }

    /// Prints a notice to standard error, unless `--silent` is given.
    pub(super) fn notice(&self, text: std::fmt::Arguments<'_>) {
        if !self.silent {
            let _ = writeln!(io::stderr().lock(), "{text}");
        }
    }

    /// Whether to print only results that were asked for, and not the list after an operation.
    pub(super) fn quiet(&self) -> bool {
        self.silent
    }

    /// Prints the result for each instance. `participle` is what was done to them.
    ///
    /// # Errors
    /// The operation failed for an instance.
    pub(super) fn print_report(&self, report: &ActionReport, participle: &str) -> Result<(), Error> {
        self.print_outcomes(report, participle);
        self.check_report(report)
    }

    /// Prints the result for each instance for which the operation did not fail.
    pub(super) fn print_outcomes(&self, report: &ActionReport, participle: &str) {
        for line in outcomes(report, participle) {
            self.notice(format_args!("{line}"));
        }
        // Also with `--silent`, as errors.
        for warning in &report.warnings {
            let _ = writeln!(io::stderr().lock(), "warning: {}", tame(warning));
        }
    }

    /// Makes an error of the failures in a report.
    pub(super) fn check_report(&self, report: &ActionReport) -> Result<(), Error> {
        match Self::failures(report) {
            failures if failures.is_empty() => Ok(()),
            failures => Err(Error::InstancesFailed(failures)),
        }
    }

    /// The failures in a report.
    pub(super) fn failures(report: &ActionReport) -> Vec<InstanceFailure> {
        let failure = |outcome: &InstanceOutcome| {
            let (reason, name) = (outcome.problem.clone()?, outcome.name.clone());
            Some(InstanceFailure { id: outcome.id, name, reason, output: Vec::new() })
        };
        report.instances.iter().filter_map(failure).collect()
    }

    /// Awaits `work`. Prints `description` if it takes longer than half a second, unless `--silent` is given.
    pub(super) async fn wait<T>(&self, description: &str, work: impl Future<Output = T>) -> T {
        if self.silent { work.await } else { progress::wait(&self.home, description, work).await }
    }
}

/// The width of the terminal in columns; 80 if it is unknown.
fn terminal_width() -> usize {
    match crossterm::terminal::window_size() {
        Ok(size) if size.columns > 0 => usize::from(size.columns),
        _ => 80,
    }
}

/// Whether an environment variable is set and not empty.
pub(super) fn env_is_set(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| !value.is_empty())
}

/// Whether colors may be used on a terminal: no `NO_COLOR`, no `TERM=dumb`, no `--no-color`.
pub fn use_color() -> bool {
    let no_color = env_is_set("NO_COLOR");
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    let flag = std::env::args_os().take_while(|arg| arg != "--").any(|arg| arg == "--no-color");
    !(no_color || dumb || flag)
}
