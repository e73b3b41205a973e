//! Unit files of systemd: sections, settings, and quoting (systemd.syntax(7), systemd.service(5)).

/// A unit file.
#[derive(Default)]
pub(super) struct Unit(String);

impl Unit {
    /// A unit that starts with these comment lines.
    pub(super) fn new<T: AsRef<str>>(comments: impl IntoIterator<Item = T>) -> Self {
        Self::default().comments(comments)
    }

    pub(super) fn section(mut self, name: &str) -> Self {
        if !self.0.is_empty() {
            self.0.push('\n');
        }
        self.0.push_str(&format!("[{name}]\n"));
        self
    }

    pub(super) fn set(mut self, name: &str, value: impl AsRef<str>) -> Self {
        self.0.push_str(&format!("{name}={}\n", value.as_ref()));
        self
    }

    pub(super) fn set_some(self, name: &str, value: Option<impl AsRef<str>>) -> Self {
        match value {
            Some(value) => self.set(name, value),
            None => self,
        }
    }

    pub(super) fn set_all<T: AsRef<str>>(self, name: &str, values: impl IntoIterator<Item = T>) -> Self {
        values.into_iter().fold(self, |unit, value| unit.set(name, value))
    }

    pub(super) fn comments<T: AsRef<str>>(mut self, lines: impl IntoIterator<Item = T>) -> Self {
        for line in lines {
            self.0.push_str(&format!("# {}\n", line.as_ref()));
        }
        self
    }

    pub(super) fn text(self) -> String {
        self.0
    }
}

/// A value in which `%` starts no specifier.
pub(super) fn escape_specifiers(text: &str) -> String {
    text.replace('%', "%%")
}

/// A word of a command line, quoted if necessary.
pub(super) fn command_word(word: &str) -> String {
    quote(&escape_specifiers(word).replace('$', "$$"))
}

/// An assignment for `Environment=`.
pub(super) fn assignment(name: &str, value: &str) -> String {
    quote(&escape_specifiers(&format!("{name}={value}")))
}

/// An assignment for a file named by `EnvironmentFile=`.
pub(super) fn file_assignment(name: &str, value: &str) -> String {
    format!(
        "{name}=\"{}\"\n",
        value.replace('\\', "\\\\").replace('"', "\\\"").replace('`', "\\`").replace('$', "\\$")
    )
}

fn quote(text: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "_-./:=@%+,$".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out + "\""
}

/// The name of a unit for an app: characters that unit names cannot contain become hyphens.
pub(super) fn unit_name(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || "_.-".contains(c) { c } else { '-' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_and_escaped() {
        for (word, quoted) in [
            ("a", "a"),
            ("", "\"\""),
            ("a b", "\"a b\""),
            ("50%", "50%%"),
            ("$HOME", "$$HOME"),
            ("a\"\\", "\"a\\\"\\\\\""),
        ] {
            assert_eq!(command_word(word), quoted);
        }
        assert_eq!(assignment("A", "x $y\n"), "\"A=x $y\\n\"");
        assert_eq!(unit_name("my api@2"), "my-api-2");
    }
}
