//! Every setting an app can have, in one table: its key, its aliases, what it means, what it
//! takes. The parser, the flags, the schema and the suggestions for typing errors all come from
//! it. PM2's names live here and nowhere else.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::Value;

use super::findings::{At, Given};
use super::value::{
    AppName, Codes, Cores, Count, Cron, Environment, Filter, HealthCheck, Instances, LogKind, LogRules,
    LogTo, Millis, Mode, Port, Ports, Reading, ReadyCheck, Scaling, SignalName, Size, Spread, VarName, Watch,
    Who, Words, Wrong,
};

/// One line of the table.
pub(super) struct Key {
    /// The key as rsm writes it.
    pub(super) name: &'static str,
    /// Other spellings, besides the camelCase of all.
    pub(super) aliases: &'static [&'static str],
    /// What it means.
    pub(super) about: &'static str,
    /// Reads a value into its place.
    pub(super) read: fn(&mut Settings, &Value, At) -> Result<(), Wrong>,
    /// What it takes.
    pub(super) schema: fn(&mut SchemaGenerator) -> Schema,
}

macro_rules! settings {
    ($( $(#[doc = $doc:literal])+ $key:ident: $kind:ty, [$($alias:literal),*]; )*) => {
        /// The settings of an app as given: nothing resolved, no defaults filled in.
        #[derive(Default)]
        pub(super) struct Settings {
            $( $(#[doc = $doc])+ pub(super) $key: Option<Given<$kind>>, )*
            /// The `env_<name>` tables.
            pub(super) named_env: BTreeMap<String, Given<Environment>>,
        }

        /// The table.
        pub(super) const KEYS: &[Key] = &[ $( Key {
            name: stringify!($key),
            aliases: &[$($alias),*],
            about: concat!($($doc),+),
            read: |settings, value, at| {
                settings.$key = Some(Given { value: <$kind as Reading>::read(value)?, at });
                Ok(())
            },
            schema: |generator| <$kind as JsonSchema>::json_schema(generator),
        } ),* ];
    };
}

settings! {
    /// The program, script, shell line (it contains a blank), or `serve` for the built-in file server. Relative to `cwd`.
    script: String, ["exec", "cmd", "command"];
    /// Shown and selected by. The script's file name without extension if absent.
    name: AppName, [];
    /// Groups apps for selection.
    namespace: AppName, [];
    /// Arguments after the script.
    args: Words, [];
    /// Working directory, relative to this file's directory, which is also the default.
    cwd: String, [];
    /// What runs the script: a program, or `none` to execute the script itself. Found by the script's extension or its first line if absent.
    interpreter: String, ["exec_interpreter"];
    /// Arguments of the interpreter, before the script.
    interpreter_args: Words, ["node_args"];
    /// `cluster`: all instances answer on one port. `fork`: each is on its own.
    exec_mode: Mode, [];
    /// How many instances: a number, `max` or 0 for one a core, negative for so many fewer.
    instances: Instances, [];
    /// Hold the port while the app restarts: connections wait instead of being refused.
    hold_port: bool, [];
    /// How connections are spread over instances: `random`, `ip_hash` (a client stays with its instance), `shared` (whoever is free is next).
    balance: Spread, [];
    /// Addresses the app listens on, such as `3000` or `127.0.0.1:3000`: needed only where its calls cannot be seen.
    listen: Words, [];
    /// What it may do with ports that it shares: `udp`, `privileged`.
    ports: Ports, [];
    /// Have as many instances as the load needs: `min`, `max`, `cpu`.
    autoscale: Scaling, [];
    /// Forces fork mode.
    execute_command: bool, [];
    /// Sets the variable PORT.
    port: Port, [];
    /// Run as this user, by name or number; needs root.
    uid: Who, ["user"];
    /// Run as this group, by name or number; the user's own if absent.
    gid: Who, [];
    /// Adds `-<name>` to the app's name when it is started with `--env <name>`.
    append_env_to_name: bool, [];
    /// Environment variables. Tables called `env_<name>` are laid over it by `--env <name>`.
    env: Environment, [];
    /// Inherited variables to drop: a list of parts of names, one whole name, or true for all.
    filter_env: Filter, [];
    /// This variable grows by one with each instance.
    increment_var: VarName, [];
    /// The variable that holds the instance's number; `NODE_APP_INSTANCE` if absent.
    instance_var: VarName, [];
    /// File of standard output; `/dev/null` for none.
    out_file: LogTo, ["out", "output", "out_log"];
    /// File of standard error; `/dev/null` for none.
    error_file: LogTo, ["error", "err", "err_file", "err_log"];
    /// File of both together, besides the two; true for the default place.
    log_file: LogTo, ["log"];
    /// File of the pid; the instance's id is put before `.pid`.
    pid_file: String, ["pid"];
    /// Whether all instances write to the same log files.
    merge_logs: bool, ["combine_logs"];
    /// Stamp before each log line, such as `YYYY-MM-DD HH:mm:ss`.
    log_date_format: String, [];
    /// Stamp log lines with `YYYY-MM-DDTHH:mm:ss`.
    time: bool, [];
    /// `json`: one JSON object a log line.
    log_type: LogKind, [];
    /// Write no log files.
    disable_logs: bool, [];
    /// When log files make way for new ones, and how many old ones are kept.
    logs: LogRules, [];
    /// Whether it is started when it is added.
    autostart: bool, [];
    /// Apps that must be online before it starts, and are stopped after it.
    depends_on: Words, [];
    /// Whether it is restarted after an exit that nobody asked for.
    autorestart: bool, [];
    /// Exit codes that end it for good.
    stop_exit_codes: Codes, [];
    /// So many early exits within `restart_window`, and it is given up.
    max_restarts: Count, [];
    /// An exit before this is an early one. Milliseconds, or with a unit: `10s`.
    min_uptime: Millis, [];
    /// How far back early exits are counted. Milliseconds, or with a unit: `10m`.
    restart_window: Millis, [];
    /// Pause before a restart, always the same. Milliseconds, or with a unit.
    restart_delay: Millis, [];
    /// First pause before a restart; each further one is half as long again, up to 15 s. Milliseconds, or with a unit.
    exp_backoff_restart_delay: Millis, [];
    /// Restart when it uses more memory than this: `300M`, `1.5G`.
    max_memory_restart: Size, [];
    /// Most memory that its processes may have together, held by the kernel: `300M`, `1.5G`.
    memory_max: Size, [];
    /// Most processor time, held by the kernel: `1.5` cores, or `150%` of one.
    cpu_max: Cores, [];
    /// Most processes and threads, held by the kernel.
    pids_max: Count, [];
    /// Restart on a schedule: `minute hour day month weekday`, or six fields with leading seconds.
    cron_restart: Cron, ["cron"];
    /// The signal that asks it to end.
    kill_signal: SignalName, [];
    /// How long it may take to end before it is killed. Milliseconds, or with a unit.
    kill_timeout: Millis, [];
    /// Whether every process of its tree gets the signal, not only the first.
    treekill: bool, [];
    /// Ask it to end by the message `shutdown` on Node's channel instead of a signal.
    shutdown_with_message: bool, [];
    /// It says itself when it is ready.
    wait_ready: bool, [];
    /// What it is asked to find out when it is ready: `http`, `tcp` or `exec`.
    ready: ReadyCheck, [];
    /// What it is asked to find out whether it still works: `http`, `tcp` or `exec`.
    health: HealthCheck, [];
    /// It says `WATCHDOG=1` on `NOTIFY_SOCKET` at least so often. Milliseconds, or with a unit.
    watchdog: Millis, [];
    /// How long it may take to be ready. Milliseconds, or with a unit.
    listen_timeout: Millis, [];
    /// Restart when files change: true for `cwd`, or paths.
    watch: Watch, [];
    /// What not to watch, as in a .gitignore; dotfiles and node_modules never are.
    ignore_watch: Words, [];
    /// Quiet time after the last change before the restart. Milliseconds, or with a unit.
    watch_delay: Millis, [];
}

/// Keys of PM2 that have no meaning here, each with what to know about it.
pub(super) const UNUSED: &[(&str, &str)] = &[
    ("kill_retry_time", "rsm is told by the system when a process ends"),
    ("username", "the user is shown as it is"),
    ("force", "use `rsm start --force`"),
    ("name_prefix", "write the whole name"),
    ("write", "the file is never rewritten"),
    ("windows_hide", "there is no Windows here"),
    ("source_map_support", "use node_args = \"--enable-source-maps\""),
    ("disable_source_map_support", "source maps are off unless node_args asks for them"),
    ("vizion", "git is not asked"),
    ("pmx", "nothing is injected into apps"),
    ("automation", "nothing is injected into apps"),
    ("trace", "nothing is injected into apps"),
    ("disable_trace", "nothing is injected into apps"),
    ("v8", "nothing is injected into apps"),
    ("event_loop_inspector", "nothing is injected into apps"),
    ("deep_monitoring", "nothing is injected into apps"),
    ("io", "nothing is injected into apps"),
    ("post_update", "there is no `pull`"),
    ("exec_timeout", "there is no `pull`"),
    ("install_url", "there are no modules"),
    ("watch_options", "use watch, ignore_watch and watch_delay"),
];

/// What was given, if anything was.
pub(super) fn given<T>(slot: &Option<Given<T>>) -> Option<&T> {
    slot.as_ref().map(|given| &given.value)
}

/// The line of the table for a key as written.
pub(super) fn find(written: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.spellings().any(|spelling| spelling == written))
}

/// What to know about a key that has no meaning here.
pub(super) fn unused(written: &str) -> Option<&'static str> {
    let is = |name: &str| name == written || camel(name).as_deref() == Some(written);
    UNUSED.iter().find(|(name, _)| is(name)).map(|(_, about)| *about)
}

impl Key {
    /// Every way this key may be written.
    pub(super) fn spellings(&self) -> impl Iterator<Item = String> {
        let plain = std::iter::once(self.name).chain(self.aliases.iter().copied());
        plain.flat_map(|name| std::iter::once(name.to_owned()).chain(camel(name)))
    }
}

/// `max_restarts` → `maxRestarts`; none for a single word.
pub(super) fn camel(name: &str) -> Option<String> {
    let (first, rest) = name.split_once('_')?;
    let mut camel = first.to_owned();
    for word in rest.split('_') {
        camel.extend(word.chars().next().map(|c| c.to_ascii_uppercase()));
        camel.push_str(word.get(1..).unwrap_or_default());
    }
    Some(camel)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::collections::HashSet;

    #[test]
    fn keys_are_found_by_every_spelling() {
        for (written, name) in [
            ("script", "script"),
            ("max_memory_restart", "max_memory_restart"),
            ("maxMemoryRestart", "max_memory_restart"),
            ("node_args", "interpreter_args"),
            ("interpreterArgs", "interpreter_args"),
            ("errFile", "error_file"),
            ("user", "uid"),
        ] {
            assert_eq!(find(written).map(|key| key.name), Some(name), "{written}");
        }
        assert!(find("Script").is_none() && find("max-restarts").is_none());
        assert!(unused("windowsHide").is_some() && unused("script").is_none());
    }

    #[test]
    fn no_spelling_means_two_things() {
        let unused = UNUSED.iter().map(|(name, _)| (*name).to_owned());
        let all: Vec<String> = KEYS.iter().flat_map(Key::spellings).chain(unused).collect();
        let distinct: HashSet<&String> = all.iter().collect();
        assert_eq!(all.len(), distinct.len());
    }

    #[test]
    fn a_value_lands_in_its_place() {
        let mut settings = Settings::default();
        let key = find("maxRestarts").unwrap();
        assert!((key.read)(&mut settings, &json!(3), At::Flag("--max-restarts")).is_ok());
        assert_eq!(given(&settings.max_restarts), Some(&Count(3)));
        assert!((key.read)(&mut settings, &json!("x"), At::Flag("--max-restarts")).is_err());
    }
}
