//! What the pages say to type works: every `sh` block of README and `docs/`, in order.
//!
//! Each page has a home and a directory of its own. HTML comments, unseen by readers, add what a
//! page takes for granted:
//!
//! - `<!-- test: file NAME`, lines, `-->`: a file that is there from the beginning; closed on its
//!   first line, the next block of the page is that file;
//! - `<!-- test: run`, lines, `-->`: commands that are run at this place;
//! - `<!-- test: skip WHY -->`: the next `sh` block is not run.
//!
//! Ports that a page names become free ones. Each block must end with 0. `rsm logs` is left after its first line, as by a reader who has
//! seen enough; curl fails where the daemon refuses.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use regex::Regex;

use crate::harness::{Rsm, free_port};

/// What a page asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Page {
    files: Vec<(String, String)>,
    /// Line of the page, and the commands.
    blocks: Vec<(usize, String)>,
}

impl Page {
    fn read(text: &str) -> Self {
        let mut page = Self::default();
        let (mut becomes_file, mut skip) = (None, false);
        let mut lines = text.lines().enumerate();
        while let Some((index, line)) = lines.next() {
            let mut until = |end: &str| -> String {
                let body = lines.by_ref().map(|(_, line)| line).take_while(|line| *line != end);
                body.map(|line| format!("{line}\n")).collect()
            };
            if let Some(language) = line.strip_prefix("```") {
                let body = until("```");
                if let Some(name) = becomes_file.take() {
                    page.files.push((name, body));
                } else if language == "sh" && !std::mem::take(&mut skip) {
                    page.blocks.push((index + 1, body));
                }
            } else if let Some(order) = line.strip_prefix("<!-- test: ") {
                match (order.split_once(' ').unwrap_or((order, "")), order.strip_suffix(" -->")) {
                    (("file", _), Some(order)) => becomes_file = Some(order.replacen("file ", "", 1)),
                    (("file", name), None) => page.files.push((name.to_owned(), until("-->"))),
                    (("run", ""), None) => page.blocks.push((index + 1, until("-->"))),
                    (("skip" | "skip,", _), Some(_)) => skip = true,
                    _ => panic!("line {}: {line}", index + 1),
                }
            }
        }
        assert!(becomes_file.is_none() && !skip, "the last comment is about no block");
        page
    }

    /// A free port for each that the page names.
    fn ports(&self) -> BTreeMap<String, u16> {
        let named = Regex::new(PORT).unwrap();
        let texts = self.files.iter().map(|(_, text)| text).chain(self.blocks.iter().map(|(_, text)| text));
        let found = texts.flat_map(|text| named.captures_iter(text).map(|found| found[1].to_owned()));
        let found: BTreeSet<String> = found.collect();
        found.into_iter().map(|port| (port, free_port())).collect()
    }

    fn run(&self, name: &str) {
        let (rsm, ports) = (Rsm::new(), self.ports());
        for (file, content) in &self.files {
            rsm.write(file, &with_ports(content, &ports));
        }
        let programs = rsm.write("../bin/rsm", LEAVES_LOGS).parent().unwrap().to_owned();
        rsm.write("../.curlrc", "fail-with-body\n");
        let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
        for (line, block) in &self.blocks {
            let mut shell = rsm.command_of("sh", &["-eu", "-c", &with_ports(block, &ports)]);
            shell.env("PATH", &path).env("RSM", env!("CARGO_BIN_EXE_rsm")).stdin(Stdio::null());
            let output = shell.output().unwrap();
            let [stdout, stderr] =
                [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
            assert!(output.status.success(), "{name}:{line}: {}\n{block}\n{stdout}\n{stderr}", output.status);
        }
    }
}

/// A port that a page names as an example, by what stands before it.
const PORT: &str = r"(?:listen\(|127\.0\.0\.1:|localhost:|\bPORT ?= ?|\brsm serve \S+ )(\d{4,5})\b";

fn with_ports(text: &str, ports: &BTreeMap<String, u16>) -> String {
    ports.iter().fold(text.to_owned(), |text, (named, free)| {
        let named = Regex::new(&format!(r"\b{named}\b")).unwrap();
        named.replace_all(&text, free.to_string()).into_owned()
    })
}

/// Stands before the real one in PATH.
const LEAVES_LOGS: &str = r#"#!/usr/bin/env bash
set -o pipefail
case "$*" in
logs*--nostream*) ;;
logs*) "$RSM" "$@" | head -n 1; exit ;;
esac
exec "$RSM" "$@"
"#;

fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let pages = docs.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    pages.chain([root.join("README.md")]).collect()
}

#[test]
fn every_documented_command_works() {
    let pages = pages();
    assert!(pages.len() > 3, "{pages:?}");
    std::thread::scope(|scope| {
        for page in &pages {
            scope.spawn(move || {
                let name = page.file_name().unwrap().to_string_lossy();
                Page::read(&fs::read_to_string(page).unwrap()).run(&name);
            });
        }
    });
}

#[test]
fn readme_example_works() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let rsm = Rsm::new();
    let example = fs::read_to_string(root.join("ecosystem.example.toml")).unwrap();
    let port = crate::harness::free_port();
    rsm.write("ecosystem.example.toml", &example.replace("8080", &port.to_string()));
    std::os::unix::fs::symlink(root.join("examples"), rsm.dir().join("examples")).unwrap();
    rsm.ok(&["start", "ecosystem.example.toml"]);
    crate::harness::wait_until("the site", || {
        crate::harness::get(port, "/").filter(|answer| answer.contains(" 200 "))
    });
    assert_eq!(rsm.statuses("worker"), ["online"]);
}

/// The files below a folder of this repository.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

#[test]
fn files_named_for_contributors_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = [files_below(&root.join("src")), files_below(&root.join("tests"))].concat();
    let code = Regex::new(r"`([a-z0-9_/-]+(?:\.rs|\.sh)|(?:src|tests)/[a-z0-9_/-]+)`").unwrap();
    for page in ["CONTRIBUTING.md", "docs/architecture.md"] {
        let text = fs::read_to_string(root.join(page)).unwrap();
        for name in code.captures_iter(&text).map(|found| found[1].to_owned()) {
            let exists = root.join(&name).exists() || files.iter().any(|file| file.ends_with(&name));
            assert!(exists, "{page}: there is no {name}");
        }
    }
}

#[test]
fn test_comments_are_parsed() {
    let text = "\
<!-- test: file a/b
one

two
-->
<!-- test: file c -->
```toml
x = 1
```
<!-- test: run
true
-->
```sh
false
```
<!-- test: skip this -->
```sh
nothing
```
```text
nothing
```
";
    let files = [("a/b", "one\n\ntwo\n"), ("c", "x = 1\n")].map(|(name, text)| (name.into(), text.into()));
    let blocks = [(10, "true\n"), (13, "false\n")].map(|(line, text)| (line, text.into()));
    assert_eq!(Page::read(text), Page { files: files.into(), blocks: blocks.into() });
}
