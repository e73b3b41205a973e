//! The flags that describe an app, shared by `start` and `restart`.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Map, Value};

use crate::config::{self, CommandLine, LoadOptions, Mistakes};
use crate::error::Error;
use crate::spec::AppSpec;

use super::session::Session;

// Settings of an app. Values are judged by `config`, which also reads files.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Settings")]
pub(super) struct Settings {
    /// Name to show and select by
    #[arg(short, long)]
    pub(super) name: Option<String>,
    /// Group of apps to select by
    #[arg(long)]
    namespace: Option<String>,
    /// How many instances: a number, `max`, or -N for all cores but N
    #[arg(short, long, allow_hyphen_values = true, value_name = "N")]
    instances: Option<String>,
    /// Program that runs the script; `none` executes it directly
    #[arg(long, value_name = "PROGRAM")]
    interpreter: Option<String>,
    /// Arguments of the interpreter
    #[arg(long, visible_alias = "node-args", allow_hyphen_values = true, value_name = "ARGS")]
    interpreter_args: Option<String>,
    /// Working directory
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,
    /// File of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<String>,
    /// File of standard error
    #[arg(short, long, value_name = "FILE")]
    error: Option<String>,
    /// File of both, besides the two
    #[arg(short, long, value_name = "FILE", num_args = 0..=1)]
    log: Option<Option<String>>,
    /// `json`: one JSON object a line
    #[arg(long, value_name = "TYPE")]
    log_type: Option<String>,
    /// Stamp of each line, such as `YYYY-MM-DD HH:mm:ss`
    #[arg(long, value_name = "FORMAT")]
    log_date_format: Option<String>,
    /// Stamp each line with `YYYY-MM-DDTHH:mm:ss`
    #[arg(long)]
    time: bool,
    /// Write no log files
    #[arg(long)]
    disable_logs: bool,
    /// All instances write to the same files
    #[arg(long)]
    merge_logs: bool,
    /// Where the pid is written
    #[arg(short, long, value_name = "FILE")]
    pid: Option<PathBuf>,
    /// Keep inherited variables from the app whose name contains this
    #[arg(long, value_name = "TEXT")]
    filter_env: Vec<String>,
    /// Time from the first signal to SIGKILL, in ms or as `10s`
    #[arg(short, long, value_name = "TIME")]
    kill_timeout: Option<String>,
    /// The first signal
    #[arg(long, value_name = "SIGNAL")]
    kill_signal: Option<String>,
    /// Time to become ready
    #[arg(long, value_name = "TIME")]
    listen_timeout: Option<String>,
    /// The app says when it is ready
    #[arg(long)]
    wait_ready: bool,
    /// Stop by a message to the app instead of a signal
    #[arg(long, hide = true)]
    shutdown_with_message: bool,
    /// Restart when it uses more memory, such as `300M`
    #[arg(long, value_name = "SIZE")]
    max_memory_restart: Option<String>,
    /// Pause before each restart
    #[arg(long, value_name = "TIME")]
    restart_delay: Option<String>,
    /// First pause before a restart; each further one is longer
    #[arg(long, value_name = "TIME")]
    exp_backoff_restart_delay: Option<String>,
    /// Give up after so many early exits
    #[arg(long, value_name = "N")]
    max_restarts: Option<String>,
    /// An exit before this is an early one
    #[arg(long, value_name = "TIME")]
    min_uptime: Option<String>,
    /// How far back early exits are counted
    #[arg(long, value_name = "TIME")]
    restart_window: Option<String>,
    /// Restart on this schedule; 0 for none
    #[arg(short, long = "cron-restart", visible_alias = "cron", value_name = "SCHEDULE")]
    cron: Option<String>,
    /// Exit codes that end the app for good, such as `0,143`
    #[arg(long, value_name = "CODES")]
    stop_exit_codes: Vec<String>,
    /// Add it without starting it
    #[arg(long)]
    no_autostart: bool,
    /// Do not restart it when it ends
    #[arg(long)]
    no_autorestart: bool,
    /// Signal the first process only, not its tree
    #[arg(long)]
    no_treekill: bool,
    /// Restart when files change, in the working directory or here
    #[arg(long, value_name = "PATH", num_args = 0..=1, default_missing_value = "")]
    watch: Vec<String>,
    /// Patterns not to watch
    #[arg(long, value_name = "PATTERNS")]
    ignore_watch: Option<String>,
    /// Quiet time after a change, in seconds or as `500ms`
    #[arg(long, value_name = "TIME")]
    watch_delay: Option<String>,
    /// Watch only files with these extensions, such as `js,ts`
    #[arg(long, value_name = "LIST")]
    ext: Option<String>,
    /// Do not share ports among instances
    #[arg(short = 'x', long)]
    execute_command: bool,
    /// Run as this user
    #[arg(long, short_alias = 'u', alias = "user", value_name = "USER")]
    uid: Option<String>,
    /// Run as this group
    #[arg(long, value_name = "GROUP")]
    gid: Option<String>,
    /// PORT of the app's environment
    #[arg(long)]
    port: Option<String>,
}

impl Settings {
    /// `--watch app.js` and `--log app.js` take the word after them, as in PM2. Where nothing
    /// else says what to start, that word was meant so, and comes out here.
    pub(super) fn give_back(&mut self) -> Option<String> {
        let watched = self.watch.last_mut().filter(|path| !path.is_empty());
        watched.map(std::mem::take).or_else(|| self.log.as_mut().and_then(Option::take))
    }

