//! An app from a command line: flags are settings by another name, read and resolved as those
//! of a file.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::file::Written;
use super::findings::{At, Findings};
use super::mistake::Mistakes;
use super::resolve::{self, Ground};
use super::settings::{Settings, find};
use super::value::{shown, split};
use super::{LoadOptions, Loaded};

/// `rsm start SCRIPT` and its flags, as typed. Values are text; they are judged here.
#[derive(Clone, Debug, Default)]
pub struct CommandLine {
    /// A file, a program in `PATH`, a shell line, or `serve`.
    pub script: String,
    /// What follows `--`.
    pub args: Vec<String>,
    /// `--name`
    pub name: Option<String>,
    /// `--namespace`
    pub namespace: Option<String>,
    /// `--instances`
    pub instances: Option<String>,
    /// `--interpreter`
    pub interpreter: Option<String>,
    /// `--interpreter-args`, `--node-args`
    pub interpreter_args: Option<String>,
    /// `--cwd`
    pub cwd: Option<PathBuf>,
    /// `--output`
    pub output: Option<String>,
    /// `--error`
    pub error: Option<String>,
    /// `--log`, with or without a path.
    pub log: Option<Option<String>>,
    /// `--log-type`
    pub log_type: Option<String>,
    /// `--log-date-format`
    pub log_date_format: Option<String>,
    /// `--time`
    pub time: bool,
    /// `--disable-logs`
    pub disable_logs: bool,
    /// `--merge-logs`
    pub merge_logs: bool,
    /// `--pid`
    pub pid: Option<PathBuf>,
    /// `--filter-env`, each time it is given.
    pub filter_env: Vec<String>,
    /// `--shutdown-with-message`
    pub shutdown_with_message: bool,
    /// `--kill-timeout`
    pub kill_timeout: Option<String>,
    /// `--kill-signal`
    pub kill_signal: Option<String>,
    /// `--listen-timeout`
    pub listen_timeout: Option<String>,
    /// `--wait-ready`
    pub wait_ready: bool,
    /// `--max-memory-restart`
    pub max_memory_restart: Option<String>,
    /// `--restart-delay`
    pub restart_delay: Option<String>,
    /// `--exp-backoff-restart-delay`
    pub exp_backoff_restart_delay: Option<String>,
    /// `--max-restarts`
    pub max_restarts: Option<String>,
    /// `--min-uptime`
    pub min_uptime: Option<String>,
    /// `--restart-window`
    pub restart_window: Option<String>,
    /// `--cron-restart`
    pub cron_restart: Option<String>,
    /// `--stop-exit-codes`, each time it is given.
    pub stop_exit_codes: Vec<String>,
    /// `--no-autostart`
    pub no_autostart: bool,
    /// `--no-autorestart`
    pub no_autorestart: bool,
    /// `--no-treekill`
    pub no_treekill: bool,
    /// `--watch`, with the paths given to it; none: the working directory.
    pub watch: Option<Vec<String>>,
    /// `--ignore-watch`
    pub ignore_watch: Option<String>,
    /// `--watch-delay`: a bare number is seconds here, as in PM2.
    pub watch_delay: Option<String>,
    /// `--ext`: watch only files with these extensions, `js,ts`.
    pub ext: Option<String>,
    /// `--execute-command`
    pub execute_command: bool,
    /// `--uid`
    pub uid: Option<String>,
    /// `--gid`
    pub gid: Option<String>,
    /// `--port`
    pub port: Option<String>,
}

/// A flag that was given: as typed, the setting it stands for, its value.
pub(super) struct Flag {
    pub(super) flag: &'static str,
    pub(super) key: &'static str,
    pub(super) value: Value,
}

/// Resolves the app of a command line, typed in the directory `cwd` (absolute).
///
/// # Errors
/// Every mistake of the command line; each names its flag.
pub fn from_command(line: &CommandLine, cwd: &Path, options: &LoadOptions) -> Result<Loaded, Mistakes> {
    let mut findings = Findings::new(None);
    let mut given = flags(line);
    given.push(Flag { flag: "start", key: "script", value: json!(line.script) });
    let settings = read(&given, &mut findings);
    let written = Written::new(settings, At::Flag("--env"));
    let app = match findings.count() {
        0 => resolve::app(&written, &ground(cwd, options), &mut findings),
        _ => None,
    };
    findings.finish(app).map(|(app, warnings)| Loaded { apps: app.into_iter().collect(), warnings })
}

/// What a command line is resolved against.
pub(super) fn ground<'a>(cwd: &Path, options: &'a LoadOptions) -> Ground<'a> {
    Ground {
        base: cwd.to_owned(),
        script_from_base: true,
        source: None,
        env_name: options.env_name.as_deref(),
        cores: options.cores,
        path_var: &options.path_var,
    }
}

/// Reads the flags into settings.
pub(super) fn read(flags: &[Flag], findings: &mut Findings<'_>) -> Settings {
    let mut settings = Settings::default();
    for Flag { flag, key, value } in flags {
        let at = At::Flag(flag);
        if let Some(Err(wrong)) = find(key).map(|key| (key.read)(&mut settings, value, at.clone())) {
            findings.mistake(&at, wrong.expectation(Some(&shown(value))), wrong.help);
        }
    }
    settings
}

