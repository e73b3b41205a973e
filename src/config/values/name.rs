//! App names, modes, signals, users, schedules and log formats.

use std::str::FromStr;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::config::values::{FromValue, ValueError, expected, expected_with_help, integer};
use crate::schedule::{self, Schedule};
use crate::spec::{Balance, ExecMode, KillMode, LogFormat, Overlap};

/// The name of an app, which is also a part of file names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AppName(pub(crate) String);

/// The execution mode: whether instances share their ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ExecModeValue(pub(crate) ExecMode);

/// The load balancing method of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BalanceValue(pub(crate) Balance);

/// Which processes get the stop signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KillModeValue(pub(crate) KillMode);

/// The name of a signal, with `SIG`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SignalName(pub(crate) String);

/// A user or group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum UserOrGroup {
    /// By name.
    Name(String),
    /// By number.
    Id(u32),
}

/// A cron schedule; `None` if it is disabled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CronValue(pub(crate) Option<String>);

/// A time zone of the IANA database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TimeZoneName(pub(crate) String);

/// What a schedule does while the previous run has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OverlapValue(pub(crate) Overlap);

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogFormatValue(pub(crate) LogFormat);

/// Maximum length, so that `<name>-error-<id>.log` is a valid file name. Bytes.
const MAX_NAME: usize = 200;

impl FromValue for AppName {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        let name = String::from_value(value)?;
        if name == "all" {
            return expected_with_help("a name other than `all`", "`all` selects all apps in commands");
        }
        if name.len() > MAX_NAME || name.chars().any(char::is_control) || name.trim() != name {
            return expected(format!(
                "one line of at most {MAX_NAME} bytes without leading or trailing spaces"
            ));
        }
        Ok(Self(name))
    }
}

impl FromValue for ExecModeValue {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        match value.as_str() {
            Some("fork" | "fork_mode") => Ok(Self(ExecMode::Fork)),
            Some("cluster" | "cluster_mode") => Ok(Self(ExecMode::Cluster)),
            _ => expected("\"fork\" or \"cluster\""),
        }
    }
}

impl FromValue for BalanceValue {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        match value.as_str() {
            Some("random") => Ok(Self(Balance::Random)),
            Some("ip_hash") => Ok(Self(Balance::IpHash)),
            Some("shared") => Ok(Self(Balance::Shared)),
            _ => expected("\"random\", \"ip_hash\" or \"shared\""),
        }
    }
}

impl FromValue for KillModeValue {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        match value.as_str() {
            Some("topmost") => Ok(Self(KillMode::Topmost)),
            Some("all") => Ok(Self(KillMode::All)),
            Some("main") => Ok(Self(KillMode::Main)),
            _ => expected("\"topmost\", \"all\" or \"main\""),
        }
    }
}

impl FromValue for SignalName {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        let text = value.as_str().unwrap_or_default().to_ascii_uppercase();
        let name = if text.starts_with("SIG") { text } else { format!("SIG{text}") };
        match Signal::from_str(&name) {
            // These signals stop or continue a process, but do not terminate it.
            Ok(Signal::SIGSTOP | Signal::SIGTSTP | Signal::SIGCONT | Signal::SIGTTIN | Signal::SIGTTOU) => {
                expected("a terminating signal, such as \"SIGTERM\"")
            }
            Ok(_) => Ok(Self(name)),
            Err(_) => expected("a signal name, such as \"SIGTERM\" or \"INT\""),
        }
    }
}

impl FromValue for UserOrGroup {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        if let Some(id) = integer(value) {
            // For `setuid`, the largest number means "do not change".
            return match u32::try_from(id) {
                Ok(id) if id < u32::MAX => Ok(Self::Id(id)),
                _ => expected("a name or a non-negative number"),
            };
        }
        String::from_value(value).map(Self::Name).or_else(|_| expected("a name or a non-negative number"))
    }
}

impl FromValue for CronValue {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        if matches!(value, Value::Bool(false)) || integer(value) == Some(0) {
            return Ok(Self(None));
        }
        let Some(pattern) = value.as_str() else { return expected(CRON) };
        let fields = pattern.split_whitespace().count();
        if pattern.contains('@') || !(5..=6).contains(&fields) {
            return expected(CRON);
        }
        if let Err(error) = Schedule::parse_syntax(pattern) {
            return expected_with_help(CRON, error);
        }
        match Schedule::parse(pattern) {
            Ok(_) => Ok(Self(Some(pattern.trim().to_owned()))),
            Err(error) => expected_with_help("a cron schedule that matches a time", error.to_string()),
        }
    }
}

