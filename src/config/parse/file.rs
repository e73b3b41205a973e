//! From the tree of a file to the settings of its apps: keys looked up, values read, and
//! everything that does not fit noted with its place.

use std::collections::HashMap;

use serde_json::Value;

use crate::config::diagnostics::{Diagnostics, Located, SourceRef};
use crate::config::key_def::KeyDef;
use crate::config::keys::{AppSettings, KEYS, find_key, ignored_key};
use crate::config::mistake::ConfigErrors;
use crate::config::parse::format::FileFormat;
use crate::config::parse::pm2_static;
use crate::config::parse::source::SourceText;
use crate::config::parse::tree::{ConfigNode, NodeContent, SyntaxError, TableEntry};
use crate::config::values::{EnvValue, FromValue, LogRules, ValueError, display_value};

/// So many errors of syntax are shown; after a broken one the rest are often only its echoes.
const MAX_SYNTAX_ERRORS: usize = 5;

/// An app as written.
pub(in crate::config) struct ParsedApp {
    /// What was given.
    pub(in crate::config) settings: AppSettings,
    /// Where its entry begins.
    pub(in crate::config) at: SourceRef,
    /// The keys whose values could not be taken. What depends on them cannot be judged.
    pub(in crate::config) invalid_keys: Vec<&'static str>,
    /// The same settings as values, by rsm's own keys, in the order of the file.
    pub(in crate::config) values: Vec<(String, Value)>,
    /// Keys that were left out.
    pub(in crate::config) skipped: Vec<String>,
}

impl ParsedApp {
    /// An app of these settings, nothing of which was refused.
    pub(in crate::config) fn new(settings: AppSettings, at: SourceRef) -> Self {
        Self { settings, at, invalid_keys: Vec::new(), values: Vec::new(), skipped: Vec::new() }
    }

    /// Notes a value in the place of a former one.
    fn add_value(&mut self, key: &str, value: Value) {
        self.values.retain(|(former, _)| former != key);
        self.values.push((key.to_owned(), value));
    }
}

/// Reads the apps of a file. Mistakes of syntax end it; all others are noted, and what could be
/// read is returned.
pub(in crate::config) fn read(
    source: &SourceText,
    findings: &mut Diagnostics<'_>,
) -> Result<Vec<ParsedApp>, ConfigErrors> {
    let root = match parse(source) {
        Ok(root) => root,
        Err(errors) => {
            let mut broken = Diagnostics::new(Some(source));
            for error in errors.into_iter().take(MAX_SYNTAX_ERRORS) {
                let message = format!("invalid {}: {}", source.format.name(), error.message);
                broken.error(&SourceRef::Span(error.span), message, syntax_help(source.format));
            }
            broken.finish(())?;
            return Ok(Vec::new());
        }
    };
    let mut file = FileParser { format: source.format, apps: Vec::new(), log_rules: None };
    let before = findings.count();
    match root.content {
        NodeContent::Table(entries) if file.is_app(&entries) => {
            let node = ConfigNode { span: root.span, content: NodeContent::Table(entries) };
            file.parse_node(node, findings);
        }
        NodeContent::Table(entries) => {
            entries.into_iter().for_each(|entry| file.parse_top_level(entry, findings))
        }
        NodeContent::List(items) if file.format.is_pm2_format() => {
            items.into_iter().for_each(|item| file.parse_node(item, findings))
        }
        _ => {}
    }
    let FileParser { apps, log_rules: rules, .. } = &mut file;
    for app in apps.iter_mut() {
        apply_shared_log_rules(rules.clone(), &mut app.settings);
    }
    if file.apps.is_empty() && findings.count() == before {
        findings.error(&SourceRef::Span(0..0), "no apps found", app_example(file.format));
    }
    Ok(file.apps)
}

/// The log rules of all apps.
fn log_rules(entry: &TableEntry, findings: &mut Diagnostics<'_>) -> Option<Located<LogRules>> {
    let (value, at) = (entry.node.value(), SourceRef::Span(entry.node.span.clone()));
    match LogRules::from_value(&value) {
        Ok(rules) => Some(Located { value: rules, source: at }),
        Err(wrong) => {
            report_value_error(&entry.key, wrong, &value, &at, findings);
            None
        }
    }
}

