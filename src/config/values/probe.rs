//! Tables about readiness, health, ports, scaling and limits: `ready`, `health`, `ports`, `autoscale`, `limits`.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::config::values::table::{SubKey, find, properties, read_table, sub_keys};
use crate::config::values::{
    CountValue, DurationValue, FromValue, Part, ValueError, expected, expected_with_help, integer, named,
};
use crate::spec::{Autoscale, PortOptions, Probe, ProbeAction};

/// The readiness probe; none if it is disabled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReadinessProbe(pub(crate) Option<Probe>);

/// The liveness probe; none if it is disabled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LivenessProbe(pub(crate) Option<Probe>);

/// Options for shared ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PortOptionsValue(pub(crate) PortOptions);

/// Scaling by load; none if it is disabled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AutoscaleValue(pub(crate) Option<Autoscale>);

/// Shorter intervals would make the probes a load of their own.
const MIN_DURATION: Duration = Duration::from_millis(10);

const PROBE_EXPECTED: &str = "a table with exactly one of http, tcp and exec";

/// What a probe does: one of these keys.
const ACTION_KEYS: &[SubKey<Probe>] = sub_keys! {
    /// Succeeds with a status from 200 to 399.
    http []: { "type": "string", "pattern": "^http://" } => |to, value| {
        to.action = ProbeAction::Http(parse_url(value)?);
        Ok(())
    };
    /// Succeeds if a TCP connection to a port or host:port is accepted.
    tcp []: { "type": ["string", "integer"] } => |to, value| {
        to.action = ProbeAction::Tcp(parse_address(value)?);
        Ok(())
    };
    /// Succeeds if the shell command exits with 0.
    exec []: { "type": "string" } => |to, value| {
        to.action = ProbeAction::Exec(String::from_value(value)?);
        Ok(())
    };
};

const READY_KEYS: &[SubKey<Probe>] = sub_keys! {
    /// Interval between probes. Default: 500ms.
    interval []: { "type": ["string", "integer"] } => |to, value| parse_interval(&mut to.interval, value);
    /// Timeout of a probe. Default: 5s.
    timeout []: { "type": ["string", "integer"] } => |to, value| parse_interval(&mut to.timeout, value);
};

const HEALTH_KEYS: &[SubKey<Probe>] = sub_keys! {
    /// Interval between probes. Default: 10s.
    interval []: { "type": ["string", "integer"] } => |to, value| parse_interval(&mut to.interval, value);
    /// Timeout of a probe. Default: 5s.
    timeout []: { "type": ["string", "integer"] } => |to, value| parse_interval(&mut to.timeout, value);
    /// Consecutive failures before the instance is replaced. Default: 3.
    retries []: { "type": "integer", "minimum": 1 } => |to, value| parse_count(&mut to.retries, value);
    /// Time after the start during which failures are ignored. Default: 0.
    start_period []: { "type": ["string", "integer"] } => |to, value| parse_time(&mut to.start_period, value);
};

/// Resource limits of processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LimitsValue {
    pub(crate) nofile: Option<u32>,
}

const LIMIT_KEYS: &[SubKey<LimitsValue>] = sub_keys! {
    /// Maximum number of open files of a process.
    nofile []: { "type": ["integer", "string"], "minimum": 16, "maximum": u32::MAX, "pattern": "^[0-9]+$" } => |to, value| {
        match CountValue::from_value(value)? {
            CountValue(number) if number >= 16 => to.nofile = Some(number),
            CountValue(_) => return expected("at least 16"),
        }
        Ok(())
    };
};

const PORT_KEYS: &[SubKey<PortOptions>] = sub_keys! {
    /// Share UDP ports as well.
    udp []: { "type": "boolean" } => |to, value| {
        to.udp = bool::from_value(value)?;
        Ok(())
    };
    /// Allow an unprivileged user to bind ports below 1024.
    privileged []: { "type": "boolean" } => |to, value| {
        to.privileged = bool::from_value(value)?;
        Ok(())
    };
};

