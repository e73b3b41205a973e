//! Tables about how an app is: `ready` and `health`, `ports`, `autoscale`.

use std::time::Duration;

use serde_json::{Map, Value};

use super::{Millis, Part, Reading, Wrong, integer, named, unknown_key, wants, wants_help};
use crate::spec::{Autoscale, Check, PortRules, Probe};

/// What tells that it is ready; none if it is switched off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct ReadyCheck(pub(in super::super) Option<Probe>);

/// What tells that it still works; none if it is switched off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct HealthCheck(pub(in super::super) Option<Probe>);

/// What it may do with its ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Ports(pub(in super::super) PortRules);

/// How many instances; none if that is left to the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Scaling(pub(in super::super) Option<Autoscale>);

/// Shorter pauses would make the checks a load of their own.
const SHORTEST: Duration = Duration::from_millis(10);

const CHECK: &str = "a table with exactly one of http, tcp and exec";

impl Reading for ReadyCheck {
    fn read(value: &Value) -> Result<Self, Wrong> {
        probe(value, Probe::ready, &["interval", "timeout"]).map(Self)
    }
}

impl Reading for HealthCheck {
    fn read(value: &Value) -> Result<Self, Wrong> {
        probe(value, Probe::health, &["interval", "timeout", "retries", "start_period"]).map(Self)
    }
}

fn probe(value: &Value, usual: fn(Check) -> Probe, keys: &[&str]) -> Result<Option<Probe>, Wrong> {
    let table = match value {
        Value::Bool(false) => return Ok(None),
        Value::Object(table) => table,
        _ => return wants(CHECK),
    };
    let mut probe = usual(check(table)?);
    for (key, value) in table {
        let name = snake(key);
        match name.as_str() {
            "http" | "tcp" | "exec" => {}
            name if !keys.contains(&name) => return unknown(key, &["http", "tcp", "exec"], keys),
            "interval" => probe.interval = at_least(key, value)?,
            "timeout" => probe.timeout = at_least(key, value)?,
            "start_period" => probe.start_period = time(key, value)?,
            _ => probe.retries = count(key, value, 1)?,
        }
    }
    Ok(Some(probe))
}

fn check(table: &Map<String, Value>) -> Result<Check, Wrong> {
    let given: Vec<(&String, &Value)> =
        table.iter().filter(|(key, _)| ["http", "tcp", "exec"].contains(&key.as_str())).collect();
    let [(kind, value)] = given[..] else { return wants(CHECK) };
    let text = || named(kind, value, String::read);
    match (kind.as_str(), value) {
        ("http", _) => {
            let url = text()?;
            match url.strip_prefix("http://") {
                Some(rest) if !rest.is_empty() && !rest.starts_with('/') => Ok(Check::Http(url)),
                _ if url.starts_with("https://") => named(kind, value, |_| {
                    wants_help("an http:// URL", "for HTTPS, use `exec` with curl -fsS https://…")
                }),
                _ => named(kind, value, |_| wants("a URL such as \"http://127.0.0.1:3000/health\"")),
            }
        }
        ("tcp", Value::Number(port)) => Ok(Check::Tcp(port.to_string())),
        ("tcp", _) => Ok(Check::Tcp(text()?)),
        _ => Ok(Check::Exec(text()?)),
    }
    .and_then(|check| match &check {
        // With a variable in it, only the instance knows.
        Check::Tcp(address) if !address.contains('$') && !is_address(address) => {
            named(kind, value, |_| wants("a port or host:port"))
        }
        _ => Ok(check),
    })
}

fn is_address(text: &str) -> bool {
    let port = text.rsplit_once(':').map_or(text, |(_, port)| port);
    let host = text.rsplit_once(':').is_none_or(|(host, _)| !host.is_empty());
    host && port.parse::<u16>().is_ok_and(|port| port > 0)
}

impl Reading for Ports {
    fn read(value: &Value) -> Result<Self, Wrong> {
        let Value::Object(table) = value else {
            return wants("a table with `udp` or `privileged`");
        };
        let mut rules = PortRules::default();
        for (key, value) in table {
            match key.as_str() {
                "udp" => rules.udp = named(key, value, bool::read)?,
                "privileged" => rules.privileged = named(key, value, bool::read)?,
                _ => return unknown(key, &["udp", "privileged"], &[]),
            }
        }
        Ok(Self(rules))
    }
}

