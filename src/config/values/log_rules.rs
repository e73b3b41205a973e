//! The `logs` table: rotation and retention of log files.
//!
//! Besides rsm's own keys it takes those of pm2-logrotate and the directives of logrotate: as keys
//! (`daily = true`, `rotate = 7`) or as one text (`"daily, rotate 7, compress"`).

use serde_json::{Value, json};

use crate::config::values::table::{SubKey, find, names, properties, sub_keys};
use crate::config::values::{
    ByteSize, CronValue, DurationValue, FromValue, ValueError, expected, integer, named, unknown_key,
};
use crate::spec::{Rotation, WhenFull};

/// The keys that were given, in their order, and their values; a key that was not given changes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogRules {
    rules: Vec<(String, Value)>,
    is_off: bool,
}

const LOG_KEYS: &[SubKey<Rotation>] = sub_keys! {
    /// Maximum size of a log file before rotation, such as `10M`, or `none`.
    max_size ["maxsize", "size"]: { "type": ["string", "integer", "boolean"] }
        => |to, value| set(&mut to.max_size, optional(value, size));
    /// Rotation schedule: hourly, daily, weekly, monthly, yearly, a cron schedule or `none`.
    interval ["rotate_interval"]: { "type": ["string", "boolean"] }
        => |to, value| set(&mut to.schedule, optional(value, schedule));
    /// Number of rotated files to keep, or `all`.
    retain ["rotate", "keep"]: { "type": ["string", "integer"] }
        => |to, value| set(&mut to.retain, count(value));
    /// Maximum age of rotated files, such as `30d`.
    max_age []: { "type": ["string", "integer"] }
        => |to, value| set(&mut to.max_age, optional(value, age));
    /// Maximum total size of the rotated files of an app, such as `1G`; the oldest are removed first.
    max_total []: { "type": ["string", "integer"] }
        => |to, value| set(&mut to.max_total, optional(value, size));
    /// Compress rotated files with gzip.
    compress []: { "type": "boolean" } => |to, value| set(&mut to.compress, bool::from_value(value));
    /// Do not compress the most recent rotated file.
    delay_compress ["delaycompress"]: { "type": "boolean" }
        => |to, value| set(&mut to.delay_compress, bool::from_value(value));
    /// Do not rotate empty files (default).
    notifempty []: { "type": "boolean" } => |to, value| set(&mut to.rotate_empty, not(value));
    /// Date format in the names of rotated files.
    date_format []: { "type": "string" } => |to, value| set(&mut to.date_format, String::from_value(value));
    /// Mode of new log files, such as `0644`; by default 0640 reduced by the umask.
    mode []: { "type": "string", "pattern": "^0?[0-7]{3}$" } => |to, value| set(&mut to.mode, mode(value));
    /// While a log file cannot be written: block the app, or drop lines and record how many.
    when_full []: { "enum": ["block", "drop"] } => |to, value| set(&mut to.when_full, when_full(value));
};

/// Directives of logrotate that have no key of their own.
const LOGROTATE_KEYS: &[SubKey<Rotation>] = sub_keys! {
    /// Opposite of `compress`.
    nocompress []: {} => |to, value| set(&mut to.compress, not(value));
    /// Opposite of `delay_compress`.
    nodelaycompress []: {} => |to, value| set(&mut to.delay_compress, not(value));
    /// Opposite of `notifempty`.
    ifempty []: {} => |to, value| set(&mut to.rotate_empty, bool::from_value(value));
    /// `mode`, with an owner and a group that are ignored: those of the previous file are kept.
    create []: {} => |to, value| create(to, value);
    /// `max_age` in days.
    maxage []: {} => |to, value| set(&mut to.max_age, optional(value, days));
    /// `interval`.
    hourly []: {} => |to, value| every(to, "hourly", value);
    /// `interval`.
    daily []: {} => |to, value| every(to, "daily", value);
    /// `interval`.
    weekly []: {} => |to, value| every(to, "weekly", value);
    /// `interval`.
    monthly []: {} => |to, value| every(to, "monthly", value);
    /// `interval`.
    yearly []: {} => |to, value| every(to, "yearly", value);
};

/// Cron schedules of named intervals.
const INTERVAL_CRON: [(&str, &str); 5] = [
    ("hourly", "0 * * * *"),
    ("daily", "0 0 * * *"),
    ("weekly", "0 0 * * 0"),
    ("monthly", "0 0 1 * *"),
    ("yearly", "0 0 1 1 *"),
];

/// Directives of logrotate and pm2-logrotate for what rsm does in any case, or does not need.
const IGNORED: [&str; 13] = [
    "missingok",
    "nomissingok",
    "copytruncate",
    "nocopytruncate",
    "nocreate",
    "dateext",
    "sharedscripts",
    "su",
    "worker_interval",
    "workerInterval",
    "rotate_module",
    "rotateModule",
    "TZ",
];

impl LogRules {
    /// Changes a rotation by the rules.
    pub(crate) fn apply(&self, to: &mut Rotation) {
        for (key, value) in &self.rules {
            // The values were checked when they were read.
            let _ = apply_rule(key, value, to);
        }
    }

