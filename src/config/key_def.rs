//! The columns of the table of keys: the properties of a key, its flag, and its value in the output of `rsm jlist`.

use std::path::Path;
use std::time::Duration;

use schemars::{Schema, SchemaGenerator};
use serde::Serialize;

use crate::config::values::to_camel_case;
use crate::spec::{AppSpec, EnvVars};

/// A row of the table of keys.
#[derive(Clone, Copy)]
pub struct KeyDef {
    /// The canonical spelling.
    pub name: &'static str,
    /// Other spellings, in addition to the camelCase form of each spelling.
    pub aliases: &'static [&'static str],
    /// The description in the schema and in the reference.
    pub doc: &'static str,
    /// The heading of its flag in the help.
    pub group: Group,
    /// Its flag, if it has one.
    pub flag: Option<Flag>,
    /// JSON pointers to its value in [`AppSpec`].
    pub spec: &'static [&'static str],
    /// Whether a flag with the value `null` restores the default.
    pub resettable: bool,
    /// Whether its value is a table, whose keys have the same names in [`AppSpec`].
    pub table: bool,
    /// Whether PM2 has this key.
    pub in_pm2: bool,
    /// Its name in the output of `rsm jlist`, and how its value is read.
    pub jlist: Option<(&'static str, Pm2Reader)>,
    pub(super) schema: fn(&mut SchemaGenerator) -> Schema,
}

/// Reads the value that PM2 shows for a key from a spec.
pub type Pm2Reader = for<'a> fn(&'a AppSpec) -> Pm2Value<'a>;

/// A group of keys: a heading in the help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// The program and its arguments.
    App,
    /// Environment variables and the user.
    Environment,
    /// The number of instances, and how they share ports.
    Instances,
    /// Log files.
    Logs,
    /// The restart policy.
    Restart,
    /// How an app is stopped, and when it is ready.
    StopAndReadiness,
    /// Limits enforced by the kernel.
    Limits,
    /// Restarts after changes of files.
    Watch,
}

/// A flag of `start`, `restart`, `reload` and `runtime`.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// The flag, with its dashes.
    pub long: &'static str,
    /// The short form.
    pub short: Option<char>,
    /// Another long name, without dashes.
    pub alias: Option<&'static str>,
    /// The value it takes.
    pub value: FlagValue,
    /// The help, if it differs from the summary of the key.
    pub help: Option<&'static str>,
    /// Whether the help omits it.
    pub hidden: bool,
    /// Whether its value may begin with a dash.
    pub allow_hyphen: bool,
    pub(super) convert: Option<fn(&str) -> String>,
}