/// Lays an app's own log rules over those of all.
fn apply_shared_log_rules(rules: Option<Located<LogRules>>, settings: &mut AppSettings) {
    if let Some(Located { value, source: at }) = rules {
        let own = settings.logs.take().map(|own| own.value);
        settings.logs = Some(Located { value: value.merge_under(own), source: at });
    }
}

/// The text as a tree, or where it is broken.
pub(in crate::config) fn parse(source: &SourceText) -> Result<ConfigNode, Vec<SyntaxError>> {
    match source.format {
        FileFormat::Toml => ConfigNode::from_toml(&source.text),
        FileFormat::Json | FileFormat::Package | FileFormat::Script => {
            ConfigNode::from_json(&source.text).map_err(|one| vec![one])
        }
        FileFormat::Yaml => ConfigNode::from_yaml(&source.text).map_err(|one| vec![one]),
    }
}

fn syntax_help(format: FileFormat) -> &'static str {
    match format {
        FileFormat::Json | FileFormat::Package => "JSON cannot contain code; use NAME.config.js",
        _ => "",
    }
}

/// How apps are begun.
fn app_example(format: FileFormat) -> &'static str {
    match format {
        FileFormat::Toml => "start each app with a line [[apps]]",
        FileFormat::Yaml => "write `apps:` followed by `- script: …` for each app",
        FileFormat::Json | FileFormat::Package => "write { \"apps\": [{ \"script\": \"…\" }] }",
        FileFormat::Script => "write module.exports = { apps: [{ script: '…' }] }",
    }
}

/// A file on the way to its apps.
struct FileParser {
    format: FileFormat,
    apps: Vec<ParsedApp>,
    /// The log rules of all apps.
    log_rules: Option<Located<LogRules>>,
}

impl FileParser {
    /// Whether a table is not a file's but an app itself, as PM2 has it.
    fn is_app(&self, entries: &[TableEntry]) -> bool {
        let has = |key: &str| entries.iter().any(|entry| entry.key == key);
        let pm2s = self.format.is_pm2_format() && self.format != FileFormat::Package;
        pm2s && !has("apps") && !has("pm2") && ["script", "exec", "cmd", "command"].iter().any(|key| has(key))
    }

    fn parse_node(&mut self, node: ConfigNode, findings: &mut Diagnostics<'_>) {
        self.apps.extend(parse_app(node, self.format, findings));
    }

    fn parse_top_level(&mut self, entry: TableEntry, findings: &mut Diagnostics<'_>) {
        let at = SourceRef::Span(entry.key_span.clone());
        match entry.key.as_str() {
            "apps" | "pm2" => match entry.node.content {
                NodeContent::List(items) => {
                    items.into_iter().for_each(|item| self.parse_node(item, findings))
                }
                NodeContent::Scalar(Value::Null) => {}
                _ => self.parse_node(entry.node, findings),
            },
            _ if self.format == FileFormat::Package => {}
            "$schema" => {}
            "logs" => self.log_rules = log_rules(&entry, findings),
            "deploy" => findings.warn(&at, "`deploy` is not supported, ignored"),
            "static" => {
                for app in pm2_static::static_to_apps(entry.node, findings) {
                    self.parse_node(app, findings);
                }
            }
            key if self.format.is_pm2_format() => {
                findings.warn(&at, format!("`{key}` is ignored: apps are read from `apps`"));
            }
            key if find_key(key).is_some() || key.starts_with("env_") => {
                let message = format!("`{key}` must be inside an app");
                findings.error(&at, message, "move it below a line [[apps]]");
            }
            key => {
                let help = match strsim::jaro_winkler(key, "apps") > 0.8 {
                    true => "did you mean [[apps]]?",
                    false => "only [[apps]], [logs] and [[static]] are allowed here",
                };
                findings.error(&SourceRef::Key(entry.key_span), format!("unknown key `{key}`"), help);
            }
        }
    }
}

