//! `init`: creates an ecosystem file for the app in the current directory.

use std::path::Path;

use crate::cli::error::Error;
use crate::cli::output;
use crate::cli::session::Session;

/// The file that `init` creates.
const STARTER_NAME: &str = "ecosystem.toml";

/// Names of the app and script if the directory contains no known script.
const EXAMPLE_APP: (&str, &str) = ("clock", "while date; do sleep 5; done");

pub(crate) fn init(session: &Session) -> Result<(), Error> {
    let directory = crate::paths::current_dir().map_err(Error::CurrentDirUnreadable)?;
    output::create_file(Path::new(STARTER_NAME), &starter_file(&directory), 0o644)?;
    session.notice(format_args!("created {STARTER_NAME}; run `rsm start` to start its apps"));
    Ok(())
}

/// The text of the file, with the app found in `directory`, or else an example that runs anywhere.
fn starter_file(directory: &Path) -> String {
    let (name, script) =
        detect_script(directory).unwrap_or_else(|| (EXAMPLE_APP.0.into(), EXAMPLE_APP.1.into()));
    let quoted = |text: String| serde_json::Value::from(text).to_string();
    format!(
        "\
# Apps managed by rsm. `rsm start` starts them, `rsm list` lists them, `rsm logs` shows their output.
# `rsm schema` prints a description of every key.

[[apps]]
name = {}
# A script, a program in PATH, or a shell command.
script = {}
# \"max\" starts one per core. Use exec_mode = \"cluster\" to share a port,
# or increment_var = \"PORT\" to give each instance its own.
instances = 1
# Restart the app when it uses more memory.
max_memory_restart = \"500M\"
# Grace period between the stop signal and SIGKILL.
kill_timeout = \"10s\"

[apps.env]
# NODE_ENV = \"development\"

# Merged over [apps.env] by `rsm start --env production`.
[apps.env_production]
# NODE_ENV = \"production\"
",
        quoted(name),
        quoted(script)
    )
}

/// The name and script of the app in `directory`.
fn detect_script(directory: &Path) -> Option<(String, String)> {
    const COMMON_SCRIPTS: [&str; 10] = [
        "server.js",
        "index.js",
        "app.js",
        "main.js",
        "dist/index.js",
        "src/index.js",
        "src/index.ts",
        "main.py",
        "app.py",
        "main.rb",
    ];
    let package = std::fs::read(directory.join("package.json")).ok();
    let package: serde_json::Value =
        package.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
    let exists = |script: &&str| !script.is_empty() && directory.join(script).is_file();
    let main = package["main"].as_str().filter(exists);
    let common = || COMMON_SCRIPTS.into_iter().find(exists);
    let npm = || package["scripts"]["start"].is_string().then_some("npm start");
    let script = main.or_else(common).or_else(npm)?;
    let directory_name = || directory.file_name().map(|name| name.to_string_lossy().into_owned());
    let name =
        package["name"].as_str().map(str::to_owned).or_else(directory_name).unwrap_or_else(|| "app".into());
    // npm names may have a scope: @me/api.
    let name =
        name.rsplit('/').next().map(str::trim).filter(|name| !matches!(*name, "" | "all")).unwrap_or("app");
    let script = if script.contains(' ') {
        script.to_owned()
    } else {
        format!("./{}", script.trim_start_matches("./"))
    };
    Some((name.to_owned(), script))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script_of(text: &str) -> String {
        text.lines().filter(|line| line.starts_with("script") || line.starts_with("name")).collect()
    }

    #[test]
    fn starter_file_names_detected_script() {
        let dir = tempfile::tempdir().unwrap();
        let detected = || script_of(&starter_file(dir.path()));
        assert_eq!(detected(), "name = \"clock\"script = \"while date; do sleep 5; done\"");
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write("package.json", r#"{ "name": "@me/api", "main": "gone.js", "scripts": { "start": "x" } }"#);
        assert_eq!(detected(), "name = \"api\"script = \"npm start\"");
        write("app.js", "");
        assert_eq!(detected(), "name = \"api\"script = \"./app.js\"");
        write("gone.js", "");
        assert_eq!(detected(), "name = \"api\"script = \"./gone.js\"");
        write("package.json", "broken");
        assert!(detected().ends_with("script = \"./app.js\""));
    }
}
