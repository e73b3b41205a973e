//! The `logs` table: when log files make way for new ones, and how many old ones are kept.
//!
//! Besides rsm's own keys it takes those of pm2-logrotate, and logrotate's words: as keys
//! (`daily = true`, `rotate = 7`) or as one text (`"daily, rotate 7, compress"`).

use serde_json::Value;

use super::{Cron, Millis, Reading, Size, Wrong, integer, named, unknown_key, wants};
use crate::spec::{Rotation, WhenFull};

/// What is said about log files; what is not said stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct LogRules(Vec<Rule>);

/// One setting of a [`Rotation`].
#[derive(Clone, Debug, PartialEq, Eq)]
enum Rule {
    MaxSize(Option<u64>),
    Schedule(Option<String>),
    Keep(Option<u32>),
    MaxAge(Option<u64>),
    MaxTotal(Option<u64>),
    Compress(bool),
    DelayCompress(bool),
    RotateEmpty(bool),
    DateFormat(String),
    WhenFull(WhenFull),
}

/// Intervals by name.
const INTERVALS: [(&str, &str); 5] = [
    ("hourly", "0 * * * *"),
    ("daily", "0 0 * * *"),
    ("weekly", "0 0 * * 0"),
    ("monthly", "0 0 1 * *"),
    ("yearly", "0 0 1 1 *"),
];

