//! Parsing of an ecosystem file to the settings of its apps: syntax, then keys, then values.
//!
//! A syntax error ends the parsing; all other errors are collected.

use std::collections::HashMap;

use serde_json::Value;

use crate::config::diagnostics::{
    ConfigErrors, Diagnostic, Diagnostics, Locate, Located, QuotePolicy, SourceRef,
};
use crate::config::key_def::KeyDef;
use crate::config::keys::{AppSettings, KEYS, find_key, ignored_key};
use crate::config::parse::format::FileFormat;
use crate::config::parse::pm2_static;
use crate::config::parse::source::SourceText;
use crate::config::parse::tree::{ConfigNode, NodeContent, SyntaxError, TableEntry};
use crate::config::values::{EnvValue, FromValue, LogRules, ValueError, display_value};
use crate::text::closest_match;

/// Maximum number of reported syntax errors: the first one often causes the others.
const MAX_SYNTAX_ERRORS: usize = 5;

/// An app of a file, not yet resolved.
pub(crate) struct ParsedApp {
    /// Its settings.
    pub(crate) settings: AppSettings,
    /// The table of the app.
    pub(crate) source: SourceRef,
    /// Keys with invalid values. Settings that depend on them cannot be validated.
    pub(crate) invalid_keys: Vec<&'static str>,
    /// The values by canonical key, in the order of the file.
    pub(crate) values: Vec<(String, Value)>,
    /// Where each key was given, by canonical key.
    pub(crate) keys: Vec<(&'static str, SourceRef)>,
    /// Unknown and ignored keys.
    pub(crate) skipped: Vec<String>,
}

impl ParsedApp {
    /// An app with valid settings.
    pub(crate) fn new(settings: AppSettings, source: SourceRef) -> Self {
        Self {
            settings,
            source,
            invalid_keys: Vec::new(),
            values: Vec::new(),
            keys: Vec::new(),
            skipped: Vec::new(),
        }
    }

    /// Adds a value, and removes a previous one of the same key.
    fn add_value(&mut self, key: &str, value: Value) {
        self.values.retain(|(other, _)| other != key);
        self.values.push((key.to_owned(), value));
    }
}

/// Parses the apps of a file.
///
/// # Errors
/// Syntax errors. All other errors are added to `diagnostics`, and the valid settings are returned.
pub(crate) fn read(
    source: &SourceText,
    diagnostics: &mut Diagnostics<'_>,
) -> Result<Vec<ParsedApp>, ConfigErrors> {
    let root = parse(source).map_err(|errors| syntax_errors(source, errors))?;
    let mut file = FileParser { format: source.format, apps: Vec::new(), log_rules: None };
    let errors_before = diagnostics.count();
    match root.content {
        NodeContent::Table(entries) if file.is_app(&entries) => {
            let node = ConfigNode { span: root.span, content: NodeContent::Table(entries) };
            file.parse_node(node, diagnostics);
        }
        NodeContent::Table(entries) => {
            entries.into_iter().for_each(|entry| file.parse_top_level(entry, diagnostics))
        }
        NodeContent::List(items) if file.format.is_pm2_format() => {
            items.into_iter().for_each(|item| file.parse_node(item, diagnostics))
        }
        _ => {}
    }
    for app in &mut file.apps {
        apply_shared_log_rules(file.log_rules.clone(), app);
    }
    if file.apps.is_empty() && diagnostics.count() == errors_before {
        diagnostics.error(&SourceRef::Span(0..0), "no apps found", app_example(file.format));
    }
    Ok(file.apps)
}

fn syntax_errors(source: &SourceText, errors: Vec<SyntaxError>) -> ConfigErrors {
    let error = |error: SyntaxError| {
        let message = format!("invalid {}: {}", source.format.name(), error.message);
        Diagnostic::error(source.locate(&error.span, QuotePolicy::Line), message, syntax_help(source.format))
    };
    let mut errors: Vec<SyntaxError> = errors.into_iter().take(MAX_SYNTAX_ERRORS).collect();
    errors.sort_by_key(|error| error.span.start);
    ConfigErrors(errors.into_iter().map(error).collect())
}

/// The `logs` table of the file, which applies to all apps.
fn log_rules(entry: &TableEntry, diagnostics: &mut Diagnostics<'_>) -> Option<Located<LogRules>> {
    let (value, source) = (entry.node.value(), SourceRef::Span(entry.node.span.clone()));
    match LogRules::from_value(&value) {
        Ok(rules) => Some(Located { value: rules, source }),
        Err(error) => {
            report_value_error(&entry.key, error, &value, &source, diagnostics);
            None
        }
    }
}

/// Merges the log rules of an app over those of the file.
fn apply_shared_log_rules(rules: Option<Located<LogRules>>, app: &mut ParsedApp) {
    if let Some(Located { value, source }) = rules {
        let own = app.settings.logs.take().map(|own| own.value);
        if own.is_none() {
            app.keys.push(("logs", source.clone()));
        }
        app.settings.logs = Some(Located { value: value.merge_under(own), source });
    }
}

fn parse(source: &SourceText) -> Result<ConfigNode, Vec<SyntaxError>> {
    match source.format {
        FileFormat::Toml => ConfigNode::from_toml(&source.text),
        FileFormat::Json | FileFormat::Package | FileFormat::Script => {
            ConfigNode::from_json(&source.text).map_err(|error| vec![error])
        }
        FileFormat::Yaml => ConfigNode::from_yaml(&source.text).map_err(|error| vec![error]),
    }
}

fn syntax_help(format: FileFormat) -> &'static str {
    match format {
        FileFormat::Json | FileFormat::Package => "JSON cannot contain code; use NAME.config.js",
        _ => "",
    }
}

