//! How apps differ from the files that they were started from: because the file, or the app, has been
//! changed since.
//!
//! A file's content tells it from its next state. Nothing is evaluated to show a list: whether the change
//! means anything is told by a plan.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use crate::config;
use crate::instance::Instance;
use crate::instance::state::Want;
use crate::spec::origin::Fingerprint;

/// A disk that takes longer is not waited for: a list is wanted at once.
const READ_TIMEOUT: Duration = Duration::from_millis(250);

/// What is known of apps and files at one time.
#[derive(Debug, Default)]
pub struct Drift {
    /// How many instances each app has.
    instances: BTreeMap<String, usize>,
    /// What is in each file; nothing for one that is gone. Those that could not be read are not here.
    files: BTreeMap<PathBuf, Option<Fingerprint>>,
}

impl Drift {
    /// Looks at the files of these apps, which are all that there are.
    pub async fn inspect<'a>(all: impl Iterator<Item = &'a Instance>) -> Self {
        let mut drift = Self::default();
        let mut sources = BTreeSet::new();
        for instance in all.filter(|instance| instance.status().want != Want::Gone) {
            if let (Some(file), true) = (&instance.spec().source, instance.spec().origin.is_some()) {
                sources.insert(file.clone());
                *drift.instances.entry(instance.spec().name.clone()).or_default() += 1;
            }
        }
        if !sources.is_empty() {
            // On a thread of its own: a network file system may keep who asks for ever.
            let read = tokio::task::spawn_blocking(move || fingerprint_files(sources));
            drift.files =
                tokio::time::timeout(READ_TIMEOUT, read).await.ok().and_then(Result::ok).unwrap_or_default();
        }
        drift
    }

    /// How an instance differs from its file; nothing if it came from none, or does not.
    pub fn describe(&self, instance: &Instance) -> Option<String> {
        let spec = instance.spec();
        let (file, origin) = (spec.source.as_ref()?, spec.origin.as_ref()?);
        let shown = file.display();
        let there = self.instances.get(&spec.name).copied().unwrap_or_default();
        match self.files.get(file) {
            Some(None) => Some(format!("{shown} was deleted")),
            Some(Some(now)) if *now != origin.file_fingerprint => Some(format!("{shown} was modified")),
            _ if origin.modified => Some(format!("settings were changed by a command, not in {shown}")),
            _ if there > 0 && spec.target_instances(there) != there => {
                Some(format!("{there} instances running, {} in {shown}", spec.target_instances(there)))
            }
            _ => None,
        }
    }
}

fn fingerprint_files(files: BTreeSet<PathBuf>) -> BTreeMap<PathBuf, Option<Fingerprint>> {
    let mark = |file: PathBuf| match config::fingerprint_file(&file) {
        Ok(mark) => Some((file, Some(mark))),
        Err(error) => (error.kind() == ErrorKind::NotFound).then_some((file, None)),
    };
    files.into_iter().filter_map(mark).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use crate::daemon::jobs::drift::*;
    use crate::spec::AppSpec;
    use crate::time::Moment;

    fn instance(id: u32, spec: &AppSpec) -> Instance {
        Instance::new(id, id, Arc::new(spec.clone()), Arc::default(), 0, Moment::default())
    }

    #[tokio::test]
    async fn a_changed_file_a_changed_app_and_another_count_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("e.toml");
        std::fs::write(&file, "one").unwrap();
        let mut app = AppSpec::new("api", "/srv/api", "/srv");
        app.source = Some(file.clone());
        app.set_origin(Fingerprint::of(b"one"));
        let told = async |specs: &[&AppSpec]| {
            let all: Vec<Instance> = (0..).zip(specs).map(|(id, spec)| instance(id, spec)).collect();
            Drift::inspect(all.iter()).await.describe(&all[0]).unwrap_or_default()
        };
        assert_eq!(told(&[&app]).await, "");
        assert!(told(&[&app, &app]).await.starts_with("2 instances running, 1 in /"));
        let changed = app.patched(json!({ "args": ["-v"] }).as_object().unwrap()).unwrap();
        assert!(told(&[&changed]).await.starts_with("settings were changed by a command, not in /"));
        std::fs::write(&file, "two").unwrap();
        assert!(told(&[&app]).await.ends_with("e.toml was modified"));
        std::fs::write(&file, "one").unwrap();
        assert_eq!(told(&[&app]).await, "", "written, and the same");
        std::fs::remove_file(&file).unwrap();
        assert!(told(&[&app]).await.ends_with("e.toml was deleted"));
        app.source = None;
        assert_eq!(told(&[&app]).await, "", "it came from no file");
    }
}
