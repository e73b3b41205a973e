//! `set`, `get`, `unset`, `conf`: what the commands do where nothing else is said, kept in
//! `settings.json` of rsm's home. Only the keys below, so that a slip is noticed.

use std::collections::BTreeMap;
use std::io::ErrorKind;

use clap::error::ErrorKind as Usage;

use crate::atomic_file::{self, Durability};
use crate::conf::Conf;
use crate::config::{Mistake, Mistakes, Place};
use crate::error::Error;
use crate::paths::Home;
use crate::text::closest_match;

use super::order::order;
use super::output;
use super::session::Session;
use super::settings::mistakes;

/// A key: its name, what it means, what it is unless set, whether a value will do.
struct Key {
    name: &'static str,
    about: &'static str,
    default: &'static str,
    check: fn(&str) -> Result<(), String>,
}

const KEYS: [Key; 2] = [
    Key {
        name: "list.sort",
        about: "the order of lists, as --sort takes it",
        default: "name:asc",
        check: |value| order(value).map(drop),
    },
    Key {
        name: "logs.lines",
        about: "how many of the last lines `rsm logs` begins with",
        default: "15",
        check: |value| value.parse::<usize>().map(drop).map_err(|_| "wants a number of lines".into()),
    },
];

/// What is set.
type Preferences = BTreeMap<String, String>;

/// The value of a key that is set.
///
/// # Errors
/// The file of settings cannot be read.
pub(super) fn preference(home: &Home, name: &str) -> Result<Option<String>, Error> {
    let mut all = load(home)?;
    Ok(all.remove(name).filter(|value| KEYS.iter().any(|key| key.name == name && (key.check)(value).is_ok())))
}

/// `set KEY VALUE`.
pub(super) fn set(key: &str, value: &str, session: &Session) -> Result<(), Error> {
    let known = known(key)?;
    (known.check)(value)
        .map_err(|why| usage(&format!("{}: {why}, not {value:?}", known.name), known.about))?;
    let mut all = load(&session.home)?;
    all.insert(known.name.to_owned(), value.to_owned());
    store(&session.home, &all)?;
    session.note(format_args!("{} = {value}", known.name));
    Ok(())
}

/// `get KEY`: the value alone, for scripts.
pub(super) fn get(key: &str, session: &Session) -> Result<(), Error> {
    let known = known(key)?;
    let value = load(&session.home)?.remove(known.name);
    output::line(value.as_deref().unwrap_or(known.default).as_bytes())
}

/// `unset KEY` or `unset all`.
pub(super) fn unset(key: &str, session: &Session) -> Result<(), Error> {
    let mut all = load(&session.home)?;
    match key {
        "all" => all.clear(),
        key => drop(all.remove(known(key)?.name)),
    }
    store(&session.home, &all)
}

/// `conf`, and `get` without a key: every key, its value and what it means.
pub(super) fn show(session: &Session) -> Result<(), Error> {
    let all = load(&session.home)?;
    let lines = KEYS.iter().map(|key| {
        let value = all.get(key.name).map_or(key.default, String::as_str);
        format!("{} = {value}    # {}\n", key.name, key.about)
    });
    output::text(&lines.collect::<String>())
}

/// The key of that name; `list:sort` is the same, as in PM2.
fn known(name: &str) -> Result<&'static Key, Error> {
    let dotted = name.replace(':', ".");
    if let Some(key) = KEYS.iter().find(|key| key.name == dotted) {
        return Ok(key);
    }
    let mut names: Vec<String> = KEYS.iter().map(|key| key.name.to_owned()).chain(Conf::keys()).collect();
    names.sort();
    let help = match (dotted.split('.').next(), closest_match(&dotted, names.iter().map(String::as_str))) {
        (Some("pm2-logrotate"), _) => {
            "log files are kept in bounds without a module: docs/logs.md".to_owned()
        }
        (_, Some(name)) => format!("did you mean {name}? `rsm conf` shows all keys"),
        (_, None) => format!("the keys are {}; apps are set up in their ecosystem file", names.join(", ")),
    };
    Err(usage(&format!("rsm has no setting {name:?}"), &help))
}

fn usage(message: &str, help: &str) -> Error {
    Error::Arguments(clap::Error::raw(Usage::InvalidValue, format!("{message}\n\nhelp: {help}\n")))
}

fn load(home: &Home) -> Result<Preferences, Error> {
    match std::fs::read(home.settings()) {
        Ok(bytes) => {
            serde_json::from_slice(&bytes).map_err(|error| broken(home, &format!("is not valid: {error}")))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Preferences::new()),
        Err(error) => Err(broken(home, &format!("cannot be read: {error}"))),
    }
}

fn store(home: &Home, all: &Preferences) -> Result<(), Error> {
    let written = home.create().and_then(|()| {
        atomic_file::replace(&home.settings(), &serde_json::to_vec_pretty(all)?, Durability::Disk)
    });
    written.map_err(|error| broken(home, &format!("cannot be written: {error}")))
}

fn broken(home: &Home, message: &str) -> Error {
    let help = Some("mend it or remove it; `rsm conf` lists the keys".into());
    mistakes(Mistakes(vec![Mistake { place: Place::File(home.settings()), message: message.into(), help }]))
}
