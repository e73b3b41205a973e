//! A file's content as a tree that knows where each part stands, whatever the format.

mod json;
mod toml;
mod yaml;

use std::collections::BTreeMap;
use std::ops::Range;

use serde_json::{Map, Value};

/// A value and its place.
#[derive(Clone)]
pub(super) struct Node {
    /// Its bytes in the file.
    pub(super) at: Range<usize>,
    /// What it is.
    pub(super) content: Content,
}

/// What a node holds.
#[derive(Clone)]
pub(super) enum Content {
    /// Text, a number, true or false.
    Scalar(Value),
    /// A list.
    List(Vec<Node>),
    /// A table, in the order of the file.
    Table(Vec<Entry>),
}

/// A key and its value.
#[derive(Clone)]
pub(super) struct Entry {
    /// The key.
    pub(super) key: String,
    /// The key's bytes in the file.
    pub(super) key_at: Range<usize>,
    /// The value.
    pub(super) node: Node,
}

/// Where a text breaks the rules of its format, and how.
pub(super) struct Broken {
    /// The place.
    pub(super) at: Range<usize>,
    /// What is wrong there.
    pub(super) message: String,
}

impl Broken {
    fn new(at: Range<usize>, message: impl Into<String>) -> Self {
        Self { at, message: message.into() }
    }
}

impl Node {
    /// The value without its places.
    pub(super) fn value(&self) -> Value {
        match &self.content {
            Content::Scalar(value) => value.clone(),
            Content::List(items) => Value::Array(items.iter().map(Self::value).collect()),
            Content::Table(entries) => {
                let pairs = entries.iter().map(|entry| (entry.key.clone(), entry.node.value()));
                Value::Object(pairs.collect::<Map<_, _>>())
            }
        }
    }
}

/// The path of every key and value, as JavaScript writes it, by the place it begins at.
pub(super) fn paths(node: &Node) -> BTreeMap<usize, String> {
    let mut paths = BTreeMap::new();
    collect(node, "", &mut paths);
    paths
}

fn collect(node: &Node, path: &str, paths: &mut BTreeMap<usize, String>) {
    paths.insert(node.at.start, path.to_owned());
    match &node.content {
        Content::Scalar(_) => {}
        Content::List(items) => {
            for (number, item) in items.iter().enumerate() {
                collect(item, &format!("{path}[{number}]"), paths);
            }
        }
        Content::Table(entries) => {
            for entry in entries {
                let dot = if path.is_empty() { "" } else { "." };
                let below = format!("{path}{dot}{}", entry.key);
                paths.insert(entry.key_at.start, below.clone());
                collect(&entry.node, &below, paths);
            }
        }
    }
}
