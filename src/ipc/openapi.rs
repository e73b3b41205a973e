//! The OpenAPI 3.1 document, built from the table of routes. Its schemas are those of the body types.

use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Map, Value, json};

use super::query::QueryParameter;
use super::request::{Action, ErrorBody, ErrorCode};
use super::routes::{Input, ROUTES, Response, Route};

#[cfg(test)]
mod tests;

/// The document, as `GET /v1/openapi.json` returns it.
pub fn document() -> Value {
    // One schema serves both directions, so it is that of requests: fields with a default are optional.
    let settings = SchemaSettings::draft2020_12()
        .with(|settings| settings.definitions_path = "/components/schemas".into());
    let mut generator = settings.into_generator();
    let mut paths = Map::new();
    for operation in operations() {
        let method = operation.route.method.to_lowercase();
        let described = operation.operation_object(&mut generator);
        paths.entry(operation.path).or_insert_with(|| json!({}))[method] = described;
    }
    let error = generator.subschema_for::<ErrorBody>();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "rsm",
            "version": crate::version::version(),
            "description": "HTTP/1.1 on the Unix socket $RSM_HOME/rsm.sock, for the user of the daemon \
                            and root. Times are milliseconds since the epoch, durations milliseconds, \
                            sizes bytes.",
        },
        "servers": [{ "url": "http://rsm", "description": "The host is ignored." }],
        "paths": paths,
        "components": {
            "schemas": generator.take_definitions(true),
            "responses": { "Error": {
                "description": format!("Error: {}.", error_statuses()),
                "content": { "application/json": { "schema": error } },
            }},
        },
    })
}

/// One method of one path.
struct Operation {
    route: &'static Route,
    path: String,
    id: String,
    summary: String,
}

/// A route whose path parameter has few values is one operation for each of them.
fn operations() -> Vec<Operation> {
    let mut operations = Vec::new();
    for route in ROUTES {
        if !route.path.contains("{action}") {
            let (id, summary) = (camel_case(route.name), route.summary.trim().to_owned());
            operations.push(Operation { route, path: route.path.to_owned(), id, summary });
            continue;
        }
        for action in Action::ALL {
            let (path, id) = (route.path.replace("{action}", action.as_str()), action.as_str().to_owned());
            operations.push(Operation { route, path, id, summary: action.summary().to_owned() });
        }
    }
    operations
}

/// `start_apps` → `startApps`.
fn camel_case(name: &str) -> String {
    let mut words = name.split('_');
    let mut text = words.next().unwrap_or_default().to_owned();
    for word in words {
        let (first, rest) = word.split_at(word.len().min(1));
        text.push_str(&first.to_uppercase());
        text.push_str(rest);
    }
    text
}

impl Operation {
    fn operation_object(&self, generator: &mut SchemaGenerator) -> Value {
        let mut described = json!({
            "operationId": self.id,
            "summary": self.summary,
            "responses": {
                "200": success_response(&self.route.response, generator),
                "default": { "$ref": "#/components/responses/Error" },
            },
        });
        let mut parameters = Vec::new();
        for input in self.route.inputs {
            match input {
                Input::Path { schema, description, .. } => {
                    parameters.extend(self.path_parameter(description).map(|mut parameter| {
                        parameter["schema"] = schema(generator).to_value();
                        parameter
                    }));
                }
                Input::Query(query) => {
                    parameters.extend(query().iter().map(|parameter| query_parameter(parameter, generator)));
                }
                Input::Body { schema, is_required } => {
                    described["requestBody"] = json!({
                        "required": is_required(),
                        "content": { "application/json": {
                            "schema": schema(generator),
                            "example": self.route.example.map(parse_constant),
                        }},
                    });
                }
            }
        }
        if !parameters.is_empty() {
            described["parameters"] = parameters.into();
        }
        described
    }

    /// The parameter in the path, unless it is one of few words and written out.
    fn path_parameter(&self, description: &str) -> Option<Value> {
        let name = self.path.split_once('{')?.1.split('}').next()?;
        Some(json!({ "name": name, "in": "path", "required": true, "description": description }))
    }
}

fn query_parameter(parameter: &QueryParameter, generator: &mut SchemaGenerator) -> Value {
    let mut described = json!({
        "name": parameter.name,
        "in": "query",
        "required": parameter.is_required,
        "description": parameter.description,
        "schema": (parameter.schema)(generator),
    });
    if let Some(default) = parameter.default {
        described["schema"]["default"] = parse_constant(default);
    }
    described
}

/// Examples and defaults are constants, which a test parses.
fn parse_constant(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}

fn success_response(response: &Response, generator: &mut SchemaGenerator) -> Value {
    let (description, kind, schema) = match response {
        Response::Json(schema) => ("Success.", "application/json", schema(generator)),
        Response::Lines(schema) => {
            ("Stream of JSON objects, one per line.", "application/x-ndjson", schema(generator))
        }
    };
    json!({ "description": description, "content": { kind: { "schema": schema } } })
}

fn error_statuses() -> String {
    let statuses = ErrorCode::ALL.map(|code| {
        let name = serde_json::to_value(code).unwrap_or_default();
        format!("{} {}", code.status(), name.as_str().unwrap_or_default())
    });
    statuses.join(", ")
}
