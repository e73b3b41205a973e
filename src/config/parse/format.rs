//! Which format a file is in. TOML is rsm's own; the others are PM2's, told by the same endings.

use std::path::Path;

/// A format of ecosystem files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) enum FileFormat {
    /// rsm's own.
    Toml,
    /// JSON5, and so JSON with or without comments.
    Json,
    /// `package.json`, of which most is about other things.
    Package,
    /// YAML 1.2.
    Yaml,
    /// JavaScript that exports apps.
    Script,
}

/// The file started when none is named: the first of these that is there.
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

/// Endings and what they mean. A `.js` alone is an app's script, as in PM2.
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

/// The largest file read. A hundred times what the largest known ecosystem files need.
pub(in crate::config) const MAX_FILE_SIZE: u64 = 1 << 20;

/// What stands for the file on standard input.
pub(in crate::config) const STDIN: &str = "-";

/// Whether an argument of `start`, `stop` … is the name of a configuration file, or `-`.
pub fn is_config_file(arg: &str) -> bool {
    arg == STDIN || FileFormat::from_path(Path::new(arg)).is_some()
}

impl FileFormat {
    /// The format of a file of this name. A file's name is more than its ending.
    pub(in crate::config) fn from_path(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let is = |ending: &str| match ending.strip_prefix('.') {
            Some(_) => name.len() > ending.len() && name.ends_with(ending),
            None => name == ending,
        };
        CONFIG_SUFFIXES.iter().find(|(ending, _)| is(ending)).map(|(_, format)| *format)
    }

    /// The format of a text without a name, by its first line that is more than a remark.
    pub(in crate::config) fn detect(text: &str) -> Self {
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let Some(first) = lines.find(|line| !line.starts_with('#')) else { return Self::Toml };
        let table = first.starts_with("[[") && first.ends_with("]]") && !first.contains(['{', '"', ',']);
        if table {
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

    /// Whether it is one of PM2's formats, where unknown keys are no mistakes: such files
    /// carry all sorts of things.
    pub(in crate::config) fn is_pm2_format(self) -> bool {
        self != Self::Toml
    }

    /// What it is called in messages.
    pub(in crate::config) fn name(self) -> &'static str {
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
    use crate::config::parse::format::*;

    #[test]
    fn endings_make_files_and_scripts_stay_scripts() {
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
    fn a_text_without_name_is_told_by_its_first_line() {
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