/// The flags that were given.
pub(super) fn flags(line: &CommandLine) -> Vec<Flag> {
    let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.to_string_lossy().into_owned());
    let list = |items: &[String]| (!items.is_empty()).then(|| json!(items));
    let text = |text: &Option<String>| text.as_ref().map(|text| json!(text));
    let switch = |on: bool, value: bool| on.then_some(json!(value));
    let log = line.log.as_ref().map(|path| path.as_ref().map_or(json!(true), |path| json!(path)));
    let codes = (!line.stop_exit_codes.is_empty()).then(|| json!(line.stop_exit_codes.join(",")));
    let delay = line.watch_delay.as_ref().map(|delay| json!(seconds(delay)));
    let table = [
        ("--", "args", list(&line.args)),
        ("--name", "name", text(&line.name)),
        ("--namespace", "namespace", text(&line.namespace)),
        ("--instances", "instances", text(&line.instances)),
        ("--interpreter", "interpreter", text(&line.interpreter)),
        ("--interpreter-args", "interpreter_args", text(&line.interpreter_args)),
        ("--cwd", "cwd", text(&path(&line.cwd))),
        ("--output", "out_file", text(&line.output)),
        ("--error", "error_file", text(&line.error)),
        ("--log", "log_file", log),
        ("--log-type", "log_type", text(&line.log_type)),
        ("--log-date-format", "log_date_format", text(&line.log_date_format)),
        ("--time", "time", switch(line.time, true)),
        ("--disable-logs", "disable_logs", switch(line.disable_logs, true)),
        ("--merge-logs", "merge_logs", switch(line.merge_logs, true)),
        ("--pid", "pid_file", text(&path(&line.pid))),
        ("--filter-env", "filter_env", list(&line.filter_env)),
        ("--shutdown-with-message", "shutdown_with_message", switch(line.shutdown_with_message, true)),
        ("--kill-timeout", "kill_timeout", text(&line.kill_timeout)),
        ("--kill-signal", "kill_signal", text(&line.kill_signal)),
        ("--listen-timeout", "listen_timeout", text(&line.listen_timeout)),
        ("--wait-ready", "wait_ready", switch(line.wait_ready, true)),
        ("--max-memory-restart", "max_memory_restart", text(&line.max_memory_restart)),
        ("--restart-delay", "restart_delay", text(&line.restart_delay)),
        ("--exp-backoff-restart-delay", "exp_backoff_restart_delay", text(&line.exp_backoff_restart_delay)),
        ("--max-restarts", "max_restarts", text(&line.max_restarts)),
        ("--min-uptime", "min_uptime", text(&line.min_uptime)),
        ("--restart-window", "restart_window", text(&line.restart_window)),
        ("--cron-restart", "cron_restart", text(&line.cron_restart)),
        ("--stop-exit-codes", "stop_exit_codes", codes),
        ("--no-autostart", "autostart", switch(line.no_autostart, false)),
        ("--no-autorestart", "autorestart", switch(line.no_autorestart, false)),
        ("--no-treekill", "treekill", switch(line.no_treekill, false)),
        ("--watch", "watch", line.watch.as_ref().map(|paths| json!(paths))),
        ("--ignore-watch", "ignore_watch", ignored(line)),
        ("--watch-delay", "watch_delay", delay),
        ("--execute-command", "execute_command", switch(line.execute_command, true)),
        ("--uid", "uid", text(&line.uid)),
        ("--gid", "gid", text(&line.gid)),
        ("--port", "port", text(&line.port)),
    ];
    let given = table.into_iter().filter_map(|(flag, key, value)| Some(Flag { flag, key, value: value? }));
    given.collect()
}

/// Bare numbers as seconds.
fn seconds(delay: &str) -> String {
    let bare = !delay.is_empty() && delay.bytes().all(|c| c.is_ascii_digit() || c == b'.');
    if bare { format!("{delay}s") } else { delay.to_owned() }
}

/// `--ext js` as patterns: nothing but directories and such files, and of these not what is
/// never watched. What `--ignore-watch` adds comes last, and so wins.
fn ignored(line: &CommandLine) -> Option<Value> {
    let Some(extensions) = &line.ext else { return line.ignore_watch.as_ref().map(|text| json!(text)) };
    let mut patterns: Vec<String> = vec!["*".into(), "!*/".into()];
    let wanted = extensions.split([',', ' ']).map(|ext| ext.trim_start_matches('.'));
    patterns.extend(wanted.filter(|ext| !ext.is_empty()).map(|ext| format!("!*.{ext}")));
    patterns.extend([".*".into(), "node_modules".into()]);
    match split(line.ignore_watch.as_deref().unwrap_or_default()) {
        Some(words) => patterns.extend(words),
        // Left as it is, so that reading it tells what is wrong with it.
        None => return line.ignore_watch.as_ref().map(|text| json!(text)),
    }
    Some(json!(patterns))
}
