//! YAML in block style, with comments and a stable order. Serializers drop both.

/// A value.
pub(super) enum Yaml {
    /// A scalar, already in YAML syntax.
    Scalar(String),
    List(Vec<Yaml>),
    Map(YamlMap),
}

/// A mapping in the order of its entries.
#[derive(Default)]
pub(super) struct YamlMap(Vec<Entry>);

enum Entry {
    Comment(String),
    Field(String, Yaml),
}

impl YamlMap {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Adds an entry. Empty lists and maps are left out.
    pub(super) fn set(mut self, key: &str, value: impl Into<Yaml>) -> Self {
        let value = value.into();
        let is_empty = match &value {
            Yaml::Scalar(_) => false,
            Yaml::List(items) => items.is_empty(),
            Yaml::Map(map) => map.0.is_empty(),
        };
        if !is_empty {
            self.0.push(Entry::Field(key.to_owned(), value));
        }
        self
    }

    /// Adds an entry if there is a value.
    pub(super) fn set_some(self, key: &str, value: Option<impl Into<Yaml>>) -> Self {
        match value {
            Some(value) => self.set(key, value),
            None => self,
        }
    }

    /// Adds comment lines.
    pub(super) fn comments<T: AsRef<str>>(mut self, lines: impl IntoIterator<Item = T>) -> Self {
        self.0.extend(lines.into_iter().map(|line| Entry::Comment(line.as_ref().to_owned())));
        self
    }

    /// The text of the mapping as a document.
    pub(super) fn to_text(&self) -> String {
        let mut out = String::new();
        self.write(0, &mut out);
        out
    }

    fn write(&self, indent: usize, out: &mut String) {
        for (number, entry) in self.0.iter().enumerate() {
            // After `- `, the first entry continues the line.
            if number > 0 || indent == 0 || out.ends_with('\n') {
                out.push_str(&" ".repeat(indent));
            }
            match entry {
                Entry::Comment(text) => out.push_str(&format!("# {text}\n")),
                Entry::Field(key, value) => {
                    out.push_str(&quote(key));
                    out.push(':');
                    value.write_field(indent, out);
                }
            }
        }
    }
}

impl Yaml {
    /// A string that is quoted if YAML would read it as something else.
    pub(super) fn text(text: impl AsRef<str>) -> Self {
        Self::Scalar(quote(text.as_ref()))
    }

    /// A list of strings.
    pub(super) fn texts<T: AsRef<str>>(items: impl IntoIterator<Item = T>) -> Self {
        Self::List(items.into_iter().map(Self::text).collect())
    }

    fn write_field(&self, indent: usize, out: &mut String) {
        match self {
            Self::Scalar(text) => out.push_str(&format!(" {text}\n")),
            Self::Map(map) => {
                out.push('\n');
                map.write(indent + 2, out);
            }
            Self::List(items)
                if items.iter().all(|item| matches!(item, Self::Scalar(_))) && flow_fits(items) =>
            {
                let items: Vec<&str> = items.iter().filter_map(Self::scalar).collect();
                out.push_str(&format!(" [{}]\n", items.join(", ")));
            }
            Self::List(items) => {
                out.push('\n');
                for item in items {
                    out.push_str(&format!("{}- ", " ".repeat(indent + 2)));
                    match item {
                        Self::Scalar(text) => out.push_str(&format!("{text}\n")),
                        Self::Map(map) => map.write(indent + 4, out),
                        Self::List(_) => item.write_field(indent + 4, out),
                    }
                }
            }
        }
    }

    fn scalar(&self) -> Option<&str> {
        match self {
            Self::Scalar(text) => Some(text),
            Self::List(_) | Self::Map(_) => None,
        }
    }
}

/// Whether a list fits one line.
fn flow_fits(items: &[Yaml]) -> bool {
    let length: usize = items.iter().filter_map(Yaml::scalar).map(|text| text.len() + 2).sum();
    length < 90
}

impl From<YamlMap> for Yaml {
    fn from(map: YamlMap) -> Self {
        Self::Map(map)
    }
}

impl From<Vec<YamlMap>> for Yaml {
    fn from(maps: Vec<YamlMap>) -> Self {
        Self::List(maps.into_iter().map(Self::Map).collect())
    }
}

impl From<&str> for Yaml {
    fn from(text: &str) -> Self {
        Self::text(text)
    }
}

impl From<String> for Yaml {
    fn from(text: String) -> Self {
        Self::text(text)
    }
}

impl From<u64> for Yaml {
    fn from(number: u64) -> Self {
        Self::Scalar(number.to_string())
    }
}

impl From<u32> for Yaml {
    fn from(number: u32) -> Self {
        Self::Scalar(number.to_string())
    }
}

impl From<u16> for Yaml {
    fn from(number: u16) -> Self {
        Self::Scalar(number.to_string())
    }
}

impl From<bool> for Yaml {
    fn from(value: bool) -> Self {
        Self::Scalar(value.to_string())
    }
}

/// A string in YAML syntax: plain if it is read as the same string everywhere, else in double quotes.
fn quote(text: &str) -> String {
    let starts_plain =
        text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/' || c == '_' || c == '.');
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_/.+@-".contains(c);
    let words = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let is_word = words.iter().any(|word| text.eq_ignore_ascii_case(word));
    let is_number = text.starts_with('.')
        && text[1..].starts_with(|c: char| c.is_ascii_digit() || c.is_ascii_alphabetic());
    if starts_plain && text.chars().all(is_plain) && !is_word && !is_number {
        return text.to_owned();
    }
    // JSON strings are YAML strings, except for characters that YAML wants escaped.
    let json = serde_json::Value::from(text).to_string();
    json.chars().map(|c| if is_printable(c) { c.to_string() } else { escape(c) }).collect()
}

fn is_printable(c: char) -> bool {
    !c.is_control() && !matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}')
}

fn escape(c: char) -> String {
    format!("\\u{:04x}", u32::from(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_are_quoted_only_if_needed() {
        for (text, yaml) in [
            ("server.js", "server.js"),
            ("/bin/sh", "/bin/sh"),
            ("3000", "\"3000\""),
            ("yes", "\"yes\""),
            ("a: b", "\"a: b\""),
            ("", "\"\""),
            (".5", "\".5\""),
            ("./a", "./a"),
            ("-c", "\"-c\""),
            ("a\"\n\u{7f}", "\"a\\\"\\n\\u007f\""),
        ] {
            assert_eq!(quote(text), yaml, "{text:?}");
        }
    }

    #[test]
    fn nested_values_are_indented() {
        let map = YamlMap::new()
            .comments(["first"])
            .set("a", YamlMap::new().set("b", 1_u32).set("empty", YamlMap::new()))
            .set(
                "list",
                vec![
                    YamlMap::new().set("x", "y").set("z", true),
                    YamlMap::new().comments(["why"]).set("x", "w"),
                ],
            )
            .set("args", Yaml::texts(["node", "a.js"]));
        assert_eq!(
            map.to_text(),
            "# first\na:\n  b: 1\nlist:\n  - x: \"y\"\n    z: true\n  - # why\n    x: w\nargs: [node, a.js]\n"
        );
    }
}
