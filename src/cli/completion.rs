//! Shell completion, which runs this binary for each Tab and so knows the listed apps.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use clap::{Command, ValueEnum};
use clap_complete::engine::{CompletionCandidate, PathCompleter, ValueCompleter};
use clap_complete::env::{CompleteEnv, Shells};
use regex::Regex;

use super::output;
use crate::cli::error::Error;
use crate::cli::sort::SortField;
use crate::config::{self, DEFAULT_FILES};
use crate::ipc::client::Client;
use crate::ipc::message::{InstanceView, Request};
use crate::paths::Home;
use crate::settings::SETTINGS;

/// Set by the completion script. Not clap's default `COMPLETE`, which may be exported for other reasons;
/// variables of rsm are not passed to apps.
const COMPLETE_VAR: &str = "RSM_COMPLETE";
/// Maximum part of an ecosystem file that is searched for names. Bytes.
const MAX_FILE_SIZE: u64 = 1 << 20;
/// Maximum wait for the list after a Tab.
const LIST_TIMEOUT: Duration = Duration::from_millis(500);

/// zsh reads a script in `$fpath` as the body of the completion function at the first Tab, so the script must
/// also call the function that it defines.
const ZSH_FIRST_TAB: &str =
    "\nif [[ \"$funcstack[1]\" == _rsm ]]; then _clap_dynamic_completer_rsm \"$@\"; fi\n";

/// Shells with completion.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// If this process was started by a completion script, prints the candidates and exits.
pub(super) fn complete_if_requested(command: impl Fn() -> Command) {
    if std::env::var_os(COMPLETE_VAR).is_some_and(|shell| !shell.is_empty()) {
        CompleteEnv::with_factory(|| without_visible_aliases(command())).var(COMPLETE_VAR).complete();
    }
}

/// Hides the aliases of commands, which would be offered beside the commands themselves.
fn without_visible_aliases(command: Command) -> Command {
    command.mut_subcommands(|subcommand| {
        // clap wants static names; this process exits after the completion.
        let names: Vec<&'static str> =
            subcommand.get_all_aliases().map(|name| &*name.to_owned().leak()).collect();
        subcommand.visible_alias(None::<&'static str>).aliases(names)
    })
}

/// Prints the completion script of a shell.
pub(super) fn print_script(shell: Shell) -> Result<(), Error> {
    let shells = Shells::builtins();
    let name = match shell {
        Shell::Bash => "bash",
        Shell::Zsh => "zsh",
        Shell::Fish => "fish",
    };
    let mut script = Vec::new();
    if let Some(completer) = shells.completer(name) {
        // The completer is looked up in PATH, as the shell does for the command itself.
        completer
            .write_registration(COMPLETE_VAR, "rsm", "rsm", "rsm", &mut script)
            .map_err(Error::Stdout)?;
    }
    if matches!(shell, Shell::Zsh) {
        script.extend_from_slice(ZSH_FIRST_TAB.as_bytes());
    }
    output::print(&String::from_utf8_lossy(&script))
}

/// Completes selectors: names of apps, names of namespaces, and `all`.
pub(super) fn complete_selectors() -> Vec<CompletionCandidate> {
    let instances = list_instances();
    let mut candidates = app_candidates(&instances);
    let mut namespaces: Vec<&str> = instances.iter().map(|view| view.namespace.as_str()).collect();
    namespaces.sort_unstable();
    namespaces.dedup();
    // A namespace of all apps selects the same as `all`.
    if namespaces.len() > 1 {
        candidates
            .extend(namespaces.into_iter().map(|name| candidate(name, "apps in this namespace".into())));
    }
    if !instances.is_empty() {
        candidates.push(candidate("all", "all apps".into()));
    }
    candidates
}

/// Completes names of apps.
pub(super) fn complete_apps() -> Vec<CompletionCandidate> {
    app_candidates(&list_instances())
}

/// Completes what can be started: selectors and all files.
pub(super) fn complete_startable(prefix: &OsStr) -> Vec<CompletionCandidate> {
    let mut candidates = starting_with(prefix, complete_selectors());
    candidates.extend(PathCompleter::any().complete(prefix));
    candidates
}

/// Completes targets of commands on listed apps: selectors and ecosystem files. Before anything is typed, only files
/// with the usual names.
pub(super) fn complete_targets(prefix: &OsStr) -> Vec<CompletionCandidate> {
    let mut candidates = starting_with(prefix, complete_selectors());
    let typed = prefix.to_string_lossy().into_owned();
    let is_offered = move |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_usual = DEFAULT_FILES.contains(&&*name) || name.starts_with("ecosystem.");
        match typed.is_empty() {
            true => is_usual,
            false => path.is_dir() || config::is_config_file(&name),
        }
    };
    candidates.extend(PathCompleter::any().filter(is_offered).complete(prefix));
    candidates
}

