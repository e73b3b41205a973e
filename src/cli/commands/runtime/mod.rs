//! `runtime`: runs apps in the foreground, for containers. Their output goes to standard output and error, signals are
//! forwarded to them, and the command exits when no app can run, with the exit code of the app that failed.

mod exit_code;
mod output_relay;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use clap::Args;
use nix::sys::signal::Signal::SIGKILL;
use nix::unistd::Pid;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::cli::app_flags::{AppFlags, ChangeFlags, InvocationContext, load_apps, print_warnings};
use crate::cli::commands::daemon;
use crate::cli::commands::runtime::output_relay::OutputRelay;
use crate::cli::environment;
use crate::cli::error::Error;
use crate::cli::session::Session;
use crate::config;
use crate::exit::Exit;
use crate::ipc::client::{Client, ClientError};
use crate::ipc::message::{
    ActionReport, DisplayStatus, EventKind, EventView, Existing, InstanceDetail, Request, SignalRequest,
    StartRequest,
};
use crate::process::pid1;
use crate::spec::AppSpec;

// Arguments of `runtime`.
#[derive(Args, Debug)]
pub(crate) struct RuntimeArgs {
    /// Ecosystem file, script or program
    #[arg(value_name = "FILE", required = true, num_args = 1..=2)]
    targets: Vec<String>,
    #[command(flatten)]
    output: output_relay::OutputFlags,
    /// Do not exit when no app is running
    #[arg(long)]
    no_auto_exit: bool,
    #[command(flatten)]
    change: ChangeFlags,
    #[command(flatten)]
    pm2: Pm2Flags,
    /// Arguments for the app
    #[arg(last = true)]
    args: Vec<String>,
    #[command(flatten)]
    settings: AppFlags,
}

// Flags of PM2 without effect in rsm.
#[derive(Args, Debug)]
struct Pm2Flags {
    #[arg(long, hide = true, value_name = "KEY")]
    secret: Option<String>,
    #[arg(long, hide = true, value_name = "KEY")]
    public: Option<String>,
    #[arg(long, hide = true, value_name = "NAME")]
    machine_name: Option<String>,
    #[arg(long, hide = true, value_name = "PORT", num_args = 0..=1)]
    web: Option<Option<u16>>,
    #[arg(long, hide = true, value_name = "SECONDS")]
    delay: Option<u32>,
}

