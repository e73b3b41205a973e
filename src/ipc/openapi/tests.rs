//! The document says what the routes do: no more, no less.

use std::collections::BTreeSet;
use std::mem::discriminant;

use hyper::Method;

use super::*;
use crate::ipc::message::{
    ActOn, Action, Existing, Inherited, LogQuery, Report, Request, ScaleTo, StartApps, Trigger,
};
use crate::ipc::route;

/// One of each request. The match makes a new variant a compile error until it is listed here.
fn all() -> Vec<Request> {
    let select = || vec!["api".to_owned()];
    let act = |action| Request::Act(action, ActOn { select: select(), ..ActOn::default() });
    let start = StartApps { apps: Vec::new(), inherited: Inherited::default(), existing: Existing::Restart };
    let all = vec![
        Request::Ping,
        Request::Info,
        Request::List,
        Request::Jlist,
        Request::Describe(select()),
        Request::Env(3),
        Request::Start(start),
        act(Action::Start),
        act(Action::Stop),
        act(Action::Restart),
        act(Action::Delete),
        act(Action::Reset),
        Request::Reload(Box::default()),
        Request::Scale { name: "api".into(), to: ScaleTo::Add(1) },
        Request::Signal { select: select(), signal: "HUP".into() },
        Request::Input { select: select(), text: "a line".into() },
        Request::Message { select: select(), message: "a word".into() },
        Request::Trigger(Trigger { select: select(), action: "gc".into(), param: None }),
        Request::Save { force: true },
        Request::Resurrect,
        Request::ClearDump,
        Request::Flush(select()),
        Request::ReopenLogs,
        Request::Logs(LogQuery::default()),
        Request::Logs(LogQuery { places: Some(Vec::new()), ..LogQuery::default() }),
        Request::Events,
        Request::Upgrade { binary: "/opt/rsm".into() },
        Request::Shutdown,
        Request::OpenApi,
    ];
    for request in &all {
        match request {
            Request::Ping
            | Request::Info
            | Request::List
            | Request::Jlist
            | Request::Describe(_)
            | Request::Env(_)
            | Request::Start(_)
            | Request::Act(
                Action::Start | Action::Stop | Action::Restart | Action::Delete | Action::Reset,
                _,
            )
            | Request::Reload(_)
            | Request::Scale { .. }
            | Request::Signal { .. }
            | Request::Input { .. }
            | Request::Message { .. }
            | Request::Trigger(_)
            | Request::Save { .. }
            | Request::Resurrect
            | Request::ClearDump
            | Request::Flush(_)
            | Request::ReopenLogs
            | Request::Logs(_)
            | Request::Events
            | Request::Upgrade { .. }
            | Request::Shutdown
            | Request::OpenApi => {}
        }
    }
    assert_eq!(all.iter().map(discriminant).collect::<std::collections::HashSet<_>>().len(), 24);
    all
}

/// The path of a request with names in place of values, and its method.
fn template(request: &Request) -> (String, String) {
    let parts = route::to_http(request).unwrap();
    let path = parts.target.split('?').next().unwrap().replace("/3/env", "/{id}/env");
    (parts.method.to_string(), path.replace("/apps/api/", "/apps/{name}/"))
}

#[test]
fn every_request_is_described_and_nothing_else() {
    let requests: BTreeSet<_> = all().iter().map(template).collect();
    let described: BTreeSet<_> =
        OPERATIONS.iter().map(|operation| (operation.method.to_owned(), operation.path.to_owned())).collect();
    assert_eq!(described.len(), OPERATIONS.len(), "one is listed twice");
    assert_eq!(requests, described);
}

#[test]
fn every_described_operation_is_understood() {
    for operation in OPERATIONS {
        let path = operation.path.replace("{id}", "3").replace("{name}", "api");
        let body = operation.body.as_ref().map_or("", |body| body.example);
        let value = |parameter: &&Parameter| match parameter.name {
            "select" => "select=api".to_owned(),
            name => format!("{name}={}", parameter.default.unwrap_or("1")),
        };
        let queried = operation.parameters.iter().filter(|parameter| !parameter.in_path);
        let query = queried.map(|parameter| value(&parameter)).collect::<Vec<_>>().join("&");
        let method = Method::from_bytes(operation.method.as_bytes()).unwrap();
        let request = route::from_http(&method, &path, &query, body.as_bytes())
            .unwrap_or_else(|error| panic!("{} {path}?{query} {body}: {error}", operation.method));
        assert_eq!(template(&request), (operation.method.to_owned(), operation.path.to_owned()));
        let bare = route::from_http(&method, &path, &query, b"");
        let required = operation.body.as_ref().is_some_and(|body| body.required);
        assert_eq!(bare.is_err(), required, "{} {path} without a body", operation.method);
    }
}

#[test]
fn the_log_defaults_are_those_in_use() {
    let logs = OPERATIONS.iter().find(|operation| operation.id == "logs").unwrap();
    let defaults: Map<String, Value> = logs
        .parameters
        .iter()
        .map(|parameter| (parameter.name.to_owned(), parameter.default.map_or(Value::Null, example)))
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
fn every_reference_leads_somewhere() {
    let document = document();
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    assert!(found.contains("#/components/schemas/AppSpec"), "{found:?}");
    for reference in found {
        assert!(document.pointer(&reference[1..]).is_some(), "{reference} leads nowhere");
    }
}

#[test]
fn the_schemas_say_what_serde_does() {
    let document = document();
    let schema = |name: &str| document["components"]["schemas"][name].clone();
    assert_eq!(schema("AppSpec")["required"], json!(["name", "script", "cwd"]));
    assert_eq!(schema("AppSpec")["additionalProperties"], json!(false));
    assert_eq!(schema("RestartPolicy")["properties"]["min_uptime"]["type"], json!("integer"));
    let report = serde_json::to_value(Report::default()).unwrap();
    for field in report.as_object().unwrap().keys() {
        assert!(schema("Report")["properties"].get(field).is_some(), "{field}");
    }
    let parameters = &document["paths"]["/v1/instances/{id}/env"]["get"]["parameters"];
    assert_eq!(parameters[0]["in"], json!("path"));
    assert!(
        document["components"]["responses"]["Refused"]["description"].to_string().contains("404 not_found")
    );
}
