//! Log files: each line is written once and in order; rotation and reading.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::harness::{Rsm, read, wait_until};
use flate2::read::MultiGzDecoder;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The text of a log: of its rotated files, oldest first, then of the current one.
fn whole_text(path: &Path) -> String {
    // A file that is compressed in between has another name at the next attempt.
    wait_until("all files of a log", || try_whole_text(path))
}

fn try_whole_text(path: &Path) -> Option<String> {
    let stem = path.file_stem().unwrap().to_str().unwrap();
    let mut parts: Vec<PathBuf> = fs::read_dir(path.parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|part| part.file_name().unwrap().to_str().unwrap().starts_with(&format!("{stem}__")))
        .collect();
    // While a file is compressed, both forms exist for a moment.
    let all = parts.clone();
    parts.retain(|part| part.extension().unwrap() != "gz" || !all.contains(&part.with_extension("")));
    parts.sort_by_cached_key(|part| (fs::metadata(part).and_then(|meta| meta.modified()).ok(), number(part)));
    let own = fs::File::open(path).ok();
    let old: Option<String> = parts.iter().map(|part| text(part)).collect();
    let mut all = old?;
    own.map(|mut own| own.read_to_string(&mut all));
    Some(all)
}

/// The number after the date, for files with the same date.
fn number(path: &Path) -> u32 {
    let name = path.file_name().unwrap().to_str().unwrap();
    name.split('.').nth(1).and_then(|part| part.parse().ok()).unwrap_or(0)
}

fn text(path: &Path) -> Option<String> {
    let mut file = fs::File::open(path).ok()?;
    let mut text = String::new();
    match path.extension().is_some_and(|extension| extension == "gz") {
        true => MultiGzDecoder::new(file).read_to_string(&mut text).unwrap(),
        false => file.read_to_string(&mut text).unwrap(),
    };
    Some(text)
}

fn rotated(rsm: &Rsm) -> usize {
    let logs = fs::read_dir(rsm.home().join("logs")).unwrap();
    logs.filter(|entry| entry.as_ref().unwrap().file_name().to_str().unwrap().contains("__")).count()
}

#[test]
fn lines_are_written_once_despite_daemon_kills() {
    const LINES: u32 = 400_000;
    let app = |name: &str, settings: &str| {
        format!(
            "[[apps]]\nname = '{name}'\nscript = 'seq -f \"number %.0f\" 1 {LINES}; exec sleep 1000'\n{settings}\n"
        )
    };
    let apps = [
        ("raw", "logs = { max_size = '500K', retain = 'all', compress = true }"),
        ("timestamped", "log_date_format = 'HH:mm:ss'\nlogs = { max_size = '1M', retain = 'all' }"),
        ("json", "log_type = 'json'\nlogs = { max_size = '2M', retain = 'all', compress = true }"),
        ("both", "log_file = 'both.log'\nlogs = { max_size = 'none' }"),
    ];
    let rsm = Rsm::new().file("e.toml", &apps.map(|(name, settings)| app(name, settings)).concat());
    rsm.ok(&["start", "e.toml"]);
    let size = || apps.iter().map(|(name, _)| whole_text(&out(&rsm, name)).len()).sum::<usize>();
    for round in 0..12 {
        let before = size();
        kill(Pid::from_raw(rsm.managers().0), Signal::SIGKILL).unwrap();
        wait_until("lines of the next daemon", || {
            let done =
                apps.iter().all(|(name, _)| whole_text(&out(&rsm, name)).contains(&format!(" {LINES}")));
            (done || size() > before).then_some(())
        });
        if round % 3 == 0 {
            rsm.ok(&["reloadLogs"]);
        }
    }
    let paths = apps.iter().map(|(name, _)| out(&rsm, name)).chain([rsm.dir().join("both.log")]);
    for path in paths {
        let last = format!("number {LINES}");
        let text =
            wait_until("the last line", || Some(whole_text(&path)).filter(|text| text.contains(&last)));
        let numbers = text.lines().map(|line| {
            let (_, number) = line.split_once("number ").unwrap_or_else(|| panic!("torn: {line:?}"));
            number.split('"').next().unwrap().parse::<u32>().unwrap()
        });
        assert!(numbers.eq(1..=LINES), "{}", path.display());
    }
}

fn out(rsm: &Rsm, name: &str) -> PathBuf {
    rsm.home().join(format!("logs/{name}-out.log"))
}

