//! From the tree of a file to the settings of its apps: keys looked up, values read, and
//! everything that does not fit noted with its place.

use std::collections::HashMap;

use serde_json::Value;

use super::findings::{At, Findings, Given};
use super::format::Format;
use super::key_def::KeyDef;
use super::keys::{AppSettings, KEYS, find_key, ignored_key};
use super::mistake::Mistakes;
use super::source::Source;
use super::statics;
use super::tree::{Broken, Content, Entry, Node};
use super::value::{Environment, LogRules, Reading, Wrong, shown};

/// So many errors of syntax are shown; after a broken one the rest are often only its echoes.
const SYNTAX_ERRORS: usize = 5;

/// An app as written.
pub(super) struct Written {
    /// What was given.
    pub(super) settings: AppSettings,
    /// Where its entry begins.
    pub(super) at: At,
    /// The keys whose values could not be taken. What depends on them cannot be judged.
    pub(super) refused: Vec<&'static str>,
    /// The same settings as values, by rsm's own keys, in the order of the file.
    pub(super) given: Vec<(String, Value)>,
    /// Keys that were left out.
    pub(super) left: Vec<String>,
}

impl Written {
    /// An app of these settings, nothing of which was refused.
    pub(super) fn new(settings: AppSettings, at: At) -> Self {
        Self { settings, at, refused: Vec::new(), given: Vec::new(), left: Vec::new() }
    }

    /// Notes a value in the place of a former one.
    fn give(&mut self, key: &str, value: Value) {
        self.given.retain(|(former, _)| former != key);
        self.given.push((key.to_owned(), value));
    }
}

/// Reads the apps of a file. Mistakes of syntax end it; all others are noted, and what could be
/// read is returned.
pub(super) fn read(source: &Source, findings: &mut Findings<'_>) -> Result<Vec<Written>, Mistakes> {
    let root = match parse(source) {
        Ok(root) => root,
        Err(errors) => {
            let mut broken = Findings::new(Some(source));
            for error in errors.into_iter().take(SYNTAX_ERRORS) {
                let message = format!("invalid {}: {}", source.format.name(), error.message);
                broken.mistake(&At::Span(error.at), message, help_with_syntax(source.format));
            }
            broken.finish(())?;
            return Ok(Vec::new());
        }
    };
    let mut file = File { format: source.format, apps: Vec::new(), rules: None };
    let before = findings.count();
    match root.content {
        Content::Table(entries) if file.is_app(&entries) => {
            let node = Node { at: root.at, content: Content::Table(entries) };
            file.add(node, findings);
        }
        Content::Table(entries) => entries.into_iter().for_each(|entry| file.top_level(entry, findings)),
        Content::List(items) if file.format.is_pm2s() => {
            items.into_iter().for_each(|item| file.add(item, findings))
        }
        _ => {}
    }
    let File { apps, rules, .. } = &mut file;
    for app in apps.iter_mut() {
        underlay(rules.clone(), &mut app.settings);
    }
    if file.apps.is_empty() && findings.count() == before {
        findings.mistake(&At::Span(0..0), "no apps found", begin(file.format));
    }
    Ok(file.apps)
}

/// The log rules of all apps.
fn log_rules(entry: &Entry, findings: &mut Findings<'_>) -> Option<Given<LogRules>> {
    let (value, at) = (entry.node.value(), At::Span(entry.node.at.clone()));
    match LogRules::read(&value) {
        Ok(rules) => Some(Given { value: rules, at }),
        Err(wrong) => {
            refuse(&entry.key, wrong, &value, &at, findings);
            None
        }
    }
}

/// Lays an app's own log rules over those of all.
fn underlay(rules: Option<Given<LogRules>>, settings: &mut AppSettings) {
    if let Some(Given { value, at }) = rules {
        let own = settings.logs.take().map(|own| own.value);
        settings.logs = Some(Given { value: value.under(own), at });
    }
}

/// The text as a tree, or where it is broken.
pub(super) fn parse(source: &Source) -> Result<Node, Vec<Broken>> {
    match source.format {
        Format::Toml => Node::from_toml(&source.text),
        Format::Json | Format::Package | Format::Script => {
            Node::from_json(&source.text).map_err(|one| vec![one])
        }
        Format::Yaml => Node::from_yaml(&source.text).map_err(|one| vec![one]),
    }
}

fn help_with_syntax(format: Format) -> &'static str {
    match format {
        Format::Json | Format::Package => "JSON cannot contain code; use NAME.config.js",
        _ => "",
    }
}

/// How apps are begun.
fn begin(format: Format) -> &'static str {
    match format {
        Format::Toml => "start each app with a line [[apps]]",
        Format::Yaml => "write `apps:` followed by `- script: …` for each app",
        Format::Json | Format::Package => "write { \"apps\": [{ \"script\": \"…\" }] }",
        Format::Script => "write module.exports = { apps: [{ script: '…' }] }",
    }
}

/// A file on the way to its apps.
struct File {
    format: Format,
    apps: Vec<Written>,
    /// The log rules of all apps.
    rules: Option<Given<LogRules>>,
}

impl File {
    /// Whether a table is not a file's but an app itself, as PM2 has it.
    fn is_app(&self, entries: &[Entry]) -> bool {
        let has = |key: &str| entries.iter().any(|entry| entry.key == key);
        let pm2s = self.format.is_pm2s() && self.format != Format::Package;
        pm2s && !has("apps") && !has("pm2") && ["script", "exec", "cmd", "command"].iter().any(|key| has(key))
    }