const AUTOSCALE_KEYS: &[SubKey<Autoscale>] = sub_keys! {
    /// Minimum number of instances. Default: 1.
    min []: { "type": "integer", "minimum": 1 } => |to, value| parse_count(&mut to.min, value);
    /// Maximum number of instances.
    max []: { "type": "integer", "minimum": 1 } => |to, value| parse_count(&mut to.max, value);
    /// Scale up above this average CPU usage per instance, in percent of a core. Default: 70.
    cpu []: { "type": "integer", "minimum": 1 } => |to, value| parse_count(&mut to.cpu, value);
    /// Scale up above this number of queued connections per instance. Default: 16.
    queue []: { "type": "integer", "minimum": 1 } => |to, value| parse_count(&mut to.queue, value);
    /// Time above a threshold before scaling up. Default: 10s.
    up_after []: { "type": ["string", "integer"] } => |to, value| parse_time(&mut to.up_after, value);
    /// Time below the thresholds before scaling down. Default: 60s.
    down_after []: { "type": ["string", "integer"] } => |to, value| parse_time(&mut to.down_after, value);
};

impl FromValue for ReadinessProbe {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        parse_probe(value, Probe::readiness, READY_KEYS).map(Self)
    }
}

impl FromValue for LivenessProbe {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        parse_probe(value, Probe::liveness, HEALTH_KEYS).map(Self)
    }
}

fn parse_probe(
    value: &Value,
    default: fn(ProbeAction) -> Probe,
    keys: &'static [SubKey<Probe>],
) -> Result<Option<Probe>, ValueError> {
    let table = match value {
        Value::Bool(false) => return Ok(None),
        Value::Object(table) => table,
        _ => return expected(PROBE_EXPECTED),
    };
    let (action, others): (Map<_, _>, Map<_, _>) =
        table.clone().into_iter().partition(|(key, _)| find(ACTION_KEYS, key).is_some());
    if action.len() != 1 {
        return expected(PROBE_EXPECTED);
    }
    // Replaced by the action, of which there is exactly one.
    let mut probe = default(ProbeAction::Exec(String::new()));
    read_table(&action, ACTION_KEYS, &mut probe)?;
    read_table(&others, keys, &mut probe)?;
    Ok(Some(probe))
}

fn parse_url(value: &Value) -> Result<String, ValueError> {
    let url = String::from_value(value)?;
    match url.strip_prefix("http://") {
        Some(rest) if !rest.is_empty() && !rest.starts_with('/') => Ok(url),
        _ if url.starts_with("https://") => {
            expected_with_help("an http:// URL", "for HTTPS, use `exec` with curl -fsS https://…")
        }
        _ => expected("a URL such as \"http://127.0.0.1:3000/health\""),
    }
}

fn parse_address(value: &Value) -> Result<String, ValueError> {
    let address = match value {
        Value::Number(port) => port.to_string(),
        _ => String::from_value(value)?,
    };
    // With a variable in it, only the instance knows.
    match address.contains('$') || is_address(&address) {
        true => Ok(address),
        false => expected("a port or host:port"),
    }
}

fn is_address(text: &str) -> bool {
    let port = text.rsplit_once(':').map_or(text, |(_, port)| port);
    let host = text.rsplit_once(':').is_none_or(|(host, _)| !host.is_empty());
    host && port.parse::<u16>().is_ok_and(|port| port > 0)
}

impl FromValue for PortOptionsValue {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        let Value::Object(table) = value else {
            return expected("a table with `udp` or `privileged`");
        };
        let mut rules = PortOptions::default();
        read_table(table, PORT_KEYS, &mut rules)?;
        Ok(Self(rules))
    }
}

impl FromValue for LimitsValue {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        let Value::Object(table) = value else { return expected("a table with `nofile`") };
        let mut limits = Self::default();
        read_table(table, LIMIT_KEYS, &mut limits)?;
        Ok(limits)
    }
}

impl FromValue for AutoscaleValue {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        let table = match value {
            Value::Bool(false) => return Ok(Self(None)),
            Value::Object(table) => table,
            _ => {
                return expected(
                    "a table with `max`, and optionally min, cpu, queue, up_after and down_after",
                );
            }
        };
        let mut rules = Autoscale::new(1, 0);
        read_table(table, AUTOSCALE_KEYS, &mut rules)?;
        match rules.max {
            0 => Err(ValueError {
                expected: "`max`".into(),
                help: String::new(),
                part: Part::MissingKey("max"),
            }),
            max if max < rules.min => {
                named("max", &max.into(), |_| expected(format!("at least `min` ({})", rules.min)))
            }
            _ => Ok(Self(Some(rules))),
        }
    }
}

