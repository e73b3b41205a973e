//! Counts, ports, instance counts, CPU quotas and exit codes.

use serde_json::Value;

use crate::config::values::{FromValue, ValueError, expected, integer};

/// A larger number is a mistake, and would exhaust the machine.
const MAX_INSTANCES: i64 = 10_000;
const MIN_INSTANCES: i64 = -MAX_INSTANCES;

/// A non-negative integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CountValue(pub(crate) u32);

/// A CPU quota, in percent of one core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CpuQuota(pub(crate) u32);

/// A TCP port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PortValue(pub(crate) u16);

/// The number of instances of an app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InstanceCount {
    /// A fixed number.
    Count(u32),
    /// The number of cores, minus this number.
    CoresMinus(u32),
}

/// Exit codes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExitCodes(pub(crate) Vec<i32>);

impl InstanceCount {
    /// The number of instances on a machine with this number of cores; at least one.
    pub(crate) fn resolve(self, cores: u32) -> u32 {
        match self {
            Self::Count(number) => number,
            Self::CoresMinus(fewer) => cores.saturating_sub(fewer).max(1),
        }
    }
}

impl FromValue for CountValue {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        match integer(value).and_then(|number| u32::try_from(number).ok()) {
            Some(number) => Ok(Self(number)),
            None => expected("a non-negative integer"),
        }
    }
}

impl FromValue for CpuQuota {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        let percent = match value {
            Value::String(text) => match text.trim().strip_suffix('%') {
                Some(percent) => percent.trim().parse().ok(),
                None => text.trim().parse().ok().map(|cores: f64| cores * 100.0),
            },
            number => number.as_f64().map(|cores| cores * 100.0),
        };
        match percent {
            // Below one percent, the quota is shorter than the minimum of the kernel.
            Some(percent) if (1.0..=1e6).contains(&percent) => Ok(Self(percent.round() as u32)),
            _ => expected("a number of cores such as 1.5, or a percentage such as \"150%\""),
        }
    }
}

impl FromValue for PortValue {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        match integer(value).and_then(|number| u16::try_from(number).ok()) {
            Some(number) if number > 0 => Ok(Self(number)),
            _ => expected("a port from 1 to 65535"),
        }
    }
}

impl FromValue for InstanceCount {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        if value.as_str() == Some("max") {
            return Ok(Self::CoresMinus(0));
        }
        match integer(value) {
            Some(number @ MIN_INSTANCES..=0) => Ok(Self::CoresMinus(number.unsigned_abs() as u32)),
            Some(number @ 1..=MAX_INSTANCES) => Ok(Self::Count(number.unsigned_abs() as u32)),
            Some(_) => expected(format!("at most {MAX_INSTANCES} instances")),
            None => expected("an integer or \"max\" (negative: that many fewer than cores)"),
        }
    }
}

impl FromValue for ExitCodes {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        let items = match value {
            Value::Array(items) => items.clone(),
            // The value of a flag is a string: `--stop-exit-codes 0,3` or `"0 3"`.
            Value::String(text) => {
                let parts = text.split([',', ' ']).filter(|part| !part.is_empty());
                parts.map(|part| Value::String(part.into())).collect()
            }
            other => vec![other.clone()],
        };
        let code = |item: &Value| integer(item).filter(|code| (0..=255).contains(code));
        match items.iter().map(|item| code(item).map(|code| code as i32)).collect() {
            Some(codes) => Ok(Self(codes)),
            None => expected("exit codes from 0 to 255"),
        }
    }
}

schema!(CountValue, { "type": ["integer", "string"], "minimum": 0, "maximum": u32::MAX, "pattern": "^[0-9]+$" });
schema!(CpuQuota, {
    "type": ["number", "string"],
    "minimum": 0.01,
    "maximum": 10_000,
    "pattern": r"^\s*[0-9]+(\.[0-9]+)?\s*%?\s*$"
});
schema!(PortValue, { "type": ["integer", "string"], "minimum": 1, "maximum": u16::MAX, "pattern": "^[0-9]+$" });
schema!(InstanceCount, {
    "type": ["integer", "string"],
    "minimum": MIN_INSTANCES,
    "maximum": MAX_INSTANCES,
    "pattern": "^(max|-?[0-9]+)$"
});
schema!(ExitCodes, {
    "type": ["integer", "array", "string"],
    "minimum": 0,
    "maximum": 255,
    "pattern": "^[0-9, ]*$",
    "items": { "type": ["integer", "string"], "minimum": 0, "maximum": 255, "pattern": "^[0-9]+$" }
});

#[cfg(test)]
mod tests {
    use crate::config::values::number::*;
    use serde_json::json;

    #[test]
    fn quota_accepts_cores_and_percent() {
        for (value, percent) in [(json!(1.5), 150), (json!("150%"), 150), (json!("0.5"), 50), (json!(2), 200)]
        {
            assert_eq!(CpuQuota::from_value(&value), Ok(CpuQuota(percent)), "{value}");
        }
        for bad in
            [json!(0), json!("0.1%"), json!("much"), json!(-1), json!("NaN"), json!("1e9"), json!(true)]
        {
            assert!(CpuQuota::from_value(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn instance_count_depends_on_cores() {
        let on_eight = |value: Value| InstanceCount::from_value(&value).unwrap().resolve(8);
        assert_eq!(on_eight(json!(3)), 3);
        assert_eq!(on_eight(json!("3")), 3);
        assert_eq!(on_eight(json!("max")), 8);
        assert_eq!(on_eight(json!(0)), 8);
        assert_eq!(on_eight(json!(-1)), 7);
        assert_eq!(on_eight(json!("-20")), 1);
        for bad in [json!("many"), json!(2.5), json!(10_001), json!(i64::MIN), json!(true), json!("")] {
            assert!(InstanceCount::from_value(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn exit_codes_accept_number_list_or_text() {
        assert_eq!(ExitCodes::from_value(&json!(0)).unwrap().0, [0]);
        assert_eq!(ExitCodes::from_value(&json!([0, "143"])).unwrap().0, [0, 143]);
        assert_eq!(ExitCodes::from_value(&json!("1, 2")).unwrap().0, [1, 2]);
        assert!(ExitCodes::from_value(&json!([256])).is_err() && ExitCodes::from_value(&json!("a")).is_err());
    }

    #[test]
    fn counts_and_ports_have_limits() {
        assert_eq!(CountValue::from_value(&json!("0")), Ok(CountValue(0)));
        assert!(
            CountValue::from_value(&json!(-1)).is_err() && CountValue::from_value(&json!(u64::MAX)).is_err()
        );
        assert_eq!(PortValue::from_value(&json!(65535)), Ok(PortValue(65535)));
        assert!(PortValue::from_value(&json!(0)).is_err() && PortValue::from_value(&json!(65536)).is_err());
    }
}