/// Help for a file without apps.
fn app_example(format: FileFormat) -> &'static str {
    match format {
        FileFormat::Toml => "start each app with a line [[apps]]",
        FileFormat::Yaml => "write `apps:` followed by `- script: …` for each app",
        FileFormat::Json | FileFormat::Package => "write { \"apps\": [{ \"script\": \"…\" }] }",
        FileFormat::Script => "write module.exports = { apps: [{ script: '…' }] }",
    }
}

/// The state of the parsing of a file.
struct FileParser {
    format: FileFormat,
    apps: Vec<ParsedApp>,
    /// The `logs` table of the file.
    log_rules: Option<Located<LogRules>>,
}

impl FileParser {
    /// Whether the top-level table is an app, which PM2 accepts.
    fn is_app(&self, entries: &[TableEntry]) -> bool {
        let has = |key: &str| entries.iter().any(|entry| entry.key == key);
        let is_accepted = self.format.is_pm2_format() && self.format != FileFormat::Package;
        is_accepted
            && !has("apps")
            && !has("pm2")
            && ["script", "exec", "cmd", "command"].iter().any(|key| has(key))
    }

    fn parse_node(&mut self, node: ConfigNode, diagnostics: &mut Diagnostics<'_>) {
        self.apps.extend(parse_app(node, self.format, diagnostics));
    }

    fn parse_top_level(&mut self, entry: TableEntry, diagnostics: &mut Diagnostics<'_>) {
        let source = SourceRef::Span(entry.key_span.clone());
        match entry.key.as_str() {
            "apps" | "pm2" => match entry.node.content {
                NodeContent::List(items) => {
                    items.into_iter().for_each(|item| self.parse_node(item, diagnostics))
                }
                NodeContent::Scalar(Value::Null) => {}
                _ => self.parse_node(entry.node, diagnostics),
            },
            _ if self.format == FileFormat::Package => {}
            "$schema" => {}
            "logs" => self.log_rules = log_rules(&entry, diagnostics),
            "deploy" => diagnostics.warn(&source, "`deploy` is not supported, ignored"),
            "static" => {
                for app in pm2_static::static_to_apps(entry.node, diagnostics) {
                    self.parse_node(app, diagnostics);
                }
            }
            key if self.format.is_pm2_format() => {
                diagnostics.warn(&source, format!("`{key}` is ignored: apps are read from `apps`"));
            }
            key if find_key(key).is_some() || key.starts_with("env_") => {
                let message = format!("`{key}` must be inside an app");
                diagnostics.error(&source, message, "move it below a line [[apps]]");
            }
            key => {
                let help = match closest_match(key, ["apps", "logs", "static"].into_iter()) {
                    Some("apps") => "did you mean [[apps]]?",
                    Some("logs") => "did you mean [logs]?",
                    Some("static") => "did you mean [[static]]?",
                    _ => "only [[apps]], [logs] and [[static]] are allowed here",
                };
                diagnostics.error(&SourceRef::Key(entry.key_span), format!("unknown key `{key}`"), help);
            }
        }
    }
}

