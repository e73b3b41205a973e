//! `logs`, `flush`, `reloadLogs`.

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

use crate::harness::{Rsm, read, wait_until};

/// Says numbered lines on both streams, then what comes through the FIFO `say`.
const TALKER: &str = "#!/bin/sh
for i in $(seq 1 30); do echo out-$i; echo err-$i >&2; done
while :; do while read line; do echo \"$line\"; done < say; done
";

fn talker() -> Rsm {
    let rsm = Rsm::new().file("talk.sh", TALKER);
    nix::unistd::mkfifo(&rsm.dir().join("say"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    // Without a pause: a moved file is noticed after half a second, too.
    rsm.ok(&["start", "./talk.sh", "--no-wait"]);
    wait_until("its lines are in the files", || {
        let has = |stream: &str, line| read(file(&rsm, stream)).contains(line);
        (has("out", "out-30\n") && has("error", "err-30\n")).then_some(())
    });
    rsm
}

fn file(rsm: &Rsm, stream: &str) -> std::path::PathBuf {
    rsm.home().join(format!("logs/talk-{stream}.log"))
}

fn say(rsm: &Rsm, line: &str) {
    std::fs::write(rsm.dir().join("say"), format!("{line}\n")).unwrap();
}

#[test]
fn nostream_prints_last_lines() {
    let rsm = talker();
    let lines = |args: &[&str]| -> Vec<String> {
        rsm.ok(&[&["logs", "--nostream"], args].concat()).stdout.lines().map(str::to_owned).collect()
    };
    let all = lines(&[]);
    assert_eq!(all.len(), 30, "fifteen of each: {all:?}");
    assert!(all.contains(&"0|talk | out-16".into()) && !all.contains(&"0|talk | out-15".into()));
    assert_eq!(lines(&["--lines", "2", "--out"]), ["0|talk | out-29", "0|talk | out-30"]);
    assert_eq!(lines(&["talk", "--lines", "1", "--err"]), ["0|talk | err-30"]);
    assert_eq!(lines(&["--lines", "0"]), [""; 0]);
    assert_eq!(lines(&["--lines", "1000"]).len(), 60);
    rsm.run(&["logs", "--out", "--err"]).code(2);
    rsm.run(&["logs", "--lines", "some"]).code(2);
}

#[test]
fn raw_and_json_formats_print_lines() {
    let rsm = talker();
    let raw = rsm.ok(&["logs", "talk", "--nostream", "--raw", "--lines", "2"]);
    assert_eq!((&*raw.stdout, &*raw.stderr), ("out-29\nout-30\n", "err-29\nerr-30\n"));
    let json = rsm.ok(&["logs", "--nostream", "--json", "--lines", "1", "--err"]).stdout;
    let mut line: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(line.as_object_mut().unwrap().remove("timestamp").is_some_and(|at| at.is_u64()));
    assert_eq!(
        line,
        serde_json::json!({ "message": "err-30", "type": "err", "process_id": 0, "app_name": "talk" })
    );
}

#[test]
fn follow_prints_new_lines_until_ctrl_c() {
    let rsm = talker();
    let mut following = rsm.follow(&["logs", "talk", "--lines", "1", "--out"]);
    assert_eq!(following.until("out-30").len(), 1);
    say(&rsm, "said later");
    assert_eq!(following.until("said later"), ["0|talk | said later"]);
    rsm.ok(&["restart", "talk"]);
    following.until("out-30"); // it goes on over a restart
    let (code, rest, stderr) = following.interrupt();
    assert_eq!((code, rest.len(), &*stderr), (Some(0), 0, ""));
}

#[test]
fn follow_includes_apps_started_later() {
    let rsm = talker();
    let mut following = rsm.follow(&["logs", "--lines", "0"]);
    // Nothing tells when following has begun, so the one line is said again until it is seen.
    rsm.ok(&["start", "while :; do echo here I am; sleep 0.1; done", "--name", "new"]);
    assert_eq!(following.until("here I am").last().unwrap(), "1|new | here I am");
    assert_eq!(following.interrupt().0, Some(0));
}

#[test]
fn follow_ends_quietly_on_closed_pipe() {
    let rsm = talker();
    let mut logs = rsm.command(&["logs"]);
    let mut logs = logs.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    let mut head = BufReader::with_capacity(16, logs.stdout.take().unwrap());
    head.read_line(&mut first).unwrap();
    drop(head); // no further line is written, and yet it ends
    assert_eq!(wait_until("its end", || logs.try_wait().unwrap()).code(), Some(0));
    let mut stderr = String::new();
    logs.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert!(first.starts_with("0|talk |") && stderr.is_empty(), "{first} {stderr}");
}

#[test]
fn follow_reports_end_of_daemon() {
    let rsm = talker();
    let mut following = rsm.follow(&["logs", "--lines", "1", "--out"]);
    following.until("out-30");
    rsm.ok(&["kill"]);
    let (code, _, stderr) = following.ended();
    assert_eq!(code, Some(3));
    assert!(stderr.contains("the daemon closed the stream"), "{stderr}");
}

#[test]
fn flush_empties_open_files() {
    let rsm = talker();
    rsm.ok(&["start", "echo kept; exec sleep 1000", "--name", "other"]);
    let other = rsm.home().join("logs/other-out.log");
    wait_until("the other speaks", || (read(&other) == "kept\n").then_some(()));
    rsm.ok(&["flush", "talk"]).says("talk-out.log").says("talk-error.log");
    assert_eq!(
        (read(file(&rsm, "out")), read(file(&rsm, "error")), read(&other)),
        ("".into(), "".into(), "kept\n".into())
    );
    say(&rsm, "after");
    wait_until("it is written on", || (read(file(&rsm, "out")) == "after\n").then_some(()));
    rsm.ok(&["flush"]);
    assert_eq!(read(&other), "");
}

#[test]
fn reload_logs_reopens_moved_files() {
    let rsm = talker();
    let moved = rsm.dir().join("moved.log");
    std::fs::rename(file(&rsm, "out"), &moved).unwrap();
    say(&rsm, "to the old");
    wait_until("it still goes to the moved file", || read(&moved).ends_with("to the old\n").then_some(()));
    rsm.ok(&["reloadLogs"]);
    say(&rsm, "to the new");
    wait_until("a new file", || (read(file(&rsm, "out")) == "to the new\n").then_some(()));
    assert!(read(&moved).ends_with("to the old\n"));
}

#[test]
fn flags_change_line_format() {
    let rsm = talker();
    say(&rsm, "the answer is 42");
    let page = |flags: &[&str]| {
        let args = [&["logs", "talk", "--nostream", "--lines", "5"][..], flags].concat();
        rsm.ok(&args).stdout
    };
    wait_until("the line", || page(&[]).contains("the answer is 42").then_some(()));
    let pairs = page(&["--format"]);
    assert!(pairs.contains("app=talk") && pairs.contains("the answer is 42"), "{pairs}");
    let stamped = page(&["--timestamp", "YYYY"]);
    let year = stamped.lines().find(|line| line.contains("42")).unwrap();
    assert!(
        year.split_whitespace()
            .any(|word| word.trim_end_matches(':').parse::<u16>().is_ok_and(|year| year > 2000)),
        "{year}"
    );
    assert!(page(&["--highlight", "answer"]).contains("answer"));
    assert!(page(&["--grep", "no such"]).lines().all(|line| !line.contains("42")));
    assert!(page(&["--grep", "ans.*42"]).contains("the answer is 42"));
}
