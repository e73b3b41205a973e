//! Completions for shells: each tab asks this binary, which knows the apps that are there.

use std::ffi::OsStr;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::{CommandFactory, ValueEnum};
use clap_complete::engine::CompletionCandidate;
use clap_complete::env::{CompleteEnv, Shells};

use super::{CliArgs, help, output};
use crate::cli::error::Error;
use crate::ipc::client::Client;
use crate::ipc::message::{InstanceView, Request};
use crate::paths::Home;

/// The variable by which a shell's script asks. Not the usual `COMPLETE`, which a shell may have exported for
/// other reasons; ours are kept from apps.
const COMPLETE_VAR: &str = "RSM_COMPLETE";
/// A tab that takes longer is not worth the wait.
const LIST_TIMEOUT: Duration = Duration::from_millis(500);

/// In a directory of `$fpath` the script is read as the function that answers, at the first tab.
const ZSH_FIRST_TAB: &str =
    "\nif [[ \"$funcstack[1]\" == _rsm ]]; then _clap_dynamic_completer_rsm \"$@\"; fi\n";

/// Shells that can ask.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Answers a shell that asks what could come next; does not return then.
pub(super) fn complete_if_requested() {
    if std::env::var_os(COMPLETE_VAR).is_some_and(|shell| !shell.is_empty()) {
        CompleteEnv::with_factory(CliArgs::command).var(COMPLETE_VAR).complete();
    }
}

/// Prints the script that has a shell ask.
///
/// # Errors
/// Standard output cannot be written to.
pub(super) fn script(shell: Shell) -> Result<(), Error> {
    let shells = Shells::builtins();
    let name = match shell {
        Shell::Bash => "bash",
        Shell::Zsh => "zsh",
        Shell::Fish => "fish",
    };
    let mut script = Vec::new();
    if let Some(of) = shells.completer(name) {
        // By its name: the one that is asked is the one that is run.
        of.write_registration(COMPLETE_VAR, "rsm", "rsm", "rsm", &mut script).map_err(Error::Stdout)?;
    }
    if matches!(shell, Shell::Zsh) {
        script.extend_from_slice(ZSH_FIRST_TAB.as_bytes());
    }
    output::print(&String::from_utf8_lossy(&script))
}

/// Writes a page of the manual for each command.
///
/// # Errors
/// The directory cannot be made or written to.
pub(super) fn man(directory: &PathBuf) -> Result<(), Error> {
    let failed = |error: io::Error| Error::ComponentFailed {
        component: "man",
        reason: format!("{}: {error}", directory.display()),
    };
    std::fs::create_dir_all(directory).map_err(failed)?;
    let mut command = help::documented(CliArgs::command());
    command.build();
    clap_mangen::generate_to(command, directory).map_err(failed)
}

/// Names that commands act on: of apps, of namespaces, and `all`.
pub(super) fn complete_selectors() -> Vec<CompletionCandidate> {
    let there = list_instances();
    let mut names = app_candidates(&there);
    let mut spaces: Vec<&str> = there.iter().map(|view| view.namespace.as_str()).collect();
    spaces.sort_unstable();
    spaces.dedup();
    // One that all share tells nothing.
    if spaces.len() > 1 {
        names.extend(spaces.into_iter().map(|name| candidate(name, "apps in this namespace".into())));
    }
    if !there.is_empty() {
        names.push(candidate("all", "all apps".into()));
    }
    names
}

/// Names of apps.
pub(super) fn complete_apps() -> Vec<CompletionCandidate> {
    app_candidates(&list_instances())
}

/// Selectors, and files below the directory that is typed.
pub(super) fn complete_targets(typed: &OsStr) -> Vec<CompletionCandidate> {
    use clap_complete::engine::{PathCompleter, ValueCompleter};
    let begins = |candidate: &CompletionCandidate| {
        candidate.get_value().as_encoded_bytes().starts_with(typed.as_encoded_bytes())
    };
    let mut found: Vec<CompletionCandidate> = complete_selectors().into_iter().filter(begins).collect();
    found.extend(PathCompleter::any().complete(typed));
    found
}

fn app_candidates(there: &[InstanceView]) -> Vec<CompletionCandidate> {
    let mut names: Vec<&InstanceView> = Vec::new();
    for view in there {
        if !names.iter().any(|known| known.name == view.name) {
            names.push(view);
        }
    }
    let describe = |view: &&InstanceView| {
        let count = there.iter().filter(|other| other.name == view.name).count();
        let several = if count > 1 { format!("{count} instances, ") } else { String::new() };
        candidate(&view.name, format!("{several}{}", view.status.as_str()))
    };
    names.iter().map(describe).collect()
}

fn candidate(name: &str, about: String) -> CompletionCandidate {
    CompletionCandidate::new(name).help(Some(about.into()))
}

/// What is in the list; nothing where no daemon answers at once. A tab starts none.
fn list_instances() -> Vec<InstanceView> {
    let ask = async {
        let mut client = Client::connect(&Home::from_env().ok()?).await.ok()?;
        client.call(&Request::List).await.ok()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let asked = runtime.ok().and_then(|runtime| {
        runtime.block_on(async { tokio::time::timeout(LIST_TIMEOUT, ask).await.ok().flatten() })
    });
    asked.unwrap_or_default()
}
