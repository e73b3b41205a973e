//! Flags given to `restart`: only what they change, as a JSON merge patch (RFC 7396) of
//! [`AppSpec`].

use std::path::Path;

use serde_json::{Map, Value, json};

use super::LoadOptions;
use super::command::{CommandLine, Flag, flags, ground, read};
use super::findings::{At, Findings, Given};
use super::mistake::{Mistake, Mistakes, Place};
use super::resolve::{self, named_interpreter};
use super::search::{SearchPath, absolute};
use super::settings::{KEYS, Settings, given};
use super::value::Watch;
use crate::spec::AppSpec;

/// The settings given by flags, and nothing else. The value `null` puts a setting back to its
/// default, as in PM2.
///
/// # Errors
/// Every mistake of the flags; each names its flag.
pub fn changes(
    line: &CommandLine,
    cwd: &Path,
    options: &LoadOptions,
) -> Result<Map<String, Value>, Mistakes> {
    let (reset, kept): (Vec<Flag>, Vec<Flag>) =
        flags(line).into_iter().partition(|flag| flag.value.as_str() == Some("null"));
    let mut findings = Findings::new(None);
    let mut settings = read(&kept, &mut findings);
    if settings.watch.is_none() {
        // Lets the other watch settings be resolved; it is not among the flags, so it is not sent.
        settings.watch = Some(Given { value: Watch::WorkingDirectory, at: At::Flag("--watch") });
    }
    let ground = ground(cwd, options);
    let base = given(&settings.cwd).map_or_else(|| cwd.to_owned(), |path| absolute(path, cwd));
    let mut app = AppSpec::new("", "", base);
    if let Some(name) = given(&settings.name) {
        app.name.clone_from(&name.0);
    }
    resolve::settle(&settings, &mut app, &ground, &mut findings);
    let mut patch = Value::Object(Map::new());
    if let Some(launcher) = launcher(&settings, &app, options, &mut findings) {
        set(&mut patch, "/launcher", launcher);
    }
    for Flag { flag, key, .. } in &reset {
        if pointers(key).is_empty() || matches!(*key, "name" | "cwd") {
            let help = "delete the app and start it anew without this flag";
            findings.mistake(&At::Flag(flag), "has no default to go back to", help);
        }
    }
    findings.finish(())?;
    let resolved = serde_json::to_value(&app).map_err(unwritable)?;
    for Flag { key, .. } in &kept {
        for pointer in pointers(key) {
            let value = resolved.pointer(pointer).cloned().unwrap_or_default();
            set(&mut patch, pointer, without_siblings(pointer, value));
        }
    }
    for Flag { key, .. } in &reset {
        pointers(key).iter().for_each(|pointer| set(&mut patch, pointer, Value::Null));
    }
    Ok(match patch {
        Value::Object(patch) => patch,
        _ => Map::new(),
    })
}

/// The key that files have for what lies at a place (a JSON pointer) in [`AppSpec`].
pub fn key_at(pointer: &str) -> Option<&'static str> {
    match pointer {
        "/exec_mode" => Some("exec_mode"),
        "/launcher/interpreter/program" => Some("interpreter"),
        "/launcher/interpreter/args" => Some("interpreter_args"),
        "/readiness/probe" => Some("ready"),
        "/logs/rotation" => Some("logs"),
        "/limits/memory" => Some("memory_max"),
        "/limits/cpu" => Some("cpu_max"),
        "/limits/pids" => Some("pids_max"),
        _ => KEYS.iter().map(|key| key.name).find(|key| pointers(key).contains(&pointer)),
    }
}