impl Reading for Scaling {
    fn read(value: &Value) -> Result<Self, Wrong> {
        const KEYS: &[&str] = &["min", "max", "cpu", "queue", "up_after", "down_after"];
        let table = match value {
            Value::Bool(false) => return Ok(Self(None)),
            Value::Object(table) => table,
            _ => return wants("a table with `max`, and optionally min, cpu, queue, up_after and down_after"),
        };
        let mut rules = Autoscale::between(1, 0);
        for (key, value) in table {
            match snake(key).as_str() {
                "min" => rules.min = count(key, value, 1)?,
                "max" => rules.max = count(key, value, 1)?,
                "cpu" => rules.cpu = count(key, value, 1)?,
                "queue" => rules.queue = count(key, value, 1)?,
                "up_after" => rules.up_after = time(key, value)?,
                "down_after" => rules.down_after = time(key, value)?,
                _ => return unknown(key, KEYS, &[]),
            }
        }
        match rules.max {
            0 => {
                let part = Part::MissingKey("max");
                Err(Wrong { wants: "`max`".into(), help: String::new(), part })
            }
            max if max < rules.min => {
                named("max", &max.into(), |_| wants(format!("at least `min` ({})", rules.min)))
            }
            _ => Ok(Self(Some(rules))),
        }
    }
}

fn unknown<T>(key: &str, some: &[&str], others: &[&str]) -> Result<T, Wrong> {
    let all: Vec<&str> = some.iter().chain(others).copied().collect();
    unknown_key(key, format!("use one of {}", all.join(", ")))
}

/// `startPeriod` → `start_period`.
fn snake(key: &str) -> String {
    let word =
        |c: char| if c.is_ascii_uppercase() { format!("_{}", c.to_ascii_lowercase()) } else { c.into() };
    key.chars().map(word).collect()
}

fn time(key: &str, value: &Value) -> Result<Duration, Wrong> {
    named(key, value, Millis::read).map(|millis| millis.0)
}

fn at_least(key: &str, value: &Value) -> Result<Duration, Wrong> {
    match time(key, value)? {
        time if time < SHORTEST => named(key, value, |_| wants("at least 10 ms")),
        time => Ok(time),
    }
}

fn count(key: &str, value: &Value, least: u32) -> Result<u32, Wrong> {
    match integer(value).map(u32::try_from) {
        Some(Ok(count)) if count >= least => Ok(count),
        _ => named(key, value, |_| wants(format!("an integer of at least {least}"))),
    }
}

schema!(ReadyCheck, {
    "type": ["object", "boolean"],
    "additionalProperties": false,
    "properties": {
        "http": { "type": "string", "pattern": "^http://", "description": "Succeeds with a status from 200 \
            to 399." },
        "tcp": { "type": ["string", "integer"], "description": "Succeeds if a TCP connection to a port or \
            host:port is accepted." },
        "exec": { "type": "string", "description": "Succeeds if the shell command exits with 0." },
        "interval": { "type": ["string", "integer"], "description": "Interval between probes. Default: 500ms." },
        "timeout": { "type": ["string", "integer"], "description": "Timeout of a probe. Default: 5s." }
    }
});

schema!(HealthCheck, {
    "type": ["object", "boolean"],
    "additionalProperties": false,
    "properties": {
        "http": { "type": "string", "pattern": "^http://", "description": "Succeeds with a status from 200 \
            to 399." },
        "tcp": { "type": ["string", "integer"], "description": "Succeeds if a TCP connection to a port or \
            host:port is accepted." },
        "exec": { "type": "string", "description": "Succeeds if the shell command exits with 0." },
        "interval": { "type": ["string", "integer"], "description": "Interval between probes. Default: 10s." },
        "timeout": { "type": ["string", "integer"], "description": "Timeout of a probe. Default: 5s." },
        "retries": { "type": "integer", "minimum": 1, "description": "Consecutive failures before the \
            instance is replaced. Default: 3." },
        "start_period": { "type": ["string", "integer"], "description": "Time after the start during which \
            failures are ignored. Default: 0." }
    }
});

