//! Parser for YAML 1.2 with anchors and merge keys (`<<`). Their expansion is limited: a few lines of nested
//! aliases can expand to more values than fit in memory.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use saphyr_parser::{Event, Parser, ScalarStyle, Tag};
use serde_json::{Number, Value};

use crate::config::parse::tree::{ConfigNode, NodeContent, SyntaxError, TableEntry};

/// Maximum nesting.
const MAX_DEPTH: usize = 64;

/// Maximum number of values, after the expansion of aliases.
const MAX_VALUES: usize = 100_000;

/// Maximum size of all text after the expansion of aliases, in bytes: a multiple of the maximum file size.
const MAX_TEXT: usize = 8 << 20;

/// A list or table whose end is not yet parsed.
struct OpenNode {
    start: usize,
    anchor: usize,
    inside: OpenContent,
}

enum OpenContent {
    List(Vec<ConfigNode>),
    Table(Vec<TableEntry>, Option<(String, Range<usize>)>),
}

/// The size of a value after the expansion of aliases.
#[derive(Clone, Copy, Default)]
struct NodeSize {
    values: usize,
    depth: usize,
    text: usize,
}

#[derive(Default)]
struct Builder {
    open: Vec<OpenNode>,
    anchors: HashMap<usize, ConfigNode>,
    values: usize,
    text: usize,
    root: Option<ConfigNode>,
}

impl ConfigNode {
    /// Parses YAML.
    pub(crate) fn from_yaml(text: &str) -> Result<Self, SyntaxError> {
        // The parser counts characters; spans are in bytes.
        let starts: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
        let byte = |character: usize| starts.get(character).copied().unwrap_or(text.len());
        let mut builder = Builder::default();
        for event in Parser::new_from_str(text) {
            let (event, span) = event.map_err(|error| {
                let at = byte(error.marker().index());
                SyntaxError::new(at..at, error.info().to_owned())
            })?;
            builder.on_event(event, byte(span.start.index())..byte(span.end.index()))?;
        }
        builder.root.ok_or_else(|| SyntaxError::new(0..0, "empty file"))
    }

    /// The number of values, the depth, and the size of the text.
    fn extent(&self) -> NodeSize {
        let below = |extent: NodeSize, node: &Self| {
            let more = node.extent();
            NodeSize {
                values: extent.values + more.values,
                depth: extent.depth.max(more.depth + 1),
                text: extent.text + more.text,
            }
        };
        let one = NodeSize { values: 1, ..NodeSize::default() };
        match &self.content {
            NodeContent::Scalar(value) => NodeSize { text: value.as_str().map_or(0, str::len), ..one },
            NodeContent::List(items) => items.iter().fold(one, below),
            NodeContent::Table(entries) => {
                let keys = entries.iter().map(|entry| entry.key.len()).sum();
                entries.iter().map(|entry| &entry.node).fold(NodeSize { text: keys, ..one }, below)
            }
        }
    }
}

impl Builder {
    fn on_event(&mut self, event: Event<'_>, at: Range<usize>) -> Result<(), SyntaxError> {
        match event {
            Event::DocumentStart(_) if self.root.is_some() => {
                Err(SyntaxError::new(at, "multiple documents are not supported"))
            }
            Event::Scalar(text, style, anchor, tag) => self.scalar(&text, style, anchor, tag.as_deref(), at),
            Event::SequenceStart(anchor, _) => self.open_node(at, anchor, OpenContent::List(Vec::new())),
            Event::MappingStart(anchor, _) => {
                self.open_node(at, anchor, OpenContent::Table(Vec::new(), None))
            }
            Event::SequenceEnd | Event::MappingEnd => self.close_node(&at),
            Event::Alias(anchor) => self.alias(anchor, at),
            _ => Ok(()),
        }
    }

    fn open_node(&mut self, at: Range<usize>, anchor: usize, inside: OpenContent) -> Result<(), SyntaxError> {
        if self.open.len() >= MAX_DEPTH {
            return Err(SyntaxError::new(at, "nesting too deep"));
        }
        self.open.push(OpenNode { start: at.start, anchor, inside });
        Ok(())
    }

    fn close_node(&mut self, at: &Range<usize>) -> Result<(), SyntaxError> {
        let Some(OpenNode { start, anchor, inside }) = self.open.pop() else { return Ok(()) };
        let content = match inside {
            OpenContent::List(items) => NodeContent::List(items),
            OpenContent::Table(entries, _) => NodeContent::Table(apply_merge_keys(entries)),
        };
        self.add(ConfigNode { span: start..at.end, content }, anchor)
    }

    fn alias(&mut self, anchor: usize, at: Range<usize>) -> Result<(), SyntaxError> {
        let Some(known) = self.anchors.get(&anchor) else {
            return Err(SyntaxError::new(at, "recursive alias"));
        };
        let NodeSize { values, depth: deep, text } = known.extent();
        self.values += values;
        self.text += text;
        if self.values > MAX_VALUES || self.open.len() + deep > MAX_DEPTH {
            return Err(SyntaxError::new(at, "alias expands to too many values"));
        }
        if self.text > MAX_TEXT {
            return Err(SyntaxError::new(at, "alias expands to too much text"));
        }
        let node = ConfigNode { span: at, ..known.clone() };
        self.add(node, 0)
    }

