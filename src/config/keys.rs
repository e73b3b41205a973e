//! The table of all keys of an app: spelling, documentation, type, flag, position in
//! [`AppSpec`](crate::spec::AppSpec) and name in PM2.
//!
//! A row defines the key in files, the flag of `start`, `restart`, `reload` and `runtime`, the JSON Schema,
//! `docs/reference.md`, the patch that a flag makes for a running app, the name of a difference in `rsm plan`, and
//! the field of `rsm jlist`. The effect of a key is not in the table: `resolve` fills
//! [`AppSpec`](crate::spec::AppSpec) from [`AppSettings`].

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde_json::Value;

use crate::config::diagnostics::{Located, SourceRef};
use crate::config::key_def::{Flag, Group, KeyDef, Pm2Value};
use crate::config::values::{
    AppName, AutoscaleValue, BalanceValue, ByteSize, CountValue, CpuQuota, CronValue, DependencyList,
    DurationValue, EnvFilterValue, EnvValue, ExecModeValue, ExitCodes, FromValue, InstanceCount,
    KillModeValue, LimitsValue, LivenessProbe, LogFormatValue, LogRules, LogTarget, OverlapValue,
    PortOptionsValue, PortValue, ReadinessProbe, SignalName, TimeZoneName, UserOrGroup, ValueError, VarName,
    WatchValue, WordList, to_camel_case,
};
use crate::spec::{EnvFilter, ExecMode, KillMode, Launcher, LogFormat, LogPath, RestartDelay};