/// An event of the event loop.
enum RuntimeEvent {
    /// An event of an instance.
    Event(Box<EventView>),
    /// The event stream ended; another daemon may have started.
    Disconnected,
    /// A signal that stops all apps. `interactive`: by Ctrl-C.
    Terminate { interactive: bool },
    /// A signal to forward to the apps.
    ForwardSignal(&'static str),
}

/// A signal and the event that it causes.
type SignalCue = (Signal, fn() -> RuntimeEvent);

/// A second Ctrl-C within this time is the same one: a terminal sends it to all processes in the foreground, and a
/// parent may forward it.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(1);

/// Inserts the command `runtime` if the program is called as `pm2-runtime` or `pm2-docker`.
pub(crate) fn rewrite_argv(mut args: Vec<OsString>) -> Vec<OsString> {
    let name = args.first().map(Path::new).and_then(Path::file_name);
    let is_pm2_runtime = name.is_some_and(|name| name == "pm2-runtime" || name == "pm2-docker");
    // `--version`, and processes that rsm starts under the same name.
    let unchanged = ["--version", "-v", "-V", "keeper", "daemon", "can-take-over", "runtime"];
    let first = args.get(1).map(|first| first.to_string_lossy());
    if is_pm2_runtime && !first.is_some_and(|first| unchanged.contains(&&*first)) {
        args.insert(1, "runtime".into());
    }
    args
}

/// If this is the main process of a container, forks: the parent becomes the init process, and the child continues and
/// gets true. Must be called before anything else is done in this process.
pub(crate) fn fork_if_pid1() -> Result<bool, Error> {
    let is_pid1 = pid1::is_pid1();
    if is_pid1 {
        let to_error = |errno: nix::Error| Error::Io { context: "cannot fork", error: errno.into() };
        pid1::fork_init().map_err(to_error)?;
    }
    Ok(is_pid1)
}

/// Runs apps until a signal or until no app can run. `is_pid1`: in a new container, without processes of a previous run.
pub(crate) async fn runtime(args: RuntimeArgs, is_pid1: bool, session: &Session) -> Result<(), Error> {
    let signals = signals()?;
    let mut apps = args.apps(session)?;
    if Client::connect(&session.home).await.is_ok() {
        let home = session.home.path().display();
        let reason = format!(
            "rsm is already running in {home}; use `rsm start`, or set RSM_HOME to another directory"
        );
        return Err(Error::ComponentFailed { component: "runtime", reason });
    }
    if is_pid1 {
        // State left by a killed container. Only the apps given here are started.
        for state in [session.home.state(), session.home.previous_state()] {
            let _ = std::fs::remove_file(state); // usually it does not exist
        }
    }
    let to_error = |error| Error::Io { context: "cannot create output pipes", error };
    let is_unsafe = |error| session.client_error(ClientError::UnsafeHome(error));
    session.home.check_access().map_err(is_unsafe)?;
    session.home.create().map_err(Error::HomeUnknown)?;
    let relay = OutputRelay::new(&session.home, args.output, session.style).map_err(to_error)?;
    apps.iter_mut().for_each(|app| relay.redirect_logs(app));
    let client = session.connect_or_start().await?;
    let runtime =
        RuntimeSession { session, relay: &relay, exits: BTreeMap::new(), keep_running: args.no_auto_exit };
    let result = runtime.run(apps, client, signals).await;
    relay.finish();
    result
}

fn signals() -> Result<Vec<SignalCue>, Error> {
    let kinds: [(_, fn() -> RuntimeEvent); 6] = [
        (SignalKind::terminate(), || RuntimeEvent::Terminate { interactive: false }),
        (SignalKind::interrupt(), || RuntimeEvent::Terminate { interactive: true }),
        (SignalKind::quit(), || RuntimeEvent::Terminate { interactive: false }),
        (SignalKind::hangup(), || RuntimeEvent::ForwardSignal("SIGHUP")),
        (SignalKind::user_defined1(), || RuntimeEvent::ForwardSignal("SIGUSR1")),
        (SignalKind::user_defined2(), || RuntimeEvent::ForwardSignal("SIGUSR2")),
    ];
    let install = |(kind, event)| Ok((signal(kind)?, event));
    let signals: std::io::Result<_> = kinds.into_iter().map(install).collect();
    signals.map_err(|error| Error::Io { context: "cannot install signal handlers", error })
}

impl RuntimeArgs {
    /// The apps of the file, or the app of the command line.
    fn apps(&self, session: &Session) -> Result<Vec<AppSpec>, Error> {
        self.change.ignored.warn(session);
        self.settings.warn_about_error_file(session);
        let _ = &self.pm2;
        let target = match &self.targets[..] {
            // `pm2-runtime start FILE`
            [word, target] if word == "start" => target,
            [target] => target,
            [_, second, ..] => {
                return Err(Error::WrongUsage {
                    message: format!("unexpected argument {second:?}"),
                    help: "write the arguments of the app after `--`".into(),
                });
            }
            [] => return Err(Error::NoConfigFile { directory: ".".into() }),
        };
        let context = InvocationContext::new(self.change.env.as_deref(), &self.change.only)?;
        if config::is_config_file(target) {
            return load_apps(session, target, &self.settings, &self.args, &context);
        }
        let line = self.settings.command_line(target, &self.args);
        let loaded = config::load_command_line(&line, &context.cwd, &context.options)?;
        print_warnings(session, &loaded.warnings);
        Ok(loaded.apps)
    }
}

/// The running apps.
struct RuntimeSession<'a> {
    session: &'a Session,
    relay: &'a OutputRelay,
    /// The last exit of each instance.
    exits: BTreeMap<u32, Exit>,
    /// `--no-auto-exit`.
    keep_running: bool,
}