fn parse_time(to: &mut Duration, value: &Value) -> Result<(), ValueError> {
    *to = DurationValue::from_value(value)?.0;
    Ok(())
}

fn parse_interval(to: &mut Duration, value: &Value) -> Result<(), ValueError> {
    parse_time(to, value)?;
    if *to < MIN_DURATION { expected("at least 10 ms") } else { Ok(()) }
}

fn parse_count(to: &mut u32, value: &Value) -> Result<(), ValueError> {
    match integer(value).map(u32::try_from) {
        Some(Ok(count)) if count >= 1 => {
            *to = count;
            Ok(())
        }
        _ => expected("an integer of at least 1"),
    }
}

/// The schema of a table with these keys and no others.
fn table_schema(types: Value, properties: Value) -> Value {
    serde_json::json!({ "type": types, "additionalProperties": false, "properties": properties })
}

fn probe_schema(keys: &[SubKey<Probe>]) -> Value {
    let mut all = properties(ACTION_KEYS);
    if let (Value::Object(all), Value::Object(times)) = (&mut all, properties(keys)) {
        all.extend(times);
    }
    table_schema(serde_json::json!(["object", "boolean"]), all)
}

schema!(ReadinessProbe, probe_schema(READY_KEYS));
schema!(LivenessProbe, probe_schema(HEALTH_KEYS));
schema!(PortOptionsValue, table_schema("object".into(), properties(PORT_KEYS)));
schema!(LimitsValue, table_schema("object".into(), properties(LIMIT_KEYS)));
schema!(AutoscaleValue, table_schema(serde_json::json!(["object", "boolean"]), properties(AUTOSCALE_KEYS)));

#[cfg(test)]
mod tests {
    use crate::config::values::probe::*;
    use serde_json::json;

    #[test]
    fn a_check_is_one_of_three_with_its_times() {
        let read = LivenessProbe::from_value(&json!({
            "http": "http://127.0.0.1:$PORT/h", "interval": "1s", "timeout": 200, "retries": 2, "startPeriod": "5s",
        }));
        let probe = read.unwrap().0.unwrap();
        assert_eq!(probe.action, ProbeAction::Http("http://127.0.0.1:$PORT/h".into()));
        assert_eq!((probe.interval.as_secs(), probe.timeout.as_millis(), probe.retries), (1, 200, 2));
        assert_eq!(probe.start_period.as_secs(), 5);
        let tcp = ReadinessProbe::from_value(&json!({ "tcp": 3000 })).unwrap().0.unwrap();
        assert_eq!(tcp, Probe::readiness(ProbeAction::Tcp("3000".into())));
        assert_eq!(ReadinessProbe::from_value(&json!(false)).unwrap().0, None);
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
            let wrong = LivenessProbe::from_value(&value).unwrap_err();
            assert!(wrong.message("health", None).contains(told), "{value}: {wrong:?}");
        }
        assert!(
            ReadinessProbe::from_value(&json!({ "exec": "true", "retries": 3 })).is_err(),
            "only for health"
        );
    }

    #[test]
    fn ports_and_scaling() {
        let ports = PortOptionsValue::from_value(&json!({ "udp": true })).unwrap().0;
        assert!(ports.udp && !ports.privileged);
        assert!(
            PortOptionsValue::from_value(&json!({ "tcp": true }))
                .unwrap_err()
                .message("ports", None)
                .contains("`ports.tcp`")
        );
        let scaling = AutoscaleValue::from_value(&json!({ "min": 2, "max": 4, "cpu": 50, "up_after": "2s" }))
            .unwrap()
            .0
            .unwrap();
        assert_eq!((scaling.min, scaling.max, scaling.cpu, scaling.up_after.as_secs()), (2, 4, 50, 2));
        assert!(
            AutoscaleValue::from_value(&json!({ "min": 2 }))
                .unwrap_err()
                .message("autoscale", None)
                .contains("`autoscale.max`")
        );
        assert!(
            AutoscaleValue::from_value(&json!({ "min": 3, "max": 2 }))
                .unwrap_err()
                .expected
                .contains("at least `min`")
        );
    }
}