    /// These rules, and over them others.
    pub(crate) fn merge_under(mut self, over: Option<Self>) -> Self {
        if let Some(over) = over {
            self.rules.extend(over.rules);
            self.is_off = over.is_off;
        }
        self
    }

    /// Whether no log files are written: `false` or `"none"`.
    pub(crate) fn is_off(&self) -> bool {
        self.is_off
    }
}

impl FromValue for LogRules {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        let is_off = value == &Value::Bool(false) || value.as_str() == Some("none");
        let rules: Vec<(String, Value)> = match value {
            Value::Bool(_) => Vec::new(),
            _ if is_off => Vec::new(),
            Value::Object(table) => table.clone().into_iter().collect(),
            Value::String(text) => {
                let directives = text.split([',', '\n', ';']).map(str::trim);
                directives.filter(|directive| !directive.is_empty()).map(parse_directive).collect()
            }
            _ => {
                return expected(
                    "a table, logrotate directives such as \"daily, rotate 7, compress\", or false for no log files",
                );
            }
        };
        let mut checked = Rotation::default();
        rules.iter().try_for_each(|(key, value)| apply_rule(key, value, &mut checked))?;
        Ok(Self { rules, is_off })
    }
}

schema!(LogRules, json!({ "type": ["object", "string", "boolean"], "properties": properties(LOG_KEYS) }));

/// `rotate 7`.
fn parse_directive(directive: &str) -> (String, Value) {
    let (key, rest) = directive.split_once(char::is_whitespace).unwrap_or((directive, ""));
    let value = match rest.trim() {
        "" => Value::Bool(true),
        rest => Value::String(rest.to_owned()),
    };
    (key.to_owned(), value)
}

fn apply_rule(key: &str, value: &Value, to: &mut Rotation) -> Result<(), ValueError> {
    match find(LOG_KEYS, key).or_else(|| find(LOGROTATE_KEYS, key)) {
        Some(row) => named(key, value, |value| (row.set)(to, value)),
        None if IGNORED.contains(&key) => Ok(()),
        None if key == "budget" => {
            unknown_key(key, "use `rsm conf logs.budget 10G`, or `max_total` for one app")
        }
        None => unknown_key(key, names(LOG_KEYS)),
    }
}

fn set<T>(to: &mut T, value: Result<T, ValueError>) -> Result<(), ValueError> {
    *to = value?;
    Ok(())
}

fn not(value: &Value) -> Result<bool, ValueError> {
    bool::from_value(value).map(|flag| !flag)
}

/// An octal mode that lets the owner read and write: rsm writes and reads the files.
fn mode(value: &Value) -> Result<Option<u32>, ValueError> {
    let mode = value.as_str().and_then(|text| u32::from_str_radix(text, 8).ok());
    match mode.filter(|mode| *mode <= 0o777 && mode & 0o600 == 0o600) {
        Some(mode) => Ok(Some(mode)),
        None => expected("a mode as text that includes read and write of the owner, such as \"0644\""),
    }
}

fn create(to: &mut Rotation, value: &Value) -> Result<(), ValueError> {
    if let Some(first) = value.as_str().and_then(|text| text.split_whitespace().next()) {
        to.mode = mode(&first.into())?;
    }
    Ok(())
}

fn every(to: &mut Rotation, interval: &str, value: &Value) -> Result<(), ValueError> {
    if bool::from_value(value)? {
        to.schedule = Some(schedule(&interval.into())?);
    }
    Ok(())
}

fn when_full(value: &Value) -> Result<WhenFull, ValueError> {
    match value.as_str() {
        Some("block") => Ok(WhenFull::Block),
        Some("drop") => Ok(WhenFull::Drop),
        _ => expected("\"block\" or \"drop\""),
    }
}

/// `none`, `all` and false disable a limit.
fn optional<T>(
    value: &Value,
    read: impl FnOnce(&Value) -> Result<T, ValueError>,
) -> Result<Option<T>, ValueError> {
    let off = matches!(value, Value::Bool(false)) || matches!(value.as_str(), Some("none" | "all"));
    if off { Ok(None) } else { read(value).map(Some) }
}

fn size(value: &Value) -> Result<u64, ValueError> {
    ByteSize::from_value(value).map(|size| size.0)
}