fn starting_with(prefix: &OsStr, candidates: Vec<CompletionCandidate>) -> Vec<CompletionCandidate> {
    let matches = |candidate: &CompletionCandidate| {
        candidate.get_value().as_encoded_bytes().starts_with(prefix.as_encoded_bytes())
    };
    candidates.into_iter().filter(matches).collect()
}

/// Completes `--sort`.
pub(super) fn complete_sort() -> Vec<CompletionCandidate> {
    let names = SortField::value_variants()
        .iter()
        .filter_map(|field| Some(field.to_possible_value()?.get_name().to_owned()));
    names.flat_map(|name| [name.clone(), format!("{name}:desc")]).map(CompletionCandidate::new).collect()
}

/// Completes names of signals.
pub(super) fn complete_signals() -> Vec<CompletionCandidate> {
    nix::sys::signal::Signal::iterator().map(|signal| CompletionCandidate::new(signal.as_str())).collect()
}

/// Completes names of settings.
pub(super) fn complete_settings() -> Vec<CompletionCandidate> {
    SETTINGS.iter().map(|setting| candidate(setting.name, setting.doc.trim().to_owned())).collect()
}

/// Completes `--env`: the `env_NAME` tables of the ecosystem file.
pub(super) fn complete_env_names() -> Vec<CompletionCandidate> {
    candidates_of(texts_of_files().iter().flat_map(|text| env_names(text)))
}

/// Completes `--only`: the apps of the ecosystem file.
pub(super) fn complete_app_names() -> Vec<CompletionCandidate> {
    candidates_of(texts_of_files().iter().flat_map(|text| app_names(text)))
}

fn candidates_of(names: impl Iterator<Item = String>) -> Vec<CompletionCandidate> {
    names.collect::<BTreeSet<_>>().into_iter().map(CompletionCandidate::new).collect()
}

/// The texts of the ecosystem files on the command line, or else of those in the current directory. They are not
/// evaluated: completion must not run code.
fn texts_of_files() -> Vec<String> {
    let words = std::env::args().skip(1);
    let named: Vec<String> =
        words.filter(|word| config::is_config_file(word) && Path::new(word).is_file()).collect();
    let files = match named.is_empty() {
        true => DEFAULT_FILES.iter().map(ToString::to_string).collect(),
        false => named,
    };
    let read = |file: String| {
        let mut text = String::new();
        std::fs::File::open(file).ok()?.take(MAX_FILE_SIZE).read_to_string(&mut text).ok()?;
        Some(text)
    };
    files.into_iter().filter_map(read).collect()
}

fn env_names(text: &str) -> Vec<String> {
    let is_name = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
    let names = text.split(|c| !is_name(c)).filter_map(|word| word.strip_prefix("env_"));
    names.filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// The quoted values after `name`, in all formats of files.
fn app_names(text: &str) -> Vec<String> {
    let Ok(pattern) = Regex::new(r#"(?m)\bname["']?\s*[:=]\s*(?:["'`]([^"'`\n]+)["'`]|([^\s,}"'`]+)\s*$)"#)
    else {
        return Vec::new();
    };
    let names = pattern.captures_iter(text).filter_map(|found| found.get(1).or(found.get(2)));
    names.map(|name| name.as_str().to_owned()).collect()
}

fn app_candidates(instances: &[InstanceView]) -> Vec<CompletionCandidate> {
    let mut first_instances: Vec<&InstanceView> = Vec::new();
    for view in instances {
        if !first_instances.iter().any(|known| known.name == view.name) {
            first_instances.push(view);
        }
    }
    let describe = |view: &&InstanceView| {
        let count = instances.iter().filter(|other| other.name == view.name).count();
        let several = if count > 1 { format!("{count} instances, ") } else { String::new() };
        candidate(&view.name, format!("{several}{}", view.status.as_str()))
    };
    first_instances.iter().map(describe).collect()
}

fn candidate(name: &str, description: String) -> CompletionCandidate {
    CompletionCandidate::new(name).help(Some(description.into()))
}

/// The list, or nothing if the daemon is not running or does not answer in time. Does not start a daemon.
fn list_instances() -> Vec<InstanceView> {
    let request = async {
        let mut client = Client::connect(&Home::from_env().ok()?).await.ok()?;
        client.call(&Request::List).await.ok()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let instances = runtime.ok().and_then(|runtime| {
        runtime.block_on(async { tokio::time::timeout(LIST_TIMEOUT, request).await.ok().flatten() })
    });
    instances.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_every_format() {
        for text in [
            "[[apps]]\nname = 'api'\n[apps.env_production]\nA = 1\n",
            "module.exports = { apps: [{ name: \"api\", env_production: {} }] }",
            r#"{ "apps": [{ "name": "api", "env_production": {} }] }"#,
            "apps:\n  - name: api\n    env_production:\n      A: 1\n",
        ] {
            assert_eq!(
                (app_names(text), env_names(text)),
                (vec!["api".into()], vec!["production".into()]),
                "{text}"
            );
        }
    }
}
