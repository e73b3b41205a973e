//! Which state of its file each app was last started from, so that a list can say where the file has
//! been changed since, or the app by other means.
//!
//! A file's time and size tell it from its next state: nothing is evaluated to show a list.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::spec::AppSpec;

/// What was applied last, by app. Its file is small: it holds names and times, no settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Applied(BTreeMap<String, Known>);

/// What is known of an app.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Known {
    /// The state of its file that it was started from.
    stamp: Option<Stamp>,
    /// The command that changed it since.
    changed_by: Option<String>,
}

/// One state of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    seconds: i64,
    nanoseconds: i64,
    size: u64,
}

impl Stamp {
    fn of(path: &Path) -> io::Result<Self> {
        let meta = fs::metadata(path)?;
        Ok(Self { seconds: meta.mtime(), nanoseconds: meta.mtime_nsec(), size: meta.size() })
    }
}

impl Applied {
    /// Reads it; what cannot be read says nothing.
    pub fn load(path: &Path) -> Self {
        let bytes = fs::read(path).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    /// Writes it whole or not at all.
    ///
    /// # Errors
    /// The disk's.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let beside = path.with_extension(format!("{}.new", std::process::id()));
        let mut options = fs::File::options();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        fs::rename(&beside, path)
    }

    /// Notes that these apps are now as their files say.
    pub fn note_files(&mut self, apps: &[AppSpec]) {
        for app in apps {
            let stamp = app.source.as_ref().and_then(|file| Stamp::of(file).ok());
            self.0.insert(app.name.clone(), Known { stamp, changed_by: None });
        }
    }

    /// Notes that a command has changed an app.
    pub fn note_change(&mut self, app: &str, command: &str) {
        if let Some(known) = self.0.get_mut(app) {
            known.changed_by = Some(command.to_owned());
        }
    }

    /// How an app that runs may differ from its file; nothing if it came from none, or does not.
    pub fn drift(&self, app: &AppSpec) -> Option<String> {
        let (file, known) = (app.source.as_ref()?, self.0.get(&app.name)?);
        let (then, shown) = (known.stamp?, file.display());
        match Stamp::of(file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Some(format!("{shown} is gone")),
            Ok(now) if then != now => Some(format!("{shown} has changed since")),
            _ => known.changed_by.as_ref().map(|command| format!("changed by `{command}`, not in {shown}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_and_a_changed_app_are_told_until_the_file_is_applied_again() {
        let dir = tempfile::tempdir().unwrap();
        let (file, record) = (dir.path().join("e.toml"), dir.path().join("applied.json"));
        fs::write(&file, "one").unwrap();
        let mut app = AppSpec::new("api", "/srv/api", "/srv");
        let mut applied = Applied::load(&record);
        applied.note_files(std::slice::from_ref(&app));
        assert_eq!(applied.drift(&app), None, "it came from no file");
        app.source = Some(file.clone());
        applied.note_files(std::slice::from_ref(&app));
        assert_eq!(applied.drift(&app), None);
        applied.note_change("api", "rsm scale");
        assert!(applied.drift(&app).unwrap().contains("`rsm scale`"));
        fs::write(&file, "another").unwrap();
        applied.save(&record).unwrap();
        let mut applied = Applied::load(&record);
        assert!(applied.drift(&app).unwrap().ends_with("has changed since"));
        applied.note_files(std::slice::from_ref(&app));
        assert_eq!(applied.drift(&app), None);
        fs::remove_file(&file).unwrap();
        assert!(applied.drift(&app).unwrap().ends_with("is gone"));
    }
}