schema!(Ports, {
    "type": "object",
    "additionalProperties": false,
    "properties": {
        "udp": { "type": "boolean", "description": "Share UDP ports as well." },
        "privileged": { "type": "boolean", "description": "Allow an unprivileged user to bind ports below \
            1024." }
    }
});

schema!(Scaling, {
    "type": ["object", "boolean"],
    "additionalProperties": false,
    "properties": {
        "min": { "type": "integer", "minimum": 1, "description": "Minimum number of instances. Default: 1." },
        "max": { "type": "integer", "minimum": 1, "description": "Maximum number of instances." },
        "cpu": { "type": "integer", "minimum": 1, "description": "Scale up above this average CPU usage per \
            instance, in percent of a core. Default: 70." },
        "queue": { "type": "integer", "minimum": 1, "description": "Scale up above this number of queued \
            connections per instance. Default: 16." },
        "up_after": { "type": ["string", "integer"], "description": "Time above a threshold before scaling \
            up. Default: 10s." },
        "down_after": { "type": ["string", "integer"], "description": "Time below the thresholds before \
            scaling down. Default: 60s." }
    }
});

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_check_is_one_of_three_with_its_times() {
        let read = HealthCheck::read(&json!({
            "http": "http://127.0.0.1:$PORT/h", "interval": "1s", "timeout": 200, "retries": 2, "startPeriod": "5s",
        }));
        let probe = read.unwrap().0.unwrap();
        assert_eq!(probe.check, Check::Http("http://127.0.0.1:$PORT/h".into()));
        assert_eq!((probe.interval.as_secs(), probe.timeout.as_millis(), probe.retries), (1, 200, 2));
        assert_eq!(probe.start_period.as_secs(), 5);
        let tcp = ReadyCheck::read(&json!({ "tcp": 3000 })).unwrap().0.unwrap();
        assert_eq!(tcp, Probe::ready(Check::Tcp("3000".into())));
        assert_eq!(ReadyCheck::read(&json!(false)).unwrap().0, None);
    }

    #[test]
    fn what_is_no_check_is_told() {
        for (value, told) in [
            (json!({}), "one of http, tcp and exec"),
            (json!("http://x"), "one of http, tcp and exec"),
            (json!({ "http": "http://a/", "tcp": 1 }), "one of http, tcp and exec"),
            (json!({ "http": "https://a/" }), "an http:// URL"),
            (json!({ "http": "127.0.0.1:3000" }), "a URL such as"),
            (json!({ "tcp": "host" }), "a port or host:port"),
            (json!({ "tcp": 70000 }), "a port or host:port"),
            (json!({ "exec": "true", "intervall": 1 }), "unknown key `health.intervall`"),
            (json!({ "exec": "true", "interval": 0 }), "`health.interval`: expected at least"),
            (
                json!({ "exec": "true", "retries": 0 }),
                "`health.retries`: expected an integer of at least 1, found 0",
            ),
        ] {
            let wrong = HealthCheck::read(&value).unwrap_err();
            assert!(wrong.message("health", None).contains(told), "{value}: {wrong:?}");
        }
        assert!(ReadyCheck::read(&json!({ "exec": "true", "retries": 3 })).is_err(), "only for health");
    }

    #[test]
    fn ports_and_scaling() {
        let ports = Ports::read(&json!({ "udp": true })).unwrap().0;
        assert!(ports.udp && !ports.privileged);
        assert!(
            Ports::read(&json!({ "tcp": true })).unwrap_err().message("ports", None).contains("`ports.tcp`")
        );
        let scaling =
            Scaling::read(&json!({ "min": 2, "max": 4, "cpu": 50, "up_after": "2s" })).unwrap().0.unwrap();
        assert_eq!((scaling.min, scaling.max, scaling.cpu, scaling.up_after.as_secs()), (2, 4, 50, 2));
        assert!(
            Scaling::read(&json!({ "min": 2 }))
                .unwrap_err()
                .message("autoscale", None)
                .contains("`autoscale.max`")
        );
        assert!(Scaling::read(&json!({ "min": 3, "max": 2 })).unwrap_err().wants.contains("at least `min`"));
    }
}