/// The value that a flag takes, and how it becomes the value of the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlagValue {
    /// None: the key is set to this.
    Switch(bool),
    /// One value of this name.
    Text(&'static str),
    /// An optional value of this name; without it, the key is set to `true`.
    OptionalText(&'static str),
    /// One value of this name for each occurrence of the flag; a list.
    List(&'static str),
    /// An optional value of this name for each occurrence of the flag; a list.
    OptionalList(&'static str),
    /// One value of this name for each occurrence of the flag, joined by commas.
    Joined(&'static str),
}

/// A value in the output of `rsm jlist`.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Pm2Value<'a> {
    /// PM2 omits settings that are not set.
    Absent,
    /// A boolean.
    Flag(bool),
    /// A number.
    Number(u64),
    /// A string.
    Text(&'a str),
    /// A list of strings.
    Words(&'a [String]),
    /// A list of numbers.
    Codes(&'a [i32]),
    /// A path.
    Path(&'a Path),
    /// Environment variables.
    Vars(&'a EnvVars),
}

impl KeyDef {
    /// A key of a group; the table adds name, documentation and type.
    pub(super) const fn new(group: Group) -> Self {
        Self {
            name: "",
            aliases: &[],
            doc: "",
            group,
            flag: None,
            spec: &[],
            resettable: true,
            table: false,
            in_pm2: true,
            jlist: None,
            schema: |_| Schema::default(),
        }
    }

    pub(super) const fn aliases(self, aliases: &'static [&'static str]) -> Self {
        Self { aliases, ..self }
    }

    pub(super) const fn flag(self, flag: Flag) -> Self {
        Self { flag: Some(flag), ..self }
    }

    pub(super) const fn spec(self, spec: &'static [&'static str]) -> Self {
        Self { spec, ..self }
    }

    pub(super) const fn not_resettable(self) -> Self {
        Self { resettable: false, ..self }
    }

    pub(super) const fn table(self) -> Self {
        Self { table: true, ..self }
    }

    pub(super) const fn not_in_pm2(self) -> Self {
        Self { in_pm2: false, ..self }
    }

    pub(super) const fn jlist(self, name: &'static str, read: Pm2Reader) -> Self {
        Self { jlist: Some((name, read)), ..self }
    }

    /// The description.
    pub fn doc(&self) -> &'static str {
        self.doc.trim()
    }

    /// The first sentence of the description.
    pub fn summary(&self) -> &'static str {
        let doc = self.doc();
        doc.split_once(". ").map_or(doc, |(first, _)| first).trim_end_matches('.')
    }

    /// The help of its flag.
    pub fn help(&self) -> &'static str {
        self.flag.and_then(|flag| flag.help).unwrap_or(self.summary())
    }

    /// All spellings.
    pub fn spellings(&self) -> impl Iterator<Item = String> {
        let plain = std::iter::once(self.name).chain(self.aliases.iter().copied());
        plain.flat_map(|name| std::iter::once(name.to_owned()).chain(to_camel_case(name)))
    }
}

impl Group {
    /// The heading.
    pub fn heading(self) -> &'static str {
        match self {
            Self::App => "App",
            Self::Environment => "Environment",
            Self::Instances => "Instances and ports",
            Self::Logs => "Logs",
            Self::Restart => "Restart policy",
            Self::StopAndReadiness => "Stop and readiness",
            Self::Limits => "Limits",
            Self::Watch => "Watch",
        }
    }
}

impl Flag {
    const fn new(long: &'static str, value: FlagValue) -> Self {
        Self {
            long,
            short: None,
            alias: None,
            value,
            help: None,
            hidden: false,
            allow_hyphen: false,
            convert: None,
        }
    }

    pub(super) const fn switch(long: &'static str, sets: bool) -> Self {
        Self::new(long, FlagValue::Switch(sets))
    }

    pub(super) const fn text(long: &'static str, value: &'static str) -> Self {
        Self::new(long, FlagValue::Text(value))
    }

    pub(super) const fn optional(long: &'static str, value: &'static str) -> Self {
        Self::new(long, FlagValue::OptionalText(value))
    }

    pub(super) const fn list(long: &'static str, value: &'static str) -> Self {
        Self::new(long, FlagValue::List(value))
    }

    pub(super) const fn optional_list(long: &'static str, value: &'static str) -> Self {
        Self::new(long, FlagValue::OptionalList(value))
    }

    pub(super) const fn joined(long: &'static str, value: &'static str) -> Self {
        Self::new(long, FlagValue::Joined(value))
    }

    pub(super) const fn short(self, short: char) -> Self {
        Self { short: Some(short), ..self }
    }

    pub(super) const fn alias(self, alias: &'static str) -> Self {
        Self { alias: Some(alias), ..self }
    }

    pub(super) const fn help(self, help: &'static str) -> Self {
        Self { help: Some(help), ..self }
    }

    pub(super) const fn hidden(self) -> Self {
        Self { hidden: true, ..self }
    }

    pub(super) const fn allow_hyphen(self) -> Self {
        Self { allow_hyphen: true, ..self }
    }

    pub(super) const fn convert(self, convert: fn(&str) -> String) -> Self {
        Self { convert: Some(convert), ..self }
    }
}

impl From<bool> for Pm2Value<'_> {
    fn from(value: bool) -> Self {
        Self::Flag(value)
    }
}

impl From<u64> for Pm2Value<'_> {
    fn from(value: u64) -> Self {
        Self::Number(value)
    }
}

impl From<u32> for Pm2Value<'_> {
    fn from(value: u32) -> Self {
        Self::Number(value.into())
    }
}

impl From<Duration> for Pm2Value<'_> {
    /// In milliseconds, as in PM2.
    fn from(value: Duration) -> Self {
        Self::Number(u64::try_from(value.as_millis()).unwrap_or(u64::MAX))
    }
}

impl<'a> From<&'a str> for Pm2Value<'a> {
    fn from(value: &'a str) -> Self {
        Self::Text(value)
    }
}

impl<'a> From<&'a String> for Pm2Value<'a> {
    fn from(value: &'a String) -> Self {
        Self::Text(value)
    }
}

impl<'a> From<&'a Vec<String>> for Pm2Value<'a> {
    fn from(value: &'a Vec<String>) -> Self {
        Self::Words(value)
    }
}

impl<'a, T: Into<Pm2Value<'a>>> From<Option<T>> for Pm2Value<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Absent, Into::into)
    }
}