    fn scalar(
        &mut self,
        text: &str,
        style: ScalarStyle,
        anchor: usize,
        tag: Option<&Tag>,
        at: Range<usize>,
    ) -> Result<(), SyntaxError> {
        if let Some(OpenNode { inside: OpenContent::Table(_, key @ None), .. }) = self.open.last_mut() {
            *key = Some((text.to_owned(), at));
            return Ok(());
        }
        let is_text = style != ScalarStyle::Plain || tag.is_some_and(|tag| tag.suffix == "str");
        let value = if is_text { Value::String(text.to_owned()) } else { plain_scalar(text) };
        self.add(ConfigNode { span: at, content: NodeContent::Scalar(value) }, anchor)
    }

    /// Adds a complete value to the open list or table.
    fn add(&mut self, node: ConfigNode, anchor: usize) -> Result<(), SyntaxError> {
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err(SyntaxError::new(node.span, "too many values"));
        }
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut().map(|open| &mut open.inside) {
            None => self.root = Some(node),
            Some(OpenContent::List(items)) => items.push(node),
            Some(OpenContent::Table(entries, key)) => match key.take() {
                Some((key, key_at)) => entries.push(TableEntry { key, key_span: key_at, node }),
                None => return Err(SyntaxError::new(node.span, "keys must be strings")),
            },
        }
        Ok(())
    }
}

/// The entries, and those of `<<` for missing keys.
fn apply_merge_keys(entries: Vec<TableEntry>) -> Vec<TableEntry> {
    let (merges, mut own): (Vec<TableEntry>, Vec<TableEntry>) =
        entries.into_iter().partition(|entry| entry.key == "<<");
    let mut known: HashSet<String> = own.iter().map(|entry| entry.key.clone()).collect();
    for merge in merges {
        let tables = match merge.node.content {
            NodeContent::List(items) => items,
            _ => vec![merge.node],
        };
        for table in tables {
            let NodeContent::Table(entries) = table.content else { continue };
            own.extend(entries.into_iter().filter(|entry| known.insert(entry.key.clone())));
        }
    }
    own
}

/// A plain scalar in the core schema: `yes`, `no`, `on` and `off` are strings.
fn plain_scalar(text: &str) -> Value {
    let radix = |prefix, radix| text.strip_prefix(prefix).and_then(|n| i64::from_str_radix(n, radix).ok());
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && digits.contains(|c: char| c.is_ascii_digit())
    {
        let whole = text.parse::<i64>().ok().or_else(|| radix("0x", 16)).or_else(|| radix("0o", 8));
        let real = || text.parse().ok().and_then(Number::from_f64);
        if let Some(number) = whole.map(Number::from).or_else(real) {
            return Value::Number(number);
        }
    }
    Value::String(text.to_owned())
}

#[cfg(test)]
mod tests {
    use crate::config::parse::tree::yaml::*;
    use serde_json::json;

    fn value(text: &str) -> Value {
        ConfigNode::from_yaml(text).unwrap_or_else(|broken| panic!("{}", broken.message)).value()
    }

    fn broken(text: &str) -> String {
        ConfigNode::from_yaml(text).err().map(|broken| broken.message).unwrap_or_default()
    }

    #[test]
    fn scalars_follow_yaml_1_2() {
        let text = "é: &x { a: yes, b: on }\nn: [1, -2.5, 0x1F, 0o17, 1_000, 1.2.3, '1', ~, true]\nz: *x\n";
        let want = json!({
            "é": { "a": "yes", "b": "on" },
            "n": [1, -2.5, 31, 15, "1_000", "1.2.3", "1", null, true],
            "z": { "a": "yes", "b": "on" }
        });
        assert_eq!(value(text), want);
        let Ok(node) = ConfigNode::from_yaml(text) else { panic!() };
        let NodeContent::Table(entries) = &node.content else { panic!() };
        assert_eq!(&text[entries[1].key_span.clone()], "n", "bytes, not characters");
    }

    #[test]
    fn merge_keys_add_missing_keys() {
        let text = "b: &b { x: 1, y: 2 }\na: { <<: *b, y: 3 }\nc: { <<: [ *b, { z: 4 } ] }\n";
        assert_eq!(value(text)["a"], json!({ "x": 1, "y": 3 }));
        assert_eq!(value(text)["c"], json!({ "x": 1, "y": 2, "z": 4 }));
    }

    #[test]
    fn rejects_alias_bombs_cycles_and_depth() {
        let mut bomb = "a0: &a0 [x]\n".to_owned();
        for level in 1..40 {
            let before = format!("*a{}", level - 1);
            bomb += &format!("a{level}: &a{level} [{}]\n", [before.as_str(); 9].join(","));
        }
        assert!(broken(&bomb).contains("too many"), "{}", broken(&bomb));
        let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(500_000), ["*a"; 20_000].join(","));
        assert!(broken(&long).contains("too much text"), "{}", broken(&long));
        let keys = format!("a: &a {{ {}: 1 }}\nb: [{}]\n", "x".repeat(900), ["*a"; 20_000].join(","));
        assert!(broken(&keys).contains("too much text"), "{}", broken(&keys));
        assert!(!broken("a: &a [*a]\n").is_empty());
        assert!(!broken(&"[".repeat(10_000)).is_empty());
        assert!(broken(&format!("{}1{}", "[".repeat(80), "]".repeat(80))).contains("deep"));
        assert!(broken("--- a\n--- b\n").contains("document"));
        assert!(broken("? [a]\n: b\n").contains("key"));
        assert!(!broken("a: b: c\n").is_empty() && !broken("").is_empty());
    }
}
