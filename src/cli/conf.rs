//! `conf`: settings of all of one rsm.

use serde::de::IgnoredAny;
use serde_json::Value;

use super::session::Session;
use super::{output, preferences};
use crate::conf::Conf;
use crate::config;
use crate::error::Error;
use crate::ipc::message::{Request, SaveRequest, Saved};

/// Whether a key is one of all of this rsm; others are for commands alone.
fn knows(key: &str) -> bool {
    Conf::keys().iter().any(|known| known == key)
}

/// `conf`, `set`, `get`: shows all settings or one, or changes one, of this rsm or of its commands.
pub(super) async fn conf(key: Option<String>, value: Option<String>, session: &Session) -> Result<(), Error> {
    match (key, value) {
        (None, _) => {
            of_rsm(None, None, session).await?;
            preferences::show(session)
        }
        (Some(key), value) if knows(&key) => of_rsm(Some(key), value, session).await,
        (Some(key), Some(value)) => preferences::set(&key, &value, session),
        (Some(key), None) => preferences::get(&key, session),
    }
}

/// The same of all of this rsm; a daemon that runs hears of it.
async fn of_rsm(key: Option<String>, value: Option<String>, session: &Session) -> Result<(), Error> {
    let path = session.home.conf();
    let wrong = |problem: String| Error::Part { part: "conf", reason: problem };
    let unreadable = |error: std::io::Error| {
        let path = path.display();
        wrong(format!("{path}: {error}. Correct the file, or remove it to have the defaults back"))
    };
    let now = Conf::load(&path).map_err(unreadable)?;
    let mut table = match serde_json::to_value(&now) {
        Ok(Value::Object(table)) => table,
        _ => return Err(wrong("the settings cannot be shown".into())),
    };
    let Some(key) = key else {
        let lines = table.iter().map(|(key, value)| format!("{key} = {}\n", plain(value)));
        return output::text(&lines.collect::<String>());
    };
    if !table.contains_key(&key) {
        let known: Vec<&str> = table.keys().map(String::as_str).collect();
        return Err(wrong(format!("there is no setting {key:?}; there is {}", known.join(", "))));
    }
    let Some(value) = value else { return output::text(&format!("{}\n", plain(&table[&key]))) };
    let meant = match key.as_str() {
        "logs.budget" => config::size(&value).map(Value::from).ok_or("a size such as 500M or 10G"),
        "autosave" => value.parse().map(Value::Bool).map_err(|_| "true or false"),
        _ => Ok(Value::String(value.clone())),
    };
    table.insert(key.clone(), meant.map_err(|wants| wrong(format!("{key} wants {wants}, not {value:?}")))?);
    let changed: Conf =
        serde_json::from_value(Value::Object(table)).map_err(|error| wrong(format!("{key}: {error}")))?;
    session.home.create().and_then(|()| changed.save(&path)).map_err(unreadable)?;
    if let Some(mut client) = session.connect_if_running().await? {
        let _: IgnoredAny = client.call(&Request::ReopenLogs).await.map_err(|error| session.failed(error))?;
        if key == "autosave" && changed.autosave {
            // What is there now; an empty list is no reason to forget a saved one.
            let _ = client.call::<Saved>(&Request::Save(SaveRequest { force: false })).await;
        }
    }
    session.note(format_args!("{key} is {value} now"));
    Ok(())
}

/// A value as it would be given.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
