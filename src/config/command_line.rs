//! An app from a command line: flags set keys, which are read and resolved like those of a file.

use std::path::Path;

use serde_json::{Value, json};

use crate::config::diagnostics::{ConfigErrors, Diagnostics, SourceRef};
use crate::config::key_def::{Flag, FlagValue, KeyDef};
use crate::config::keys::{AppSettings, find_key, keys_with_flags};
use crate::config::load::{LoadOptions, Loaded};
use crate::config::parse::file::ParsedApp;
use crate::config::resolve::{self, ResolveContext, SearchPath, absolute};
use crate::config::values::display_value;

/// `rsm start SCRIPT` and its flags.
#[derive(Clone, Copy, Debug, Default)]
pub struct CommandLine<'a> {
    /// A file, a program in `PATH`, a shell command, or `serve`.
    pub script: &'a str,
    /// The arguments after `--`.
    pub args: &'a [String],
    /// The flags.
    pub flags: &'a [GivenFlag],
}

/// A flag that was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenFlag {
    /// The flag, with its dashes.
    pub long: &'static str,
    /// The values of all its occurrences; an omitted value is empty.
    pub values: Vec<String>,
}

/// A key that is set by a flag or argument.
pub(super) struct GivenKey {
    /// The flag or argument.
    pub(super) source: &'static str,
    pub(super) key: &'static KeyDef,
    pub(super) value: Value,
}

/// Resolves the app of a command line that was entered in the directory `cwd` (absolute).
///
/// # Errors
/// Every error of the command line; each names its flag.
pub fn load_command_line(
    line: &CommandLine<'_>,
    cwd: &Path,
    options: &LoadOptions,
) -> Result<Loaded, ConfigErrors> {
    let mut diagnostics = Diagnostics::of_command_line();
    let mut given = given_keys(line);
    given.extend(argument("start", "script", json!(line.script)));
    let settings = read_flags(&given, &mut diagnostics);
    let parsed = ParsedApp::new(settings, SourceRef::Flag("--env"));
    let app = match diagnostics.count() {
        0 => resolve::resolve_app(&parsed, &command_line_context(cwd, options), &mut diagnostics),
        _ => None,
    };
    diagnostics.finish(app).map(|(app, warnings)| Loaded { apps: app.into_iter().collect(), warnings })
}

/// Whether a word is a file, a directory, a program in `PATH` or a shell command, and not only the name of an app.
pub fn is_runnable(word: &str, cwd: &Path, options: &LoadOptions) -> bool {
    let search = SearchPath::new(None, &options.path_var, cwd);
    word == "serve"
        || word.contains(char::is_whitespace)
        || absolute(word, cwd).exists()
        || search.find(word).is_some()
}

/// The context of a command line.
pub(super) fn command_line_context<'a>(cwd: &Path, options: &'a LoadOptions) -> ResolveContext<'a> {
    ResolveContext {
        base: cwd.to_owned(),
        script_from_base: true,
        source: None,
        env_name: options.env_name.as_deref(),
        cores: options.cores,
        path_var: &options.path_var,
    }
}

/// Reads the values of flags into settings.
pub(super) fn read_flags(given: &[GivenKey], diagnostics: &mut Diagnostics<'_>) -> AppSettings {
    let mut settings = AppSettings::default();
    for GivenKey { source, key, value } in given {
        let source = SourceRef::Flag(source);
        if let Err(error) = settings.set(key, value, source.clone()) {
            diagnostics.error(&source, error.expectation(Some(&display_value(value))), error.help);
        }
    }
    settings
}

/// The keys that flags and arguments set, in the order of the table.
pub(super) fn given_keys(line: &CommandLine<'_>) -> Vec<GivenKey> {
    let mut given: Vec<GivenKey> = Vec::new();
    if !line.args.is_empty() {
        given.extend(argument("--", "args", json!(line.args)));
    }
    for (key, flag) in keys_with_flags() {
        let Some(GivenFlag { values, .. }) = line.flags.iter().find(|given| given.long == flag.long) else {
            continue;
        };
        let value = flag.value(values);
        match given.iter_mut().find(|other| other.key.name == key.name) {
            // `--ext` and `--ignore-watch`, whose patterns come last and thus take precedence.
            Some(other) => other.value = json!(format!("{} {}", text(&value), text(&other.value))),
            None => given.push(GivenKey { source: flag.long, key, value }),
        }
    }
    given
}

fn argument(source: &'static str, key: &str, value: Value) -> Option<GivenKey> {
    find_key(key).map(|key| GivenKey { source, key, value })
}

impl Flag {
    /// The value of the key.
    fn value(&self, values: &[String]) -> Value {
        let last = values.last().map(String::as_str).unwrap_or_default();
        let last = self.convert.map_or_else(|| last.to_owned(), |convert| convert(last));
        match self.value {
            FlagValue::Switch(sets) => json!(sets),
            FlagValue::Text(_) => json!(last),
            FlagValue::OptionalText(_) if values.is_empty() => json!(true),
            FlagValue::OptionalText(_) => json!(last),
            FlagValue::List(_) => json!(values),
            FlagValue::OptionalList(_) => {
                json!(values.iter().filter(|value| !value.is_empty()).collect::<Vec<_>>())
            }
            FlagValue::Joined(_) => json!(values.join(",")),
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
impl GivenFlag {
    /// Flags with their values, for tests: `("--time", "")`.
    pub(super) fn all(flags: &[(&str, &str)]) -> Vec<Self> {
        let given_flag = |(long, value): &(&str, &str)| {
            let (_, flag) = keys_with_flags().find(|(_, flag)| flag.long == *long).unwrap();
            let has_no_value = matches!(flag.value, FlagValue::Switch(_) | FlagValue::OptionalText(_));
            let values = if has_no_value && value.is_empty() { vec![] } else { vec![(*value).to_owned()] };
            Self { long: flag.long, values }
        };
        flags.iter().map(given_flag).collect()
    }
}
