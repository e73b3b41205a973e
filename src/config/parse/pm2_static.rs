//! The `static` list of PM2: each entry is a file server, which becomes an app with the script `serve`.

use std::ops::Range;

use serde_json::Value;

use crate::config::diagnostics::{Diagnostics, SourceRef};
use crate::config::parse::tree::{ConfigNode, NodeContent, TableEntry};

/// Keys of an entry and the corresponding variables of the server.
const STATIC_KEYS: [(&str, &str); 6] = [
    ("port", "PM2_SERVE_PORT"),
    ("host", "PM2_SERVE_HOST"),
    ("path", "PM2_SERVE_PATH"),
    ("spa", "PM2_SERVE_SPA"),
    ("ftp", "PM2_SERVE_FTP"),
    ("homepage", "PM2_SERVE_HOMEPAGE"),
];

/// The default port, as in PM2.
const DEFAULT_PORT: u16 = 8080;

/// The apps of a list of servers, or of a single one.
pub(crate) fn static_to_apps(node: ConfigNode, diagnostics: &mut Diagnostics<'_>) -> Vec<ConfigNode> {
    let items = match node.content {
        NodeContent::List(items) => items,
        _ => vec![node],
    };
    items.into_iter().filter_map(|item| static_to_app(item, diagnostics)).collect()
}

fn static_to_app(node: ConfigNode, diagnostics: &mut Diagnostics<'_>) -> Option<ConfigNode> {
    let span = node.span;
    let NodeContent::Table(entries) = node.content else {
        diagnostics.error(
            &SourceRef::Span(span),
            "expected a table of settings for each file server",
            "set at least `path` and `port`",
        );
        return None;
    };
    let entry = |key: &str, value: Value, span: &Range<usize>| TableEntry {
        key: key.to_owned(),
        key_span: span.clone(),
        node: ConfigNode { span: span.clone(), content: NodeContent::Scalar(value) },
    };
    let port = entries.iter().find(|entry| entry.key == "port").map(|entry| entry.node.value());
    let port = port.map_or_else(
        || DEFAULT_PORT.to_string(),
        |port| port.as_str().map_or(port.to_string(), str::to_owned),
    );
    let mut settings = vec![
        entry("script", "serve".into(), &span),
        // In one process, as in PM2.
        entry("exec_mode", "fork".into(), &span),
    ];
    let has_path = entries.iter().any(|entry| entry.key == "path");
    let mut env = Vec::new();
    let mut name = None;
    for given in entries {
        let value = given.node.value();
        match (given.key.as_str(), &value) {
            (_, Value::Null) => {}
            ("name", _) => name = Some(given),
            // PM2 has both spellings, and ignores `directory: false`.
            ("directory", Value::Bool(_)) => {}
            ("directory", _) if has_path => {}
            ("directory", _) => env.push(entry("PM2_SERVE_PATH", value, &given.node.span)),
            ("basic_auth", Value::Object(auth)) => {
                for (key, variable) in [("username", "USERNAME"), ("password", "PASSWORD")] {
                    let variable = format!("PM2_SERVE_BASIC_AUTH_{variable}");
                    env.extend(auth.get(key).map(|value| entry(&variable, value.clone(), &given.key_span)));
                }
            }
            (key, _) => match STATIC_KEYS.iter().find(|(known, _)| *known == key) {
                Some((_, variable)) => env.push(entry(variable, value, &given.node.span)),
                None => diagnostics.warn(
                    &SourceRef::Span(given.key_span),
                    format!("`{key}` of a file server is not supported, ignored"),
                ),
            },
        }
    }
    settings.push(name.unwrap_or_else(|| entry("name", format!("static-page-server-{port}").into(), &span)));
    let env_node = ConfigNode { span: span.clone(), content: NodeContent::Table(env) };
    settings.push(TableEntry { key: "env".into(), key_span: span.clone(), node: env_node });
    Some(ConfigNode { span, content: NodeContent::Table(settings) })
}