fn age(value: &Value) -> Result<u64, ValueError> {
    let DurationValue(age) = DurationValue::from_value(value)?;
    Ok(u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
}

/// logrotate counts days.
fn days(value: &Value) -> Result<u64, ValueError> {
    match integer(value) {
        Some(days @ 1..=36_500) => Ok(days.unsigned_abs() * 86_400_000),
        _ => expected("a number of days; use max_age for other units"),
    }
}

fn schedule(value: &Value) -> Result<String, ValueError> {
    let name = INTERVAL_CRON.iter().find(|(name, _)| value.as_str() == Some(name));
    if let Some((_, schedule)) = name {
        return Ok((*schedule).to_owned());
    }
    match CronValue::from_value(value)?.0 {
        Some(schedule) => Ok(schedule),
        None => expected("hourly, daily, weekly, monthly, yearly, a cron schedule, or \"none\""),
    }
}

/// In pm2-logrotate, everything but a number keeps all files; here it has to be `all`.
fn count(value: &Value) -> Result<Option<u32>, ValueError> {
    match (integer(value).map(u32::try_from), value.as_str()) {
        (Some(Ok(count)), _) => Ok(Some(count)),
        (_, Some("all" | "none")) => Ok(None),
        _ => expected("a number of files or \"all\""),
    }
}

#[cfg(test)]
mod tests {
    use crate::config::values::log_rules::*;
    use serde_json::json;

    fn rotation(value: Value) -> Result<Rotation, ValueError> {
        let mut rotation = Rotation::default();
        LogRules::from_value(&value)?.apply(&mut rotation);
        Ok(rotation)
    }

    #[test]
    fn logrotates_words_are_understood() {
        let want = Rotation { retain: Some(7), compress: true, delay_compress: true, ..Rotation::default() };
        assert_eq!(rotation(json!("daily, rotate 7, compress, delaycompress, notifempty")), Ok(want.clone()));
        let keys =
            json!({ "daily": true, "rotate": 7, "compress": true, "delaycompress": true, "missingok": true });
        assert_eq!(rotation(keys), Ok(want));
        let words = rotation(json!("weekly\nmaxage 14\nsize 5M\nifempty\nnocompress\ncopytruncate")).unwrap();
        assert_eq!(words.schedule.as_deref(), Some("0 0 * * 0"));
        assert_eq!((words.max_age, words.max_size), (Some(14 * 86_400_000), Some(5 << 20)));
        assert!(words.rotate_empty && !words.compress);
    }

    #[test]
    fn pm2_logrotates_keys_are_understood() {
        let keys = json!({
            "max_size": "1K", "retain": "all", "compress": true, "dateFormat": "YYYY", "rotateInterval": "*/5 * * * *",
            "workerInterval": 30, "rotateModule": true,
        });
        let read = rotation(keys).unwrap();
        assert_eq!((read.max_size, read.retain, read.date_format.as_str()), (Some(1024), None, "YYYY"));
        assert_eq!(read.schedule.as_deref(), Some("*/5 * * * *"));
    }

    #[test]
    fn own_keys_and_limits_that_are_switched_off() {
        let keys = json!({
            "max_size": "none", "interval": false, "max_age": "30d", "max_total": "1G", "when_full": "drop",
        });
        let read = rotation(keys).unwrap();
        assert_eq!((read.max_size, read.schedule, read.max_total), (None, None, Some(1 << 30)));
        assert_eq!((read.max_age, read.when_full), (Some(30 * 86_400_000), WhenFull::Drop));
    }

    #[test]
    fn modes_are_octal_text() {
        assert_eq!(rotation(json!({ "mode": "0644" })).unwrap().mode, Some(0o644));
        assert_eq!(rotation(json!("daily, create 0600 root adm")).unwrap().mode, Some(0o600));
        assert_eq!(rotation(json!("create")).unwrap().mode, None);
        for wrong in [json!({ "mode": 420 }), json!({ "mode": "0444" }), json!({ "mode": "rw" })] {
            assert!(rotation(wrong).is_err());
        }
    }

    #[test]
    fn false_and_none_switch_log_files_off() {
        let is_off = |value: Value| LogRules::from_value(&value).unwrap().is_off();
        assert!(is_off(json!(false)) && is_off(json!("none")));
        assert!(!is_off(json!(true)) && !is_off(json!({})));
        let file = || LogRules::from_value(&json!(false)).unwrap();
        assert!(file().merge_under(None).is_off());
        assert!(!file().merge_under(Some(LogRules::from_value(&json!(true)).unwrap())).is_off());
    }

    #[test]
    fn mistakes_name_their_key() {
        for (value, told) in [
            (json!({ "max_size": "big" }), "`logs.max_size`: expected a size"),
            (json!({ "rotate": -1 }), "`logs.rotate`: expected a number of files"),
            (json!({ "interval": "sometimes" }), "`logs.interval`: expected"),
            (json!({ "compres": true }), "unknown key `logs.compres`"),
            (json!({ "budget": "1G" }), "unknown key `logs.budget`"),
            (json!("daily, rotated 7"), "unknown key `logs.rotated`"),
            (json!({ "when_full": "wait" }), "\"block\" or \"drop\""),
        ] {
            let wrong = rotation(value).unwrap_err();
            assert!(wrong.message("logs", None).contains(told), "{wrong:?}");
        }
    }

    #[test]
    fn an_apps_rules_lie_over_the_files() {
        let file = LogRules::from_value(&json!({ "max_size": "1M", "retain": 3 })).unwrap();
        let app = LogRules::from_value(&json!({ "retain": 5 })).unwrap();
        let mut rotation = Rotation::default();
        file.merge_under(Some(app)).apply(&mut rotation);
        assert_eq!((rotation.max_size, rotation.retain), (Some(1 << 20), Some(5)));
    }
}
