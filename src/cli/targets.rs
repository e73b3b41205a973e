//! Targets of commands: selectors, and ecosystem files, which stand for their apps.

use std::path::Path;

use clap::Args;
use clap_complete::engine::{ArgValueCandidates, ArgValueCompleter};

use crate::cli::app_flags::{InvocationContext, warn_without_file};
use crate::cli::completion;
use crate::cli::error::Error;
use crate::cli::session::Session;
use crate::config;
use crate::ipc::client::Client;
use crate::ipc::message::{InstanceView, Request, Selectors};
use crate::paths;

// Arguments of commands that act on listed apps.
#[derive(Args, Clone, Debug)]
pub(super) struct Targets {
    /// Ids, names, namespaces, paths of scripts, /regex/, `all`, or ecosystem files
    #[arg(required = true, value_name = "APP", add = ArgValueCompleter::new(completion::complete_targets))]
    pub(super) targets: Vec<String>,
    /// Select only these apps from the file
    #[arg(long = "only", value_name = "NAMES", add = ArgValueCandidates::new(completion::complete_app_names))]
    pub(super) only_apps: Vec<String>,
    /// Environment block of the file (affects app names with `append_env_to_name`)
    #[arg(long, value_name = "NAME", add = ArgValueCandidates::new(completion::complete_env_names))]
    pub(super) env: Option<String>,
}

impl Targets {
    /// Resolves files to the ids of their apps: ids are unambiguous, even for an app named `all` or `7`. Apps that
    /// are not in the list are reported and skipped.
    pub(super) async fn resolve(&self, session: &Session, client: &mut Client) -> Result<Selectors, Error> {
        if !self.targets.iter().any(|target| config::is_config_file(target)) {
            warn_without_file(self.env.as_deref(), &self.only_apps, session);
        }
        let mut selectors = Vec::new();
        for target in &self.targets {
            if config::is_config_file(target) {
                selectors.extend(self.resolve_file(target, session, client).await?);
            } else {
                selectors.extend(resolve_paths(std::slice::from_ref(target), session, client).await?);
            }
        }
        Ok(selectors)
    }

    async fn resolve_file(
        &self,
        file: &str,
        session: &Session,
        client: &mut Client,
    ) -> Result<Selectors, Error> {
        let context = InvocationContext::new(self.env.as_deref(), &self.only_apps)?;
        let names = config::app_names(Path::new(file), &context.options)?;
        let instances: Vec<InstanceView> =
            client.call(&Request::List).await.map_err(|error| session.client_error(error))?;
        let (ids, absent) = resolve_names(&names, &instances);
        if ids.is_empty() {
            return Err(Error::NoAppOfFileListed { file: file.to_owned(), names });
        }
        for name in absent {
            session.notice(format_args!("note: app \"{name}\" of {file} is not in the list, skipped"));
        }
        Ok(ids)
    }
}

/// Replaces each path of a script by the ids of the apps that run it, as in PM2. Names and namespaces come before paths;
/// a path that no app runs is returned as it is.
pub(super) async fn resolve_paths(
    words: &[String],
    session: &Session,
    client: &mut Client,
) -> Result<Selectors, Error> {
    if !words.iter().any(|word| could_be_path(word)) {
        return Ok(words.to_vec());
    }
    let instances: Vec<InstanceView> =
        client.call(&Request::List).await.map_err(|error| session.client_error(error))?;
    Ok(words.iter().flat_map(|word| resolve_path(word, &instances)).collect())
}

/// Whether a word can be the path of a script: it has a `/` or an extension, or the file exists.
pub(super) fn could_be_path(word: &str) -> bool {
    let is_regex = word.len() > 1 && word.starts_with('/') && word.ends_with('/');
    !is_regex && word != "all" && (word.contains(['/', '.']) || Path::new(word).exists())
}

pub(super) fn resolve_path(word: &str, instances: &[InstanceView]) -> Selectors {
    let is_named = |view: &InstanceView| view.name == word || view.namespace == word;
    if !could_be_path(word) || instances.iter().any(is_named) {
        return vec![word.to_owned()];
    }
    let path = paths::absolute(Path::new(word));
    let ids = instances.iter().filter(|view| is_same_file(Path::new(&view.script), &path));
    let ids: Selectors = ids.map(|view| view.id.to_string()).collect();
    if ids.is_empty() { vec![word.to_owned()] } else { ids }
}

