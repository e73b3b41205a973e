//! Shell completion, which runs this binary for each Tab and so knows the listed apps; and man pages.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::time::Duration;

use clap::{Command, ValueEnum};
use clap_complete::engine::CompletionCandidate;
use clap_complete::env::{CompleteEnv, Shells};

use super::output;
use crate::cli::error::Error;
use crate::ipc::client::Client;
use crate::ipc::message::{InstanceView, Request};
use crate::paths::Home;

/// Set by the completion script. Not clap's default `COMPLETE`, which may be exported for other reasons;
/// variables of rsm are not passed to apps.
const COMPLETE_VAR: &str = "RSM_COMPLETE";
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
        CompleteEnv::with_factory(command).var(COMPLETE_VAR).complete();
    }
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

/// Writes a man page for each command.
pub(super) fn write_man_pages(directory: &Path, mut command: Command) -> Result<(), Error> {
    let to_error = |error: io::Error| Error::ComponentFailed {
        component: "man",
        reason: format!("{}: {error}", directory.display()),
    };
    std::fs::create_dir_all(directory).map_err(to_error)?;
    command.build();
    clap_mangen::generate_to(command, directory).map_err(to_error)
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

/// Completes selectors and file names.
pub(super) fn complete_targets(prefix: &OsStr) -> Vec<CompletionCandidate> {
    use clap_complete::engine::{PathCompleter, ValueCompleter};
    let matches = |candidate: &CompletionCandidate| {
        candidate.get_value().as_encoded_bytes().starts_with(prefix.as_encoded_bytes())
    };
    let mut candidates: Vec<CompletionCandidate> = complete_selectors().into_iter().filter(matches).collect();
    candidates.extend(PathCompleter::any().complete(prefix));
    candidates
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