impl RuntimeSession<'_> {
    async fn run(
        mut self,
        apps: Vec<AppSpec>,
        mut client: Client,
        signals: Vec<SignalCue>,
    ) -> Result<(), Error> {
        let (sender, mut events) = mpsc::channel(64);
        for (signal, event) in signals {
            tokio::spawn(relay_signals(signal, event, sender.clone()));
        }
        self.subscribe(sender.clone()).await?;
        let inherited = environment::collect_env(self.session);
        let mut terminate = false;
        let start =
            Request::Start(StartRequest { apps, inherited, existing: Existing::Restart, no_wait: true });
        {
            let mut response = std::pin::pin!(client.call::<ActionReport>(&start));
            loop {
                tokio::select! {
                    response = &mut response => {
                        let report = response.map_err(|error| self.session.client_error(error))?;
                        if let Err(error) = self.session.check_report(&report) {
                            print_message(&error.to_string());
                        }
                        break;
                    }
                    Some(event) = events.recv() => match event {
                        RuntimeEvent::Event(event) => self.record_exit(&event),
                        RuntimeEvent::Disconnected => self.subscribe(sender.clone()).await?,
                        RuntimeEvent::Terminate { .. } => {
                            terminate = true;
                            break;
                        }
                        RuntimeEvent::ForwardSignal(name) => self.forward_signal(name).await,
                    }
                }
            }
        }
        self.event_loop(&mut events, sender, terminate).await
    }

    /// Runs until no app can run or a signal arrives, unless `terminate` is set; then stops everything.
    async fn event_loop(
        mut self,
        events: &mut mpsc::Receiver<RuntimeEvent>,
        sender: mpsc::Sender<RuntimeEvent>,
        terminate: bool,
    ) -> Result<(), Error> {
        let by_signal = terminate
            || loop {
                if !self.keep_running && self.nothing_can_run().await? {
                    tokio::select! {
                        () = self.relay.wait_drained() => break false,
                        // The output is not read, and a signal arrived.
                        () = wait_terminate(events) => break true,
                    }
                }
                match events.recv().await {
                    Some(RuntimeEvent::Event(event)) => self.record_exit(&event),
                    Some(RuntimeEvent::Disconnected) => self.subscribe(sender.clone()).await?,
                    Some(RuntimeEvent::ForwardSignal(name)) => self.forward_signal(name).await,
                    Some(RuntimeEvent::Terminate { .. }) | None => break true,
                }
            };
        let instances = self.describe_all().await.unwrap_or_default();
        let code = if by_signal { None } else { Some(exit_code::exit_code(&instances)) };
        self.terminate(events).await?;
        match code.unwrap_or_else(|| exit_code::exit_code_after_stop(&instances, &self.exits)) {
            0 => Ok(()),
            code => {
                Err(Error::AppsFailed { code, reason: exit_code::exit_reason(&instances, &self.exits, code) })
            }
        }
    }

    /// Sends the events of the daemon to the event loop.
    async fn subscribe(&self, sender: mpsc::Sender<RuntimeEvent>) -> Result<(), Error> {
        let mut client = self.session.connect().await?;
        let mut lines =
            client.stream(&Request::Events).await.map_err(|error| self.session.client_error(error))?;
        tokio::spawn(async move {
            while let Some(Ok(line)) = lines.next().await {
                // Unknown or missed events do no harm: the state of instances is requested when needed.
                if let Ok(event) = serde_json::from_slice(&line)
                    && sender.send(RuntimeEvent::Event(Box::new(event))).await.is_err()
                {
                    return;
                }
            }
            let _ = sender.send(RuntimeEvent::Disconnected).await;
        });
        Ok(())
    }

    fn record_exit(&mut self, event: &EventView) {
        if let Some(exit) = &event.exit {
            self.exits.insert(event.id, exit.clone());
        }
        let detail = event.detail.as_deref().unwrap_or_default();
        match event.event {
            EventKind::Errored => {
                print_message(&format!("app \"{}\" (id {}) errored: {detail}", event.name, event.id))
            }
            EventKind::StartFailed => {
                print_message(&format!("app \"{}\" (id {}): {detail}", event.name, event.id))
            }
            _ => {}
        }
    }

    async fn describe_all(&self) -> Result<Vec<InstanceDetail>, Error> {
        let mut client = self.session.connect().await?;
        client
            .call(&Request::Describe(vec!["all".into()].into()))
            .await
            .map_err(|error| self.session.client_error(error))
    }

    async fn nothing_can_run(&self) -> Result<bool, Error> {
        Ok(!self.describe_all().await?.iter().any(can_still_run))
    }

    async fn forward_signal(&self, signal: &str) {
        let request =
            Request::Signal(SignalRequest { select: vec!["all".into()], signal: signal.to_owned() });
        if let Ok(mut client) = self.session.connect().await {
            let _ = client.call::<ActionReport>(&request).await; // no instance may be running
        }
    }

    /// Kills all processes of all apps. The daemon, which waits for their exit, then shuts down.
    async fn kill_all(&self) {
        let instances = self.describe_all().await.unwrap_or_default();
        for pid in instances.iter().flat_map(|instance| &instance.processes) {
            let _ = nix::sys::signal::kill(Pid::from_raw(*pid), SIGKILL); // it may have exited
        }
    }

    /// Stops all apps, the daemon and the keeper, and records exits. A second Ctrl-C kills the apps at once.
    async fn terminate(&mut self, events: &mut mpsc::Receiver<RuntimeEvent>) -> Result<(), Error> {
        let start = Instant::now();
        let mut shutdown = std::pin::pin!(daemon::kill_daemon(self.session));
        loop {
            tokio::select! {
                result = &mut shutdown => {
                    while let Ok(RuntimeEvent::Event(event)) = events.try_recv() {
                        self.exits.extend(event.exit.map(|exit| (event.id, exit)));
                    }
                    return result;
                }
                Some(event) = events.recv() => match event {
                    RuntimeEvent::Event(event) => self.exits.extend(event.exit.map(|exit| (event.id, exit))),
                    RuntimeEvent::Terminate { interactive: true } if start.elapsed() > DUPLICATE_WINDOW => {
                        print_message("killing remaining processes");
                        self.kill_all().await;
                    }
                    RuntimeEvent::Terminate { .. } | RuntimeEvent::ForwardSignal(_) | RuntimeEvent::Disconnected => {}
                }
            }
        }
    }
}