/// Where the setting of a flag lies in [`AppSpec`].
fn pointers(key: &str) -> &'static [&'static str] {
    match key {
        "name" => &["/name"],
        "namespace" => &["/namespace"],
        "args" => &["/args"],
        "cwd" => &["/cwd"],
        "instances" => &["/instances"],
        "execute_command" => &["/exec_mode"],
        "out_file" => &["/logs/out"],
        "error_file" => &["/logs/err"],
        "log_file" => &["/logs/combined"],
        "disable_logs" => &["/logs/out", "/logs/err", "/logs/combined"],
        "log_type" => &["/logs/format"],
        "log_date_format" | "time" => &["/logs/date_format"],
        "merge_logs" => &["/logs/merge"],
        "pid_file" => &["/pid_file"],
        "filter_env" => &["/filter_env"],
        "kill_timeout" => &["/stop/timeout"],
        "kill_signal" => &["/stop/signal"],
        "treekill" => &["/stop/tree"],
        "shutdown_with_message" => &["/stop/message"],
        "listen_timeout" => &["/readiness/timeout"],
        "wait_ready" => &["/readiness/wait_ready"],
        "max_memory_restart" => &["/max_memory_restart"],
        "restart_delay" | "exp_backoff_restart_delay" => &["/restart/delay"],
        "max_restarts" => &["/restart/max_restarts"],
        "min_uptime" => &["/restart/min_uptime"],
        "restart_window" => &["/restart/window"],
        "stop_exit_codes" => &["/restart/stop_exit_codes"],
        "autorestart" => &["/restart/autorestart"],
        "autostart" => &["/autostart"],
        "depends_on" => &["/depends_on"],
        "cron_restart" => &["/cron_restart"],
        "watch" => &["/watch"],
        "ignore_watch" => &["/watch/ignore"],
        "watch_delay" => &["/watch/delay"],
        "uid" | "gid" => &["/account"],
        "port" => &["/env/PORT"],
        _ => &[],
    }
}

/// Adds a value at a pointer, making the objects on the way.
fn set(patch: &mut Value, pointer: &str, value: Value) {
    let mut place = patch;
    for part in pointer.split('/').skip(1) {
        if !place.is_object() {
            *place = Value::Object(Map::new());
        }
        place = &mut place[part];
    }
    *place = value;
}

/// A merge patch only adds to an object, so the other variants of an enum are taken out by name.
fn without_siblings(pointer: &str, mut value: Value) -> Value {
    let variants: &[&str] = match pointer {
        "/restart/delay" => &["fixed", "after_first", "from_first"],
        "/filter_env" => &["containing", "exactly"],
        _ => &[],
    };
    if let Some(chosen) = value.as_object_mut() {
        for variant in variants {
            chosen.entry(*variant).or_insert(Value::Null);
        }
    }
    value
}

/// The launcher, as far as flags change it: which one it is otherwise is known to the daemon.
fn launcher(
    settings: &Settings,
    app: &AppSpec,
    options: &LoadOptions,
    findings: &mut Findings<'_>,
) -> Option<Value> {
    let args = given(&settings.interpreter_args).map(|words| &words.0);
    let Some(asked) = &settings.interpreter else {
        return args.map(|args| json!({ "interpreter": { "args": args } }));
    };
    if asked.value == "none" {
        return Some(json!("direct"));
    }
    let search = SearchPath::new(None, &options.path_var, &app.cwd);
    let program = named_interpreter(&asked.value, &search, &asked.at, findings)?;
    let args = args.cloned().unwrap_or_default();
    Some(json!({ "interpreter": { "program": program, "args": args } }))
}

