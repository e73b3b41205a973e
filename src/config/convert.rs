//! Conversion of a file of any format to an equivalent, commented TOML file.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::config::diagnostics::{ConfigErrors, Diagnostics};
use crate::config::keys::{find_key, ignored_key};
use crate::config::load::{LoadOptions, read_source};
use crate::config::parse::file::{self, ParsedApp};
use crate::config::parse::format::STDIN;
use crate::config::resolve::absolute;

/// A converted file.
#[derive(Clone, Debug)]
pub struct Converted {
    /// The TOML.
    pub text: String,
    /// The warnings, each with its location.
    pub warnings: Vec<String>,
}

/// Converts a file to TOML for a file in `directory` (absolute), by default that of the original file.
///
/// # Errors
/// Errors of syntax, keys and values in the file. Nothing is looked up on the machine.
pub fn convert(
    path: &Path,
    directory: Option<&Path>,
    options: &LoadOptions,
) -> Result<Converted, ConfigErrors> {
    let source = read_source(path, options)?;
    let mut diagnostics = Diagnostics::of_file(&source, source.warnings.clone());
    let apps = file::read(&source, &mut diagnostics)?;
    let (apps, warnings) = diagnostics.finish(apps)?;
    let absolute_path = crate::paths::absolute(path);
    let original = absolute_path.parent().unwrap_or(Path::new("/"));
    // Relative paths start at the directory of the file: in another directory, `cwd` must be the original one.
    let base = directory.filter(|directory| *directory != original).map(|_| original);
    let origin = if path == Path::new(STDIN) { "standard input".into() } else { path.to_string_lossy() };
    let origin: String = origin.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let mut text = format!("# Converted from {origin}. `rsm schema` describes every key.\n");
    for app in &apps {
        text.push_str(&app_table(app, base));
    }
    Ok(Converted { text, warnings })
}

/// The table of an app. Tables in it come last: a line below the header of a table belongs to that table.
fn app_table(app: &ParsedApp, base: Option<&Path>) -> String {
    let (tables, plain): (Vec<_>, Vec<_>) = app.values.iter().partition(|(_, value)| value.is_object());
    let mut text = String::from("\n[[apps]]\n");
    for (key, value) in &plain {
        match (key.as_str(), base, value.as_str()) {
            ("cwd", Some(base), Some(cwd)) => text.push_str(&setting_line(key, &rebase_path(cwd, base))),
            _ => text.push_str(&setting_line(key, value)),
        }
    }
    if let (Some(base), false) = (base, plain.iter().any(|(key, _)| key == "cwd")) {
        text.push_str(&setting_line("cwd", &base.to_string_lossy().into()));
    }
    if !app.skipped.is_empty() {
        let reasons: Vec<String> = app.skipped.iter().map(|key| skip_reason(key)).collect();
        text.push_str(&format!("# Ignored keys: {}.\n", reasons.join("; ")));
    }
    for (key, value) in tables {
        text.push_str(&format!("\n[apps.{}]\n", quote_key(key)));
        for (name, value) in value.as_object().into_iter().flatten() {
            if let Some(value) = env_line(value) {
                text.push_str(&format!("{} = {value}\n", quote_key(name)));
            }
        }
    }
    text
}

fn setting_line(key: &str, value: &Value) -> String {
    let summary = find_key(key).map(|key| key.summary()).unwrap_or_default();
    format!("# {summary}\n{key} = {}\n", toml(value))
}

fn rebase_path(cwd: &str, base: &Path) -> Value {
    if cwd.starts_with('~') {
        return cwd.into();
    }
    let path: PathBuf = absolute(cwd, base);
    path.to_string_lossy().into()
}

fn skip_reason(key: &str) -> String {
    let key_shown: String = key.chars().filter(|c| !c.is_control()).take(60).collect();
    match ignored_key(key) {
        Some(reason) => format!("{key_shown} ({reason})"),
        None => format!("{key_shown} (unknown)"),
    }
}

