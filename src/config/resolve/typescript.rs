//! Whether node can run a script in TypeScript. Otherwise the app would fail at each start.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::config::keys::{AppSettings, value_of};
use crate::config::resolve::search_path::{SearchPath, absolute};

/// Options of node that load a compiler, or enable its own support.
const LOADER_OPTIONS: [&str; 7] = [
    "--import",
    "--require",
    "-r",
    "--loader",
    "--experimental-loader",
    "--experimental-strip-types",
    "--experimental-transform-types",
];

/// The first versions of node that strip types without an option: major and minor.
const FIRST_VERSIONS: [(u32, u32); 2] = [(22, 18), (23, 6)];

const HELP: &str =
    "use Node.js 22.18 or later, install tsx (npm install --save-dev tsx) or bun, or set `interpreter`";

fn extension(file: &Path) -> &str {
    file.extension().and_then(|extension| extension.to_str()).unwrap_or_default()
}

pub(super) fn is_typescript(file: &Path) -> bool {
    ["ts", "mts", "cts", "tsx"].contains(&extension(file))
}

/// Whether options of node, or `NODE_OPTIONS`, make it run TypeScript.
pub(super) fn has_loader(args: &[String], settings: &AppSettings) -> bool {
    let own = value_of(&settings.env).and_then(|env| env.0.get("NODE_OPTIONS").cloned());
    let options = own.or_else(|| std::env::var("NODE_OPTIONS").ok()).unwrap_or_default();
    let mut words = args.iter().map(String::as_str).chain(options.split_whitespace());
    words.any(|word| LOADER_OPTIONS.contains(&word.split('=').next().unwrap_or(word)))
}

/// The tsx that is installed for the project of a file.
pub(super) fn local_tsx(file: &Path) -> Option<String> {
    let dirs = file.ancestors().skip(1).map(|dir| dir.join("node_modules/.bin/tsx"));
    dirs.into_iter().find(|tsx| tsx.is_file())?.to_str().map(str::to_owned)
}

/// Checks that this node runs the file; otherwise returns the error and its help.
pub(super) fn node_support(file: &Path, node: &str, search: &SearchPath) -> Result<(), (String, String)> {
    let shown = file.display();
    if extension(file) == "tsx" {
        return Err((
            format!("{shown}: node cannot run JSX"),
            "install tsx or bun, or set `interpreter`".into(),
        ));
    }
    let Some(version) = node_version(node, search) else { return Ok(()) };
    if runs_typescript(&version) {
        return Ok(());
    }
    Err((format!("{shown}: Node.js {version} cannot run TypeScript"), HELP.into()))
}

fn runs_typescript(version: &str) -> bool {
    let mut numbers = version.trim_start_matches('v').split('.').map_while(|part| part.parse::<u32>().ok());
    let (Some(major), Some(minor)) = (numbers.next(), numbers.next()) else { return true };
    let [(first, since), (second, also_since)] = FIRST_VERSIONS;
    (major == first && minor >= since) || (major == second && minor >= also_since) || major > second
}

/// The version that node prints, such as `v20.20.2`.
fn node_version(node: &str, search: &SearchPath) -> Option<String> {
    let program = if node.contains('/') { absolute(node, search.cwd()) } else { search.find(node)? };
    let output =
        Command::new(program).arg("--version").stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let version = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    version.starts_with('v').then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_decides() {
        for (version, runs) in [
            ("v20.20.2", false),
            ("v22.17.1", false),
            ("v22.18.0", true),
            ("v23.5.0", false),
            ("v23.6.0", true),
            ("v24.0.0", true),
            ("nightly", true),
        ] {
            assert_eq!(runs_typescript(version), runs, "{version}");
        }
    }
}
