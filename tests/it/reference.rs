//! The reference of the ecosystem file says what the schema says: `docs/reference.md` is generated from it.
//!
//! After a change of the schema: `RSM_WRITE_DOCS=1 cargo test --test it reference::`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

const HEAD: &str = "\
# Key reference

This page lists all keys of an app in an ecosystem file, in alphabetical order. It is generated from the JSON Schema,
which you can also use in an editor. [Ecosystem file](ecosystem.md) explains the value types and how the keys work
together, and [Migrating from PM2](from-pm2.md) describes the differences from PM2.

```sh
rsm schema > ecosystem.schema.json
```

| Key | Flag | Type | Description |
| --- | --- | --- | --- |
";

const IGNORED: &str = "
## Ignored keys

These keys of PM2 are accepted but have no effect in rsm. rsm prints a warning where you might expect an effect.

| Key | Reason |
| --- | --- |
";

/// A table's cell: on one line, no bar.
fn cell(text: &str) -> String {
    text.replace('\n', " ").replace('|', "\\|")
}

/// What may stand there, in a few words.
fn values(property: &Value) -> String {
    if let Some(words) = property["enum"].as_array() {
        let words: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
        return words.join(", ");
    }
    let one = |kind: &Value| match kind.as_str() {
        Some("array") => format!("list of {}", list_of(property)),
        Some("object") => "table".to_owned(),
        Some(kind) => kind.to_owned(),
        None => "any".to_owned(),
    };
    match &property["type"] {
        Value::Array(kinds) => kinds.iter().map(one).collect::<Vec<_>>().join(" or "),
        Value::Null => match property["oneOf"].as_array().or(property["anyOf"].as_array()) {
            Some(ways) => ways.iter().map(values).collect::<Vec<_>>().join(" or "),
            None => "any".to_owned(),
        },
        kind => one(kind),
    }
}

fn list_of(property: &Value) -> String {
    match &property["items"]["type"] {
        Value::String(kind) => format!("{kind}s"),
        Value::Array(kinds) => kinds
            .iter()
            .filter_map(Value::as_str)
            .map(|kind| format!("{kind}s"))
            .collect::<Vec<_>>()
            .join(" and "),
        _ => "values".to_owned(),
    }
}

/// The flags that set a key.
fn flags(name: &str) -> String {
    let flags = rsm::config::keys_with_flags().filter(|(key, flag)| key.name == name && !flag.hidden);
    flags.map(|(_, flag)| format!("`{}`", flag.long)).collect::<Vec<_>>().join(", ")
}

/// Why a key is ignored, as a sentence of its own.
fn reason(description: &str) -> String {
    let reason = description.trim_start_matches("Ignored: ");
    let (first, rest) = reason.split_at(1);
    if reason.starts_with("rsm ") { reason.to_owned() } else { first.to_uppercase() + rest }
}

fn page(schema: &Value) -> String {
    let properties = schema["definitions"]["app"]["properties"].as_object().unwrap();
    let about = |property: &Value| property["description"].as_str().unwrap_or_default().to_owned();
    let same =
        |property: &Value| about(property).strip_prefix("Same as `")?.split('`').next().map(str::to_owned);
    let mut aliases: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (name, property) in properties {
        if let Some(main) = same(property) {
            aliases.entry(main).or_default().push(name);
        }
    }
    let (mut used, mut ignored) = (String::new(), String::new());
    for (name, property) in properties.iter().filter(|(_, property)| same(property).is_none()) {
        let mut text = cell(&about(property));
        if let Some(aliases) = aliases.get(name) {
            let aliases: Vec<String> = aliases.iter().map(|alias| format!("`{alias}`")).collect();
            text += &format!(" Also: {}.", aliases.join(", "));
        }
        match property["deprecated"] == true {
            true => ignored += &format!("| `{name}` | {} |\n", reason(&text)),
            false => {
                used += &format!("| `{name}` | {} | {} | {text} |\n", flags(name), cell(&values(property)))
            }
        }
    }
    let more =
        "| `env_NAME` | | table | Variables merged into `env` if the app is started with `--env NAME`. |\n";
    format!("{HEAD}{used}{more}{IGNORED}{ignored}")
}

#[test]
fn reference_matches_schema() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference.md");
    let page = page(&rsm::config::schema());
    if std::env::var_os("RSM_WRITE_DOCS").is_some() {
        fs::write(&file, &page).unwrap();
    }
    let there = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        there == page,
        "docs/reference.md is out of date: RSM_WRITE_DOCS=1 cargo test --test it reference::"
    );
}
