//! The table of docs/from-pm2.md: each row that promises something names tests that exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The names of all test functions of this repository.
fn tests() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut folders = vec![root().join("tests"), root().join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                names.extend(of_file(&path));
            }
        }
    }
    names
}

fn of_file(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    let marked = text.split("#[test]").chain(text.split("#[tokio::test")).skip(1);
    let name = |part: &str| Some(part.split_once("fn ")?.1.split_once('(')?.0.to_owned());
    marked.filter_map(name).collect()
}

/// The rows of the page's tables with a column of states.
fn rows() -> Vec<(String, String, String)> {
    let page = fs::read_to_string(root().join("docs/from-pm2.md")).unwrap();
    let (_, page) = page.split_once("## Commands").unwrap();
    let cells = |line: &str| -> Vec<String> {
        let line = line.replace("\\|", "\u{1}");
        line.split('|').map(|cell| cell.trim().replace('\u{1}', "|")).collect()
    };
    let rows = page.lines().filter(|line| line.starts_with("| `") || line.starts_with("| *")).map(cells);
    let rows = rows.filter(|cells| cells.len() == 6);
    rows.map(|cells| (cells[1].clone(), cells[2].clone(), cells[4].clone())).collect()
}

#[test]
fn each_claim_names_existing_tests() {
    let (tests, rows) = (tests(), rows());
    assert!(rows.len() > 100, "the tables are there: {}", rows.len());
    for (what, state, named) in rows {
        let names: Vec<&str> = named.split('`').skip(1).step_by(2).collect();
        match state.as_str() {
            "same" | "better" => {
                assert!(!names.is_empty(), "{what} is {state} and names no test");
            }
            "not offered" | "later" => {}
            other => panic!("{what}: {other:?} is no state"),
        }
        for name in names {
            assert!(tests.contains(name), "{what}: there is no test {name}");
        }
    }
}

#[test]
fn page_lists_every_command() {
    let page = fs::read_to_string(root().join("docs/from-pm2.md")).unwrap();
    for word in [
        "start",
        "startOrRestart",
        "restart",
        "reload",
        "stop",
        "delete",
        "scale",
        "reset",
        "sendSignal",
        "send",
        "attach",
        "trigger",
        "list",
        "jlist",
        "prettylist",
        "describe",
        "env",
        "id",
        "pid",
        "ping",
        "report",
        "monit",
        "logs",
        "flush",
        "reloadLogs",
        "logrotate",
        "save",
        "resurrect",
        "cleardump",
        "kill",
        "update",
        "startup",
        "set",
        "get",
        "unset",
        "conf",
        "init",
        "install",
        "link",
        "pull",
        "completion",
        "serve",
        "deploy",
        "pm2-runtime",
    ] {
        assert!(page.contains(&format!("`{word}`")), "{word}");
    }
}

#[test]
fn page_lists_every_setting() {
    let page = fs::read_to_string(root().join("docs/from-pm2.md")).unwrap();
    let keys = rsm::config::KEYS.iter().filter(|key| key.in_pm2).map(|key| key.name);
    let ignored = rsm::config::IGNORED_KEYS.iter().map(|key| key.name);
    for key in keys.chain(ignored) {
        assert!(page.contains(&format!("`{key}`")), "{key}");
    }
}
