//! The JSON Schema of the ecosystem file, for editors. It is generated from the table of keys, and thus complete.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use crate::config::key_def::KeyDef;
use crate::config::keys::{IGNORED_KEYS, KEYS};
use crate::config::values::{EnvValue, LogRules, to_camel_case};

/// The JSON Schema of `ecosystem.toml`, in draft 7, which the TOML plugins of editors support.
pub fn schema() -> Value {
    let mut generator = SchemaSettings::draft07().into_generator();
    let app = app_schema(&mut generator);
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "rsm ecosystem file",
        "type": "object",
        "properties": {
            "$schema": { "type": "string" },
            "apps": {
                "description": "The apps.",
                "oneOf": [{ "type": "array", "items": { "$ref": "#/definitions/app" } }, { "$ref": "#/definitions/app" }]
            },
            "logs": log_rules_schema(&mut generator),
            "pm2": { "$ref": "#/properties/apps" },
            "deploy": { "description": "Not supported, ignored." },
            "static": { "description": "Static file servers, as in PM2. Same as apps with script = \"serve\"." }
        },
        "additionalProperties": false,
        "definitions": { "app": app }
    })
}

/// The schema of the `logs` table of the file.
fn log_rules_schema(generator: &mut SchemaGenerator) -> Value {
    let mut schema = LogRules::json_schema(generator);
    schema.insert("description".into(), "Log settings for all apps; an app can override them.".into());
    schema.to_value()
}

/// The schema of one app.
fn app_schema(generator: &mut SchemaGenerator) -> Value {
    let mut properties = Map::new();
    for key in KEYS {
        key_schema(key, generator, &mut properties);
    }
    for key in IGNORED_KEYS {
        for spelling in std::iter::once(key.name.to_owned()).chain(to_camel_case(key.name)) {
            let description = format!("Ignored: {}.", key.reason);
            properties.insert(spelling, json!({ "description": description, "deprecated": true }));
        }
    }
    json!({
        "type": "object",
        "properties": properties,
        "patternProperties": { "^env_.+$": EnvValue::json_schema(generator) },
        "additionalProperties": false
    })
}

/// Adds a key in all its spellings.
fn key_schema(key: &KeyDef, generator: &mut SchemaGenerator, properties: &mut Map<String, Value>) {
    let mut schema = (key.schema)(generator);
    for spelling in key.spellings() {
        let description = match spelling == key.name {
            true => key.doc().to_owned(),
            false => format!("Same as `{}`.", key.name),
        };
        schema.insert("description".into(), description.into());
        properties.insert(spelling, schema.as_value().clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys::{find_key, ignored_key};

    fn properties() -> Map<String, Value> {
        schema()["definitions"]["app"]["properties"].as_object().unwrap().clone()
    }

    #[test]
    fn schema_has_only_known_keys() {
        for key in properties().keys() {
            assert!(find_key(key).is_some() || ignored_key(key).is_some(), "{key}");
        }
    }

    #[test]
    fn schema_has_all_keys() {
        let properties = properties();
        for spelling in KEYS.iter().flat_map(KeyDef::spellings) {
            let property = &properties[&spelling];
            assert!(property["description"].as_str().is_some_and(|text| !text.is_empty()), "{spelling}");
            assert!(property.get("type").or(property.get("enum")).is_some(), "{spelling}: {property}");
        }
        assert_eq!(properties["script"]["type"], "string");
        assert_eq!(properties["node_args"]["description"], "Same as `interpreter_args`.");
    }
}