fn toml(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text),
        Value::Number(number) if number.is_u64() && !number.is_i64() => quoted(&number.to_string()),
        // TOML distinguishes integers and floats; as strings, both keep their text.
        Value::Number(number) if number.is_f64() => quoted(&number.to_string()),
        Value::Array(items) => format!("[{}]", items.iter().map(toml).collect::<Vec<_>>().join(", ")),
        Value::Object(_) | Value::Null => quoted(&value.to_string()),
        other => other.to_string(),
    }
}

/// The value of a variable. Lists and tables are written as JSON, which they become in the environment.
fn env_line(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::Array(_) | Value::Object(_) => Some(quoted(&value.to_string())),
        other => Some(toml(other)),
    }
}

fn quoted(text: &str) -> String {
    ::toml::Value::String(text.to_owned()).to_string()
}

/// A key, quoted if necessary.
fn quote_key(key: &str) -> String {
    let plain = !key.is_empty() && key.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_' || c == b'-');
    if plain { key.to_owned() } else { serde_json::Value::from(key).to_string().replace('\u{7f}', "\\u007f") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load::load;
    use crate::spec::AppSpec;

    fn apps(file: &Path, env: Option<&str>) -> Vec<AppSpec> {
        let path_var = std::env::var_os("PATH").unwrap();
        let options =
            LoadOptions { cores: 4, path_var, env_name: env.map(str::to_owned), ..LoadOptions::default() };
        let mut apps = load(file, &options).unwrap_or_else(|errors| panic!("{errors}")).apps;
        apps.iter_mut().for_each(|app| (app.source, app.origin) = (None, None));
        apps
    }

    #[test]
    fn converted_file_is_equivalent() {
        let dir = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        for file in ["server.js", "sub/worker.js"] {
            std::fs::write(dir.path().join(file), "").unwrap();
        }
        let text = r#"module.exports = { apps: [
            { exec: 'server.js', args: ['--port', 80, "a 'b' \"c\""], nodeArgs: '--a "b c"', instances: 2, exec_mode: 'fork',
              max_memory_restart: '1.5G', min_uptime: '10s', kill_timeout: 3000, stop_exit_codes: [0, 143], zzz: 1,
              vizion: false, out_file: './o.log', cron: '0 3 * * *', autorestart: false, merge_logs: true, max_restarts: 0,
              env: { A: 1, B: 1.5, C: true, D: null, 'E.F': 'x\ny "z" \u00e9\u0007', G: { h: [null, 1e21] }, H: '' },
              env_production: { A: 'prod' }, 'env_a b': { A: 2 } },
            { name: 'worker', script: 'worker.js', cwd: './sub', watch: ['a', 'b'], ignore_watch: '*.log', env: {} },
            { name: 'line', script: 'sleep 10 && echo "x"', cmd: 'y', port: '80', env: undefined },
        ] }"#;
        let file = dir.path().join("ecosystem.config.js");
        std::fs::write(&file, text).unwrap();
        let options = LoadOptions { path_var: std::env::var_os("PATH").unwrap(), ..LoadOptions::default() };
        for directory in [None, Some(other.path())] {
            let converted = convert(&file, directory, &options).unwrap();
            let toml = directory.unwrap_or(dir.path()).join("ecosystem.toml");
            std::fs::write(&toml, &converted.text).unwrap();
            for env in [None, Some("production"), Some("a b")] {
                let (before, after) = (apps(&file, env), apps(&toml, env));
                let same = before == after;
                assert!(same, "{before:#?}\n{after:#?}\n{}", converted.text);
                assert_eq!(before[0].env, after[0].env);
            }
            assert!(
                converted.text.contains(
                    "# Ignored keys: zzz (unknown); vizion (version control metadata is not read)."
                )
            );
            assert!(converted.text.contains("# Name of the app\nname = \"worker\"\n"), "{}", converted.text);
        }
    }
}