/// Whether a script is this file, also by another name. A file that was removed is compared by name.
fn is_same_file(script: &Path, path: &Path) -> bool {
    let is_linked =
        || matches!((script.canonicalize(), path.canonicalize()), (Ok(one), Ok(other)) if one == other);
    script.is_absolute() && (script == path || is_linked())
}

/// Returns the ids of all instances of the named apps, and the names without instances.
fn resolve_names<'a>(names: &'a [String], instances: &[InstanceView]) -> (Vec<String>, Vec<&'a str>) {
    let (mut ids, mut absent) = (Vec::new(), Vec::new());
    for name in names {
        let count = ids.len();
        ids.extend(instances.iter().filter(|view| view.name == *name).map(|view| view.id.to_string()));
        if ids.len() == count {
            absent.push(name.as_str());
        }
    }
    (ids, absent)
}

/// Returns the single instance with this name, or else with this id or the path of its script.
pub(super) fn require_one(selector: &str, instances: &[InstanceView]) -> Result<u32, Error> {
    let ids: Vec<u32> = instances.iter().filter(|view| view.name == selector).map(|view| view.id).collect();
    match ids.as_slice() {
        [id] => Ok(*id),
        [] => match resolve_path(selector, instances).as_slice() {
            [id] => match id.parse() {
                Ok(id) if instances.iter().any(|view| view.id == id) => Ok(id),
                _ => Err(Error::NotOneInstance { name: selector.to_owned(), ids }),
            },
            several => {
                let ids = several.iter().filter_map(|id| id.parse().ok()).collect();
                Err(Error::NotOneInstance { name: selector.to_owned(), ids })
            }
        },
        _ => Err(Error::NotOneInstance { name: selector.to_owned(), ids }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::render::list::tests::view;
    use crate::ipc::message::DisplayStatus;

    fn instances() -> Vec<InstanceView> {
        let rows = [(0, "api"), (1, "api"), (2, "all"), (3, "7")];
        rows.map(|(id, name)| view(id, name, DisplayStatus::Online)).to_vec()
    }

    #[test]
    fn names_resolve_to_ids() {
        let names = ["api".to_owned(), "all".to_owned(), "gone".to_owned()];
        let (ids, absent) = resolve_names(&names, &instances());
        assert_eq!((ids, absent), (vec!["0".into(), "1".into(), "2".into()], vec!["gone"]));
    }

    #[test]
    fn paths_resolve_to_the_apps_that_run_them() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("app.js");
        std::fs::write(&script, "").unwrap();
        std::os::unix::fs::symlink(dir.path(), dir.path().join("current")).unwrap();
        let mut instances = instances();
        for id in [0, 3] {
            instances[id].script = script.to_str().unwrap().into();
        }
        instances[2].name = "named.js".into();
        let resolve = |word: &str| resolve_path(word, &instances);
        assert_eq!(resolve(script.to_str().unwrap()), ["0", "3"]);
        assert_eq!(
            resolve(dir.path().join("current/app.js").to_str().unwrap()),
            ["0", "3"],
            "through a link"
        );
        assert_eq!(resolve("named.js"), ["named.js"], "names come before paths");
        assert_eq!(resolve("other.js"), ["other.js"]);
        assert_eq!(resolve("/app/"), ["/app/"], "a regular expression");
        std::fs::remove_file(&script).unwrap();
        assert_eq!(resolve(script.to_str().unwrap()), ["0", "3"], "a removed file");
    }

    #[test]
    fn requires_one_instance() {
        assert_eq!(require_one("all", &instances()).unwrap(), 2);
        assert_eq!(require_one("7", &instances()).unwrap(), 3, "names come before ids");
        assert_eq!(require_one("1", &instances()).unwrap(), 1);
        assert!(
            matches!(require_one("api", &instances()), Err(Error::NotOneInstance { ids, .. }) if ids == [0, 1])
        );
        assert!(
            matches!(require_one("9", &instances()), Err(Error::NotOneInstance { ids, .. }) if ids.is_empty())
        );
    }
}
