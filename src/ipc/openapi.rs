//! The API's description for programs: OpenAPI 3.1, its schemas made from the message types.

use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

use self::operations::{OPERATIONS, Operation, Parameter, Reply};
use super::message::ErrorCode;
use super::route::Refusal;

mod operations;
#[cfg(test)]
mod tests;

/// Makes the schema of one type, and of those it uses.
type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

fn schema_of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// The document, as `GET /v1/openapi.json` gives it.
pub fn document() -> Value {
    // One schema serves both directions, so it is that of what is read: what has a default may be
    // left out.
    let settings = SchemaSettings::draft2020_12()
        .with(|settings| settings.definitions_path = "/components/schemas".into());
    let mut generator = settings.into_generator();
    let mut paths = Map::new();
    for operation in OPERATIONS {
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method.to_lowercase()] = describe(operation, &mut generator);
    }
    let refusal = generator.subschema_for::<Refusal>();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "rsm",
            "version": crate::version::version(),
            "description": "HTTP/1.1 on the Unix socket $RSM_HOME/rsm.sock, for the daemon's own user \
                            and root. Times are milliseconds since the epoch, durations milliseconds, \
                            sizes bytes.",
        },
        "servers": [{ "url": "http://rsm", "description": "The host is not looked at." }],
        "paths": paths,
        "components": {
            "schemas": generator.take_definitions(true),
            "responses": { "Refused": {
                "description": format!("Refused; {}.", codes()),
                "content": { "application/json": { "schema": refusal } },
            }},
        },
    })
}

fn describe(operation: &Operation, generator: &mut SchemaGenerator) -> Value {
    let mut described = json!({
        "operationId": operation.id,
        "summary": operation.summary,
        "responses": {
            "200": success(&operation.reply, generator),
            "default": { "$ref": "#/components/responses/Refused" },
        },
    });
    if !operation.parameters.is_empty() {
        let parameters = operation.parameters.iter().map(|parameter| parameter.describe(generator));
        described["parameters"] = parameters.collect();
    }
    if let Some(body) = &operation.body {
        described["requestBody"] = json!({
            "required": body.required,
            "content": { "application/json": {
                "schema": (body.schema)(generator),
                "example": example(body.example),
            }},
        });
    }
    described
}

/// The examples are constants of ours, which a test reads.
fn example(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}

fn success(reply: &Reply, generator: &mut SchemaGenerator) -> Value {
    let (description, kind, schema) = match reply {
        Reply::Json(schema) => ("Done.", "application/json", schema(generator)),
        Reply::Lines(schema) => {
            ("A stream: one JSON object a line.", "application/x-ndjson", schema(generator))
        }
    };
    json!({ "description": description, "content": { kind: { "schema": schema } } })
}

impl Parameter {
    fn describe(&self, generator: &mut SchemaGenerator) -> Value {
        let mut described = json!({
            "name": self.name,
            "in": if self.in_path { "path" } else { "query" },
            "required": self.required,
            "description": self.description,
            "schema": (self.schema)(generator),
        });
        if let Some(default) = self.default {
            described["schema"]["default"] = example(default);
        }
        described
    }
}

fn codes() -> String {
    let all = [
        ErrorCode::Invalid,
        ErrorCode::Forbidden,
        ErrorCode::NotFound,
        ErrorCode::MethodNotAllowed,
        ErrorCode::Conflict,
        ErrorCode::TooLarge,
        ErrorCode::Internal,
        ErrorCode::Unavailable,
    ];
    let words = all.map(|code| {
        let word = serde_json::to_value(code).unwrap_or_default();
        format!("{} {}", code.status(), word.as_str().unwrap_or_default())
    });
    words.join(", ")
}
