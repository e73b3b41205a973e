//! The document describes what the routes do.

use std::collections::BTreeSet;

use hyper::Method;

use super::*;
use crate::ipc::query::QueryString;
use crate::ipc::request::LogQuery;
use crate::ipc::response::ActionReport;
use crate::ipc::routes::Request;

/// The path of a request with names in place of values, and its method.
fn template(request: &Request) -> (String, String) {
    let http = request.encode().unwrap();
    let path = http.target.split('?').next().unwrap().replace("/3/env", "/{id}/env");
    (http.method.to_string(), path.replace("/apps/api/", "/apps/{name}/"))
}

#[test]
fn describes_each_operation_once() {
    let operations = operations();
    let paths: BTreeSet<_> =
        operations.iter().map(|operation| (operation.route.method, operation.path.clone())).collect();
    let ids: BTreeSet<_> = operations.iter().map(|operation| operation.id.clone()).collect();
    assert_eq!((paths.len(), ids.len(), operations.len()), (29, 29, 29));
    assert!(["startApps", "logsFrom", "reset"].iter().all(|id| ids.contains(*id)), "{ids:?}");
}

#[test]
fn decodes_each_described_operation() {
    for operation in operations() {
        let (method, route) = (operation.route.method, operation.route);
        let path = operation.path.replace("{id}", "3").replace("{name}", "api");
        let body = route.example.unwrap_or_default();
        let mut query = Vec::new();
        for input in route.inputs {
            if let Input::Query(parameters) = input {
                query.extend(parameters().iter().map(|parameter| match parameter.name {
                    "select" => "select=api".to_owned(),
                    name => format!("{name}={}", parameter.default.unwrap_or("1")),
                }));
            }
        }
        let (query, http_method) = (query.join("&"), Method::from_bytes(method.as_bytes()).unwrap());
        let request = Request::decode(&http_method, &path, &query, body.as_bytes())
            .unwrap_or_else(|error| panic!("{method} {path}?{query} {body}: {error}"));
        assert_eq!(template(&request), (method.to_owned(), operation.path.clone()));
        let has_body = route.inputs.iter().any(|input| matches!(input, Input::Body { .. }));
        assert_eq!(has_body, route.example.is_some(), "{method} {path}: a body has an example");
    }
}

#[test]
fn log_defaults_are_those_in_use() {
    let parameters = <LogQuery as QueryString>::parameters();
    let defaults: Map<String, Value> = parameters
        .iter()
        .map(|parameter| (parameter.name.to_owned(), parameter.default.map_or(Value::Null, parse_constant)))
        .collect();
    assert_eq!(Value::Object(defaults), serde_json::to_value(LogQuery::default()).unwrap());
}

/// All `$ref`s in a document.
fn references(value: &Value, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(reference)) = map.get("$ref") {
                into.insert(reference.clone());
            }
            map.values().for_each(|value| references(value, into));
        }
        Value::Array(values) => values.iter().for_each(|value| references(value, into)),
        _ => {}
    }
}

#[test]
fn resolves_every_reference() {
    let document = document();
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    assert!(found.contains("#/components/schemas/App"), "{found:?}");
    for reference in found {
        assert!(document.pointer(&reference[1..]).is_some(), "{reference} leads nowhere");
    }
}

#[test]
fn schemas_match_serde() {
    let document = document();
    let schema = |name: &str| document["components"]["schemas"][name].clone();
    assert_eq!(schema("App")["required"], json!(["name", "script", "cwd"]));
    assert_eq!(schema("App")["additionalProperties"], json!(false));
    assert_eq!(schema("AppRestart")["properties"]["min_uptime"]["type"], json!("integer"));
    let report = serde_json::to_value(ActionReport::default()).unwrap();
    for field in report.as_object().unwrap().keys() {
        assert!(schema("ActionReport")["properties"].get(field).is_some(), "{field}");
    }
    let parameters = &document["paths"]["/v1/instances/{id}/env"]["get"]["parameters"];
    assert_eq!(parameters[0]["in"], json!("path"));
    assert!(
        document["components"]["responses"]["Error"]["description"].to_string().contains("404 not_found")
    );
}
