//! What is set by `rsm set` and `rsm conf` for one rsm home: one table of settings, kept in
//! `settings.json`. The daemon reads some of them, the commands the others.
//!
//! Version 0.1 kept those of the daemon in `conf.json`. That file is still read; the first change
//! writes its values to `settings.json` and removes it.

use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::atomic_file::{self, Durability};
use crate::paths::Home;

/// How much rsm's own log contains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Errors.
    Error,
    /// And warnings.
    Warn,
    /// And what happens.
    #[default]
    Info,
    /// And how it happens.
    Debug,
    /// Everything.
    Trace,
}

/// One row of the table of settings.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Its name.
    pub name: &'static str,
    /// What it sets.
    pub doc: &'static str,
    /// What values it takes.
    pub kind: Kind,
    /// Its default, as one would type it.
    pub default: &'static str,
    /// Who reads it.
    pub reader: Reader,
}

/// The values that a setting takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`.
    Boolean,
    /// A number of bytes, such as `10G`.
    Size,
    /// A whole number.
    Count,
    /// A [`LogLevel`].
    LogLevel,
    /// A field to sort by, such as `name:asc`.
    SortField,
}

/// Who reads a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// The daemon, which is notified of a change.
    Daemon,
    /// Commands.
    Cli,
}

macro_rules! settings {
    ($( #[doc = $doc:literal] $field:ident: $kind:ty = $name:literal, $values:expr, default $default:literal = $value:expr, $reader:expr; )*) => {
        /// The settings of one rsm home; those that are not set have their default.
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct RsmSettings {
            $( #[serde(rename = $name, skip_serializing_if = "Option::is_none", deserialize_with = "lenient")]
            $field: Option<$kind>, )*
        }

        impl RsmSettings {
            $( #[doc = $doc]
            pub fn $field(&self) -> $kind {
                self.$field.clone().unwrap_or_else(|| $value)
            } )*

            /// The value of a setting, or its default.
            pub fn value(&self, name: &str) -> Option<Value> {
                match name {
                    $( $name => serde_json::to_value(self.$field()).ok(), )*
                    _ => None,
                }
            }
        }

        /// The table.
        pub const SETTINGS: &[Setting] = &[
            $( Setting { name: $name, doc: $doc, kind: $values, default: $default, reader: $reader } ),*
        ];
    };
}

settings! {
    /// Save the list after each change
    autosave: bool = "autosave", Kind::Boolean, default "false" = false, Reader::Daemon;
    /// Default sort order of `rsm list`, as for --sort
    list_sort: String = "list.sort", Kind::SortField, default "name:asc" = "name:asc".into(), Reader::Cli;
    /// Level of the daemon log: error, warn, info, debug or trace; takes effect when the daemon starts
    log_level: LogLevel = "log.level", Kind::LogLevel, default "info" = LogLevel::default(), Reader::Daemon;
    /// Maximum size of all logs together; the oldest rotated files are deleted first
    log_budget: u64 = "logs.budget", Kind::Size, default "10G" = 10 << 30, Reader::Daemon;
    /// Number of recent lines shown by `rsm logs`
    log_lines: usize = "logs.lines", Kind::Count, default "15" = 15, Reader::Cli;
}

/// Version 0.1 wrote numbers as text.
fn lenient<'de, D: Deserializer<'de>, T: serde::de::DeserializeOwned>(
    input: D,
) -> Result<Option<T>, D::Error> {
    let value = Value::deserialize(input)?;
    let number = value.as_str().and_then(|text| text.parse::<u64>().ok()).map(Value::from);
    let read = |value| serde_json::from_value(value).map_err(D::Error::custom);
    match number.map(serde_json::from_value) {
        Some(Ok(number)) => Ok(Some(number)),
        _ => read(value).map(Some),
    }
}

/// A file of settings that cannot be used.
#[derive(Debug)]
pub struct SettingsError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: String,
}

impl fmt::Display for SettingsError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.path.display(), self.problem)
    }
}

impl std::error::Error for SettingsError {}

impl RsmSettings {
    /// Reads the settings of a home. Without a file all have their default.
    ///
    /// # Errors
    /// A file cannot be read, or is not valid.
    pub fn load(home: &Home) -> Result<Self, SettingsError> {
        let (old, new) = (home.daemon_config(), home.preferences());
        let mut values = read(&old)?;
        // That file held all settings of the daemon, also those that nobody had changed.
        values.retain(|name, value| Self::default().value(name).as_ref() != Some(value));
        values.extend(read(&new)?);
        serde_json::from_value(Value::Object(values))
            .map_err(|error| SettingsError { path: new, problem: format!("is not valid: {error}") })
    }