/// Words of the two others that ask for what rsm does anyway, or does not need.
const NEEDLESS: [&str; 14] = [
    "missingok",
    "nomissingok",
    "copytruncate",
    "nocopytruncate",
    "create",
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

const KEYS: &str = "max_size, interval, retain, max_age, max_total, compress, delay_compress, notifempty, \
                    date_format, when_full";

impl LogRules {
    /// Lays the rules over a rotation.
    pub(in super::super) fn apply(&self, to: &mut Rotation) {
        for rule in self.0.clone() {
            match rule {
                Rule::MaxSize(size) => to.max_size = size,
                Rule::Schedule(schedule) => to.schedule = schedule,
                Rule::Keep(keep) => to.keep = keep,
                Rule::MaxAge(age) => to.max_age = age,
                Rule::MaxTotal(total) => to.max_total = total,
                Rule::Compress(compress) => to.compress = compress,
                Rule::DelayCompress(delay) => to.delay_compress = delay,
                Rule::RotateEmpty(empty) => to.rotate_empty = empty,
                Rule::DateFormat(format) => to.date_format = format,
                Rule::WhenFull(policy) => to.when_full = policy,
            }
        }
    }

    /// These rules, and over them others.
    pub(in super::super) fn under(mut self, over: Option<Self>) -> Self {
        self.0.extend(over.into_iter().flat_map(|over| over.0));
        self
    }
}

impl Reading for LogRules {
    fn read(value: &Value) -> Result<Self, Wrong> {
        let mut rules = Vec::new();
        match value {
            Value::Object(table) => {
                for (key, value) in table {
                    rules.extend(rule(key, value)?);
                }
            }
            Value::String(text) => {
                for word in text.split([',', '\n', ';']).map(str::trim).filter(|word| !word.is_empty()) {
                    let (key, rest) = word.split_once(char::is_whitespace).unwrap_or((word, ""));
                    let value = match rest.trim() {
                        "" => Value::Bool(true),
                        rest => Value::String(rest.to_owned()),
                    };
                    rules.extend(rule(key, &value)?);
                }
            }
            _ => return wants("a table, or logrotate directives such as \"daily, rotate 7, compress\""),
        }
        Ok(Self(rules))
    }
}

schema!(LogRules, {
    "type": ["object", "string"],
    "properties": {
        "max_size": { "type": ["string", "integer", "boolean"], "description": "Maximum size of a log file \
            before rotation, such as `10M`, or `none`." },
        "interval": { "type": ["string", "boolean"], "description": "Rotation schedule: hourly, daily, \
            weekly, monthly, yearly, a cron schedule, or `none`." },
        "retain": { "type": ["string", "integer"], "description": "Number of rotated files to keep, or `all`." },
        "max_age": { "type": ["string", "integer"], "description": "Maximum age of rotated files, such as \
            `30d`." },
        "max_total": { "type": ["string", "integer"], "description": "Maximum total size of the rotated \
            files of an app, such as `1G`; the oldest are removed first." },
        "compress": { "type": "boolean", "description": "Compress rotated files with gzip." },
        "delay_compress": { "type": "boolean", "description": "Do not compress the newest rotated file." },
        "notifempty": { "type": "boolean", "description": "Do not rotate empty files (the default)." },
        "date_format": { "type": "string", "description": "Date format in the names of rotated files." },
        "when_full": { "enum": ["block", "drop"], "description": "While a log file cannot be written: block \
            the app, or drop lines and record how many." }
    }
});

/// The rule of a key; none if it asks for nothing that rsm does not do anyway.
fn rule(key: &str, value: &Value) -> Result<Option<Rule>, Wrong> {
    if let Some((_, schedule)) = INTERVALS.iter().find(|(name, _)| *name == key) {
        return Ok(flag(key, value)?.then(|| Rule::Schedule(Some((*schedule).to_owned()))));
    }
    let rule = match key {
        "max_size" | "maxSize" | "maxsize" | "size" => Rule::MaxSize(unless_none(key, value, size)?),
        "interval" | "rotate_interval" | "rotateInterval" => {
            Rule::Schedule(unless_none(key, value, schedule)?)
        }
        "retain" | "rotate" | "keep" => Rule::Keep(count(key, value)?),
        "max_age" | "maxAge" => Rule::MaxAge(unless_none(key, value, age)?),
        "maxage" => Rule::MaxAge(unless_none(key, value, days)?),
        "max_total" | "maxTotal" => Rule::MaxTotal(unless_none(key, value, size)?),
        "compress" => Rule::Compress(flag(key, value)?),
        "nocompress" => Rule::Compress(!flag(key, value)?),
        "delay_compress" | "delayCompress" | "delaycompress" => Rule::DelayCompress(flag(key, value)?),
        "nodelaycompress" => Rule::DelayCompress(!flag(key, value)?),
        "ifempty" => Rule::RotateEmpty(flag(key, value)?),
        "notifempty" => Rule::RotateEmpty(!flag(key, value)?),
        "date_format" | "dateFormat" => Rule::DateFormat(named(key, value, String::read)?),
        "when_full" | "whenFull" => match value.as_str() {
            Some("block") => Rule::WhenFull(WhenFull::Block),
            Some("drop") => Rule::WhenFull(WhenFull::Drop),
            _ => return named(key, value, |_| wants("\"block\" or \"drop\"")),
        },
        "budget" => {
            return unknown_key(key, "use `rsm conf logs.budget 10G`, or `max_total` for one app");
        }
        key if NEEDLESS.contains(&key) => return Ok(None),
        key => return unknown_key(key, format!("use one of {KEYS}")),
    };
    Ok(Some(rule))
}

fn flag(key: &str, value: &Value) -> Result<bool, Wrong> {
    named(key, value, bool::read)
}

/// `none` and false switch a limit off.
fn unless_none<T>(
    key: &str,
    value: &Value,
    read: impl FnOnce(&Value) -> Result<T, Wrong>,
) -> Result<Option<T>, Wrong> {
    let off = matches!(value, Value::Bool(false)) || matches!(value.as_str(), Some("none" | "all"));
    if off { Ok(None) } else { named(key, value, read).map(Some) }
}

fn size(value: &Value) -> Result<u64, Wrong> {
    Size::read(value).map(|size| size.0)
}

fn age(value: &Value) -> Result<u64, Wrong> {
    let Millis(age) = Millis::read(value)?;
    Ok(u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
}

/// logrotate counts days.
fn days(value: &Value) -> Result<u64, Wrong> {
    match integer(value) {
        Some(days @ 1..=36_500) => Ok(days.unsigned_abs() * 86_400_000),
        _ => wants("a number of days; use max_age for other units"),
    }
}

fn schedule(value: &Value) -> Result<String, Wrong> {
    let name = INTERVALS.iter().find(|(name, _)| value.as_str() == Some(name));
    if let Some((_, schedule)) = name {
        return Ok((*schedule).to_owned());
    }
    match Cron::read(value)?.0 {
        Some(schedule) => Ok(schedule),
        None => wants("hourly, daily, weekly, monthly, yearly, a cron schedule, or \"none\""),
    }
}

/// As in pm2-logrotate, whatever is no number keeps all; here it has to be `all`.
fn count(key: &str, value: &Value) -> Result<Option<u32>, Wrong> {
    match (integer(value).map(u32::try_from), value.as_str()) {
        (Some(Ok(count)), _) => Ok(Some(count)),
        (_, Some("all" | "none")) => Ok(None),
        _ => named(key, value, |_| wants("a number of files or \"all\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rotation(value: Value) -> Result<Rotation, Wrong> {
        let mut rotation = Rotation::default();
        LogRules::read(&value)?.apply(&mut rotation);
        Ok(rotation)
    }

    #[test]
    fn logrotates_words_are_understood() {
        let want = Rotation { keep: Some(7), compress: true, delay_compress: true, ..Rotation::default() };
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
        assert_eq!((read.max_size, read.keep, read.date_format.as_str()), (Some(1024), None, "YYYY"));
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
        let file = LogRules::read(&json!({ "max_size": "1M", "retain": 3 })).unwrap();
        let app = LogRules::read(&json!({ "retain": 5 })).unwrap();
        let mut rotation = Rotation::default();
        file.under(Some(app)).apply(&mut rotation);
        assert_eq!((rotation.max_size, rotation.keep), (Some(1 << 20), Some(5)));
    }
}