#[test]
fn rotation_retains_count_and_reads_back() {
    let rsm = Rsm::new().file(
        "e.toml",
        "[logs]\nmax_size = '10K'\nretain = 3\n[[apps]]\nname = 'a'\nscript = 'seq 1 20000; exec sleep 1000'\n\
         [apps.logs]\ncompress = true\n",
    );
    rsm.ok(&["start", "e.toml"]);
    wait_until("the last line", || whole_text(&out(&rsm, "a")).ends_with("20000\n").then_some(()));
    wait_until("three rotated files, all compressed", || {
        let names = fs::read_dir(rsm.home().join("logs")).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let rotated: Vec<_> = names.filter(|name| name.contains("a-out__")).collect();
        (rotated.len() == 3 && rotated.iter().all(|name| name.ends_with(".log.gz"))).then_some(())
    });
    let kept = whole_text(&out(&rsm, "a"));
    let count = kept.lines().count();
    assert!(count > 5000, "{count}");
    let lines = |args: &[&str]| rsm.ok(&[&["logs", "a", "--nostream", "--raw"], args].concat()).stdout;
    assert_eq!(lines(&["--lines", "100000"]), kept);
    let last: Vec<&str> = kept.lines().skip(count - 4321).collect();
    assert_eq!(lines(&["--lines", "4321"]).lines().collect::<Vec<_>>(), last);
    assert_eq!(lines(&["--since", "1h"]), kept);
    assert_eq!(lines(&["--until", "1h"]), "");
    assert_eq!(lines(&["--grep", "^1[89]000$"]), "18000\n19000\n");
}