fn parse_app(node: ConfigNode, format: FileFormat, findings: &mut Diagnostics<'_>) -> Option<ParsedApp> {
    let at = SourceRef::Span(node.span.clone());
    if findings.is_full() {
        return None;
    }
    let NodeContent::Table(entries) = node.content else {
        findings.error(&at, "expected a table of settings for each app", app_example(format));
        return None;
    };
    let mut app = ParsedApp::new(AppSettings::default(), at);
    let mut seen: HashMap<&'static str, String> = HashMap::new();
    for entry in &entries {
        if findings.is_full() {
            break;
        }
        // PM2's way to leave a setting out; TOML has no such value.
        if !matches!(entry.node.content, NodeContent::Scalar(Value::Null)) {
            parse_setting(entry, format, &mut app, &mut seen, findings);
        }
    }
    Some(app)
}

fn parse_setting(
    entry: &TableEntry,
    format: FileFormat,
    app: &mut ParsedApp,
    seen: &mut HashMap<&'static str, String>,
    findings: &mut Diagnostics<'_>,
) {
    let key_at = SourceRef::Span(entry.key_span.clone());
    let written = entry.key.as_str();
    let Some(key) = find_key(written) else { return parse_unknown(entry, format, app, findings) };
    if let Some(before) = seen.insert(key.name, written.to_owned()) {
        let message = format!("`{written}` and `{before}` are the same key");
        if !format.is_pm2_format() {
            findings.error(&key_at, message, "remove one of them");
            return;
        }
        // As in PM2, where `cmd` counts only if there is no `script`, and else the last wins.
        let kept = if before == key.name { &before } else { written };
        findings.warn(&key_at, format!("{message}; using `{kept}`"));
        if kept != written {
            seen.insert(key.name, before);
            return;
        }
    }
    let value = entry.node.value();
    match (key.parse)(&mut app.settings, &value, value_source(key, entry)) {
        Ok(()) => app.add_value(key.name, value),
        Err(wrong) => {
            app.invalid_keys.push(key.name);
            report_value_error(written, wrong, &value, &value_source(key, entry), findings);
        }
    }
}

/// A key that is not in the table: an environment with a name, or nothing that is read.
fn parse_unknown(
    entry: &TableEntry,
    format: FileFormat,
    app: &mut ParsedApp,
    findings: &mut Diagnostics<'_>,
) {
    let written = entry.key.as_str();
    if let Some(name) = written.strip_prefix("env_").filter(|name| !name.is_empty()) {
        return parse_named_env(name, entry, app, findings);
    }
    app.skipped.push(written.to_owned());
    let key_at = SourceRef::Span(entry.key_span.clone());
    match ignored_key(written) {
        Some(about) => findings.warn(&key_at, format!("`{written}` is ignored: {about}")),
        None if format.is_pm2_format() => {
            findings.warn(&key_at, format!("unknown key `{written}`, ignored; {}", suggest_key(written)));
        }
        None => {
            let key_at = SourceRef::Key(entry.key_span.clone());
            findings.error(&key_at, format!("unknown key `{written}`"), suggest_key(written));
        }
    }
}

/// The place of a value; that of an environment is a secret.
fn value_source(key: &KeyDef, entry: &TableEntry) -> SourceRef {
    if key.name == "env" {
        SourceRef::SecretSpan(entry.key_span.clone())
    } else {
        SourceRef::Span(entry.node.span.clone())
    }
}

fn parse_named_env(name: &str, entry: &TableEntry, app: &mut ParsedApp, findings: &mut Diagnostics<'_>) {
    let (at, value) = (SourceRef::SecretSpan(entry.key_span.clone()), entry.node.value());
    match EnvValue::from_value(&value) {
        Ok(vars) => {
            app.settings.named_env.insert(name.to_owned(), Located { value: vars, source: at });
            app.add_value(&entry.key, value);
        }
        Err(wrong) => report_value_error(&entry.key, wrong, &value, &at, findings),
    }
}

fn report_value_error(
    key: &str,
    wrong: ValueError,
    value: &Value,
    at: &SourceRef,
    findings: &mut Diagnostics<'_>,
) {
    let found = (!matches!(at, SourceRef::SecretSpan(_))).then(|| display_value(value));
    findings.error(at, wrong.message(key, found.as_deref()), wrong.help);
}