async fn relay_signals(mut signal: Signal, event: fn() -> RuntimeEvent, sender: mpsc::Sender<RuntimeEvent>) {
    while signal.recv().await.is_some() {
        if sender.send(event()).await.is_err() {
            return;
        }
    }
}

/// Resolves with the next signal that stops all apps.
async fn wait_terminate(events: &mut mpsc::Receiver<RuntimeEvent>) {
    while !matches!(events.recv().await, Some(RuntimeEvent::Terminate { .. }) | None) {}
}

/// Whether an instance is running, will be restarted, or may be started by a schedule or a changed file.
fn can_still_run(instance: &InstanceDetail) -> bool {
    match instance.view.status {
        DisplayStatus::Launching
        | DisplayStatus::Online
        | DisplayStatus::Stopping
        | DisplayStatus::Waiting => true,
        DisplayStatus::Stopped
        | DisplayStatus::Errored
        | DisplayStatus::Completed
        | DisplayStatus::Failed
        | DisplayStatus::Scheduled => {
            let has_trigger = instance.spec.cron_restart.is_some() || instance.spec.watch.is_some();
            // An instance that was stopped by a user remains stopped.
            has_trigger && instance.exits.last().is_some_and(|exit| !exit.requested)
        }
    }
}

/// Prints a message to standard error, next to the output of apps.
fn print_message(message: &str) {
    let _ = writeln!(std::io::stderr().lock(), "rsm: {message}");
}