fn parse_app(node: ConfigNode, format: FileFormat, diagnostics: &mut Diagnostics<'_>) -> Option<ParsedApp> {
    let source = SourceRef::Span(node.span.clone());
    if diagnostics.is_full() {
        return None;
    }
    let NodeContent::Table(entries) = node.content else {
        diagnostics.error(&source, "expected a table of settings for each app", app_example(format));
        return None;
    };
    let mut app = ParsedApp::new(AppSettings::default(), source);
    let mut seen: HashMap<&'static str, String> = HashMap::new();
    for entry in &entries {
        if diagnostics.is_full() {
            break;
        }
        // In PM2, null means that the setting is omitted; TOML has no such value.
        if !matches!(entry.node.content, NodeContent::Scalar(Value::Null)) {
            parse_setting(entry, format, &mut app, &mut seen, diagnostics);
        }
    }
    Some(app)
}

fn parse_setting(
    entry: &TableEntry,
    format: FileFormat,
    app: &mut ParsedApp,
    seen: &mut HashMap<&'static str, String>,
    diagnostics: &mut Diagnostics<'_>,
) {
    let key_source = SourceRef::Span(entry.key_span.clone());
    let spelling = entry.key.as_str();
    let Some(key) = find_key(spelling) else { return parse_unknown(entry, format, app, diagnostics) };
    if let Some(previous) = seen.insert(key.name, spelling.to_owned()) {
        let message = format!("`{spelling}` and `{previous}` are the same key");
        if !format.is_pm2_format() {
            diagnostics.error(&key_source, message, "remove one of them");
            return;
        }
        // As in PM2: `cmd` is used only without `script`, otherwise the last spelling.
        let used = if previous == key.name { &previous } else { spelling };
        diagnostics.warn(&key_source, format!("{message}; using `{used}`"));
        if used != spelling {
            seen.insert(key.name, previous);
            return;
        }
    }
    let (value, source) = (entry.node.value(), value_source(key, entry));
    match app.settings.set(key, &value, source.clone()) {
        Ok(()) => {
            app.keys.push((key.name, key_source));
            app.add_value(key.name, value);
        }
        Err(error) => {
            app.invalid_keys.push(key.name);
            report_value_error(spelling, error, &value, &source, diagnostics);
        }
    }
}

/// Parses a key that is not in the table: an environment block, an ignored key or an unknown key.
fn parse_unknown(
    entry: &TableEntry,
    format: FileFormat,
    app: &mut ParsedApp,
    diagnostics: &mut Diagnostics<'_>,
) {
    let key = entry.key.as_str();
    if let Some(name) = key.strip_prefix("env_").filter(|name| !name.is_empty()) {
        return parse_named_env(name, entry, app, diagnostics);
    }
    app.skipped.push(key.to_owned());
    let source = SourceRef::Span(entry.key_span.clone());
    match ignored_key(key) {
        Some(reason) => diagnostics.warn(&source, format!("`{key}` is ignored: {reason}")),
        None if format.is_pm2_format() => {
            diagnostics.warn(&source, format!("unknown key `{key}`, ignored; {}", suggest_key(key)));
        }
        None => {
            let source = SourceRef::Key(entry.key_span.clone());
            diagnostics.error(&source, format!("unknown key `{key}`"), suggest_key(key));
        }
    }
}

/// The source of a value. That of an environment is secret.
fn value_source(key: &KeyDef, entry: &TableEntry) -> SourceRef {
    if key.name == "env" {
        SourceRef::SecretSpan(entry.key_span.clone())
    } else {
        SourceRef::Span(entry.node.span.clone())
    }
}

fn parse_named_env(name: &str, entry: &TableEntry, app: &mut ParsedApp, diagnostics: &mut Diagnostics<'_>) {
    let (source, value) = (SourceRef::SecretSpan(entry.key_span.clone()), entry.node.value());
    match EnvValue::from_value(&value) {
        Ok(vars) => {
            app.settings.named_env.insert(name.to_owned(), Located { value: vars, source });
            app.add_value(&entry.key, value);
        }
        Err(error) => report_value_error(&entry.key, error, &value, &source, diagnostics),
    }
}

