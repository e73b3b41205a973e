//! Flags of `restart`: their changes as a JSON merge patch (RFC 7396) of [`AppSpec`].

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::config::command_line::{CommandLine, GivenKey, command_line_context, given_keys, read_flags};
use crate::config::diagnostics::{ConfigErrors, Diagnostic, Diagnostics, Located, Location, SourceRef};
use crate::config::keys::{AppSettings, value_of};
use crate::config::load::LoadOptions;
use crate::config::resolve::{self, SearchPath, absolute, find_interpreter};
use crate::config::values::WatchValue;
use crate::spec::AppSpec;

/// The changes that flags make to an app. The value `null` restores the default of a setting, as in PM2.
///
/// # Errors
/// Every error of the flags; each names its flag.
pub fn flags_to_patch(
    line: &CommandLine<'_>,
    cwd: &Path,
    options: &LoadOptions,
) -> Result<Map<String, Value>, ConfigErrors> {
    let (reset, changed): (Vec<GivenKey>, Vec<GivenKey>) =
        given_keys(line).into_iter().partition(|given| given.value.as_str() == Some("null"));
    let mut diagnostics = Diagnostics::of_command_line();
    let mut settings = read_flags(&changed, &mut diagnostics);
    if settings.watch.is_none() {
        // Required to resolve the other watch settings. It is not among the flags, and thus not part of the patch.
        settings.watch =
            Some(Located { value: WatchValue::WorkingDirectory, source: SourceRef::Flag("--watch") });
    }
    let context = command_line_context(cwd, options);
    let base = value_of(&settings.cwd).map_or_else(|| cwd.to_owned(), |path| absolute(path, cwd));
    let mut app = AppSpec::new("", "", base);
    if let Some(name) = value_of(&settings.name) {
        app.name.clone_from(&name.0);
    }
    resolve::apply_settings(&settings, &mut app, &context, &mut diagnostics);
    let mut patch = Value::Object(Map::new());
    if let Some(launcher) = launcher_patch(&settings, &app, options, &mut diagnostics) {
        set_pointer(&mut patch, LAUNCHER, launcher);
    }
    for GivenKey { source, .. } in reset.iter().filter(|given| !given.key.resettable) {
        let help = "delete the app and start it without this flag";
        diagnostics.error(&SourceRef::Flag(source), "cannot be unset", help);
    }
    diagnostics.finish(())?;
    let resolved = serde_json::to_value(&app).map_err(patch_error)?;
    for pointer in pointers(&changed) {
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

/// The launcher depends on the script, which only the daemon knows: `launcher_patch` makes its patch.
const LAUNCHER: &str = "/launcher";

/// The pointers of keys to their values in [`AppSpec`], except for those of the launcher.
fn pointers(given: &[GivenKey]) -> impl Iterator<Item = &'static str> {
    let pointers = given.iter().flat_map(|given| given.key.spec.iter().copied());
    pointers.filter(|pointer| !pointer.starts_with(LAUNCHER))
}

/// Sets the value at a pointer. Creates missing objects.
fn set_pointer(patch: &mut Value, pointer: &str, value: Value) {
    let mut target = patch;
    for part in pointer.split('/').skip(1) {
        if !target.is_object() {
            *target = Value::Object(Map::new());
        }
        // Inserts a missing key. Only values that are not an object would panic.
        target = &mut target[part];
    }
    *target = value;
}

/// Adds `null` for the other variants of an enum: a merge patch would keep them.
fn as_single_variant(pointer: &str, mut value: Value) -> Value {
    let variants: &[&str] = match pointer {
        "/restart/delay" => &["fixed", "backoff", "pm2_backoff"],
        "/filter_env" => &["containing", "exact"],
        _ => &[],
    };
    if let Some(object) = value.as_object_mut() {
        for variant in variants {
            object.entry(*variant).or_insert(Value::Null);
        }
    }
    value
}

/// The changes of the launcher; the daemon knows the rest of it.
fn launcher_patch(
    settings: &AppSettings,
    app: &AppSpec,
    options: &LoadOptions,
    diagnostics: &mut Diagnostics<'_>,
) -> Option<Value> {
    let args = value_of(&settings.interpreter_args).map(|words| &words.0);
    let Some(interpreter) = &settings.interpreter else {
        return args.map(|args| json!({ "interpreter": { "args": args } }));
    };
    if interpreter.value == "none" {
        return Some(json!("direct"));
    }
    let search = SearchPath::new(None, &options.path_var, &app.cwd);
    let program = find_interpreter(&interpreter.value, &search, &interpreter.source, diagnostics)?;
    let args = args.cloned().unwrap_or_default();
    Some(json!({ "interpreter": { "program": program, "args": args } }))
}

/// Not expected: paths in settings are valid UTF-8.
fn patch_error(error: serde_json::Error) -> ConfigErrors {
    Diagnostic::error(Location::Flag("restart"), format!("cannot encode the changes: {error}"), "").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::command_line::GivenFlag;
    use crate::config::keys::keys_with_flags;

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
    fn patch_has_only_given_flags() {
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
    fn patch_replaces_enum_variants() {
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
    fn watch_flags_keep_other_watch_settings() {
        let flags = [("--ignore-watch", "tmp *.log"), ("--watch-delay", "2")];
        assert_eq!(patch(&flags), Ok(json!({ "watch": { "ignore": ["tmp", "*.log"], "delay": 2000 } })));
    }

    #[test]
    fn errors_name_flags() {
        let text = patch(&[("--kill-timeout", "soon"), ("--name", "null")]).unwrap_err();
        assert!(text.contains("--kill-timeout: expected a duration") && text.contains("--name: "), "{text}");
    }

    #[test]
    fn each_flag_changes_spec_or_launcher() {
        for (key, flag) in keys_with_flags() {
            let launcher = key.spec.iter().all(|pointer| pointer.starts_with(LAUNCHER));
            let given = GivenKey { source: flag.long, key, value: Value::Null };
            assert_eq!(pointers(&[given]).next().is_none(), launcher, "{}", flag.long);
        }
    }
}