#[test]
fn follow_continues_over_rotation() {
    let rsm = Rsm::new().file("app.sh", "#!/bin/sh\nread go < go\nseq 1 50000\nexec sleep 1000\n").file(
        "e.toml",
        "[[apps]]\nname = 'a'\nscript = './app.sh'\nlogs = { max_size = '20K', retain = 'all', compress = true }\n",
    );
    nix::unistd::mkfifo(&rsm.dir().join("go"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    rsm.ok(&["start", "e.toml"]);
    let mut following = rsm.follow(&["logs", "a", "--raw", "--lines", "60000"]);
    fs::write(rsm.dir().join("go"), "go\n").unwrap();
    let lines = following.until("50000");
    let wrong = lines.iter().zip(1..).find(|(line, number)| **line != number.to_string());
    assert_eq!((wrong, lines.len()), (None, 50_000));
    assert!(rotated(&rsm) > 5);
    assert_eq!(following.interrupt().0, Some(0));
}

#[test]
fn both_streams_keep_write_order() {
    let script = "#!/bin/sh\nwait_for() { while [ ! -e $1 ]; do sleep 0.01; done; }\n\
                  for i in 1 2 3 4 5; do wait_for out$i; echo out $i; wait_for err$i; echo err $i >&2; done\n\
                  exec sleep 1000\n";
    let rsm = Rsm::new().file("app.sh", script);
    rsm.ok(&["start", "./app.sh", "--name", "a"]);
    let error = rsm.home().join("logs/a-error.log");
    for i in 1..=5 {
        rsm.write(&format!("out{i}"), "");
        wait_until("a line", || read(out(&rsm, "a")).ends_with(&format!("out {i}\n")).then_some(()));
        rsm.write(&format!("err{i}"), "");
        wait_until("a line", || read(&error).ends_with(&format!("err {i}\n")).then_some(()));
    }
    let shown = rsm.ok(&["logs", "a", "--nostream", "--format"]).stdout;
    let messages: Vec<&str> = shown.lines().map(|line| line.split_once("message=").unwrap().1).collect();
    assert_eq!(
        messages,
        ["out 1", "err 1", "out 2", "err 2", "out 3", "err 3", "out 4", "err 4", "out 5", "err 5"]
    );
}

#[test]
fn dropped_lines_are_counted_in_file() {
    let rsm = Rsm::new().file(
        "e.toml",
        "[[apps]]\nname = 'a'\nscript = 'seq 1 100000; exec sleep 1000'\nout_file = 'a.log'\nlogs = { when_full = 'drop' }\n",
    );
    let path = rsm.dir().join("a.log");
    std::os::unix::fs::symlink("/dev/full", &path).unwrap();
    rsm.ok(&["start", "e.toml"]);
    // The app writes all lines though its file cannot be written, and executes `sleep`.
    wait_until("the app to execute sleep", || {
        let pid = *rsm.pids("a").first()?;
        let cmdline = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        cmdline.starts_with("sleep").then_some(())
    });
    fs::remove_file(&path).unwrap();
    fs::write(&path, "").unwrap();
    rsm.ok(&["reloadLogs"]);
    let text = wait_until("the count", || Some(read(&path)).filter(|text| text.ends_with('\n')));
    assert!(text.starts_with("[rsm] 100000 lines (588895 bytes) dropped: No space left"), "{text}");
}

#[test]
fn moved_or_removed_files_are_recreated() {
    let rsm = Rsm::new()
        .file("app.sh", "#!/bin/sh\nwhile :; do while read line; do echo \"$line\"; done < input; done\n");
    nix::unistd::mkfifo(&rsm.dir().join("input"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    rsm.ok(&["start", "./app.sh", "--name", "a"]);
    let send = |text: &str| fs::write(rsm.dir().join("input"), format!("{text}\n")).unwrap();
    let file = out(&rsm, "a");
    send("one");
    wait_until("a line", || (read(&file) == "one\n").then_some(()));
    fs::remove_file(&file).unwrap();
    send("two");
    wait_until("a new file", || (file.exists() && read(&file) == "two\n").then_some(()));
    let moved = rsm.dir().join("moved.log");
    fs::rename(&file, &moved).unwrap();
    let mut sent = 0;
    wait_until("a new file", || {
        sent += 1;
        send(&sent.to_string());
        file.exists().then_some(())
    });
    let last = format!("{sent}\n");
    wait_until("the last line", || {
        let both = read(&moved) + &if file.exists() { read(&file) } else { String::new() };
        let expected: String =
            std::iter::once("two\n".to_owned()).chain((1..=sent).map(|n| format!("{n}\n"))).collect();
        (both == expected && both.ends_with(&last)).then_some(())
    });
}

#[test]
fn follow_continues_over_external_rotation() {
    let rsm = Rsm::new()
        .file("app.sh", "#!/bin/sh\nwhile :; do while read line; do echo \"$line\"; done < input; done\n");
    nix::unistd::mkfifo(&rsm.dir().join("input"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    rsm.ok(&["start", "./app.sh", "--name", "a"]);
    let mut following = rsm.follow(&["logs", "a", "--raw"]);
    let (file, mut sent, mut seen) = (out(&rsm, "a"), 0, Vec::new());
    let mut send = || {
        sent += 1;
        fs::write(rsm.dir().join("input"), format!("{sent}\n")).unwrap();
        sent.to_string()
    };
    for round in 0..3 {
        seen.extend(following.until(&send()));
        // Like `create` of logrotate: the next lines are still written to the old file.
        fs::rename(&file, rsm.dir().join(format!("{round}.log"))).unwrap();
        fs::write(&file, "").unwrap();
        wait_until("lines in the new file", || {
            send();
            (!read(&file).is_empty()).then_some(())
        });
    }
    let last = send();
    seen.extend(following.until(&last));
    let count = last.parse().unwrap();
    assert_eq!(seen, (1..=count).map(|number: u32| number.to_string()).collect::<Vec<_>>());
    // The stream continues after its directory is replaced by a file.
    fs::rename(rsm.home().join("logs"), rsm.dir().join("logs")).unwrap();
    fs::write(rsm.home().join("logs"), "").unwrap();
    rsm.ok(&["logs", "--nostream"]);
    send();
    fs::remove_file(rsm.home().join("logs")).unwrap();
    wait_until("the next line", || Some(following.until(&send())));
}

#[test]
fn line_longer_than_pipe_is_kept_whole() {
    // One write: while it is blocked on the full pipe, no event reports that there is more.
    let script =
        "#!/usr/bin/env python3\nimport os, time\nos.write(1, b'x' * 3_000_000 + b'\\n')\ntime.sleep(1000)\n";
    for setting in ["log_type = 'json'", "time = true", "merge_logs = true", "log_file = 'both.log'"] {
        let file = format!("[[apps]]\nname = 'a'\nscript = './big.py'\n{setting}\n");
        let rsm = Rsm::new().file("big.py", script).file("e.toml", &file);
        rsm.ok(&["start", "e.toml"]);
        let count = |text: String| text.bytes().filter(|byte| *byte == b'x').count();
        wait_until(setting, || (count(read(out(&rsm, "a"))) >= 3_000_000).then_some(()));
    }
}

#[test]
fn similar_names_have_their_own_files() {
    let app =
        |name: &str| format!("[[apps]]\nname = '{name}'\nscript = 'echo this is {name}; exec sleep 1000'\n");
    let names = ["my_api", "my-api", "my api"];
    let rsm = Rsm::new().file("e.toml", &names.map(app).concat());
    rsm.ok(&["start", "e.toml"]);
    let shown = |name: &str| rsm.ok(&["logs", name, "--nostream", "--raw"]).stdout;
    for name in names {
        wait_until(name, || (shown(name) == format!("this is {name}\n")).then_some(()));
    }
    rsm.ok(&["flush", "my_api"]);
    assert_eq!(names.map(|name| shown(name).lines().count()), [0, 1, 1]);
    let file = |name: &str| rsm.json(&["describe", name, "--json"])[0]["out_file"].clone();
    let before = names.map(file);
    assert_eq!(before[0], out(&rsm, "my-api").to_str().unwrap(), "the first has the name that PM2 gives it");
    // They keep their files, whoever else is gone, restarted or reloaded.
    rsm.ok(&["reload", "my-api"]);
    rsm.ok(&["delete", "my_api"]);
    assert_eq!(file("my-api"), before[1]);
    rsm.ok(&["save"]);
    rsm.ok(&["kill"]);
    rsm.ok(&["resurrect"]);
    assert_eq!([file("my-api"), file("my api")], before[1..]);
}