fn report_value_error(
    key: &str,
    error: ValueError,
    value: &Value,
    source: &SourceRef,
    diagnostics: &mut Diagnostics<'_>,
) {
    let found = (!matches!(source, SourceRef::SecretSpan(_))).then(|| display_value(value));
    diagnostics.error(source, error.message(key, found.as_deref()), error.help);
}

/// Help for an unknown key.
fn suggest_key(key: &str) -> String {
    let lower = key.to_ascii_lowercase().replace('-', "_");
    let names = KEYS.iter().flat_map(|key| std::iter::once(&key.name).chain(key.aliases).copied());
    match closest_match(&lower, names) {
        Some(name) => format!("did you mean `{name}`?"),
        None => "see docs/reference.md for all keys; environment variables go in `env`".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys::value_of;

    fn read_text(text: &str) -> Result<(Vec<ParsedApp>, Vec<String>), ConfigErrors> {
        let source = SourceText::from_text("e.toml", text);
        let mut diagnostics = Diagnostics::of_file(&source, Vec::new());
        let apps = read(&source, &mut diagnostics)?;
        diagnostics.finish(apps)
    }

    fn errors(text: &str) -> String {
        read_text(text).err().map(|errors| errors.to_string()).unwrap_or_default()
    }

    #[test]
    fn reports_all_errors_with_location() {
        let text = "[[apps]]\nscript = 'a'\nmax_restart = 3\nport = 'x'\nautorestart = 'false'\n\n[[apps]]\nout = 'a'\noutFile = 'b'\n";
        let text = errors(text);
        assert!(text.contains("e.toml:3:1: unknown key `max_restart`\n  3 | max_restart\n    | ^^^^^^^^^^^\nhelp: did you mean `max_restarts`?"), "{text}");
        assert!(
            text.contains(
                "e.toml:4:8: invalid value for `port`: expected a port from 1 to 65535, found \"x\""
            ),
            "{text}"
        );
        assert!(
            text.contains(
                "e.toml:5:15: invalid value for `autorestart`: expected true or false, found \"false\""
            ),
            "{text}"
        );
        assert!(text.contains("e.toml:9:1: `outFile` and `out` are the same key"), "{text}");
    }

    #[test]
    fn syntax_error_has_location() {
        let text = errors("[[apps]]\nscript = a.js\nname = \"x\n");
        assert!(text.starts_with("e.toml:2:10: invalid TOML:"), "{text}");
    }

    #[test]
    fn environment_values_are_not_shown() {
        for text in [
            "[[apps]]\nenv = 'TOKEN=hunter2'\n",
            "[[apps]]\n[apps.env_prod]\nTOKEN = 'hunter2\n",
            "[[apps]]\n[apps.env]\n'A=B' = 'hunter2'\n",
            "[[apps]]\nenv = { TOKEN = 'hunter2', \n",
            "[[apps]]\nenv = { TOKEN = 'hunter2' x }\n",
        ] {
            let text = errors(text);
            assert!(!text.is_empty() && !text.contains("hunter2"), "{text}");
        }
    }

    #[test]
    fn warns_once_about_ignored_pm2_keys() {
        let text =
            "[deploy.production]\nuser = 'a'\n[[apps]]\nscript = 'a'\nvizion = false\nwindowsHide = true\n";
        let (apps, warnings) = read_text(text).ok().unwrap();
        assert_eq!(apps.len(), 1);
        assert_eq!(warnings.len(), 3, "{warnings:?}");
        assert!(warnings[1].starts_with("e.toml:5:1: `vizion` is ignored"), "{warnings:?}");
    }

    #[test]
    fn rejects_file_without_apps() {
        assert!(errors("").contains("no apps found"));
        assert!(errors("[[app]]\nscript = 'a'\n").contains("did you mean [[apps]]?"));
        assert!(errors("script = 'a'\n").contains("below a line [[apps]]"));
        assert!(errors("apps = ['a']\n").contains("expected a table"));
    }

    #[test]
    fn accepts_single_app_with_environment_block() {
        let (apps, _) = read_text("[apps]\nscript = 'a'\n[apps.env_production]\nA = 1\n").ok().unwrap();
        assert_eq!(value_of(&apps[0].settings.script).map(String::as_str), Some("a"));
        assert!(apps[0].settings.named_env.contains_key("production"));
    }
}
