//! `convert` and `init`: writing an ecosystem.toml, and never over one.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::error::Error;
use crate::config::{self, Diagnostic, Location};

use crate::cli::app_flags::{Ground, mistakes, warn};
use crate::cli::output;
use crate::cli::session::Session;

/// What `init` writes.
const STARTER_NAME: &str = "ecosystem.toml";

// Arguments of `convert`.
#[derive(Args, Clone, Debug)]
pub(in crate::cli) struct ConvertArgs {
    /// Ecosystem file in any format, or `-` for stdin
    file: PathBuf,
    /// Write to FILE instead of stdout; fails if FILE exists
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(in crate::cli) fn convert(convert: &ConvertArgs, session: &Session) -> Result<(), Error> {
    let ConvertArgs { file, output } = convert;
    let ground = Ground::new(None, &[])?;
    let directory = output.as_ref().map(|out| ground.cwd.join(out.parent().unwrap_or(Path::new(""))));
    // `.` and doubled slashes dropped, as in the file's own path.
    let directory = directory.map(|path| std::path::absolute(&path).unwrap_or(path));
    let converted = config::convert(file, directory.as_deref(), &ground.options).map_err(mistakes)?;
    warn(session, &converted.warnings);
    match output {
        None => output::print(&converted.text),
        Some(path) => {
            // It may hold secrets: open to those that the original is open to, and never to more.
            let mode = file.metadata().map_or(0o600, |meta| meta.permissions().mode() & 0o666);
            write_new(path, &converted.text, mode)?;
            session.notice(format_args!("wrote {}", path.display()));
            Ok(())
        }
    }
}

/// Writes a first file for what lies in the current directory.
pub(in crate::cli) fn init(session: &Session) -> Result<(), Error> {
    let here = std::env::current_dir().map_err(Error::CurrentDirUnreadable)?;
    write_new(Path::new(STARTER_NAME), &starter_file(&here), 0o644)?;
    session.notice(format_args!("created {STARTER_NAME}; run `rsm start` to start its apps"));
    Ok(())
}

fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), Error> {
    let open = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let written = open.and_then(|mut file: File| file.write_all(text.as_bytes()));
    written.map_err(|error| {
        let (message, help) = match error.kind() {
            ErrorKind::AlreadyExists => {
                ("already exists".to_owned(), "remove it, or use -o to write to another file")
            }
            _ => (format!("cannot be written: {error}"), "use -o to write to another file"),
        };
        mistakes(Diagnostic::error(Location::File(path.to_owned()), message, help).into())
    })
}

/// A file to begin with: the app that seems to lie here, else one that runs anywhere.
fn starter_file(here: &Path) -> String {
    let (name, script) =
        detect_script(here).unwrap_or_else(|| ("clock".into(), "while date; do sleep 5; done".into()));
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

/// Name and script of what lies here.
fn detect_script(here: &Path) -> Option<(String, String)> {
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
    let package = std::fs::read(here.join("package.json")).ok();
    let package: serde_json::Value =
        package.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
    let there = |script: &&str| !script.is_empty() && here.join(script).is_file();
    let main = package["main"].as_str().filter(there);
    let usual = || COMMON_SCRIPTS.into_iter().find(there);
    let npm = || package["scripts"]["start"].is_string().then_some("npm start");
    let script = main.or_else(usual).or_else(npm)?;
    let directory = || here.file_name().map(|name| name.to_string_lossy().into_owned());
    let name = package["name"].as_str().map(str::to_owned).or_else(directory).unwrap_or_else(|| "app".into());
    // A name of npm's may begin with the owner's: @me/api.
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
    use crate::cli::commands::convert::*;

    fn script_of(text: &str) -> String {
        text.lines().filter(|line| line.starts_with("script") || line.starts_with("name")).collect()
    }

    #[test]
    fn the_first_file_names_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let here = || script_of(&starter_file(dir.path()));
        assert_eq!(here(), "name = \"clock\"script = \"while date; do sleep 5; done\"");
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write("package.json", r#"{ "name": "@me/api", "main": "gone.js", "scripts": { "start": "x" } }"#);
        assert_eq!(here(), "name = \"api\"script = \"npm start\"");
        write("app.js", "");
        assert_eq!(here(), "name = \"api\"script = \"./app.js\"");
        write("gone.js", "");
        assert_eq!(here(), "name = \"api\"script = \"./gone.js\"");
        write("package.json", "broken");
        assert!(here().ends_with("script = \"./app.js\""));
    }
}