/// Cannot happen with paths that came from text; said rather than assumed.
fn unwritable(error: serde_json::Error) -> Mistakes {
    let message = format!("cannot be sent: {error}");
    Mistakes(vec![Mistake { place: Place::Flag("restart"), message, help: None }])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patch(line: &CommandLine) -> Result<Value, String> {
        let options = LoadOptions { cores: 4, path_var: "/bin:/usr/bin".into(), ..LoadOptions::default() };
        changes(line, Path::new("/srv"), &options).map(Value::Object).map_err(|mistakes| mistakes.to_string())
    }

    /// RFC 7396, as the daemon applies it.
    fn merge(target: &mut Value, patch: Value) {
        let Value::Object(patch) = patch else { return *target = patch };
        if !target.is_object() {
            *target = json!({});
        }
        for (key, value) in patch {
            match value {
                Value::Null => drop(target.as_object_mut().unwrap().remove(&key)),
                value => merge(&mut target[key], value),
            }
        }
    }

    fn applied(to: &AppSpec, line: &CommandLine) -> AppSpec {
        let mut app = serde_json::to_value(to).unwrap();
        merge(&mut app, patch(line).unwrap());
        serde_json::from_value(app).unwrap()
    }

    fn text(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn only_what_was_given_changes() {
        assert_eq!(patch(&CommandLine::default()), Ok(json!({})));
        let line = CommandLine {
            max_memory_restart: text("200M"),
            kill_timeout: text("0"),
            no_autorestart: true,
            args: vec!["-x".into()],
            ..CommandLine::default()
        };
        let want = json!({
            "max_memory_restart": 209_715_200,
            "stop": { "timeout": 0 },
            "restart": { "autorestart": false },
            "args": ["-x"]
        });
        assert_eq!(patch(&line), Ok(want));
    }

    #[test]
    fn enums_change_their_variant() {
        let mut app = AppSpec::new("a", "/a", "/");
        app.filter_env = crate::spec::EnvFilter::Exactly("HOME".into());
        let line = CommandLine {
            restart_delay: text("5s"),
            filter_env: vec!["AWS".into()],
            output: text("o.log"),
            interpreter: text("sh"),
            ..CommandLine::default()
        };
        let app = applied(&app, &line);
        assert_eq!(app.restart.delay, crate::spec::RestartDelay::Fixed(std::time::Duration::from_secs(5)));
        assert_eq!(app.filter_env, crate::spec::EnvFilter::Containing(vec!["AWS".into()]));
        assert_eq!(app.logs.out, crate::spec::LogPath::File("/srv/o.log".into()));
        let back =
            CommandLine { restart_delay: text("null"), output: text("null"), ..CommandLine::default() };
        let app = applied(&app, &back);
        assert_eq!(app.restart, crate::spec::RestartPolicy::default());
        assert_eq!(app.logs.out, crate::spec::LogPath::Default);
        let args = CommandLine { interpreter_args: text("-e -u"), ..CommandLine::default() };
        let launcher =
            crate::spec::Launcher::Interpreter { program: "sh".into(), args: vec!["-e".into(), "-u".into()] };
        assert_eq!(applied(&app, &args).launcher, launcher);
    }

    #[test]
    fn a_watch_is_refined_without_being_replaced() {
        let line =
            CommandLine { ignore_watch: text("tmp *.log"), watch_delay: text("2"), ..CommandLine::default() };
        assert_eq!(patch(&line), Ok(json!({ "watch": { "ignore": ["tmp", "*.log"], "delay": 2000 } })));
    }

    #[test]
    fn mistakes_name_their_flags() {
        let line = CommandLine { kill_timeout: text("soon"), name: text("null"), ..CommandLine::default() };
        let told = patch(&line).unwrap_err();
        assert!(told.contains("--kill-timeout: expected a duration") && told.contains("--name: "), "{told}");
    }

    #[test]
    fn every_flag_has_a_place() {
        let handled = ["interpreter", "interpreter_args"];
        let some = || text("1");
        let line = CommandLine {
            name: some(),
            namespace: some(),
            instances: some(),
            watch: Some(Vec::new()),
            uid: some(),
            gid: some(),
            port: some(),
            merge_logs: true,
            time: true,
            execute_command: true,
            cron_restart: some(),
            ..CommandLine::default()
        };
        for Flag { flag, key, .. } in flags(&line) {
            assert!(!pointers(key).is_empty() || handled.contains(&key), "{flag}");
        }
    }
}
