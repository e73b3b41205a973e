//! `runtime`: apps in the foreground, for containers. What they say goes to standard output and error,
//! signals reach them, and the command ends when nothing can run any more, with the code of what failed.

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
use crate::ipc::client::Client;
use crate::ipc::message::{
    EventKind, EventView, Existing, InstanceDetail, Report, Request, SignalRequest, StartApps, Status,
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
    shape: output_relay::OutputFlags,
    /// Do not exit when no app is running
    #[arg(long)]
    no_auto_exit: bool,
    #[command(flatten)]
    change: ChangeFlags,
    #[command(flatten)]
    foreign: Pm2Flags,
    /// Arguments for the app
    #[arg(last = true)]
    args: Vec<String>,
    #[command(flatten)]
    settings: AppFlags,
}

// PM2's flags for its services, and those whose work is done elsewhere.
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

/// What keeps the command going.
enum RuntimeEvent {
    /// Something happened to an instance.
    Event(Box<EventView>),
    /// The daemon went away; another may be there.
    Disconnected,
    /// A signal that ends everything; whether a person sent it, with Ctrl-C.
    Terminate { interactive: bool },
    /// A signal for the apps.
    ForwardSignal(&'static str),
}

/// A signal that is listened to, and what it means.
type SignalCue = (Signal, fn() -> RuntimeEvent);

/// Ctrl-C again before this long is the same one: a terminal sends it to every process in front.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(1);

/// The command line, with the command that it is by the program's name: `pm2-runtime FILE`.
pub(crate) fn rewrite_argv(mut args: Vec<OsString>) -> Vec<OsString> {
    let name = args.first().map(Path::new).and_then(Path::file_name);
    let called = name.is_some_and(|name| name == "pm2-runtime" || name == "pm2-docker");
    // `--version`, and rsm's own processes, which this program starts by its name.
    let own = ["--version", "-v", "-V", "keeper", "daemon", "can-take-over", "runtime"];
    let first = args.get(1).map(|first| first.to_string_lossy());
    if called && !first.is_some_and(|first| own.contains(&&*first)) {
        args.insert(1, "runtime".into());
    }
    args
}

/// If this is the first process of a container, leaves that to another one; true then: nothing of a former
/// life runs. Must be called first of all.
///
/// # Errors
/// No process could be made.
pub(crate) fn fork_if_pid1() -> Result<bool, Error> {
    let first = pid1::is_pid1();
    if first {
        let failed = |errno: nix::Error| Error::Io { context: "cannot fork", error: errno.into() };
        pid1::fork_init().map_err(failed)?;
    }
    Ok(first)
}

/// Runs apps until a signal or their end. `alone`: no process of a former life can be there.
///
/// # Errors
/// They cannot be started; or how they ended, with its code.
pub(crate) async fn runtime(args: RuntimeArgs, alone: bool, session: &Session) -> Result<(), Error> {
    let signals = signals()?;
    let mut apps = args.apps(session)?;
    if Client::connect(&session.home).await.is_ok() {
        let home = session.home.path().display();
        let reason = format!(
            "rsm is already running in {home}; use `rsm start`, or set RSM_HOME to another directory"
        );
        return Err(Error::ComponentFailed { component: "runtime", reason });
    }
    if alone {
        // What a container that was killed left on its disk. The file says what is to run.
        for state in [session.home.state(), session.home.previous_state()] {
            let _ = std::fs::remove_file(state); // mostly there is none
        }
    }
    let pipes = |error| Error::Io { context: "cannot create output pipes", error };
    session.home.create().map_err(Error::HomeUnknown)?;
    let voice = OutputRelay::new(&session.home, args.shape, session.style).map_err(pipes)?;
    apps.iter_mut().for_each(|app| voice.redirect_logs(app));
    let client = session.connect_or_start().await?;
    let ended =
        RuntimeSession { session, relay: &voice, exits: BTreeMap::new(), keep_running: args.no_auto_exit }
            .run(apps, client, signals)
            .await;
    voice.finish();
    ended
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
    let listen = |(kind, cue)| Ok((signal(kind)?, cue));
    let all: std::io::Result<_> = kinds.into_iter().map(listen).collect();
    all.map_err(|error| Error::Io { context: "cannot install signal handlers", error })
}

impl RuntimeArgs {
    /// The apps of the file, or the one of the command line.
    fn apps(&self, session: &Session) -> Result<Vec<AppSpec>, Error> {
        self.change.ignored.warn(session);
        let _ = &self.foreign;
        let target = match &self.targets[..] {
            // `pm2-runtime start FILE`
            [word, target] if word == "start" => target,
            [target] => target,
            [_, second, ..] => {
                let message = format!(
                    "unexpected argument {second:?}\n\nhelp: pass arguments for the app after `--`\n"
                );
                return Err(Error::Usage(clap::Error::raw(clap::error::ErrorKind::UnknownArgument, message)));
            }
            [] => return Err(Error::NoConfigFile { directory: ".".into() }),
        };
        let context = InvocationContext::new(self.change.env.as_deref(), &self.change.only)?;
        if config::is_config_file(target) {
            return load_apps(session, target, &self.settings, &self.args, &context);
        }
        if self.change.env.is_some() {
            return Err(Error::EnvWithoutFile);
        }
        let line = self.settings.command_line(target, &self.args);
        let loaded = config::load_command_line(&line, &context.cwd, &context.options)?;
        print_warnings(session, &loaded.warnings);
        Ok(loaded.apps)
    }
}

/// The apps while they run, seen from the front.
struct RuntimeSession<'a> {
    session: &'a Session,
    relay: &'a OutputRelay,
    /// How the last run of each instance ended.
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
        let (tell, mut cues) = mpsc::channel(64);
        for (signal, cue) in signals {
            tokio::spawn(relay_signals(signal, cue, tell.clone()));
        }
        self.subscribe(tell.clone()).await?;
        let inherited = environment::collect_env(self.session);
        let mut told = false;
        let start = Request::Start(StartApps { apps, inherited, existing: Existing::Restart });
        {
            let mut starting = std::pin::pin!(client.call::<Report>(&start));
            loop {
                tokio::select! {
                    started = &mut starting => {
                        let report = started.map_err(|error| self.session.client_error(error))?;
                        if let Err(error) = self.session.check_report(&report) {
                            print_message(&error.to_string());
                        }
                        break;
                    }
                    Some(cue) = cues.recv() => match cue {
                        RuntimeEvent::Event(event) => self.record_exit(&event),
                        RuntimeEvent::Disconnected => self.subscribe(tell.clone()).await?,
                        RuntimeEvent::Terminate { .. } => {
                            told = true;
                            break;
                        }
                        RuntimeEvent::ForwardSignal(name) => self.forward_signal(name).await,
                    }
                }
            }
        }
        self.event_loop(&mut cues, tell, told).await
    }

    /// Until the end, unless told already; then ends what is left.
    async fn event_loop(
        mut self,
        cues: &mut mpsc::Receiver<RuntimeEvent>,
        tell: mpsc::Sender<RuntimeEvent>,
        told: bool,
    ) -> Result<(), Error> {
        let asked = told
            || loop {
                if !self.keep_running && self.nothing_can_run().await? {
                    tokio::select! {
                        () = self.relay.wait_drained() => break false,
                        // Nobody reads our output, and we are told not to wait.
                        () = wait_terminate(cues) => break true,
                    }
                }
                match cues.recv().await {
                    Some(RuntimeEvent::Event(event)) => self.record_exit(&event),
                    Some(RuntimeEvent::Disconnected) => self.subscribe(tell.clone()).await?,
                    Some(RuntimeEvent::ForwardSignal(name)) => self.forward_signal(name).await,
                    Some(RuntimeEvent::Terminate { .. }) | None => break true,
                }
            };
        let left = self.describe_all().await.unwrap_or_default();
        let code = if asked { None } else { Some(exit_code::exit_code(&left)) };
        self.terminate(cues).await?;
        match code.unwrap_or_else(|| exit_code::exit_code_after_stop(&left, &self.exits)) {
            0 => Ok(()),
            code => Err(Error::AppsFailed { code, reason: exit_code::exit_reason(&left, &self.exits, code) }),
        }
    }

    /// Has everything that happens told as cues.
    async fn subscribe(&self, tell: mpsc::Sender<RuntimeEvent>) -> Result<(), Error> {
        let mut client = self.session.connect().await?;
        let mut lines =
            client.stream(&Request::Events).await.map_err(|error| self.session.client_error(error))?;
        tokio::spawn(async move {
            while let Some(Ok(line)) = lines.next().await {
                // One that is missed, or unknown, changes nothing: the next look shows what is so.
                if let Ok(event) = serde_json::from_slice(&line)
                    && tell.send(RuntimeEvent::Event(Box::new(event))).await.is_err()
                {
                    return;
                }
            }
            let _ = tell.send(RuntimeEvent::Disconnected).await;
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
            let _ = client.call::<Report>(&request).await; // none runs at the moment
        }
    }

    /// Kills every process of every app: the daemon, which waits for them, sees them go.
    async fn kill_all(&self) {
        let left = self.describe_all().await.unwrap_or_default();
        for pid in left.iter().flat_map(|instance| &instance.processes) {
            let _ = nix::sys::signal::kill(Pid::from_raw(*pid), SIGKILL); // it may be gone by now
        }
    }

    /// Stops what runs and ends rsm, and hears how each ended. Who presses Ctrl-C again does not want to wait.
    async fn terminate(&mut self, cues: &mut mpsc::Receiver<RuntimeEvent>) -> Result<(), Error> {
        let begin = Instant::now();
        let mut ending = std::pin::pin!(daemon::kill_daemon(self.session));
        loop {
            tokio::select! {
                ended = &mut ending => {
                    while let Ok(RuntimeEvent::Event(event)) = cues.try_recv() {
                        self.exits.extend(event.exit.map(|exit| (event.id, exit)));
                    }
                    return ended;
                }
                Some(cue) = cues.recv() => match cue {
                    RuntimeEvent::Event(event) => self.exits.extend(event.exit.map(|exit| (event.id, exit))),
                    RuntimeEvent::Terminate { interactive: true } if begin.elapsed() > DUPLICATE_WINDOW => {
                        print_message("killing remaining processes");
                        self.kill_all().await;
                    }
                    RuntimeEvent::Terminate { .. } | RuntimeEvent::ForwardSignal(_) | RuntimeEvent::Disconnected => {}
                }
            }
        }
    }
}

async fn relay_signals(mut signal: Signal, cue: fn() -> RuntimeEvent, tell: mpsc::Sender<RuntimeEvent>) {
    while signal.recv().await.is_some() {
        if tell.send(cue()).await.is_err() {
            return;
        }
    }
}

/// Resolves with the next signal that ends everything.
async fn wait_terminate(cues: &mut mpsc::Receiver<RuntimeEvent>) {
    while !matches!(cues.recv().await, Some(RuntimeEvent::Terminate { .. }) | None) {}
}

/// Whether it runs, will, or may be started again by a schedule or a changed file.
fn can_still_run(instance: &InstanceDetail) -> bool {
    match instance.view.status {
        Status::Launching | Status::Online | Status::Stopping | Status::Waiting => true,
        Status::Stopped | Status::Errored => {
            let triggered = instance.spec.cron_restart.is_some() || instance.spec.watch.is_some();
            // One that somebody stopped stays so.
            triggered && instance.exits.last().is_some_and(|exit| !exit.requested)
        }
    }
}

/// To standard error, beside what apps say there.
fn print_message(what: &str) {
    let _ = writeln!(std::io::stderr().lock(), "rsm: {what}");
}