impl FromValue for TimeZoneName {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        let Some(name) = value.as_str() else { return expected(TIME_ZONE) };
        match schedule::time_zone(Some(name)) {
            Ok(_) => Ok(Self(name.to_owned())),
            Err(_) => expected(TIME_ZONE),
        }
    }
}

const TIME_ZONE: &str = "the name of a time zone, such as \"Europe/Berlin\" or \"UTC\"";

impl FromValue for OverlapValue {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        match value.as_str() {
            Some("replace") => Ok(Self(Overlap::Replace)),
            Some("skip") => Ok(Self(Overlap::Skip)),
            Some("queue") => Ok(Self(Overlap::Queue)),
            _ => expected("\"replace\", \"skip\" or \"queue\""),
        }
    }
}

const CRON: &str = "a cron schedule of five fields (minute hour day month weekday, such as \"0 4 * * *\"), or six with \
    leading seconds";

impl FromValue for LogFormatValue {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        match value.as_str() {
            Some("json") => Ok(Self(LogFormat::Json)),
            Some("raw") => Ok(Self(LogFormat::Raw)),
            _ => expected("\"json\" or \"raw\""),
        }
    }
}

schema!(AppName, { "type": "string", "minLength": 1, "maxLength": MAX_NAME, "not": { "const": "all" } });
schema!(BalanceValue, { "enum": ["random", "ip_hash", "shared"] });
schema!(KillModeValue, { "enum": ["topmost", "all", "main"] });
schema!(ExecModeValue, { "enum": ["fork", "cluster", "fork_mode", "cluster_mode"] });
schema!(SignalName, { "type": "string", "examples": ["SIGINT", "SIGTERM", "SIGQUIT", "SIGUSR2"] });
schema!(UserOrGroup, { "type": ["string", "integer"], "minimum": 0 });
schema!(CronValue, { "type": ["string", "integer", "boolean"], "examples": ["0 4 * * *"] });
schema!(TimeZoneName, { "type": "string", "examples": ["Europe/Berlin", "UTC"] });
schema!(OverlapValue, { "enum": ["replace", "skip", "queue"] });
schema!(LogFormatValue, { "enum": ["json", "raw"] });

#[cfg(test)]
mod tests {
    use crate::config::values::name::*;
    use serde_json::json;

    #[test]
    fn rejects_unusable_names() {
        for good in ["api", "@scope/web", "队列", "3", "my app"] {
            assert!(AppName::from_value(&json!(good)).is_ok(), "{good}");
        }
        for bad in [json!("all"), json!(""), json!("a\nb"), json!(" a"), json!("x".repeat(201)), json!(3)] {
            assert!(AppName::from_value(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn signals_need_no_prefix() {
        for (given, name) in [("SIGTERM", "SIGTERM"), ("term", "SIGTERM"), ("usr2", "SIGUSR2")] {
            assert_eq!(SignalName::from_value(&json!(given)).unwrap().0, name);
        }
        for bad in [json!("SIGNAL"), json!(9), json!(""), json!("STOP"), json!("SIGSIGINT")] {
            assert!(SignalName::from_value(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn schedules_have_five_or_six_fields() {
        let never = CronValue::from_value(&json!("0 0 30 2 *")).unwrap_err();
        assert_eq!(never.help, "schedule \"0 0 30 2 *\" never matches a time");
        assert!(TimeZoneName::from_value(&json!("Europe/Berlin")).is_ok());
        assert!(TimeZoneName::from_value(&json!("Mars/Base")).is_err());
        for good in ["* * * * *", "0 4 * * MON", "*/10 * * * * *", " 0 0 L * * "] {
            assert_eq!(
                CronValue::from_value(&json!(good)).unwrap().0.as_deref(),
                Some(good.trim()),
                "{good}"
            );
        }
        for off in [json!(0), json!("0"), json!(false)] {
            assert_eq!(CronValue::from_value(&off).unwrap().0, None);
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
            assert!(CronValue::from_value(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn accepts_users_by_name_and_number() {
        assert_eq!(
            UserOrGroup::from_value(&json!("www-data")).unwrap(),
            UserOrGroup::Name("www-data".into())
        );
        assert_eq!(UserOrGroup::from_value(&json!("1000")).unwrap(), UserOrGroup::Id(1000));
        assert!(
            UserOrGroup::from_value(&json!(-1)).is_err()
                && UserOrGroup::from_value(&json!(4_294_967_295_u32)).is_err()
        );
    }
}
