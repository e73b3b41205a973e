//! An app from a command line: flags are keys by another name, read and resolved as those of a
//! file.

use std::path::Path;

use serde_json::{Value, json};

use super::key_def::{Flag, FlagValue, KeyDef};
use super::keys::{AppSettings, find_key, keys_with_flags};
use super::mistake::ConfigErrors;
use super::resolve::{self, ResolveContext};
use super::{LoadOptions, Loaded};
use crate::config::diagnostics::{Diagnostics, SourceRef};
use crate::config::parse::file::ParsedApp;
use crate::config::values::display_value;

/// `rsm start SCRIPT` and its flags.
#[derive(Clone, Copy, Debug, Default)]
pub struct CommandLine<'a> {
    /// A file, a program in `PATH`, a shell command, or `serve`.
    pub script: &'a str,
    /// What follows `--`.
    pub args: &'a [String],
    /// The flags.
    pub flags: &'a [GivenFlag],
}

/// A flag that was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenFlag {
    /// The flag, with its dashes.
    pub long: &'static str,
    /// Its values as typed, those of all its occurrences. Where one was left out there is an empty one.
    pub values: Vec<String>,
}

/// A key that was given, the flag or argument it comes from, and its value.
pub(super) struct GivenKey {
    pub(super) source: &'static str,
    pub(super) key: &'static KeyDef,
    pub(super) value: Value,
}

/// Resolves the app of a command line, typed in the directory `cwd` (absolute).
///
/// # Errors
/// Every error of the command line; each names its flag.
pub fn load_command_line(
    line: &CommandLine<'_>,
    cwd: &Path,
    options: &LoadOptions,
) -> Result<Loaded, ConfigErrors> {
    let mut findings = Diagnostics::new(None);
    let mut given = given_keys(line);
    given.extend(argument("start", "script", json!(line.script)));
    let settings = read_flags(&given, &mut findings);
    let written = ParsedApp::new(settings, SourceRef::Flag("--env"));
    let app = match findings.count() {
        0 => resolve::resolve_app(&written, &command_line_context(cwd, options), &mut findings),
        _ => None,
    };
    findings.finish(app).map(|(app, warnings)| Loaded { apps: app.into_iter().collect(), warnings })
}

/// What a command line is resolved against.
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
pub(super) fn read_flags(given: &[GivenKey], findings: &mut Diagnostics<'_>) -> AppSettings {
    let mut settings = AppSettings::default();
    for GivenKey { source, key, value } in given {
        let at = SourceRef::Flag(source);
        // Found by name: the row of `--ext` has no type of its own.
        let parse = find_key(key.name).map_or(key.parse, |key| key.parse);
        if let Err(wrong) = parse(&mut settings, value, at.clone()) {
            findings.error(&at, wrong.expectation(Some(&display_value(value))), wrong.help);
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
            // `--ext` beside `--ignore-watch`, whose patterns come last and so win.
            Some(other) => other.value = json!(format!("{} {}", plain(&value), plain(&other.value))),
            None => given.push(GivenKey { source: flag.long, key, value }),
        }
    }
    given
}

fn argument(source: &'static str, key: &str, value: Value) -> Option<GivenKey> {
    find_key(key).map(|key| GivenKey { source, key, value })
}

impl Flag {
    /// The value that becomes of what was typed.
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

fn plain(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// `--watch-delay 2`: a number without a unit is seconds, as in PM2.
pub(super) fn seconds_to_duration(delay: &str) -> String {
    let bare = !delay.is_empty() && delay.bytes().all(|c| c.is_ascii_digit() || c == b'.');
    if bare { format!("{delay}s") } else { delay.to_owned() }
}

/// `--ext js`: ignores everything but directories and such files, and of these what is always
/// ignored.
pub(super) fn ext_to_ignore_patterns(extensions: &str) -> String {
    let wanted = extensions.split([',', ' ']).map(|extension| extension.trim_start_matches('.'));
    let wanted = wanted.filter(|extension| !extension.is_empty()).map(|extension| format!("!*.{extension}"));
    let patterns: Vec<String> = ["*".to_owned(), "!*/".to_owned()].into_iter().chain(wanted).collect();
    format!("{} .* node_modules", patterns.join(" "))
}

#[cfg(test)]
impl GivenFlag {
    /// Flags with their values, for tests: `("--time", "")`.
    pub(super) fn all(flags: &[(&str, &str)]) -> Vec<Self> {
        let given = |(long, value): &(&str, &str)| {
            let (_, flag) = keys_with_flags().find(|(_, flag)| flag.long == *long).unwrap();
            let bare = matches!(flag.value, FlagValue::Switch(_) | FlagValue::OptionalText(_));
            let values = if bare && value.is_empty() { vec![] } else { vec![(*value).to_owned()] };
            Self { long: flag.long, values }
        };
        flags.iter().map(given).collect()
    }
}
