//! The settings of `rsm set` and `rsm conf`: one table, stored in `settings.json` of the rsm home. Some are
//! for the daemon, the others for commands.
//!
//! Version 0.1 stored the daemon settings in `conf.json`. That file is still read; the first change writes
//! its values to `settings.json` and removes it.

use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::atomic_file::{self, Durability};
use crate::paths::Home;

/// Level of the daemon log; each level includes the previous ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

/// One row of the table of settings.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    pub name: &'static str,
    pub doc: &'static str,
    pub kind: Kind,
    /// The default value, as text.
    pub default: &'static str,
    pub reader: Reader,
}

/// The type of a setting's value.
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

/// Which process reads a setting.
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

        /// All settings.
        pub const SETTINGS: &[Setting] = &[
            $( Setting { name: $name, doc: $doc, kind: $values, default: $default, reader: $reader } ),*
        ];
    };
}

settings! {
    /// Save the list of apps after each change; on in a new home
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

/// Reads a value, or a number as text as in version 0.1.
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

/// A settings file that cannot be used.
#[derive(Debug)]
pub struct SettingsError {
    pub path: PathBuf,
    pub problem: String,
}

impl fmt::Display for SettingsError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.path.display(), self.problem)
    }
}

impl std::error::Error for SettingsError {}

impl RsmSettings {
    /// Reads the settings of a home. Without a file all settings have their defaults.
    ///
    /// # Errors
    /// A file cannot be read, or is not valid.
    pub fn load(home: &Home) -> Result<Self, SettingsError> {
        let (old, new) = (home.daemon_settings_v0_1(), home.settings());
        let mut values = read(&old)?;
        // That file contains all daemon settings, also those that were not changed.
        values.retain(|name, value| Self::default().value(name).as_ref() != Some(value));
        values.extend(read(&new)?);
        serde_json::from_value(Value::Object(values))
            .map_err(|error| SettingsError { path: new, problem: format!("is not valid: {error}") })
    }

    /// Sets a value; `None` restores the default.
    ///
    /// # Errors
    /// The setting does not exist, or the value has the wrong type.
    pub fn set(&mut self, name: &str, value: Option<Value>) -> Result<(), serde_json::Error> {
        let mut values = self.values();
        match value {
            Some(value) => values.insert(name.to_owned(), value),
            None => values.remove(name),
        };
        *self = serde_json::from_value(Value::Object(values))?;
        Ok(())
    }

    /// Replaces the file. In a new home, turns `autosave` on: users of other process managers expect their apps to come
    /// back.
    ///
    /// # Errors
    /// The file cannot be written, and is unchanged.
    pub fn save(&self, home: &Home) -> Result<(), SettingsError> {
        let path = home.settings();
        let failed = |error: io::Error| SettingsError {
            path: path.clone(),
            problem: format!("cannot be written: {error}"),
        };
        let mut settings = self.clone();
        if home.is_new() {
            settings.autosave.get_or_insert(true);
        }
        home.create().and_then(|()| replace(&path, &settings)).map_err(failed)?;
        match std::fs::remove_file(home.daemon_settings_v0_1()) {
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
        // Values are checked per file, so that an error names the right one.
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
    fn settings_round_trip() {
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
        std::fs::write(home.settings(), r#"{"logs.bugdet": 5}"#).unwrap();
        assert!(RsmSettings::load(&home).unwrap_err().to_string().contains("logs.bugdet"));
    }

    #[test]
    fn reads_and_merges_the_files_of_version_0_1() {
        let (_dir, home) = home();
        let conf = r#"{"logs.budget": 500, "log.level": "info", "autosave": true}"#;
        std::fs::write(home.daemon_settings_v0_1(), conf).unwrap();
        std::fs::write(home.settings(), r#"{"logs.lines": "100", "list.sort": "id:desc"}"#).unwrap();
        let mut settings = RsmSettings::load(&home).unwrap();
        assert_eq!((settings.log_budget(), settings.autosave(), settings.log_lines()), (500, true, 100));
        let set = settings.values();
        assert!(set.contains_key("logs.budget") && !set.contains_key("log.level"));
        settings.set("autosave", None).unwrap();
        settings.save(&home).unwrap();
        assert!(!home.daemon_settings_v0_1().exists());
        let loaded = RsmSettings::load(&home).unwrap();
        assert_eq!(
            (loaded.log_budget(), loaded.autosave(), loaded.list_sort()),
            (500, false, "id:desc".into())
        );
        std::fs::write(home.daemon_settings_v0_1(), "{").unwrap();
        assert!(RsmSettings::load(&home).unwrap_err().path == home.daemon_settings_v0_1());
    }

    #[test]
    fn each_setting_has_a_value_of_its_type() {
        for setting in SETTINGS {
            let value = RsmSettings::default().value(setting.name).unwrap();
            let mut settings = RsmSettings::default();
            settings.set(setting.name, Some(value)).unwrap();
            assert!(settings.values().contains_key(setting.name), "{}", setting.name);
        }
        assert!(RsmSettings::default().set("log.level", Some(json!("loud"))).is_err());
        assert!(RsmSettings::default().set("nothing", Some(json!(1))).is_err());
    }
}
