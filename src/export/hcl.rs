//! HCL, the language of Nomad's job files: blocks, attributes and comments, in a stable order.

/// The content of a block.
#[derive(Default)]
pub(super) struct Block(Vec<Item>);

enum Item {
    Comment(String),
    /// A name and a value in HCL syntax.
    Attribute(String, String),
    /// The type with its labels, and the content.
    Block(String, Block),
}

impl Block {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn comments<T: AsRef<str>>(mut self, lines: impl IntoIterator<Item = T>) -> Self {
        self.0.extend(lines.into_iter().map(|line| Item::Comment(line.as_ref().to_owned())));
        self
    }

    /// Adds an attribute with a string.
    pub(super) fn text(self, name: &str, value: impl AsRef<str>) -> Self {
        self.raw(name, quote(value.as_ref()))
    }

    /// Adds an attribute whose value is an expression.
    pub(super) fn raw(mut self, name: &str, value: impl ToString) -> Self {
        self.0.push(Item::Attribute(name.to_owned(), value.to_string()));
        self
    }

    /// Adds an attribute with a list of strings, unless it is empty.
    pub(super) fn list<T: AsRef<str>>(self, name: &str, values: &[T]) -> Self {
        if values.is_empty() {
            return self;
        }
        let values: Vec<String> = values.iter().map(|value| quote(value.as_ref())).collect();
        self.raw(name, format!("[{}]", values.join(", ")))
    }

    /// Adds to the block if there is a value.
    pub(super) fn with<T>(self, value: Option<T>, add: impl FnOnce(Self, T) -> Self) -> Self {
        match value {
            Some(value) => add(self, value),
            None => self,
        }
    }

    /// Adds a block, unless it is empty.
    pub(super) fn block(mut self, kind: &str, content: Self) -> Self {
        if !content.0.is_empty() {
            self.0.push(Item::Block(kind.to_owned(), content));
        }
        self
    }

    /// Adds a block with a label.
    pub(super) fn labeled(self, kind: &str, label: &str, content: Self) -> Self {
        self.block(&format!("{kind} {}", quote(label)), content)
    }

    pub(super) fn to_text(&self) -> String {
        let mut out = String::new();
        self.write(0, &mut out);
        out
    }

    fn write(&self, indent: usize, out: &mut String) {
        let margin = " ".repeat(indent);
        let mut previous: Option<&Item> = None;
        for (at, item) in self.0.iter().enumerate() {
            match item {
                Item::Comment(text) => out.push_str(&format!("{margin}# {text}\n")),
                Item::Attribute(name, value) => {
                    let width = self.width_of_run(at);
                    out.push_str(&format!("{margin}{name:width$} = {value}\n"));
                }
                Item::Block(kind, content) => {
                    if previous.is_some_and(|item| !matches!(item, Item::Comment(_))) {
                        out.push('\n');
                    }
                    out.push_str(&format!("{margin}{kind} {{\n"));
                    content.write(indent + 2, out);
                    out.push_str(&format!("{margin}}}\n"));
                }
            }
            previous = Some(item);
        }
    }

    /// The width of the longest name among the attributes around this one: their values are aligned, as `nomad fmt`
    /// does it.
    fn width_of_run(&self, at: usize) -> usize {
        let name = |item: &Item| match item {
            Item::Attribute(name, _) => Some(name.len()),
            Item::Comment(_) | Item::Block(..) => None,
        };
        let before = self.0[..at].iter().rev().map_while(name);
        let after = self.0[at..].iter().map_while(name);
        before.chain(after).max().unwrap_or(0)
    }
}

/// A string in which nothing is a template.
pub(super) fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out.replace("${", "$${").replace("%{", "%%{")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_aligned_and_blocks_are_separated() {
        let block = Block::new().text("a", "x").raw("long", 1).labeled(
            "task",
            "web",
            Block::new().list("args", &["1"]),
        );
        assert_eq!(block.to_text(), "a    = \"x\"\nlong = 1\n\ntask \"web\" {\n  args = [\"1\"]\n}\n");
        assert_eq!(quote("${x} %{y} \"\n"), "\"$${x} %%{y} \\\"\\n\"");
    }
}
