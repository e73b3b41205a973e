//! `conf`, `set`, `get` and `unset`: the settings of an rsm home directory.

use serde::de::IgnoredAny;
use serde_json::Value;

use crate::cli::error::Error;
use crate::cli::output;
use crate::cli::session::Session;
use crate::cli::sort::parse_sort;
use crate::config;
use crate::ipc::message::{DumpInfo, Request, SaveRequest};
use crate::paths::Home;
use crate::settings::{Kind, LogLevel, Reader, RsmSettings, SETTINGS, Setting, SettingsError};
use crate::text::closest_match;

/// `conf`, `set` and `get`: prints all settings or one, or changes one.
pub(crate) async fn run_conf(
    key: Option<String>,
    value: Option<String>,
    session: &Session,
) -> Result<(), Error> {
    match (key, value) {
        (None, _) => show_all(session),
        (Some(key), None) => {
            let value = load(&session.home)?.value(find(&key)?.name);
            output::print_line(display(value.as_ref()).as_bytes())
        }
        (Some(key), Some(value)) => set(find(&key)?, &value, session).await,
    }
}

/// `unset KEY` or `unset all`.
pub(crate) async fn unset(key: &str, session: &Session) -> Result<(), Error> {
    let reset: Vec<&Setting> = match key {
        "all" => SETTINGS.iter().collect(),
        key => vec![find(key)?],
    };
    let mut settings = load(&session.home)?;
    for setting in &reset {
        settings.set(setting.name, None).map_err(|error| usage_error(&error.to_string(), setting.doc))?;
    }
    apply(&settings, &reset, session).await?;
    for Setting { name, default, .. } in reset {
        session.notice(format_args!("{name} = {default}"));
    }
    Ok(())
}

/// Loads the settings of a home directory.
pub(crate) fn load(home: &Home) -> Result<RsmSettings, Error> {
    RsmSettings::load(home).map_err(file_error)
}

/// Prints each setting with its value, description and default.
fn show_all(session: &Session) -> Result<(), Error> {
    let settings = load(&session.home)?;
    let lines = SETTINGS.iter().map(|Setting { name, doc, default, .. }| {
        let (value, doc) = (display(settings.value(name).as_ref()), doc.trim());
        format!("{name} = {value}    # {doc} [default: {default}]\n")
    });
    output::print(&lines.collect::<String>())
}

async fn set(setting: &Setting, text: &str, session: &Session) -> Result<(), Error> {
    let Setting { name, doc, kind, .. } = setting;
    let invalid = |expected: String| usage_error(&format!("{name}: {expected}, not {text:?}"), doc);
    let value = parse(*kind, text).map_err(invalid)?;
    let mut settings = load(&session.home)?;
    settings.set(name, Some(value)).map_err(|error| invalid(error.to_string()))?;
    apply(&settings, &[setting], session).await?;
    session.notice(format_args!("{name} = {text}"));
    Ok(())
}

/// Saves the settings. If the daemon reads one of those that changed, makes it load them, and save the list when
/// `autosave` was turned on.
async fn apply(settings: &RsmSettings, changed: &[&Setting], session: &Session) -> Result<(), Error> {
    settings.save(&session.home).map_err(file_error)?;
    if !changed.iter().any(|setting| setting.reader == Reader::Daemon) {
        return Ok(());
    }
    let Some(mut client) = session.connect_if_running().await? else { return Ok(()) };
    let _: IgnoredAny =
        client.call(&Request::ReopenLogs).await.map_err(|error| session.client_error(error))?;
    if settings.autosave() && changed.iter().any(|setting| setting.name == "autosave") {
        // Without `force`, the daemon does not replace the saved list by an empty one.
        let _ = client.call::<DumpInfo>(&Request::Save(SaveRequest { force: false })).await;
    }
    Ok(())
}

/// Parses a value. The error says what is expected.
fn parse(kind: Kind, text: &str) -> Result<Value, String> {
    let value = match kind {
        Kind::Boolean => text.parse().map(Value::Bool).ok().ok_or("expected true or false"),
        Kind::Size => config::parse_size(text).map(Value::from).ok_or("expected a size such as 500M or 10G"),
        Kind::Count => text.parse::<u32>().map(Value::from).ok().ok_or("expected a number"),
        Kind::LogLevel => {
            let level = serde_json::from_value::<LogLevel>(text.into());
            level.map(|_| text.into()).map_err(|_| "expected error, warn, info, debug or trace")
        }
        Kind::SortField => return parse_sort(text).map(|_| text.into()),
    };
    value.map_err(str::to_owned)
}

/// A value as it is given on the command line.
fn display(value: Option<&Value>) -> String {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    value.map(text).unwrap_or_default()
}

/// Finds a setting by name. As in PM2, `list:sort` is the same as `list.sort`.
fn find(name: &str) -> Result<&'static Setting, Error> {
    let dotted = name.replace(':', ".");
    if let Some(setting) = SETTINGS.iter().find(|setting| setting.name == dotted) {
        return Ok(setting);
    }
    let names = || SETTINGS.iter().map(|setting| setting.name);
    let help = match (dotted.split('.').next(), closest_match(&dotted, names())) {
        (Some("pm2-logrotate"), _) => "log rotation is built in: docs/logs.md".to_owned(),
        (_, Some(name)) => format!("did you mean {name}? `rsm conf` lists all settings"),
        (_, None) => {
            format!(
                "the settings are {}; apps are configured in their file",
                names().collect::<Vec<_>>().join(", ")
            )
        }
    };
    Err(usage_error(&format!("unknown setting {name:?}"), &help))
}

fn usage_error(message: &str, help: &str) -> Error {
    Error::WrongUsage { message: message.to_owned(), help: help.trim().to_owned() }
}

fn file_error(error: SettingsError) -> Error {
    Error::InvalidConfig(vec![format!(
        "{error}\nhelp: fix or remove the file; `rsm conf` lists all settings\n"
    )])
}
