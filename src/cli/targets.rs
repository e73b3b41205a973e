//! What a command is about: selectors as typed, with the names of a file's apps in place of it.

use std::path::Path;

use clap::Args;
use clap_complete::engine::ArgValueCompleter;

use crate::cli::error::Error;
use crate::config;
use crate::ipc::client::Client;
use crate::ipc::message::{InstanceView, Request, Selectors};

use crate::cli::app_flags::{Ground, mistakes};
use crate::cli::completion;
use crate::cli::session::Session;

// The arguments of commands that act on what is in the list.
#[derive(Args, Clone, Debug)]
pub(super) struct Targets {
    /// Ids, names, namespaces, /regex/, `all`, or ecosystem files
    #[arg(required = true, value_name = "APP", add = ArgValueCompleter::new(completion::complete_targets))]
    pub(super) targets: Vec<String>,
    /// Select only these apps from the file
    #[arg(long = "only", value_delimiter = ',', value_name = "NAMES")]
    pub(super) only_apps: Vec<String>,
    /// Environment block of the file (affects app names with `append_env_to_name`)
    #[arg(long, value_name = "NAME")]
    pub(super) env: Option<String>,
}

impl Targets {
    /// As the daemon understands it. The apps of a file become ids, so that an app called `all`
    /// or `7` means itself. Those not in the list are told and left out.
    ///
    /// # Errors
    /// A file has mistakes, or none of its apps is in the list.
    pub(super) async fn resolve(&self, session: &Session, client: &mut Client) -> Result<Selectors, Error> {
        if self.env.is_some() && !self.targets.iter().any(|target| config::is_config_file(target)) {
            return Err(Error::EnvWithoutFile);
        }
        let mut selectors = Vec::new();
        for target in &self.targets {
            if config::is_config_file(target) {
                selectors.extend(self.from_file(target, session, client).await?);
            } else {
                selectors.push(target.clone());
            }
        }
        Ok(selectors)
    }

    async fn from_file(
        &self,
        file: &str,
        session: &Session,
        client: &mut Client,
    ) -> Result<Selectors, Error> {
        let ground = Ground::new(self.env.as_deref(), &self.only_apps)?;
        let names = config::app_names(Path::new(file), &ground.options).map_err(mistakes)?;
        let there: Vec<InstanceView> =
            client.call(&Request::List).await.map_err(|error| session.client_error(error))?;
        let (ids, absent) = resolve_names(&names, &there);
        if ids.is_empty() {
            return Err(Error::NoAppOfFileListed { file: file.to_owned(), names });
        }
        for name in absent {
            session.notice(format_args!("note: app \"{name}\" of {file} is not in the list, skipped"));
        }
        Ok(ids)
    }
}

/// The ids of all instances of the named apps, and the names that have none.
fn resolve_names<'a>(names: &'a [String], there: &[InstanceView]) -> (Vec<String>, Vec<&'a str>) {
    let (mut ids, mut absent) = (Vec::new(), Vec::new());
    for name in names {
        let before = ids.len();
        ids.extend(there.iter().filter(|view| view.name == *name).map(|view| view.id.to_string()));
        if ids.len() == before {
            absent.push(name.as_str());
        }
    }
    (ids, absent)
}

/// The one instance that an id or a name means.
///
/// # Errors
/// There is none, or there are several.
pub(super) fn require_one(wanted: &str, there: &[InstanceView]) -> Result<u32, Error> {
    let ids: Vec<u32> = there.iter().filter(|view| view.name == wanted).map(|view| view.id).collect();
    match ids.as_slice() {
        [id] => Ok(*id),
        [] => match wanted.parse() {
            Ok(id) if there.iter().any(|view| view.id == id) => Ok(id),
            _ => Err(Error::NotOneInstance { name: wanted.to_owned(), ids }),
        },
        _ => Err(Error::NotOneInstance { name: wanted.to_owned(), ids }),
    }
}

#[cfg(test)]
mod tests {
    use crate::cli::render::list::tests::view;
    use crate::cli::targets::*;
    use crate::ipc::message::Status;

    fn there() -> Vec<InstanceView> {
        let rows = [(0, "api"), (1, "api"), (2, "all"), (3, "7")];
        rows.map(|(id, name)| view(id, name, Status::Online)).to_vec()
    }

    #[test]
    fn names_of_a_file_become_ids() {
        let names = ["api".to_owned(), "all".to_owned(), "gone".to_owned()];
        let (ids, absent) = resolve_names(&names, &there());
        assert_eq!((ids, absent), (vec!["0".into(), "1".into(), "2".into()], vec!["gone"]));
    }

    #[test]
    fn one_instance_or_an_error_that_lists_the_ids() {
        assert_eq!(require_one("all", &there()).unwrap(), 2);
        assert_eq!(require_one("7", &there()).unwrap(), 3, "names come before ids");
        assert_eq!(require_one("1", &there()).unwrap(), 1);
        assert!(
            matches!(require_one("api", &there()), Err(Error::NotOneInstance { ids, .. }) if ids == [0, 1])
        );
        assert!(
            matches!(require_one("9", &there()), Err(Error::NotOneInstance { ids, .. }) if ids.is_empty())
        );
    }
}