    /// `--stop-exit-codes 0 143`, as PM2 takes it: numbers among what else is named are codes.
    pub(super) fn take_codes(&mut self, targets: &mut Vec<String>) {
        let number = |target: &String| target.parse::<u32>().is_ok();
        if !self.stop_exit_codes.is_empty() && !targets.iter().all(number) {
            self.stop_exit_codes.extend(targets.extract_if(.., |target| number(target)));
        }
    }

    /// The command line of a script with these settings.
    pub(super) fn command_line(&self, script: &str, args: &[String]) -> CommandLine {
        let Self { name, namespace, instances, interpreter, interpreter_args, cwd, .. } = self.clone();
        let Self { output, error, log, log_type, log_date_format, pid, filter_env, .. } = self.clone();
        let Self { kill_timeout, kill_signal, listen_timeout, max_memory_restart, restart_delay, .. } =
            self.clone();
        let Self { exp_backoff_restart_delay, max_restarts, min_uptime, restart_window, cron, .. } =
            self.clone();
        let Self { stop_exit_codes, ignore_watch, watch_delay, ext, uid, gid, port, .. } = self.clone();
        let paths = || self.watch.iter().filter(|path| !path.is_empty()).cloned().collect();
        CommandLine {
            script: script.to_owned(),
            args: args.to_vec(),
            time: self.time,
            disable_logs: self.disable_logs,
            merge_logs: self.merge_logs,
            shutdown_with_message: self.shutdown_with_message,
            wait_ready: self.wait_ready,
            cron_restart: cron,
            no_autostart: self.no_autostart,
            no_autorestart: self.no_autorestart,
            no_treekill: self.no_treekill,
            watch: (!self.watch.is_empty()).then(paths),
            execute_command: self.execute_command,
            name,
            namespace,
            instances,
            interpreter,
            interpreter_args,
            cwd,
            output,
            error,
            log,
            log_type,
            log_date_format,
            pid,
            filter_env,
            kill_timeout,
            kill_signal,
            listen_timeout,
            max_memory_restart,
            restart_delay,
            exp_backoff_restart_delay,
            max_restarts,
            min_uptime,
            restart_window,
            stop_exit_codes,
            ignore_watch,
            watch_delay,
            ext,
            uid,
            gid,
            port,
        }
    }

    /// What these flags change of an app that is there, as a JSON merge patch of its spec.
    ///
    /// # Errors
    /// The mistakes of the flags.
    pub(super) fn changes(&self, args: &[String], ground: &Ground) -> Result<Map<String, Value>, Error> {
        config::changes(&self.command_line("", args), &ground.cwd, &ground.options).map_err(mistakes)
    }
}

/// What files and flags are resolved against.
pub(super) struct Ground {
    /// Where the command was typed.
    pub(super) cwd: PathBuf,
    /// The rest.
    pub(super) options: LoadOptions,
}

impl Ground {
    /// The ground here and now.
    ///
    /// # Errors
    /// The current directory is gone.
    pub(super) fn new(env_name: Option<&str>, only: &[String]) -> Result<Self, Error> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let options = LoadOptions {
            env_name: env_name.map(str::to_owned),
            only: only.to_vec(),
            cores: u32::try_from(cores).unwrap_or(u32::MAX),
            path_var: std::env::var_os("PATH").unwrap_or_default(),
        };
        Ok(Self { cwd: std::env::current_dir().map_err(Error::NoDirectory)?, options })
    }
}

/// Every mistake as a block of its own.
pub(super) fn mistakes(found: Mistakes) -> Error {
    Error::Mistakes(found.0.iter().map(ToString::to_string).collect())
}

/// The apps of a file, changed as the flags want it; warnings are told.
///
/// # Errors
/// The mistakes of the file or of the flags.
pub(super) fn load(
    session: &Session,
    file: &str,
    settings: &Settings,
    args: &[String],
    ground: &Ground,
) -> Result<Vec<AppSpec>, Error> {
    let loaded = config::load(Path::new(file), &ground.options).map_err(mistakes)?;
    warn(session, &loaded.warnings);
    let changes = settings.changes(args, ground)?;
    if settings.name.is_some() && loaded.apps.len() > 1 {
        return Err(Error::NameForSeveral { apps: loaded.apps.len() });
    }
    let wrong = |app: &AppSpec, error| Error::Mistakes(vec![format!("app \"{}\": {error}", app.name)]);
    loaded.apps.iter().map(|app| app.patched(&changes).map_err(|error| wrong(app, error))).collect()
}

/// Tells the warnings of a file or of flags.
pub(super) fn warn(session: &Session, warnings: &[String]) {
    for warning in warnings {
        session.note(format_args!("warning: {}", warning.trim_end()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_told_from_what_is_named() {
        let mut settings = Settings { stop_exit_codes: vec!["0".into()], ..Settings::default() };
        let mut targets = vec!["app.js".into(), "143".into()];
        settings.take_codes(&mut targets);
        assert_eq!(
            (targets, &settings.stop_exit_codes[..]),
            (vec!["app.js".to_owned()], &["0".into(), "143".into()][..])
        );
        let mut id = vec!["3".to_owned()];
        settings.take_codes(&mut id);
        assert_eq!(id, ["3"], "there is nothing else that it could be about");
    }

    #[test]
    fn a_swallowed_script_is_given_back() {
        let mut watch = Settings { watch: vec!["app.js".into()], ..Settings::default() };
        assert_eq!(watch.give_back().as_deref(), Some("app.js"));
        assert_eq!(watch.command_line("app.js", &[]).watch, Some(vec![]));
        let mut log = Settings { log: Some(Some("app.js".into())), ..Settings::default() };
        assert_eq!(log.give_back().as_deref(), Some("app.js"));
        assert_eq!(log.command_line("app.js", &[]).log, Some(None));
        assert_eq!(Settings::default().give_back(), None);
    }
}
