//! App names, modes, signals, users, schedules and log formats.

use std::str::FromStr;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::{Reading, Wrong, integer, wants, wants_help};
use crate::schedule::Schedule;
use crate::spec::{Balance, ExecMode, LogFormat};

/// The name of an app, which is also a part of file names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct AppName(pub(in super::super) String);

/// The execution mode: whether instances share their ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Mode(pub(in super::super) ExecMode);

/// The load balancing method of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Spread(pub(in super::super) Balance);

/// The name of a signal, with `SIG`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct SignalName(pub(in super::super) String);

/// A user or group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Who {
    /// By name.
    Name(String),
    /// By number.
    Id(u32),
}

/// A cron schedule; `None` if it is disabled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Cron(pub(in super::super) Option<String>);

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct LogKind(pub(in super::super) LogFormat);

/// Maximum length, so that `<name>-error-<id>.log` is a valid file name. Bytes.
const LONGEST_NAME: usize = 200;

impl Reading for AppName {
    fn read(value: &Value) -> Result<Self, Wrong> {
        let name = String::read(value)?;
        if name == "all" {
            return wants_help("a name other than `all`", "`all` selects all apps in commands");
        }
        if name.len() > LONGEST_NAME || name.chars().any(char::is_control) || name.trim() != name {
            return wants(format!(
                "one line of at most {LONGEST_NAME} bytes without leading or trailing spaces"
            ));
        }
        Ok(Self(name))
    }
}

impl Reading for Mode {
    fn read(value: &Value) -> Result<Self, Wrong> {
        match value.as_str() {
            Some("fork" | "fork_mode") => Ok(Self(ExecMode::Fork)),
            Some("cluster" | "cluster_mode") => Ok(Self(ExecMode::Cluster)),
            _ => wants("\"fork\" or \"cluster\""),
        }
    }
}

impl Reading for Spread {
    fn read(value: &Value) -> Result<Self, Wrong> {
        match value.as_str() {
            Some("random") => Ok(Self(Balance::Random)),
            Some("ip_hash") => Ok(Self(Balance::IpHash)),
            Some("shared") => Ok(Self(Balance::Shared)),
            _ => wants("\"random\", \"ip_hash\" or \"shared\""),
        }
    }
}

impl Reading for SignalName {
    fn read(value: &Value) -> Result<Self, Wrong> {
        let text = value.as_str().unwrap_or_default().to_ascii_uppercase();
        let name = if text.starts_with("SIG") { text } else { format!("SIG{text}") };
        match Signal::from_str(&name) {
            // These signals stop or continue a process, but do not terminate it.
            Ok(Signal::SIGSTOP | Signal::SIGTSTP | Signal::SIGCONT | Signal::SIGTTIN | Signal::SIGTTOU) => {
                wants("a terminating signal, such as \"SIGTERM\"")
            }
            Ok(_) => Ok(Self(name)),
            Err(_) => wants("a signal name, such as \"SIGTERM\" or \"INT\""),
        }
    }
}

impl Reading for Who {
    fn read(value: &Value) -> Result<Self, Wrong> {
        if let Some(id) = integer(value) {
            // For `setuid`, the largest number means "do not change".
            return match u32::try_from(id) {
                Ok(id) if id < u32::MAX => Ok(Self::Id(id)),
                _ => wants("a name or a non-negative number"),
            };
        }
        String::read(value).map(Self::Name).or_else(|_| wants("a name or a non-negative number"))
    }
}

impl Reading for Cron {
    fn read(value: &Value) -> Result<Self, Wrong> {
        if matches!(value, Value::Bool(false)) || integer(value) == Some(0) {
            return Ok(Self(None));
        }
        let Some(pattern) = value.as_str() else { return wants(CRON) };
        let fields = pattern.split_whitespace().count();
        if pattern.contains('@') || !(5..=6).contains(&fields) {
            return wants(CRON);
        }
        match Schedule::parse_syntax(pattern) {
            Ok(_) => Ok(Self(Some(pattern.trim().to_owned()))),
            Err(error) => wants_help(CRON, error),
        }
    }
}

const CRON: &str = "a cron schedule of five fields (minute hour day month weekday, such as \"0 4 * * *\"), or six with \
    leading seconds";

impl Reading for LogKind {
    fn read(value: &Value) -> Result<Self, Wrong> {
        match value.as_str() {
            Some("json") => Ok(Self(LogFormat::Json)),
            Some("raw") => Ok(Self(LogFormat::Raw)),
            _ => wants("\"json\" or \"raw\""),
        }
    }
}

schema!(AppName, { "type": "string", "minLength": 1, "maxLength": LONGEST_NAME, "not": { "const": "all" } });
schema!(Spread, { "enum": ["random", "ip_hash", "shared"] });
schema!(Mode, { "enum": ["fork", "cluster", "fork_mode", "cluster_mode"] });
schema!(SignalName, { "type": "string", "examples": ["SIGINT", "SIGTERM", "SIGQUIT", "SIGUSR2"] });
schema!(Who, { "type": ["string", "integer"], "minimum": 0 });
schema!(Cron, { "type": ["string", "integer", "boolean"], "examples": ["0 4 * * *"] });
schema!(LogKind, { "enum": ["json", "raw"] });

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rejects_unusable_names() {
        for good in ["api", "@scope/web", "队列", "3", "my app"] {
            assert!(AppName::read(&json!(good)).is_ok(), "{good}");
        }
        for bad in [json!("all"), json!(""), json!("a\nb"), json!(" a"), json!("x".repeat(201)), json!(3)] {
            assert!(AppName::read(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn signals_need_no_prefix() {
        for (given, name) in [("SIGTERM", "SIGTERM"), ("term", "SIGTERM"), ("usr2", "SIGUSR2")] {
            assert_eq!(SignalName::read(&json!(given)).unwrap().0, name);
        }
        for bad in [json!("SIGNAL"), json!(9), json!(""), json!("STOP"), json!("SIGSIGINT")] {
            assert!(SignalName::read(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn schedules_have_five_or_six_fields() {
        for good in ["* * * * *", "0 4 * * MON", "*/10 * * * * *", " 0 0 L * * "] {
            assert_eq!(Cron::read(&json!(good)).unwrap().0.as_deref(), Some(good.trim()), "{good}");
        }
        for off in [json!(0), json!("0"), json!(false)] {
            assert_eq!(Cron::read(&off).unwrap().0, None);
        }
        for bad in [
            json!("* * * *"),
            json!("61 * * * *"),
            json!("@daily"),
            json!("* * * * * * 2030"),
            json!(""),
            json!(5),
            json!("a b c d e"),
        ] {
            assert!(Cron::read(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn accepts_users_by_name_and_number() {
        assert_eq!(Who::read(&json!("www-data")).unwrap(), Who::Name("www-data".into()));
        assert_eq!(Who::read(&json!("1000")).unwrap(), Who::Id(1000));
        assert!(Who::read(&json!(-1)).is_err() && Who::read(&json!(4_294_967_295_u32)).is_err());
    }
}
