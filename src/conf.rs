//! What is set for all of one rsm by `rsm conf`, kept in `conf.json`.

use std::io;
use std::path::Path;

use crate::atomic_file::{self, Durability};
use serde::{Deserialize, Serialize};

/// The settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Conf {
    /// Bytes that all logs together may have; beyond them the oldest rotated files go.
    #[serde(rename = "logs.budget")]
    pub log_budget: u64,
    /// What rsm's own log tells.
    #[serde(rename = "log.level")]
    pub log_level: Level,
    /// Whether the list is saved by itself after each change.
    pub autosave: bool,
}

/// How much rsm's own log tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// What went wrong.
    Error,
    /// What may be wrong, too.
    Warn,
    /// What happens, too.
    #[default]
    Info,
    /// How it happens, too.
    Debug,
    /// Everything.
    Trace,
}

impl Default for Conf {
    fn default() -> Self {
        Self { log_budget: 10 << 30, log_level: Level::default(), autosave: false }
    }
}

impl Conf {
    /// The keys, as they are typed.
    pub fn keys() -> Vec<String> {
        match serde_json::to_value(Self::default()) {
            Ok(serde_json::Value::Object(table)) => table.into_iter().map(|(key, _)| key).collect(),
            _ => Vec::new(),
        }
    }

    /// Reads the file; without one all is as by default.
    ///
    /// # Errors
    /// It cannot be read, or says what makes no sense.
    pub fn load(path: &Path) -> io::Result<Self> {
        match std::fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::from),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    /// Writes the file, as a whole or not at all.
    ///
    /// # Errors
    /// It could not be written; it is as it was.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        atomic_file::replace(path, &text, Durability::Process)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("conf.json");
        assert_eq!(Conf::load(&path).unwrap(), Conf::default());
        let conf = Conf { log_budget: 5, log_level: Level::Debug, autosave: true };
        conf.save(&path).unwrap();
        assert_eq!(Conf::load(&path).unwrap(), conf);
        std::fs::write(&path, r#"{"logs.bugdet": 5}"#).unwrap();
        assert!(Conf::load(&path).unwrap_err().to_string().contains("logs.bugdet"));
    }
}
