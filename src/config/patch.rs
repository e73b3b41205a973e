//! Flags given to `restart`: only what they change, as a JSON merge patch (RFC 7396) of
//! [`AppSpec`].

use std::path::Path;

use serde_json::{Map, Value, json};

use super::LoadOptions;
use super::command_line::{CommandLine, GivenKey, command_line_context, given_keys, read_flags};
use super::keys::{AppSettings, value_of};
use super::mistake::{ConfigError, ConfigErrors, Location};
use super::resolve::{self, named_interpreter};
use crate::config::diagnostics::{Diagnostics, Located, SourceRef};
use crate::config::resolve::search_path::{SearchPath, absolute};
use crate::config::values::WatchValue;
use crate::spec::AppSpec;

/// What flags change of an app, and nothing else. The value `null` restores the default of a
/// setting, as in PM2.
///
/// # Errors
/// Every error of the flags; each names its flag.
pub fn flags_to_patch(
    line: &CommandLine<'_>,
    cwd: &Path,
    options: &LoadOptions,
) -> Result<Map<String, Value>, ConfigErrors> {
    let (reset, kept): (Vec<GivenKey>, Vec<GivenKey>) =
        given_keys(line).into_iter().partition(|given| given.value.as_str() == Some("null"));
    let mut findings = Diagnostics::new(None);
    let mut settings = read_flags(&kept, &mut findings);
    if settings.watch.is_none() {
        // Lets the other watch settings be resolved; it is not among the flags, so it is not sent.
        settings.watch =
            Some(Located { value: WatchValue::WorkingDirectory, source: SourceRef::Flag("--watch") });
    }
    let ground = command_line_context(cwd, options);
    let base = value_of(&settings.cwd).map_or_else(|| cwd.to_owned(), |path| absolute(path, cwd));
    let mut app = AppSpec::new("", "", base);
    if let Some(name) = value_of(&settings.name) {
        app.name.clone_from(&name.0);
    }
    resolve::apply_settings(&settings, &mut app, &ground, &mut findings);
    let mut patch = Value::Object(Map::new());
    if let Some(launcher) = launcher_patch(&settings, &app, options, &mut findings) {
        set_pointer(&mut patch, LAUNCHER, launcher);
    }
    for GivenKey { source, .. } in reset.iter().filter(|given| !given.key.resettable) {
        let help = "delete the app and start it without this flag";
        findings.error(&SourceRef::Flag(source), "cannot be unset", help);
    }
    findings.finish(())?;
    let resolved = serde_json::to_value(&app).map_err(patch_error)?;
    for pointer in pointers(&kept) {
        let value = resolved.pointer(pointer).cloned().unwrap_or_default();
        set_pointer(&mut patch, pointer, as_single_variant(pointer, value));
    }
    for pointer in pointers(&reset) {
        set_pointer(&mut patch, pointer, Value::Null);
    }
    Ok(match patch {
        Value::Object(patch) => patch,
        _ => Map::new(),
    })
}

/// Resolving an interpreter needs the script, which only the daemon knows: its patch is made apart.
const LAUNCHER: &str = "/launcher";

/// Where the values of keys are in [`AppSpec`], except for the launcher.
fn pointers(given: &[GivenKey]) -> impl Iterator<Item = &'static str> {
    let all = given.iter().flat_map(|given| given.key.spec.iter().copied());
    all.filter(|pointer| !pointer.starts_with(LAUNCHER))
}

