//! Followers of logs: daemons that are killed, followers that do not read, and the log budget.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::process::{Child, Stdio};

use crate::harness::{Rsm, read, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// An app that prints the numbers up to `lines` once [`go`] releases it.
fn counting(lines: usize, logs: &str) -> Rsm {
    let rsm = Rsm::new()
        .file("count.sh", &format!("#!/bin/sh\nread go < go\nseq 1 {lines}\nexec sleep 1000\n"))
        .file("e.toml", &format!("[[apps]]\nname = 'a'\nscript = './count.sh'\nlogs = {{ {logs} }}\n"));
    nix::unistd::mkfifo(&rsm.dir().join("go"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    rsm.ok(&["start", "e.toml"]);
    rsm
}

fn go(rsm: &Rsm) {
    fs::write(rsm.dir().join("go"), "go\n").unwrap();
}

#[test]
fn follow_survives_killing_daemon() {
    const STEP: usize = 20_000;
    const LINES: usize = 200_000;
    let rsm = counting(LINES, "max_size = '100K', retain = 'all', compress = true");
    let mut following = rsm.follow(&["logs", "a", "--raw", "--lines", "9999999"]);
    let mut other = rsm.follow(&["logs", "a", "--raw", "--grep", "000$", "--lines", "9999999"]);
    go(&rsm);
    let (mut lines, mut thousands) = (Vec::new(), Vec::new());
    for step in 1..=LINES / STEP {
        let last = (step * STEP).to_string();
        lines.extend(following.until(&last));
        thousands.extend(other.until(&last));
        kill(Pid::from_raw(rsm.managers().0), Signal::SIGKILL).unwrap();
    }
    let wrong = lines.iter().zip(1..).find(|(line, number)| **line != number.to_string());
    assert_eq!((wrong, lines.len()), (None, LINES));
    let expected: Vec<String> = (1..=LINES / 1000).map(|number| format!("{number}000")).collect();
    assert_eq!(thousands, expected);
    rsm.ok(&["kill"]);
    let (code, rest, stderr) = following.ended();
    assert_eq!((code, rest.len()), (Some(3), 0), "{stderr}");
}

/// A follower that does not read its output.
fn stalled(rsm: &Rsm) -> Child {
    let args = ["logs", "a", "--json", "--lines", "9999999"];
    rsm.command(&args).stdout(Stdio::piped()).spawn().unwrap()
}

#[test]
fn stalled_readers_are_told_missed_lines() {
    const LINES: usize = 300_000;
    let rsm = counting(LINES, "max_size = '100K', retain = 'all'");
    let mut following = rsm.follow(&["logs", "a", "--raw", "--lines", "9999999"]);
    let mut stalled_readers: Vec<Child> = (0..5).map(|_| stalled(&rsm)).collect();
    go(&rsm);
    let lines = following.until(&LINES.to_string());
    let wrong = lines.iter().zip(1..).find(|(line, number)| **line != number.to_string());
    assert_eq!((wrong, lines.len()), (None, LINES));
    // Remove all rotated files before the stalled readers read.
    let logs = rsm.home().join("logs");
    for entry in fs::read_dir(logs).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_str().unwrap().starts_with("a-out__") {
            fs::remove_file(path).unwrap();
        }
    }
    for child in &mut stalled_readers {
        let (mut seen, mut missed) = (0, 0);
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let item: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
            match item["type"].as_str() {
                Some("missed") => missed += item["lines"].as_u64().unwrap(),
                _ => {
                    seen += 1;
                    let message = item["message"].as_str().unwrap();
                    assert_eq!(message, (seen + missed).to_string());
                    if message == LINES.to_string() {
                        break;
                    }
                }
            }
        }
        assert_eq!(seen + missed, LINES as u64);
        assert!(missed > 0);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn log_budget_holds_during_flood() {
    const BUDGET: u64 = 3_000_000;
    const SEGMENT: u64 = 500_000;
    let rsm = counting(2_000_000, "max_size = '500K', retain = 'all', compress = true");
    rsm.ok(&["conf", "logs.budget", &BUDGET.to_string()]);
    go(&rsm);
    let logs = rsm.home().join("logs");
    let total = || {
        let entries = fs::read_dir(&logs).unwrap().filter_map(|entry| entry.ok()?.metadata().ok());
        // A file that is renamed while the directory is read may be listed twice.
        entries.map(|meta| (meta.ino(), meta.len())).collect::<HashMap<_, _>>().values().sum::<u64>()
    };
    wait_until("the last line", || {
        // A listing may contain both a file removed meanwhile and its successor; not all of several listings
        // do.
        let over = (0..10).map(|_| total()).min().unwrap();
        assert!(over <= BUDGET + SEGMENT, "{over}");
        read(logs.join("a-out.log")).ends_with("2000000\n").then_some(())
    });
    assert!(total() > BUDGET / 2);
}
