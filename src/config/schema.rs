//! The JSON Schema of the TOML file, for editors: made from the table of settings, so that it
//! can neither lack a key nor name one that is not read.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::settings::{KEYS, Key, UNUSED, camel};
use super::value::{Environment, LogRules};

/// The JSON Schema (draft 7, which editors' TOML plugins know) of `ecosystem.toml`.
pub fn schema() -> Value {
    let mut generator = SchemaSettings::draft07().into_generator();
    let app = app(&mut generator);
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
            "logs": logs(&mut generator),
            "pm2": { "$ref": "#/properties/apps" },
            "deploy": { "description": "Not offered by rsm; ignored." },
            "static": { "description": "File servers, as PM2 has them; an app with script = \"serve\" says the same." }
        },
        "additionalProperties": false,
        "definitions": { "app": app }
    })
}

/// The schema of the log rules of all apps.
fn logs(generator: &mut SchemaGenerator) -> Value {
    let mut schema = LogRules::json_schema(generator);
    schema.insert("description".into(), "Log rules of all apps; those of an app lie over them.".into());
    schema.to_value()
}

/// The schema of one app.
fn app(generator: &mut SchemaGenerator) -> Value {
    let mut properties = Map::new();
    for key in KEYS {
        describe(key, generator, &mut properties);
    }
    for (name, about) in UNUSED {
        for spelling in std::iter::once((*name).to_owned()).chain(camel(name)) {
            properties.insert(
                spelling,
                json!({ "description": format!("No effect in rsm: {about}."), "deprecated": true }),
            );
        }
    }
    json!({
        "type": "object",
        "properties": properties,
        "patternProperties": { "^env_.+$": Environment::json_schema(generator) },
        "additionalProperties": false
    })
}

/// Adds a key in all its spellings.
fn describe(key: &Key, generator: &mut SchemaGenerator, properties: &mut Map<String, Value>) {
    let mut schema = (key.schema)(generator);
    for spelling in key.spellings() {
        let about = match spelling == key.name {
            true => key.about.trim().to_owned(),
            false => format!("Same as `{}`.", key.name),
        };
        schema.insert("description".into(), about.into());
        properties.insert(spelling, schema.as_value().clone());
    }
}

#[cfg(test)]
mod tests {
    use super::super::settings::{find, unused};
    use super::*;

    fn properties() -> Map<String, Value> {
        schema()["definitions"]["app"]["properties"].as_object().unwrap().clone()
    }

    #[test]
    fn the_parser_reads_what_the_schema_names() {
        for key in properties().keys() {
            assert!(find(key).is_some() || unused(key).is_some(), "{key}");
        }
    }

    #[test]
    fn the_schema_names_what_the_parser_reads() {
        let properties = properties();
        for spelling in KEYS.iter().flat_map(Key::spellings) {
            let property = &properties[&spelling];
            assert!(property["description"].as_str().is_some_and(|about| !about.is_empty()), "{spelling}");
            assert!(property.get("type").or(property.get("enum")).is_some(), "{spelling}: {property}");
        }
        assert_eq!(properties["script"]["type"], "string");
        assert_eq!(properties["node_args"]["description"], "Same as `interpreter_args`.");
    }
}