    fn add(&mut self, node: Node, findings: &mut Findings<'_>) {
        self.apps.extend(app(node, self.format, findings));
    }

    fn top_level(&mut self, entry: Entry, findings: &mut Findings<'_>) {
        let at = At::Span(entry.key_at.clone());
        match entry.key.as_str() {
            "apps" | "pm2" => match entry.node.content {
                Content::List(items) => items.into_iter().for_each(|item| self.add(item, findings)),
                Content::Scalar(Value::Null) => {}
                _ => self.add(entry.node, findings),
            },
            _ if self.format == Format::Package => {}
            "$schema" => {}
            "logs" => self.rules = log_rules(&entry, findings),
            "deploy" => findings.warn(&at, "`deploy` is not supported, ignored"),
            "static" => {
                for app in statics::apps(entry.node, findings) {
                    self.add(app, findings);
                }
            }
            key if self.format.is_pm2s() => {
                findings.warn(&at, format!("`{key}` is ignored: apps are read from `apps`"));
            }
            key if find_key(key).is_some() || key.starts_with("env_") => {
                let message = format!("`{key}` must be inside an app");
                findings.mistake(&at, message, "move it below a line [[apps]]");
            }
            key => {
                let help = match strsim::jaro_winkler(key, "apps") > 0.8 {
                    true => "did you mean [[apps]]?",
                    false => "only [[apps]], [logs] and [[static]] are allowed here",
                };
                findings.mistake(&At::Key(entry.key_at), format!("unknown key `{key}`"), help);
            }
        }
    }
}

fn app(node: Node, format: Format, findings: &mut Findings<'_>) -> Option<Written> {
    let at = At::Span(node.at.clone());
    if findings.is_full() {
        return None;
    }
    let Content::Table(entries) = node.content else {
        findings.mistake(&at, "expected a table of settings for each app", begin(format));
        return None;
    };
    let mut app = Written::new(AppSettings::default(), at);
    let mut seen: HashMap<&'static str, String> = HashMap::new();
    for entry in &entries {
        if findings.is_full() {
            break;
        }
        // PM2's way to leave a setting out; TOML has no such value.
        if !matches!(entry.node.content, Content::Scalar(Value::Null)) {
            setting(entry, format, &mut app, &mut seen, findings);
        }
    }
    Some(app)
}

fn setting(
    entry: &Entry,
    format: Format,
    app: &mut Written,
    seen: &mut HashMap<&'static str, String>,
    findings: &mut Findings<'_>,
) {
    let key_at = At::Span(entry.key_at.clone());
    let written = entry.key.as_str();
    let Some(key) = find_key(written) else { return other(entry, format, app, findings) };
    if let Some(before) = seen.insert(key.name, written.to_owned()) {
        let message = format!("`{written}` and `{before}` are the same key");
        if !format.is_pm2s() {
            findings.mistake(&key_at, message, "remove one of them");
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
    match (key.parse)(&mut app.settings, &value, value_at(key, entry)) {
        Ok(()) => app.give(key.name, value),
        Err(wrong) => {
            app.refused.push(key.name);
            refuse(written, wrong, &value, &value_at(key, entry), findings);
        }
    }
}

/// A key that is not in the table: an environment with a name, or nothing that is read.
fn other(entry: &Entry, format: Format, app: &mut Written, findings: &mut Findings<'_>) {
    let written = entry.key.as_str();
    if let Some(name) = written.strip_prefix("env_").filter(|name| !name.is_empty()) {
        return named_env(name, entry, app, findings);
    }
    app.left.push(written.to_owned());
    let key_at = At::Span(entry.key_at.clone());
    match ignored_key(written) {
        Some(about) => findings.warn(&key_at, format!("`{written}` is ignored: {about}")),
        None if format.is_pm2s() => {
            findings.warn(&key_at, format!("unknown key `{written}`, ignored; {}", suggestion(written)));
        }
        None => {
            let key_at = At::Key(entry.key_at.clone());
            findings.mistake(&key_at, format!("unknown key `{written}`"), suggestion(written));
        }
    }
}

/// The place of a value; that of an environment is a secret.
fn value_at(key: &KeyDef, entry: &Entry) -> At {
    if key.name == "env" { At::Secret(entry.key_at.clone()) } else { At::Span(entry.node.at.clone()) }
}

fn named_env(name: &str, entry: &Entry, app: &mut Written, findings: &mut Findings<'_>) {
    let (at, value) = (At::Secret(entry.key_at.clone()), entry.node.value());
    match Environment::read(&value) {
        Ok(vars) => {
            app.settings.named_env.insert(name.to_owned(), Given { value: vars, at });
            app.give(&entry.key, value);
        }
        Err(wrong) => refuse(&entry.key, wrong, &value, &at, findings),
    }
}

fn refuse(key: &str, wrong: Wrong, value: &Value, at: &At, findings: &mut Findings<'_>) {
    let found = (!matches!(at, At::Secret(_))).then(|| shown(value));
    findings.mistake(at, wrong.message(key, found.as_deref()), wrong.help);
}

/// What may have been meant by an unknown key.
fn suggestion(written: &str) -> String {
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
    use super::super::keys::value_of;
    use super::*;

    fn read_text(text: &str) -> Result<(Vec<Written>, Vec<String>), Mistakes> {
        let source = Source::written("e.toml", text);
        let mut findings = Findings::new(Some(&source));
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