    /// Whether a setting is set.
    pub fn is_set(&self, name: &str) -> bool {
        self.values().contains_key(name)
    }

    /// Sets a value, or restores the default.
    ///
    /// # Errors
    /// There is no such setting, or the value is of the wrong type.
    pub fn set(&mut self, name: &str, value: Option<Value>) -> Result<(), serde_json::Error> {
        let mut values = self.values();
        match value {
            Some(value) => values.insert(name.to_owned(), value),
            None => values.remove(name),
        };
        *self = serde_json::from_value(Value::Object(values))?;
        Ok(())
    }

    /// Writes the file, as a whole or not at all.
    ///
    /// # Errors
    /// It cannot be written; it is unchanged.
    pub fn save(&self, home: &Home) -> Result<(), SettingsError> {
        let path = home.preferences();
        let failed = |error: io::Error| SettingsError {
            path: path.clone(),
            problem: format!("cannot be written: {error}"),
        };
        home.create().and_then(|()| replace(&path, self)).map_err(failed)?;
        match std::fs::remove_file(home.daemon_config()) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(error)),
            _ => Ok(()),
        }
    }

    fn values(&self) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(values)) => values,
            _ => Map::new(),
        }
    }
}

fn read(path: &Path) -> Result<Map<String, Value>, SettingsError> {
    let failed = |problem: String| SettingsError { path: path.to_owned(), problem };
    match std::fs::read(path) {
        // The values are checked where they are, so that an error names the right file.
        Ok(bytes) => serde_json::from_slice::<RsmSettings>(&bytes)
            .map(|settings| settings.values())
            .map_err(|error| failed(format!("is not valid: {error}"))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Map::new()),
        Err(error) => Err(failed(format!("cannot be read: {error}"))),
    }
}

fn replace(path: &Path, settings: &RsmSettings) -> io::Result<()> {
    let mut text = serde_json::to_vec_pretty(settings)?;
    text.push(b'\n');
    atomic_file::replace(path, &text, Durability::Disk)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn home() -> (tempfile::TempDir, Home) {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::new(dir.path().to_owned());
        (dir, home)
    }

    #[test]
    fn loads_what_was_saved() {
        let (_dir, home) = home();
        assert_eq!(RsmSettings::load(&home).unwrap(), RsmSettings::default());
        let mut settings = RsmSettings::default();
        settings.set("logs.budget", Some(json!(5))).unwrap();
        settings.set("log.level", Some(json!("debug"))).unwrap();
        settings.set("autosave", Some(json!(true))).unwrap();
        settings.save(&home).unwrap();
        let loaded = RsmSettings::load(&home).unwrap();
        assert_eq!(loaded, settings);
        assert_eq!((loaded.log_budget(), loaded.log_level(), loaded.autosave()), (5, LogLevel::Debug, true));
        std::fs::write(home.preferences(), r#"{"logs.bugdet": 5}"#).unwrap();
        assert!(RsmSettings::load(&home).unwrap_err().to_string().contains("logs.bugdet"));
    }

    #[test]
    fn reads_and_merges_the_files_of_version_0_1() {
        let (_dir, home) = home();
        let conf = r#"{"logs.budget": 500, "log.level": "info", "autosave": true}"#;
        std::fs::write(home.daemon_config(), conf).unwrap();
        std::fs::write(home.preferences(), r#"{"logs.lines": "100", "list.sort": "id:desc"}"#).unwrap();
        let mut settings = RsmSettings::load(&home).unwrap();
        assert_eq!((settings.log_budget(), settings.autosave(), settings.log_lines()), (500, true, 100));
        assert!(settings.is_set("logs.budget") && !settings.is_set("log.level"));
        settings.set("autosave", None).unwrap();
        settings.save(&home).unwrap();
        assert!(!home.daemon_config().exists());
        let loaded = RsmSettings::load(&home).unwrap();
        assert_eq!(
            (loaded.log_budget(), loaded.autosave(), loaded.list_sort()),
            (500, false, "id:desc".into())
        );
        std::fs::write(home.daemon_config(), "{").unwrap();
        assert!(RsmSettings::load(&home).unwrap_err().path == home.daemon_config());
    }

    #[test]
    fn each_setting_has_a_value_of_its_type() {
        for setting in SETTINGS {
            let value = RsmSettings::default().value(setting.name).unwrap();
            let mut settings = RsmSettings::default();
            settings.set(setting.name, Some(value)).unwrap();
            assert!(settings.is_set(setting.name), "{}", setting.name);
        }
        assert!(RsmSettings::default().set("log.level", Some(json!("loud"))).is_err());
        assert!(RsmSettings::default().set("nothing", Some(json!(1))).is_err());
    }
}