/// What may have been meant by an unknown key.
fn suggest_key(written: &str) -> String {
    let lower = written.to_ascii_lowercase().replace('-', "_");
    let names = KEYS.iter().flat_map(|key| std::iter::once(&key.name).chain(key.aliases));
    let scored = names.map(|name| (strsim::jaro_winkler(&lower, name), name));
    match scored.max_by(|a, b| a.0.total_cmp(&b.0)) {
        Some((score, name)) if score > 0.85 => format!("did you mean `{name}`?"),
        _ => "see docs/reference.md for all keys; environment variables go in `env`".into(),
    }
}

#[cfg(test)]
mod tests {
    use crate::config::keys::value_of;
    use crate::config::parse::file::*;

    fn read_text(text: &str) -> Result<(Vec<ParsedApp>, Vec<String>), ConfigErrors> {
        let source = SourceText::from_text("e.toml", text);
        let mut findings = Diagnostics::new(Some(&source));
        let apps = read(&source, &mut findings)?;
        findings.finish(apps)
    }

    fn mistakes(text: &str) -> String {
        read_text(text).err().map(|mistakes| mistakes.to_string()).unwrap_or_default()
    }

    #[test]
    fn every_mistake_is_told_with_its_place() {
        let text = "[[apps]]\nscript = 'a'\nmax_restart = 3\nport = 'x'\nautorestart = 'false'\n\n[[apps]]\nout = 'a'\noutFile = 'b'\n";
        let told = mistakes(text);
        assert!(told.contains("e.toml:3:1: unknown key `max_restart`\n  3 | max_restart\n    | ^^^^^^^^^^^\nhelp: did you mean `max_restarts`?"), "{told}");
        assert!(
            told.contains(
                "e.toml:4:8: invalid value for `port`: expected a port from 1 to 65535, found \"x\""
            ),
            "{told}"
        );
        assert!(
            told.contains(
                "e.toml:5:15: invalid value for `autorestart`: expected true or false, found \"false\""
            ),
            "{told}"
        );
        assert!(told.contains("e.toml:9:1: `outFile` and `out` are the same key"), "{told}");
    }

    #[test]
    fn syntax_errors_have_a_place() {
        let told = mistakes("[[apps]]\nscript = a.js\nname = \"x\n");
        assert!(told.starts_with("e.toml:2:10: invalid TOML:"), "{told}");
    }

    #[test]
    fn values_of_an_environment_are_never_told() {
        for text in [
            "[[apps]]\nenv = 'TOKEN=hunter2'\n",
            "[[apps]]\n[apps.env_prod]\nTOKEN = 'hunter2\n",
            "[[apps]]\n[apps.env]\n'A=B' = 'hunter2'\n",
            "[[apps]]\nenv = { TOKEN = 'hunter2', \n",
            "[[apps]]\nenv = { TOKEN = 'hunter2' x }\n",
        ] {
            let told = mistakes(text);
            assert!(!told.is_empty() && !told.contains("hunter2"), "{told}");
        }
    }

    #[test]
    fn what_pm2_has_and_rsm_has_not_is_warned_about_once() {
        let text =
            "[deploy.production]\nuser = 'a'\n[[apps]]\nscript = 'a'\nvizion = false\nwindowsHide = true\n";
        let (apps, warnings) = read_text(text).ok().unwrap();
        assert_eq!(apps.len(), 1);
        assert_eq!(warnings.len(), 3, "{warnings:?}");
        assert!(warnings[1].starts_with("e.toml:5:1: `vizion` is ignored"), "{warnings:?}");
    }

    #[test]
    fn files_without_apps_are_mistakes() {
        assert!(mistakes("").contains("no apps found"));
        assert!(mistakes("[[app]]\nscript = 'a'\n").contains("did you mean [[apps]]?"));
        assert!(mistakes("script = 'a'\n").contains("below a line [[apps]]"));
        assert!(mistakes("apps = ['a']\n").contains("expected a table"));
    }

    #[test]
    fn one_app_may_stand_alone_and_environments_have_names() {
        let (apps, _) = read_text("[apps]\nscript = 'a'\n[apps.env_production]\nA = 1\n").ok().unwrap();
        assert_eq!(value_of(&apps[0].settings.script).map(String::as_str), Some("a"));
        assert!(apps[0].settings.named_env.contains_key("production"));
    }
}