macro_rules! app_keys {
    ($( $(#[doc = $doc:literal])+ $key:ident: $kind:ty = $row:expr; )*) => {
        /// The settings of an app as given: neither resolved nor with defaults.
        #[derive(Default)]
        pub(super) struct AppSettings {
            $( $(#[doc = $doc])+ pub(super) $key: Option<Located<$kind>>, )*
            /// The `env_<name>` tables.
            pub(super) named_env: BTreeMap<String, Located<EnvValue>>,
        }

        /// All keys.
        pub const KEYS: &[KeyDef] = &[ $( KeyDef {
            name: stringify!($key),
            doc: concat!($($doc),+),
            schema: |generator| <$kind as JsonSchema>::json_schema(generator),
            ..$row
        } ),* ];

        impl AppSettings {
            /// Reads the value of a key of the table.
            pub(super) fn set(&mut self, key: &KeyDef, value: &Value, source: SourceRef) -> Result<(), ValueError> {
                match key.name {
                    $( stringify!($key) => {
                        self.$key = Some(Located { value: <$kind as FromValue>::from_value(value)?, source });
                    } )*
                    _ => {}
                }
                Ok(())
            }
        }
    };
}

const fn key(group: Group) -> KeyDef {
    KeyDef::new(group)
}

app_keys! {
    /// Program, script or shell command (contains a space), or `serve` for the built-in file server. Relative to `cwd`.
    script: String = key(Group::App).aliases(&["exec", "cmd", "command"]).spec(&["/script"])
        .jlist("pm_exec_path", |spec| (&spec.script).into());

    /// Name of the app. Default: file name of the script without extension.
    name: AppName = key(Group::App).flag(Flag::text("--name", "NAME").short('n')).spec(&["/name"]).not_resettable()
        .jlist("name", |spec| (&spec.name).into());

    /// Container image, for `rsm export`. rsm itself does not use it.
    image: String = key(Group::App).spec(&["/image"]).not_in_pm2();

    /// Namespace, to select groups of apps.
    namespace: AppName = key(Group::App).flag(Flag::text("--namespace", "NAMESPACE").help("Namespace of the app")).spec(&["/namespace"])
        .jlist("namespace", |spec| (&spec.namespace).into());

    /// Arguments for the script.
    args: WordList = key(Group::App).spec(&["/args"])
        .jlist("args", |spec| (&spec.args).into());

    /// Working directory, relative to the directory of this file. Default: that directory.
    cwd: String = key(Group::App).flag(Flag::text("--cwd", "DIR").help("Working directory")).spec(&["/cwd"]).not_resettable()
        .jlist("pm_cwd", |spec| Pm2Value::Path(&spec.cwd));

    /// Interpreter for the script, or `none` to execute it directly. Default: depends on the extension or the #! line.
    interpreter: String = key(Group::App).aliases(&["exec_interpreter"])
        .flag(Flag::text("--interpreter", "PROGRAM")).spec(&["/launcher/interpreter/program"]).not_resettable()
        .jlist("exec_interpreter", |spec| match &spec.launcher {
            Launcher::Interpreter { program, .. } => program.into(),
            Launcher::Direct | Launcher::Shell | Launcher::Serve => "none".into(),
        });

    /// Arguments for the interpreter.
    interpreter_args: WordList = key(Group::App).aliases(&["node_args"])
        .flag(Flag::text("--interpreter-args", "ARGS").alias("node-args").allow_hyphen())
        .spec(&["/launcher/interpreter/args"]).not_resettable()
        .jlist("node_args", |spec| match &spec.launcher {
            Launcher::Interpreter { args, .. } => args.into(),
            Launcher::Direct | Launcher::Shell | Launcher::Serve => Pm2Value::Words(&[]),
        });

    /// Show positions in the original source of compiled scripts (Node.js: `--enable-source-maps`). Default: whether a file `SCRIPT.map` exists.
    source_map_support: bool = key(Group::App)
        .flag(Flag::switch("--source-map-support", true).help("Enable source maps"))
        .spec(&["/launcher/interpreter/args"]).not_resettable();

    /// Do not enable source maps.
    disable_source_map_support: bool = key(Group::App)
        .flag(Flag::switch("--disable-source-map-support", true).hidden())
        .spec(&["/launcher/interpreter/args"]).not_resettable();

    /// Start the app when it is added.
    autostart: bool = key(Group::App)
        .flag(Flag::switch("--no-autostart", false).help("Add the app without starting it")).spec(&["/autostart"])
        .jlist("autostart", |spec| spec.autostart.into());

    /// Apps that must be ready, or have completed, before this one starts, and that are stopped after it.
    depends_on: DependencyList = key(Group::App).spec(&["/depends_on"]).not_in_pm2();

    /// Append `-NAME` to the app name if the app is started with `--env NAME`.
    append_env_to_name: bool = key(Group::App);

    /// Pid file. The instance id is inserted before `.pid`.
    pid_file: String = key(Group::App).aliases(&["pid"])
        .flag(Flag::text("--pid", "FILE").short('p').help("File for the process id")).spec(&["/pid_file"]);

    /// `cluster`: all instances share one port. `fork`: they do not.
    exec_mode: ExecModeValue = key(Group::Instances).spec(&["/exec_mode"])
        .jlist("exec_mode", |spec| match spec.exec_mode {
            ExecMode::Fork => "fork_mode".into(),
            ExecMode::Cluster => "cluster_mode".into(),
        });

    /// Number of instances: `max` or 0 for one per core, -N for N fewer than cores.
    instances: InstanceCount = key(Group::Instances)
        .flag(Flag::text("--instances", "N").short('i').allow_hyphen().help("Number of instances; `max` for one per core, -N for N fewer than cores"))
        .spec(&["/instances"])
        .jlist("instances", |spec| spec.instances.into());

    /// Keep the port open while the app restarts: connections are queued, not refused.
    hold_port: bool = key(Group::Instances).spec(&["/hold_port"]).not_in_pm2();

    /// Load balancing: `random`, `ip_hash` (sticky by client address) or `shared` (one accept queue).
    balance: BalanceValue = key(Group::Instances).spec(&["/balance"]).not_in_pm2();

    /// Addresses the app listens on, such as `3000` or `127.0.0.1:3000`. Needed only if rsm cannot supervise the system calls of the app.
    listen: WordList = key(Group::Instances).spec(&["/listen"]).not_in_pm2();

    /// Options for shared ports: `udp`, `privileged`.
    ports: PortOptionsValue = key(Group::Instances).spec(&["/ports"]).table().not_in_pm2();

    /// Adjust the number of instances to the load: `min`, `max`, `cpu`, `queue`.
    autoscale: AutoscaleValue = key(Group::Instances).spec(&["/autoscale"]).table().not_in_pm2();

    /// Force fork mode.
    execute_command: bool = key(Group::Instances)
        .flag(Flag::switch("--execute-command", true).short('x').help("Force fork mode: do not share ports among instances"))
        .spec(&["/exec_mode"]);

    /// Set the environment variable PORT.
    port: PortValue = key(Group::Instances).flag(Flag::text("--port", "PORT")).spec(&["/env/PORT"]);

    /// Variable that is incremented for each instance.
    increment_var: VarName = key(Group::Instances).spec(&["/increment_var"])
        .jlist("increment_var", |spec| spec.increment_var.as_ref().into());

    /// Variable for the instance number. Default: `NODE_APP_INSTANCE`.
    instance_var: VarName = key(Group::Instances).spec(&["/instance_var"])
        .jlist("instance_var", |spec| (&spec.instance_var).into());

    /// Environment variables. `--env NAME` merges the table `env_NAME` into them.
    env: EnvValue = key(Group::Environment).spec(&["/env"])
        .jlist("env", |spec| Pm2Value::Vars(&spec.env));

    /// Inherited variables to drop: true for all, a name, or a list of substrings.
    filter_env: EnvFilterValue = key(Group::Environment)
        .flag(Flag::list("--filter-env", "TEXT").help("Do not pass inherited variables whose name contains TEXT"))
        .spec(&["/filter_env"])
        .jlist("filter_env", |spec| match &spec.filter_env {
            EnvFilter::None => Pm2Value::Words(&[]),
            EnvFilter::All => true.into(),
            EnvFilter::Containing(parts) => parts.into(),
            EnvFilter::Exact(name) => name.into(),
        });

    /// User name or uid to run as. Requires root.
    uid: UserOrGroup = key(Group::Environment).aliases(&["user"])
        .flag(Flag::text("--uid", "USER").short('u').alias("user")).spec(&["/account"])
        .jlist("uid", |spec| spec.account.as_ref().map(|account| account.uid).into());

    /// Group name or gid to run as. Default: primary group of the user.
    gid: UserOrGroup = key(Group::Environment).flag(Flag::text("--gid", "GROUP")).spec(&["/account"])
        .jlist("gid", |spec| spec.account.as_ref().map(|account| account.gid).into());

    /// File for standard output, or `/dev/null`.
    out_file: LogTarget = key(Group::Logs).aliases(&["out", "output", "out_log"])
        .flag(Flag::text("--output", "FILE").short('o')).spec(&["/logs/out"]);

    /// File for standard error, or `/dev/null`.
    error_file: LogTarget = key(Group::Logs).aliases(&["error", "err", "err_file", "err_log"])
        .flag(Flag::text("--error", "FILE").short('e')).spec(&["/logs/err"]);

    /// Additional file for both streams, or true for the default path.
    log_file: LogTarget = key(Group::Logs).aliases(&["log"])
        .flag(Flag::optional("--log", "FILE").short('l').help("Additional file for both streams [default: in $RSM_HOME/logs]"))
        .spec(&["/logs/combined"]);

    /// Log format: `raw` or `json`.
    log_type: LogFormatValue = key(Group::Logs).flag(Flag::text("--log-type", "TYPE")).spec(&["/logs/format"])
        .jlist("log_type", |spec| (spec.logs.format == LogFormat::Json).then_some("json").into());

    /// Timestamp format for log lines, such as `YYYY-MM-DD HH:mm:ss`.
    log_date_format: String = key(Group::Logs).flag(Flag::text("--log-date-format", "FORMAT")).spec(&["/logs/date_format"])
        .jlist("log_date_format", |spec| spec.logs.date_format.as_ref().into());

    /// Prefix log lines with a timestamp (`YYYY-MM-DDTHH:mm:ss`).
    time: bool = key(Group::Logs).flag(Flag::switch("--time", true)).spec(&["/logs/date_format"]);

    /// Do not write log files.
    disable_logs: bool = key(Group::Logs)
        .flag(Flag::switch("--disable-logs", true)).spec(&["/logs/out", "/logs/err", "/logs/combined"])
        .jlist("disable_logs", |spec| {
            (spec.logs.out == LogPath::Discard && spec.logs.err == LogPath::Discard).into()
        });

    /// Use the same log files for all instances.
    merge_logs: bool = key(Group::Logs).aliases(&["combine_logs"])
        .flag(Flag::switch("--merge-logs", true)).spec(&["/logs/merge"])
        .jlist("merge_logs", |spec| spec.logs.merge.into());

    /// Log rotation and retention.
    logs: LogRules = key(Group::Logs).spec(&["/logs/rotation"]).not_in_pm2();

    /// Restart the app when it exits.
    autorestart: bool = key(Group::Restart)
        .flag(Flag::switch("--no-autorestart", false).help("Do not restart the app when it exits"))
        .spec(&["/restart/autorestart"])
        .jlist("autorestart", |spec| spec.restart.autorestart.into());

    /// Exit codes after which the app is not restarted.
    stop_exit_codes: ExitCodes = key(Group::Restart)
        .flag(Flag::joined("--stop-exit-codes", "CODES").help("Exit codes after which the app is not restarted, such as `0,143`"))
        .spec(&["/restart/stop_exit_codes"])
        .jlist("stop_exit_codes", |spec| match &spec.restart.stop_exit_codes[..] {
            [] => Pm2Value::Absent,
            codes => Pm2Value::Codes(codes),
        });

    /// Maximum number of unstable restarts within `restart_window`.
    max_restarts: CountValue = key(Group::Restart).flag(Flag::text("--max-restarts", "N")).spec(&["/restart/max_restarts"])
        .jlist("max_restarts", |spec| spec.restart.max_restarts.into());

    /// Minimum uptime; an earlier exit is unstable. Milliseconds or a duration such as `10s`.
    min_uptime: DurationValue = key(Group::Restart).flag(Flag::text("--min-uptime", "TIME")).spec(&["/restart/min_uptime"])
        .jlist("min_uptime", |spec| spec.restart.min_uptime.into());

    /// Time window in which unstable restarts are counted. Milliseconds or a duration such as `10m`.
    restart_window: DurationValue = key(Group::Restart).flag(Flag::text("--restart-window", "TIME")).spec(&["/restart/window"]).not_in_pm2();

    /// Fixed delay before a restart. Milliseconds or a duration such as `5s`.
    restart_delay: DurationValue = key(Group::Restart).flag(Flag::text("--restart-delay", "TIME")).spec(&["/restart/delay"])
        .jlist("restart_delay", |spec| match spec.restart.delay {
            RestartDelay::Fixed(delay) => delay.into(),
            RestartDelay::Pm2Backoff { .. } | RestartDelay::Backoff { .. } => Pm2Value::Absent,
        });

    /// Initial restart delay; it grows by 50 % with each unstable restart, up to 15 s. Milliseconds or a duration such as `100ms`.
    exp_backoff_restart_delay: DurationValue = key(Group::Restart)
        .flag(Flag::text("--exp-backoff-restart-delay", "TIME").help("Initial delay of the restart backoff")).spec(&["/restart/delay"])
        .jlist("exp_backoff_restart_delay", |spec| match spec.restart.delay {
            RestartDelay::Pm2Backoff { initial } => initial.into(),
            RestartDelay::Fixed(_) | RestartDelay::Backoff { .. } => Pm2Value::Absent,
        });

    /// Restart when the memory of the process tree exceeds this limit, such as `300M` or `1.5G`.
    max_memory_restart: ByteSize = key(Group::Restart).flag(Flag::text("--max-memory-restart", "SIZE")).spec(&["/max_memory_restart"])
        .jlist("max_memory_restart", |spec| spec.max_memory_restart.into());

    /// Cron schedule for restarts: `minute hour day month weekday`, or six fields with leading seconds.
    cron_restart: CronValue = key(Group::Restart).aliases(&["cron"])
        .flag(Flag::text("--cron-restart", "CRON").short('c').alias("cron").help("Restart on a cron schedule; 0 to disable"))
        .spec(&["/cron_restart"])
        .jlist("cron_restart", |spec| spec.cron_restart.as_ref().into());

    /// Time zone of `cron_restart`, such as `Europe/Berlin`. Default: that of the machine.
    timezone: TimeZoneName = key(Group::Restart).aliases(&["cron_tz"]).spec(&["/timezone"]).not_in_pm2();

    /// What `cron_restart` does while the previous run has not ended: `replace`, `skip` or `queue`.
    overlap: OverlapValue = key(Group::Restart).spec(&["/overlap"]).not_in_pm2();

    /// Stop signal.
    kill_signal: SignalName = key(Group::StopAndReadiness)
        .flag(Flag::text("--kill-signal", "SIGNAL").help("Signal that stops the app")).spec(&["/stop/signal"]).not_in_pm2();

    /// Grace period between the stop signal and SIGKILL. Milliseconds or a duration such as `10s`.
    kill_timeout: DurationValue = key(Group::StopAndReadiness)
        .flag(Flag::text("--kill-timeout", "TIME").short('k').help("Grace period before SIGKILL, in milliseconds or as `10s`"))
        .spec(&["/stop/timeout"])
        .jlist("kill_timeout", |spec| spec.stop.timeout.into());

    /// Which processes get the stop signal: `topmost` (the topmost process of each branch of the tree that handles it,
    /// then those that remain), `all` (the whole tree at once) or `main` (the main process).
    kill_mode: KillModeValue = key(Group::StopAndReadiness)
        .flag(Flag::text("--kill-mode", "MODE").help("Processes that get the stop signal: topmost, all or main"))
        .spec(&["/stop/mode"]).not_in_pm2();

    /// `false` is short for `kill_mode = "main"`.
    treekill: bool = key(Group::StopAndReadiness)
        .flag(Flag::switch("--no-treekill", false).help("Signal only the main process, as `--kill-mode main`"))
        .spec(&["/stop/mode"])
        .jlist("treekill", |spec| (spec.stop.mode != KillMode::Main).into());

    /// Stop the app with the message `shutdown` on the Node.js IPC channel instead of a signal.
    shutdown_with_message: bool = key(Group::StopAndReadiness)
        .flag(Flag::switch("--shutdown-with-message", true).hidden()).spec(&["/stop/by_message"])
        .jlist("shutdown_with_message", |spec| spec.stop.by_message.into());

    /// Wait for the app to report readiness (`READY=1` or `process.send('ready')`).
    wait_ready: bool = key(Group::StopAndReadiness)
        .flag(Flag::switch("--wait-ready", true)).spec(&["/readiness/wait_ready"])
        .jlist("wait_ready", |spec| spec.readiness.wait_ready.into());

    /// Time the app may take to become ready. Milliseconds or a duration such as `10s`.
    listen_timeout: DurationValue = key(Group::StopAndReadiness)
        .flag(Flag::text("--listen-timeout", "TIME")).spec(&["/readiness/timeout"])
        .jlist("listen_timeout", |spec| spec.readiness.timeout.into());

    /// Readiness probe: `http`, `tcp` or `exec`.
    ready: ReadinessProbe = key(Group::StopAndReadiness).spec(&["/readiness/probe"]).not_in_pm2();

    /// Liveness probe: `http`, `tcp` or `exec`.
    health: LivenessProbe = key(Group::StopAndReadiness).spec(&["/health", "/health/action"]).table().not_in_pm2();

    /// Watchdog interval: the app must send `WATCHDOG=1` to `NOTIFY_SOCKET` at least this often. Milliseconds or a duration such as `10s`.
    watchdog: DurationValue = key(Group::StopAndReadiness).spec(&["/watchdog"]).not_in_pm2();

    /// Hard memory limit of the process tree, enforced by the kernel, such as `300M` or `1.5G`.
    memory_max: ByteSize = key(Group::Limits).spec(&["/limits/memory"]).not_in_pm2();

    /// CPU limit, enforced by the kernel: `1.5` cores or `150%`.
    cpu_max: CpuQuota = key(Group::Limits).spec(&["/limits/cpu"]).not_in_pm2();

    /// Maximum number of processes and threads, enforced by the kernel.
    pids_max: CountValue = key(Group::Limits).spec(&["/limits/pids"]).not_in_pm2();

    /// Resource limits of each process: `nofile`, the maximum number of open files. Default: the hard limit of rsm.
    limits: LimitsValue = key(Group::Limits).spec(&["/limits"]).table().not_in_pm2();

    /// Restart when files change: true for `cwd`, or a list of paths.
    watch: WatchValue = key(Group::Watch)
        .flag(Flag::optional_list("--watch", "PATH").help("Restart when files change, in the working directory or PATH"))
        .spec(&["/watch"])
        .jlist("watch", |spec| spec.watch.is_some().into());

    /// Patterns to ignore, in .gitignore syntax, relative to `cwd`. Dotfiles and node_modules are always ignored.
    ignore_watch: WordList = key(Group::Watch)
        .flag(Flag::text("--ignore-watch", "PATTERNS").help("Patterns to exclude from watching")).spec(&["/watch/ignore"])
        .jlist("ignore_watch", |spec| spec.watch.as_ref().map(|watch| &watch.ignore).into());

    /// Delay between the last change and the restart. Milliseconds or a duration such as `500ms`.
    watch_delay: DurationValue = key(Group::Watch)
        .flag(Flag::text("--watch-delay", "TIME").help("Delay after the last change, in seconds or as `500ms`").convert(seconds_to_duration))
        .spec(&["/watch/delay"])
        .jlist("watch_delay", |spec| spec.watch.as_ref().map(|watch| watch.delay).into());
}

/// `--ext`: sets `ignore_watch` to all files without these extensions.
pub const EXT: KeyDef = KeyDef {
    name: "ignore_watch",
    ..key(Group::Watch)
        .flag(
            Flag::text("--ext", "LIST")
                .help("Watch only files with these extensions, such as `js,ts`")
                .convert(ext_to_ignore_patterns),
        )
        .spec(&["/watch/ignore"])
};

/// All keys that have a flag, in the order of the help.
pub fn keys_with_flags() -> impl Iterator<Item = (&'static KeyDef, &'static Flag)> {
    KEYS.iter().chain(std::iter::once(&EXT)).filter_map(|key| Some((key, key.flag.as_ref()?)))
}

/// A key of PM2 that rsm accepts and ignores.
#[derive(Clone, Copy, Debug)]
pub struct IgnoredKey {
    /// The key, or the flag without dashes if only a flag of this name exists.
    pub name: &'static str,
    /// Why it is ignored, or what to use instead.
    pub reason: &'static str,
    /// PM2's flag for it.
    pub flag: Option<&'static str>,
    /// Whether a warning is printed for the flag, because the user might expect an effect.
    pub warn: bool,
}

const fn ignored(name: &'static str, reason: &'static str) -> IgnoredKey {
    IgnoredKey { name, reason, flag: None, warn: false }
}

impl IgnoredKey {
    const fn flag(self, flag: &'static str) -> Self {
        Self { flag: Some(flag), ..self }
    }

    const fn warn(self, flag: &'static str) -> Self {
        Self { warn: true, ..self.flag(flag) }
    }
}

const NOT_INJECTED: &str = "rsm does not inject code into apps";

/// Keys of PM2 that rsm accepts and ignores.
pub const IGNORED_KEYS: &[IgnoredKey] = &[
    ignored("kill_retry_time", "process exits are reported by the kernel"),
    ignored("username", "the real user name is shown"),
    ignored("force", "use `rsm start --force`"),
    ignored("name_prefix", "use the full name"),
    ignored("write", "the file is never rewritten; `rsm init` creates one").warn("--write"),
    ignored("windows_hide", "rsm runs on Linux only"),
    ignored("vizion", "version control metadata is not read").flag("--no-vizion"),
    ignored("pmx", NOT_INJECTED).flag("--no-pmx"),
    ignored("automation", NOT_INJECTED).flag("--no-automation"),
    ignored("trace", NOT_INJECTED).warn("--trace"),
    ignored("disable_trace", NOT_INJECTED).flag("--disable-trace"),
    ignored("v8", NOT_INJECTED).warn("--v8"),
    ignored("event_loop_inspector", NOT_INJECTED).warn("--event-loop-inspector"),
    ignored("deep_monitoring", NOT_INJECTED).warn("--deep-monitoring"),
    ignored("io", NOT_INJECTED),
    ignored("post_update", "`pull` is not supported"),
    ignored("exec_timeout", "`pull` is not supported"),
    ignored("install_url", "modules are not supported"),
    ignored("watch_options", "use watch, ignore_watch and watch_delay"),
];

/// The value of a setting, if it was given.
pub(super) fn value_of<T>(setting: &Option<Located<T>>) -> Option<&T> {
    setting.as_ref().map(|setting| &setting.value)
}

/// The row of a key in any spelling.
pub(super) fn find_key(spelling: &str) -> Option<&'static KeyDef> {
    KEYS.iter().find(|key| key.spellings().any(|known| known == spelling))
}

/// Why a key of PM2 is ignored.
pub(super) fn ignored_key(spelling: &str) -> Option<&'static str> {
    let matches = |name: &str| name == spelling || to_camel_case(name).as_deref() == Some(spelling);
    IGNORED_KEYS.iter().find(|key| matches(key.name)).map(|key| key.reason)
}

/// `--watch-delay 2`: a number without a unit is seconds, as in PM2.
fn seconds_to_duration(delay: &str) -> String {
    let has_no_unit = !delay.is_empty() && delay.bytes().all(|c| c.is_ascii_digit() || c == b'.');
    if has_no_unit { format!("{delay}s") } else { delay.to_owned() }
}

/// `--ext js`: patterns that ignore all files without these extensions, and what is always ignored. Directories are
/// not ignored.
fn ext_to_ignore_patterns(extensions: &str) -> String {
    let extensions = extensions.split([',', ' ']).map(|extension| extension.trim_start_matches('.'));
    let included =
        extensions.filter(|extension| !extension.is_empty()).map(|extension| format!("!*.{extension}"));
    let patterns: Vec<String> = ["*".to_owned(), "!*/".to_owned()].into_iter().chain(included).collect();
    format!("{} .* node_modules", patterns.join(" "))
}

/// The key whose value is at a JSON pointer of [`AppSpec`](crate::spec::AppSpec). None for a table: the keys in it
/// have the same names in the spec, except for those at the other pointers of its row.
pub fn key_for_pointer(pointer: &str) -> Option<&'static str> {
    let is_named =
        |key: &&KeyDef| key.spec.iter().skip(usize::from(key.table)).any(|other| *other == pointer);
    KEYS.iter().find(is_named).map(|key| key.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::AppSpec;
    use serde_json::json;
    use std::collections::HashSet;

    #[test]
    fn key_is_found_by_every_spelling() {
        for (written, name) in [
            ("script", "script"),
            ("max_memory_restart", "max_memory_restart"),
            ("maxMemoryRestart", "max_memory_restart"),
            ("node_args", "interpreter_args"),
            ("interpreterArgs", "interpreter_args"),
            ("errFile", "error_file"),
            ("user", "uid"),
        ] {
            assert_eq!(find_key(written).map(|key| key.name), Some(name), "{written}");
        }
        assert!(find_key("Script").is_none() && find_key("max-restarts").is_none());
        assert!(ignored_key("windowsHide").is_some() && ignored_key("script").is_none());
    }

    #[test]
    fn spellings_are_unique() {
        let ignored = IGNORED_KEYS.iter().map(|key| key.name.to_owned());
        let all: Vec<String> = KEYS.iter().flat_map(KeyDef::spellings).chain(ignored).collect();
        let distinct: HashSet<&String> = all.iter().collect();
        assert_eq!(all.len(), distinct.len());
    }

    #[test]
    fn set_stores_value_in_its_field() {
        let mut settings = AppSettings::default();
        let key = find_key("maxRestarts").unwrap();
        let source = || SourceRef::Flag("--max-restarts");
        assert!(settings.set(key, &json!(3), source()).is_ok());
        assert_eq!(value_of(&settings.max_restarts), Some(&CountValue(3)));
        assert!(settings.set(key, &json!("x"), source()).is_err());
    }

    #[test]
    fn pointers_exist_in_spec() {
        let mut spec = AppSpec::new("a", "/a", "/");
        spec.watch = Some(crate::spec::WatchSpec {
            paths: Vec::new(),
            ignore: Vec::new(),
            delay: std::time::Duration::ZERO,
        });
        spec.autoscale = Some(crate::spec::Autoscale::new(1, 2));
        spec.health = Some(crate::spec::Probe::liveness(crate::spec::ProbeAction::Tcp("1".into())));
        spec.readiness.probe = spec.health.clone();
        spec.watchdog = Some(1);
        spec.image = Some("registry/app".into());
        spec.timezone = Some("UTC".into());
        spec.overlap = crate::spec::Overlap::Skip;
        spec.env.insert("PORT".into(), "1".into());
        spec.launcher = Launcher::Interpreter { program: "node".into(), args: Vec::new() };
        let spec: Value = serde_json::to_value(spec).unwrap();
        for key in KEYS {
            for pointer in key.spec {
                assert!(spec.pointer(pointer).is_some(), "{}: {pointer}", key.name);
            }
            assert!(key.flag.is_none() || !key.spec.is_empty(), "{}: its flag changes nothing", key.name);
        }
    }

    #[test]
    fn pointer_is_named_by_key() {
        for (pointer, name) in [
            ("/exec_mode", Some("exec_mode")),
            ("/logs/rotation", Some("logs")),
            ("/readiness/probe", Some("ready")),
            ("/limits/memory", Some("memory_max")),
            ("/health", None),
            ("/health/action", Some("health")),
            ("/autoscale", None),
            ("/autoscale/min", None),
        ] {
            assert_eq!(key_for_pointer(pointer), name, "{pointer}");
        }
    }
}
