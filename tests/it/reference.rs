//! The reference of the ecosystem file says what the schema says: `docs/reference.md` is generated from it.
//!
//! After a change of the schema: `RSM_WRITE_DOCS=1 cargo test --test it reference::`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

const HEAD: &str = "\
# Every key of the ecosystem file

Generated from the schema (`rsm schema`). [The ecosystem file](ecosystem.md) explains how values are written and how keys
work together; [from PM2](from-pm2.md) tells where rsm differs.

```sh
rsm schema > ecosystem.schema.json
```

| Key | Value | Meaning |
| --- | --- | --- |
";

const UNUSED: &str = "
## Taken, and without effect

PM2's keys that have no meaning here. A file that has them works; they are told as warnings where one could have hoped for more.

| Key | Why |
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
            .join(", "),
        _ => "values".to_owned(),
    }
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
    let (mut used, mut unused) = (String::new(), String::new());
    for (name, property) in properties.iter().filter(|(_, property)| same(property).is_none()) {
        let mut text = cell(&about(property));
        if let Some(aliases) = aliases.get(name) {
            let aliases: Vec<String> = aliases.iter().map(|alias| format!("`{alias}`")).collect();
            text += &format!(" Also: {}.", aliases.join(", "));
        }
        match property["deprecated"] == true {
            true => unused += &format!("| `{name}` | {text} |\n"),
            false => used += &format!("| `{name}` | {} | {text} |\n", cell(&values(property))),
        }
    }
    let more =
        "| `env_NAME` | table | Variables laid over `env` when the app is started with `--env NAME`. |\n";
    format!("{HEAD}{used}{more}{UNUSED}{unused}")
}

#[test]
fn the_reference_is_that_of_the_schema() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference.md");
    let page = page(&rsm::config::schema());
    if std::env::var_os("RSM_WRITE_DOCS").is_some() {
        fs::write(&file, &page).unwrap();
    }
    let there = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        there == page,
        "docs/reference.md is not what the schema says: RSM_WRITE_DOCS=1 cargo test --test it reference::"
    );
}
