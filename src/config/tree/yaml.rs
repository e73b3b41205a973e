//! Parser for YAML 1.2 with anchors and merge keys (`<<`). Their expansion is limited: a few lines of nested
//! aliases can expand to more values than fit in memory.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use saphyr_parser::{Event, Parser, ScalarStyle, Tag};
use serde_json::{Number, Value};

use super::{Broken, Content, Entry, Node};

/// Maximum nesting.
const DEEPEST: usize = 64;

/// Maximum number of values, after the expansion of aliases.
const MOST: usize = 100_000;

/// Maximum size of all text after the expansion of aliases, in bytes: a multiple of the maximum file size.
const MOST_TEXT: usize = 8 << 20;

/// A list or table whose end is not yet parsed.
struct Open {
    start: usize,
    anchor: usize,
    inside: Inside,
}

enum Inside {
    List(Vec<Node>),
    Table(Vec<Entry>, Option<(String, Range<usize>)>),
}

/// The size of a value after the expansion of aliases.
#[derive(Clone, Copy, Default)]
struct Extent {
    values: usize,
    deep: usize,
    text: usize,
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    values: usize,
    text: usize,
    root: Option<Node>,
}

impl Node {
    /// Parses YAML.
    pub(in super::super) fn from_yaml(text: &str) -> Result<Self, Broken> {
        // The parser counts characters; spans are in bytes.
        let starts: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
        let byte = |character: usize| starts.get(character).copied().unwrap_or(text.len());
        let mut builder = Builder::default();
        for event in Parser::new_from_str(text) {
            let (event, span) = event.map_err(|error| {
                let at = byte(error.marker().index());
                Broken::new(at..at, error.info().to_owned())
            })?;
            builder.take(event, byte(span.start.index())..byte(span.end.index()))?;
        }
        builder.root.ok_or_else(|| Broken::new(0..0, "empty file"))
    }

    /// The number of values, the depth, and the size of the text.
    fn extent(&self) -> Extent {
        let below = |extent: Extent, node: &Self| {
            let more = node.extent();
            Extent {
                values: extent.values + more.values,
                deep: extent.deep.max(more.deep + 1),
                text: extent.text + more.text,
            }
        };
        let one = Extent { values: 1, ..Extent::default() };
        match &self.content {
            Content::Scalar(value) => Extent { text: value.as_str().map_or(0, str::len), ..one },
            Content::List(items) => items.iter().fold(one, below),
            Content::Table(entries) => {
                let keys = entries.iter().map(|entry| entry.key.len()).sum();
                entries.iter().map(|entry| &entry.node).fold(Extent { text: keys, ..one }, below)
            }
        }
    }
}

impl Builder {
    fn take(&mut self, event: Event<'_>, at: Range<usize>) -> Result<(), Broken> {
        match event {
            Event::DocumentStart(_) if self.root.is_some() => {
                Err(Broken::new(at, "multiple documents are not supported"))
            }
            Event::Scalar(text, style, anchor, tag) => self.scalar(&text, style, anchor, tag.as_deref(), at),
            Event::SequenceStart(anchor, _) => self.begin(at, anchor, Inside::List(Vec::new())),
            Event::MappingStart(anchor, _) => self.begin(at, anchor, Inside::Table(Vec::new(), None)),
            Event::SequenceEnd | Event::MappingEnd => self.end(&at),
            Event::Alias(anchor) => self.alias(anchor, at),
            _ => Ok(()),
        }
    }

    fn begin(&mut self, at: Range<usize>, anchor: usize, inside: Inside) -> Result<(), Broken> {
        if self.open.len() >= DEEPEST {
            return Err(Broken::new(at, "nesting too deep"));
        }
        self.open.push(Open { start: at.start, anchor, inside });
        Ok(())
    }

    fn end(&mut self, at: &Range<usize>) -> Result<(), Broken> {
        let Some(Open { start, anchor, inside }) = self.open.pop() else { return Ok(()) };
        let content = match inside {
            Inside::List(items) => Content::List(items),
            Inside::Table(entries, _) => Content::Table(merged(entries)),
        };
        self.add(Node { at: start..at.end, content }, anchor)
    }

    fn alias(&mut self, anchor: usize, at: Range<usize>) -> Result<(), Broken> {
        let Some(known) = self.anchors.get(&anchor) else {
            return Err(Broken::new(at, "recursive alias"));
        };
        let Extent { values, deep, text } = known.extent();
        self.values += values;
        self.text += text;
        if self.values > MOST || self.open.len() + deep > DEEPEST {
            return Err(Broken::new(at, "alias expands to too many values"));
        }
        if self.text > MOST_TEXT {
            return Err(Broken::new(at, "alias expands to too much text"));
        }
        let node = Node { at, ..known.clone() };
        self.add(node, 0)
    }

    fn scalar(
        &mut self,
        text: &str,
        style: ScalarStyle,
        anchor: usize,
        tag: Option<&Tag>,
        at: Range<usize>,
    ) -> Result<(), Broken> {
        if let Some(Open { inside: Inside::Table(_, key @ None), .. }) = self.open.last_mut() {
            *key = Some((text.to_owned(), at));
            return Ok(());
        }
        let is_text = style != ScalarStyle::Plain || tag.is_some_and(|tag| tag.suffix == "str");
        let value = if is_text { Value::String(text.to_owned()) } else { plain(text) };
        self.add(Node { at, content: Content::Scalar(value) }, anchor)
    }

    /// Adds a complete value to the open list or table.
    fn add(&mut self, node: Node, anchor: usize) -> Result<(), Broken> {
        self.values += 1;
        if self.values > MOST {
            return Err(Broken::new(node.at, "too many values"));
        }
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut().map(|open| &mut open.inside) {
            None => self.root = Some(node),
            Some(Inside::List(items)) => items.push(node),
            Some(Inside::Table(entries, key)) => match key.take() {
                Some((key, key_at)) => entries.push(Entry { key, key_at, node }),
                None => return Err(Broken::new(node.at, "keys must be strings")),
            },
        }
        Ok(())
    }
}

/// The entries, and those of `<<` for missing keys.
fn merged(entries: Vec<Entry>) -> Vec<Entry> {
    let (merges, mut own): (Vec<Entry>, Vec<Entry>) =
        entries.into_iter().partition(|entry| entry.key == "<<");
    let mut known: HashSet<String> = own.iter().map(|entry| entry.key.clone()).collect();
    for merge in merges {
        let tables = match merge.node.content {
            Content::List(items) => items,
            _ => vec![merge.node],
        };
        for table in tables {
            let Content::Table(entries) = table.content else { continue };
            own.extend(entries.into_iter().filter(|entry| known.insert(entry.key.clone())));
        }
    }
    own
}

/// A plain scalar in the core schema: `yes`, `no`, `on` and `off` are strings.
fn plain(text: &str) -> Value {
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
    use super::*;
    use serde_json::json;

    fn value(text: &str) -> Value {
        Node::from_yaml(text).unwrap_or_else(|broken| panic!("{}", broken.message)).value()
    }

    fn broken(text: &str) -> String {
        Node::from_yaml(text).err().map(|broken| broken.message).unwrap_or_default()
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
        let Ok(node) = Node::from_yaml(text) else { panic!() };
        let Content::Table(entries) = &node.content else { panic!() };
        assert_eq!(&text[entries[1].key_at.clone()], "n", "bytes, not characters");
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
