//! A file of any format as commented TOML that means the same.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::keys::{find_key, ignored_key};
use super::mistake::ConfigErrors;
use super::{LoadOptions, read_source};
use crate::config::diagnostics::Diagnostics;
use crate::config::parse::file;
use crate::config::parse::file::ParsedApp;
use crate::config::parse::format::STDIN;
use crate::config::resolve::search_path::absolute;

/// A converted file.
#[derive(Clone, Debug)]
pub struct Converted {
    /// The TOML.
    pub text: String,
    /// What the user should know, each with its place.
    pub warnings: Vec<String>,
}

/// Converts a file to TOML that is to lie in `directory` (absolute); beside the file if `None`.
///
/// # Errors
/// The file's mistakes of syntax, keys and values. Nothing is looked up on the machine.
pub fn convert(
    path: &Path,
    directory: Option<&Path>,
    options: &LoadOptions,
) -> Result<Converted, ConfigErrors> {
    let source = read_source(path, options)?;
    let mut findings = Diagnostics::new(Some(&source));
    let written = file::read(&source, &mut findings)?;
    let (written, warnings) = findings.finish(written)?;
    let beside = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let beside = beside.parent().unwrap_or(Path::new("/"));
    // Relative paths start from where the file is, which changes if it moves.
    let base = directory.filter(|directory| *directory != beside).map(|_| beside);
    let origin = if path == Path::new(STDIN) { "standard input".into() } else { path.to_string_lossy() };
    let origin: String = origin.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let mut text = format!("# Converted from {origin}. `rsm schema` describes every key.\n");
    for app in &written {
        text.push_str(&app_table(app, base));
    }
    Ok(Converted { text, warnings })
}

/// An app: plain settings first, since a line below a table's header belongs to that table.
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
        let left: Vec<String> = app.skipped.iter().map(|key| skip_reason(key)).collect();
        text.push_str(&format!("# Ignored keys: {}.\n", left.join("; ")));
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
        Some(about) => format!("{key_shown} ({about})"),
        None => format!("{key_shown} (unknown)"),
    }
}

/// A setting's value.
fn toml(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text),
        Value::Number(number) if number.is_u64() && !number.is_i64() => quoted(&number.to_string()),
        // TOML tells numbers with and without fraction apart by the point, and has no bare exponent form to fear.
        Value::Number(number) if number.is_f64() => quoted(&number.to_string()),
        Value::Array(items) => format!("[{}]", items.iter().map(toml).collect::<Vec<_>>().join(", ")),
        Value::Object(_) | Value::Null => quoted(&value.to_string()),
        other => other.to_string(),
    }
}

/// A variable's value; what becomes JSON in the end is written as that.
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

/// A key, in quotes where it needs them.
fn quote_key(key: &str) -> String {
    let plain = !key.is_empty() && key.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_' || c == b'-');
    if plain { key.to_owned() } else { serde_json::Value::from(key).to_string().replace('\u{7f}', "\\u007f") }
}

#[cfg(test)]
mod tests {
    use super::super::load;
    use super::*;
    use crate::spec::AppSpec;

    fn apps(file: &Path, env: Option<&str>) -> Vec<AppSpec> {
        let path_var = std::env::var_os("PATH").unwrap();
        let options =
            LoadOptions { cores: 4, path_var, env_name: env.map(str::to_owned), ..LoadOptions::default() };
        let mut apps = load(file, &options).unwrap_or_else(|told| panic!("{told}")).apps;
        apps.iter_mut().for_each(|app| (app.source, app.origin) = (None, None));
        apps
    }

    #[test]
    fn both_files_mean_the_same() {
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
