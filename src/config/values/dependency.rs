//! Dependencies: `depends_on`, as names, tables, or the map of Compose files.

use serde_json::{Map, Value};

use crate::config::values::table::{SubKey, read_table, sub_keys};
use crate::config::values::words::WordList;
use crate::config::values::{FromValue, Part, ValueError, expected, named};
use crate::spec::{Condition, Dependency};

/// The dependencies of an app.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DependencyList(pub(crate) Vec<Dependency>);

const EXPECTED: &str = "a name, or a list of names and tables with `app` and `condition`";

const KEYS: &[SubKey<Dependency>] = sub_keys! {
    /// Name of the app.
    app ["name"]: { "type": "string" } => |to, value| {
        to.app = String::from_value(value)?;
        Ok(())
    };
    /// What the app must have reached: `started`, `ready` or `completed`. Default: `ready`.
    condition []: { "enum": ["started", "ready", "completed"] } => |to, value| {
        to.condition = condition(value)?;
        Ok(())
    };
};

impl FromValue for DependencyList {
    fn from_value(value: &Value) -> Result<Self, ValueError> {
        match value {
            Value::String(_) => Ok(Self(WordList::from_value(value)?.0.into_iter().map(ready).collect())),
            Value::Array(items) => items.iter().map(item).collect::<Result<_, _>>().map(Self),
            Value::Object(map) => map.iter().map(compose_entry).collect::<Result<_, _>>().map(Self),
            _ => expected(EXPECTED),
        }
    }
}

schema!(DependencyList, {
    "type": ["string", "array", "object"],
    "items": {
        "type": ["string", "number", "object"],
        "properties": crate::config::values::table::properties(KEYS),
        "required": ["app"],
        "additionalProperties": false
    }
});

fn ready(app: String) -> Dependency {
    Dependency { app, condition: Condition::Ready }
}

fn item(value: &Value) -> Result<Dependency, ValueError> {
    let Value::Object(table) = value else {
        let words = WordList::from_value(&Value::Array(vec![value.clone()]))?;
        return words.0.into_iter().next().map(ready).map_or_else(|| expected(EXPECTED), Ok);
    };
    let mut dependency = ready(String::new());
    read_table(table, KEYS, &mut dependency)?;
    match dependency.app.is_empty() {
        true => Err(ValueError {
            expected: EXPECTED.into(),
            help: "name the app".into(),
            part: Part::MissingKey("app"),
        }),
        false => Ok(dependency),
    }
}

/// `db: { condition: service_healthy }`
fn compose_entry((app, value): (&String, &Value)) -> Result<Dependency, ValueError> {
    let empty = Map::new();
    let table = match value {
        Value::Object(table) => table,
        Value::Null => &empty,
        _ => return named(app, value, |_| expected("a table with `condition`")),
    };
    let mut dependency = ready(app.clone());
    named(app, value, |_| read_table(table, KEYS, &mut dependency))?;
    Ok(dependency)
}

/// The names of rsm and of Compose.
fn condition(value: &Value) -> Result<Condition, ValueError> {
    match value.as_str() {
        Some("started" | "service_started") => Ok(Condition::Started),
        Some("ready" | "healthy" | "online" | "service_healthy") => Ok(Condition::Ready),
        Some("completed" | "service_completed_successfully") => Ok(Condition::Completed),
        _ => expected("\"started\", \"ready\" or \"completed\""),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn dependencies_have_conditions() {
        let read = |value: Value| DependencyList::from_value(&value).map(|list| list.0);
        let of = |app: &str, condition| Dependency { app: app.into(), condition };
        let [db, migrate] = [of("db", Condition::Ready), of("migrate", Condition::Completed)];
        assert_eq!(read(json!("db")), Ok(vec![db.clone()]));
        let table = json!({ "app": "migrate", "condition": "completed" });
        assert_eq!(read(json!(["db", table])), Ok(vec![db.clone(), migrate.clone()]));
        let compose = json!({ "db": {}, "migrate": { "condition": "service_completed_successfully" } });
        assert_eq!(read(compose), Ok(vec![db, migrate]));
        for wrong in [
            json!(5),
            json!([true]),
            json!([{}]),
            json!([{ "app": "a", "condition": "up" }]),
            json!([{ "ap": "a" }]),
        ] {
            assert!(read(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
