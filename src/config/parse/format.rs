//! The format of a file, by its name or content. TOML is the format of rsm, the others are those of PM2.

use std::path::Path;

/// A format of ecosystem files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileFormat {
    Toml,
    /// JSON5, which includes JSON with or without comments.
    Json,
    /// `package.json`, where all other keys are ignored.
    Package,
    /// YAML 1.2.
    Yaml,
    /// JavaScript that exports apps.
    Script,
}

/// The files that are used if none is named; the first existing one counts.
pub const DEFAULT_FILES: [&str; 8] = [
    "ecosystem.toml",
    "ecosystem.config.js",
    "ecosystem.config.cjs",
    "ecosystem.config.mjs",
    "ecosystem.json",
    "ecosystem.json5",
    "ecosystem.yaml",
    "ecosystem.yml",
];

/// The formats by suffix. A file with the suffix `.js` alone is a script, as in PM2.
const CONFIG_SUFFIXES: [(&str, FileFormat); 9] = [
    (".toml", FileFormat::Toml),
    ("package.json", FileFormat::Package),
    (".json", FileFormat::Json),
    (".json5", FileFormat::Json),
    (".yaml", FileFormat::Yaml),
    (".yml", FileFormat::Yaml),
    (".config.js", FileFormat::Script),
    (".config.cjs", FileFormat::Script),
    (".config.mjs", FileFormat::Script),
];

/// Maximum size of a file: a hundred times that of the largest known ecosystem files. Bytes.
pub(crate) const MAX_FILE_SIZE: u64 = 1 << 20;

/// The argument for standard input.
pub(crate) const STDIN: &str = "-";

/// Whether an argument of a command is the name of an ecosystem file, or `-`.
pub fn is_config_file(arg: &str) -> bool {
    arg == STDIN || FileFormat::from_path(Path::new(arg)).is_some()
}

impl FileFormat {
    /// The format of a file with this name. A name that is only a suffix has no format.
    pub(crate) fn from_path(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let matches = |suffix: &str| match suffix.starts_with('.') {
            true => name.len() > suffix.len() && name.ends_with(suffix),
            false => name == suffix,
        };
        CONFIG_SUFFIXES.iter().find(|(suffix, _)| matches(suffix)).map(|(_, format)| *format)
    }

    /// The format of a text without a name, by its first line that is not a comment.
    pub(crate) fn detect(text: &str) -> Self {
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let Some(first) = lines.find(|line| !line.starts_with('#')) else { return Self::Toml };
        let is_toml_table =
            first.starts_with("[[") && first.ends_with("]]") && !first.contains(['{', '"', ',']);
        if is_toml_table {
            return Self::Toml;
        }
        if first.starts_with(['{', '[', '/']) {
            return Self::Json;
        }
        match (first.find('='), first.find(':')) {
            (Some(equals), Some(colon)) if equals < colon => Self::Toml,
            (Some(_), None) => Self::Toml,
            _ => Self::Yaml,
        }
    }

    /// Whether PM2 reads this format. Unknown keys are not errors there: other tools use the same files.
    pub(crate) fn is_pm2_format(self) -> bool {
        self != Self::Toml
    }

    /// The name in messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Toml => "TOML",
            Self::Json | Self::Package => "JSON",
            Self::Yaml => "YAML",
            Self::Script => "JavaScript",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn format_depends_on_suffix() {
        for file in ["a.toml", "e.json5", "./x/process.yml", "ecosystem.config.cjs", "package.json", "-"] {
            assert!(is_config_file(file), "{file}");
        }
        for other in ["server.js", "ecosystem.js", "my.json-app", "json", ".json", "a.jsonl", "npm start", ""]
        {
            assert!(!is_config_file(other), "{other}");
        }
        assert_eq!(FileFormat::from_path(Path::new("x/package.json")), Some(FileFormat::Package));
        assert_eq!(FileFormat::from_path(Path::new("my-package.json")), Some(FileFormat::Json));
    }

    #[test]
    fn detects_format_by_first_line() {
        for (text, format) in [
            ("{\"apps\": []}", FileFormat::Json),
            ("// apps\n{ apps: [] }", FileFormat::Json),
            ("[{ script: 'a' }]", FileFormat::Json),
            ("[[apps]]\nscript = 'a'", FileFormat::Toml),
            ("# x\n\napps = []", FileFormat::Toml),
            ("apps:\n - script: a", FileFormat::Yaml),
            ("- script: a=b", FileFormat::Yaml),
            ("", FileFormat::Toml),
        ] {
            assert_eq!(FileFormat::detect(text), format, "{text}");
        }
    }
}
