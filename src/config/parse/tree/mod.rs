//! The content of a file as a tree with the span of each part, for all formats.

mod json;
mod toml;
mod yaml;

use std::collections::BTreeMap;
use std::ops::Range;

use serde_json::{Map, Value};

/// A value and its span.
#[derive(Clone)]
pub(crate) struct ConfigNode {
    /// The byte range in the file.
    pub(crate) span: Range<usize>,
    /// The value.
    pub(crate) content: NodeContent,
}

/// The value of a node.
#[derive(Clone)]
pub(crate) enum NodeContent {
    /// A string, number, boolean or null.
    Scalar(Value),
    /// A list.
    List(Vec<ConfigNode>),
    /// A table, in the order of the file.
    Table(Vec<TableEntry>),
}

/// A key and its value.
#[derive(Clone)]
pub(crate) struct TableEntry {
    pub(crate) key: String,
    /// The byte range of the key.
    pub(crate) key_span: Range<usize>,
    pub(crate) node: ConfigNode,
}

/// A syntax error.
pub(crate) struct SyntaxError {
    /// The byte range in the file.
    pub(crate) span: Range<usize>,
    pub(crate) message: String,
}

impl SyntaxError {
    fn new(at: Range<usize>, message: impl Into<String>) -> Self {
        Self { span: at, message: message.into() }
    }
}

impl ConfigNode {
    /// The value without spans.
    pub(crate) fn value(&self) -> Value {
        match &self.content {
            NodeContent::Scalar(value) => value.clone(),
            NodeContent::List(items) => Value::Array(items.iter().map(Self::value).collect()),
            NodeContent::Table(entries) => {
                let pairs = entries.iter().map(|entry| (entry.key.clone(), entry.node.value()));
                Value::Object(pairs.collect::<Map<_, _>>())
            }
        }
    }
}

/// The path of each key and value in JavaScript notation (`apps[0].name`), by its start in the file.
pub(crate) fn json_paths(node: &ConfigNode) -> BTreeMap<usize, String> {
    let mut paths = BTreeMap::new();
    collect_paths(node, "", &mut paths);
    paths
}

fn collect_paths(node: &ConfigNode, path: &str, paths: &mut BTreeMap<usize, String>) {
    paths.insert(node.span.start, path.to_owned());
    match &node.content {
        NodeContent::Scalar(_) => {}
        NodeContent::List(items) => {
            for (number, item) in items.iter().enumerate() {
                collect_paths(item, &format!("{path}[{number}]"), paths);
            }
        }
        NodeContent::Table(entries) => {
            for entry in entries {
                let dot = if path.is_empty() { "" } else { "." };
                let below = format!("{path}{dot}{}", entry.key);
                paths.insert(entry.key_span.start, below.clone());
                collect_paths(&entry.node, &below, paths);
            }
        }
    }
}