/// Adds a value at a pointer, making the objects on the way.
fn set_pointer(patch: &mut Value, pointer: &str, value: Value) {
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
fn as_single_variant(pointer: &str, mut value: Value) -> Value {
    let variants: &[&str] = match pointer {
        "/restart/delay" => &["fixed", "backoff", "pm2_backoff"],
        "/filter_env" => &["containing", "exact"],
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
fn launcher_patch(
    settings: &AppSettings,
    app: &AppSpec,
    options: &LoadOptions,
    findings: &mut Diagnostics<'_>,
) -> Option<Value> {
    let args = value_of(&settings.interpreter_args).map(|words| &words.0);
    let Some(asked) = &settings.interpreter else {
        return args.map(|args| json!({ "interpreter": { "args": args } }));
    };
    if asked.value == "none" {
        return Some(json!("direct"));
    }
    let search = SearchPath::new(None, &options.path_var, &app.cwd);
    let program = named_interpreter(&asked.value, &search, &asked.source, findings)?;
    let args = args.cloned().unwrap_or_default();
    Some(json!({ "interpreter": { "program": program, "args": args } }))
}

/// Cannot happen with paths that came from text; said rather than assumed.
fn patch_error(error: serde_json::Error) -> ConfigErrors {
    let message = format!("cannot be sent: {error}");
    ConfigErrors(vec![ConfigError { location: Location::Flag("restart"), message, help: None }])
}

#[cfg(test)]
mod tests {
    use super::super::command_line::GivenFlag;
    use super::super::keys::keys_with_flags;
    use super::*;

    fn patch(flags: &[(&str, &str)]) -> Result<Value, String> {
        patch_with(flags, &[])
    }

    fn patch_with(flags: &[(&str, &str)], args: &[String]) -> Result<Value, String> {
        let options = LoadOptions { cores: 4, path_var: "/bin:/usr/bin".into(), ..LoadOptions::default() };
        let line = CommandLine { script: "", args, flags: &GivenFlag::all(flags) };
        let patch = flags_to_patch(&line, Path::new("/srv"), &options);
        patch.map(Value::Object).map_err(|errors| errors.to_string())
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

    fn applied(to: &AppSpec, flags: &[(&str, &str)]) -> AppSpec {
        let mut app = serde_json::to_value(to).unwrap();
        merge(&mut app, patch(flags).unwrap());
        serde_json::from_value(app).unwrap()
    }

    #[test]
    fn only_what_was_given_changes() {
        assert_eq!(patch(&[]), Ok(json!({})));
        let flags = [("--max-memory-restart", "200M"), ("--kill-timeout", "0"), ("--no-autorestart", "")];
        let want = json!({
            "max_memory_restart": 209_715_200,
            "stop": { "timeout": 0 },
            "restart": { "autorestart": false },
            "args": ["-x"]
        });
        assert_eq!(patch_with(&flags, &["-x".into()]), Ok(want));
    }

    #[test]
    fn enums_change_their_variant() {
        let mut app = AppSpec::new("a", "/a", "/");
        app.filter_env = crate::spec::EnvFilter::Exact("HOME".into());
        let flags = [
            ("--restart-delay", "5s"),
            ("--filter-env", "AWS"),
            ("--output", "o.log"),
            ("--interpreter", "sh"),
        ];
        let app = applied(&app, &flags);
        assert_eq!(app.restart.delay, crate::spec::RestartDelay::Fixed(std::time::Duration::from_secs(5)));
        assert_eq!(app.filter_env, crate::spec::EnvFilter::Containing(vec!["AWS".into()]));
        assert_eq!(app.logs.out, crate::spec::LogPath::File("/srv/o.log".into()));
        let app = applied(&app, &[("--restart-delay", "null"), ("--output", "null")]);
        assert_eq!(app.restart, crate::spec::RestartPolicy::default());
        assert_eq!(app.logs.out, crate::spec::LogPath::Default);
        let launcher =
            crate::spec::Launcher::Interpreter { program: "sh".into(), args: vec!["-e".into(), "-u".into()] };
        assert_eq!(applied(&app, &[("--interpreter-args", "-e -u")]).launcher, launcher);
    }

    #[test]
    fn a_watch_is_refined_without_being_replaced() {
        let flags = [("--ignore-watch", "tmp *.log"), ("--watch-delay", "2")];
        assert_eq!(patch(&flags), Ok(json!({ "watch": { "ignore": ["tmp", "*.log"], "delay": 2000 } })));
    }

    #[test]
    fn errors_name_their_flags() {
        let told = patch(&[("--kill-timeout", "soon"), ("--name", "null")]).unwrap_err();
        assert!(told.contains("--kill-timeout: expected a duration") && told.contains("--name: "), "{told}");
    }

    #[test]
    fn every_flag_changes_the_spec_or_the_launcher() {
        for (key, flag) in keys_with_flags() {
            let launcher = ["interpreter", "interpreter_args"].contains(&key.name);
            let given = GivenKey { source: flag.long, key, value: Value::Null };
            assert_eq!(pointers(&[given]).next().is_none(), launcher, "{}", flag.long);
        }
    }
}
