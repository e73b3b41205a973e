//! Environment variables, and filters for inherited ones.

use serde_json::{Map, Number, Value};

use crate::config::values::{FromValue, ValueError, expected, expected_with_help};
use crate::spec::{EnvFilter, EnvVars};

/// Environment variables. Values become strings; lists and tables become JSON.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct EnvValue(pub(crate) EnvVars);

/// The inherited variables that are removed from the environment of an app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EnvFilterValue(pub(crate) EnvFilter);

/// The name of an environment variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VarName(pub(crate) String);

/// Whether the system accepts the name: `=` separates the name from the value.
fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0'])
}

impl FromValue for EnvValue {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        match value {
            Value::Object(table) => variables(table).map(Self),
            _ => expected_with_help("a table of variables", "write each variable as a name and its value"),
        }
    }
}

fn variables(table: &Map<String, Value>) -> Result<EnvVars, ValueError> {
    let mut vars = EnvVars::new();
    for (name, value) in table {
        if !is_name(name) {
            return expected(format!("variable names without `=`, not {name:?}"));
        }
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Null => continue,
            Value::Number(number) => javascript_number(number),
            other => other.to_string(),
        };
        if text.contains('\0') {
            return expected(format!("values without NUL characters, unlike {name}"));
        }
        vars.insert(name.clone(), text);
    }
    Ok(vars)
}

/// A number as JavaScript prints it, and thus PM2: `1.0` is `1`, `1e3` is `1000`.
pub(crate) fn javascript_number(number: &Number) -> String {
    // Integers of JSON are exact, unlike in JavaScript: an id of 20 digits is kept.
    let Some(value) = number.as_f64().filter(|_| number.is_f64()) else { return number.to_string() };
    match value.abs() {
        0.0 => "0".into(),
        size if (1e-6..1e21).contains(&size) => value.to_string(),
        _ => {
            let text = format!("{value:e}");
            if text.contains("e-") { text } else { text.replace('e', "e+") }
        }
    }
}

impl FromValue for VarName {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        match value.as_str() {
            Some(name) if is_name(name) => Ok(Self(name.to_owned())),
            _ => expected("a variable name"),
        }
    }
}

impl FromValue for EnvFilterValue {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        let text = |item: &Value| item.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let filter = match value {
            Value::Bool(true) => Some(EnvFilter::All),
            Value::Bool(false) => Some(EnvFilter::None),
            Value::String(_) => text(value).map(EnvFilter::Exact),
            Value::Array(items) if items.is_empty() => Some(EnvFilter::None),
            Value::Array(items) => items.iter().map(text).collect::<Option<_>>().map(EnvFilter::Containing),
            _ => None,
        };
        match filter {
            Some(filter) => Ok(Self(filter)),
            None => expected("true (drop all), a name, or a list of substrings of names"),
        }
    }
}

schema!(EnvValue, { "type": "object", "propertyNames": { "pattern": "^[^=]+$" } });

schema!(VarName, { "type": "string", "pattern": "^[^=]+$" });

schema!(EnvFilterValue, { "type": ["array", "string", "boolean"], "minLength": 1, "items": { "type": "string", "minLength": 1 } });

#[cfg(test)]
mod tests {
    use crate::config::values::env::*;
    use serde_json::json;

    #[test]
    fn values_become_strings() {
        let given = json!({ "A": "x", "B": 5000, "C": true, "D": [1, "2"], "E": { "f": 1.5 } });
        let EnvValue(vars) = EnvValue::from_value(&given).ok().unwrap();
        let text: Vec<_> = vars.values().map(String::as_str).collect();
        assert_eq!(text, ["x", "5000", "true", "[1,\"2\"]", "{\"f\":1.5}"]);
    }

    #[test]
    fn numbers_are_printed_as_in_javascript() {
        for (json, text) in [
            ("1.0", "1"),
            ("1e3", "1000"),
            ("-0.5", "-0.5"),
            ("1e20", "100000000000000000000"),
            ("1e21", "1e+21"),
            ("1.5e300", "1.5e+300"),
            ("0.00001", "0.00001"),
            ("1e-7", "1e-7"),
            ("-0.0", "0"),
            ("18446744073709551615", "18446744073709551615"),
        ] {
            assert_eq!(javascript_number(&serde_json::from_str(json).unwrap()), text, "{json}");
        }
    }

    #[test]
    fn errors_name_variable_and_hide_value() {
        let refused = |value| EnvValue::from_value(&value).err().unwrap().expected;
        assert!(refused(json!({ "A=B": "hunter2" })).contains("A=B"));
        let nul = refused(json!({ "TOKEN": "hunter2\0" }));
        assert!(nul.contains("TOKEN") && !nul.contains("hunter2"));
        assert!(EnvValue::from_value(&json!("A=1")).is_err());
    }

    #[test]
    fn reads_filters() {
        let filter = |value| EnvFilterValue::from_value(&value).unwrap().0;
        assert_eq!(filter(json!(["AWS_"])), EnvFilter::Containing(vec!["AWS_".into()]));
        assert_eq!(filter(json!("HOME")), EnvFilter::Exact("HOME".into()));
        assert_eq!(filter(json!(true)), EnvFilter::All);
        assert!(
            EnvFilterValue::from_value(&json!([1])).is_err()
                && EnvFilterValue::from_value(&json!("")).is_err()
        );
    }
}
