//! Drift: differences between apps and their ecosystem files, because either was changed since the start.
//!
//! Compares fingerprints only. Files are not evaluated for a list; `rsm plan` shows whether a change matters.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use crate::config;
use crate::instance::Instance;
use crate::instance::state::Want;
use crate::spec::origin::Fingerprint;

/// How long to wait for a slow disk before the list is shown without the files.
const READ_TIMEOUT: Duration = Duration::from_millis(250);

/// The state of apps and files at one time.
#[derive(Debug, Default)]
pub struct Drift {
    /// The number of instances by app.
    instances: BTreeMap<String, usize>,
    /// The fingerprint of each file; `None` if it was deleted. Unreadable files are omitted.
    files: BTreeMap<PathBuf, Option<Fingerprint>>,
}

impl Drift {
    /// Reads the files of all instances.
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
            // A network file system can block forever.
            let read = tokio::task::spawn_blocking(move || fingerprint_files(sources));
            drift.files =
                tokio::time::timeout(READ_TIMEOUT, read).await.ok().and_then(Result::ok).unwrap_or_default();
        }
        drift
    }

    /// How an instance differs from its file, if it does.
    pub fn describe(&self, instance: &Instance) -> Option<String> {
        let spec = instance.spec();
        let (file, origin) = (spec.source.as_ref()?, spec.origin.as_ref()?);
        let path = file.display();
        let count = self.instances.get(&spec.name).copied().unwrap_or_default();
        match self.files.get(file) {
            Some(None) => Some(format!("{path} was deleted")),
            Some(Some(current)) if *current != origin.file_fingerprint => {
                Some(format!("{path} was modified"))
            }
            _ if origin.modified => Some(format!("settings were changed by a command, not in {path}")),
            _ if count > 0 && spec.target_instances(count) != count => {
                Some(format!("{count} instances running, {} in {path}", spec.target_instances(count)))
            }
            _ => None,
        }
    }
}

fn fingerprint_files(files: BTreeSet<PathBuf>) -> BTreeMap<PathBuf, Option<Fingerprint>> {
    let fingerprint = |file: PathBuf| match config::fingerprint_file(&file) {
        Ok(fingerprint) => Some((file, Some(fingerprint))),
        Err(error) => (error.kind() == ErrorKind::NotFound).then_some((file, None)),
    };
    files.into_iter().filter_map(fingerprint).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::spec::AppSpec;
    use crate::time::Moment;

    fn instance(id: u32, spec: &AppSpec) -> Instance {
        Instance::new(id, id, Arc::new(spec.clone()), Arc::default(), 0, Moment::default())
    }

    #[tokio::test]
    async fn reports_changed_file_changed_app_and_other_count() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("e.toml");
        std::fs::write(&file, "one").unwrap();
        let mut app = AppSpec::new("api", "/srv/api", "/srv");
        app.source = Some(file.clone());
        app.set_origin(Fingerprint::of(b"one"));
        let drift_of = async |specs: &[&AppSpec]| {
            let all: Vec<Instance> = (0..).zip(specs).map(|(id, spec)| instance(id, spec)).collect();
            Drift::inspect(all.iter()).await.describe(&all[0]).unwrap_or_default()
        };
        assert_eq!(drift_of(&[&app]).await, "");
        assert!(drift_of(&[&app, &app]).await.starts_with("2 instances running, 1 in /"));
        let changed = app.patched(json!({ "args": ["-v"] }).as_object().unwrap()).unwrap();
        assert!(drift_of(&[&changed]).await.starts_with("settings were changed by a command, not in /"));
        std::fs::write(&file, "two").unwrap();
        assert!(drift_of(&[&app]).await.ends_with("e.toml was modified"));
        std::fs::write(&file, "one").unwrap();
        assert_eq!(drift_of(&[&app]).await, "", "written with the same content");
        std::fs::remove_file(&file).unwrap();
        assert!(drift_of(&[&app]).await.ends_with("e.toml was deleted"));
        app.source = None;
        assert_eq!(drift_of(&[&app]).await, "", "the app has no file");
    }
}
