//! PM2's top-level `static`: each entry is a file server, and so an app whose script is `serve`.

use serde_json::Value;

use crate::config::diagnostics::{Diagnostics, SourceRef};
use crate::config::parse::tree::{ConfigNode, NodeContent, TableEntry};

/// Keys of an entry and the variables of the server that say the same.
const STATIC_KEYS: [(&str, &str); 7] = [
    ("port", "PM2_SERVE_PORT"),
    ("host", "PM2_SERVE_HOST"),
    ("path", "PM2_SERVE_PATH"),
    ("directory", "PM2_SERVE_PATH"),
    ("spa", "PM2_SERVE_SPA"),
    ("ftp", "PM2_SERVE_FTP"),
    ("homepage", "PM2_SERVE_HOMEPAGE"),
];

/// What PM2 calls a server without a port of its own, and the port.
const DEFAULT_PORT: u16 = 8080;

/// The apps that a list of servers, or a single one, stands for.
pub(in crate::config) fn static_to_apps(node: ConfigNode, findings: &mut Diagnostics<'_>) -> Vec<ConfigNode> {
    let items = match node.content {
        NodeContent::List(items) => items,
        _ => vec![node],
    };
    items.into_iter().filter_map(|item| static_to_app(item, findings)).collect()
}

fn static_to_app(node: ConfigNode, findings: &mut Diagnostics<'_>) -> Option<ConfigNode> {
    let at = node.span;
    let NodeContent::Table(entries) = node.content else {
        findings.error(
            &SourceRef::Span(at),
            "expected a table of settings for each file server",
            "set at least `path` and `port`",
        );
        return None;
    };
    let make = |key: &str, value: Value, at: &std::ops::Range<usize>| TableEntry {
        key: key.to_owned(),
        key_span: at.clone(),
        node: ConfigNode { span: at.clone(), content: NodeContent::Scalar(value) },
    };
    let port = entries.iter().find(|entry| entry.key == "port").map(|entry| entry.node.value());
    let port = port.map_or_else(
        || DEFAULT_PORT.to_string(),
        |port| port.as_str().map_or(port.to_string(), str::to_owned),
    );
    let mut settings = vec![
        make("script", "serve".into(), &at),
        // In one process, as in PM2.
        make("exec_mode", "fork".into(), &at),
    ];
    let mut env = Vec::new();
    let mut name = None;
    for entry in entries {
        let value = entry.node.value();
        match (entry.key.as_str(), &value) {
            (_, Value::Null) => {}
            ("name", _) => name = Some(entry),
            ("basic_auth", Value::Object(auth)) => {
                for (key, variable) in [("username", "USERNAME"), ("password", "PASSWORD")] {
                    let variable = format!("PM2_SERVE_BASIC_AUTH_{variable}");
                    env.extend(auth.get(key).map(|value| make(&variable, value.clone(), &entry.key_span)));
                }
            }
            (key, _) => match STATIC_KEYS.iter().find(|(known, _)| *known == key) {
                Some((_, variable)) => env.push(make(variable, value, &entry.node.span)),
                None => findings.warn(
                    &SourceRef::Span(entry.key_span),
                    format!("`{key}` of a file server is not supported, ignored"),
                ),
            },
        }
    }
    settings.push(name.unwrap_or_else(|| make("name", format!("static-page-server-{port}").into(), &at)));
    let env_node = ConfigNode { span: at.clone(), content: NodeContent::Table(env) };
    settings.push(TableEntry { key: "env".into(), key_span: at.clone(), node: env_node });
    Some(ConfigNode { span: at, content: NodeContent::Table(settings) })
}
