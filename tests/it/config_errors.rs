//! A file with mistakes: all are told at once, each with its place, and nothing is done.

use crate::harness::Rsm;

const TEN_MISTAKES: &str = r#"[[apps]]
name = "api"
script = "./missing.js"
max_restart = 3
instances = "several"
kill_timeout = "soon"
kill_signal = "SIGNONE"
max_memory_restart = "lots"
cron_restart = "every day"

[[apps]]
name = "api"
script = "sleep 1000"
autorestart = "yes"
cwd = "./nowhere"

[[apps]]
name = "right"
script = "sleep 1000"
"#;

/// Where each mistake is, and a word of it.
const PLACES: [(&str, &str); 10] = [
    ("3:10", "missing.js"),
    ("4:1", "max_restart"),
    ("5:13", "several"),
    ("6:16", "soon"),
    ("7:15", "SIGNONE"),
    ("8:22", "lots"),
    ("9:16", "every day"),
    ("12:8", "api"),
    ("14:15", "autorestart"),
    ("15:7", "nowhere"),
];

fn all_ten_are_told(stderr: &str) {
    let blocks: Vec<&str> = stderr.split("error: ").skip(1).collect();
    assert_eq!(blocks.len(), PLACES.len(), "{stderr}");
    for (block, (place, word)) in blocks.iter().zip(PLACES) {
        assert!(block.starts_with(&format!("ecosystem.toml:{place}: ")), "not at {place}: {block}");
        assert!(block.contains(word), "{place}: {block}");
    }
}

#[test]
fn reports_all_errors_and_starts_nothing() {
    let rsm = Rsm::new().file("ecosystem.toml", TEN_MISTAKES);
    for args in [&["start"][..], &["start", "ecosystem.toml"], &["restart", "ecosystem.toml"]] {
        let ran = rsm.run(args).code(1);
        assert_eq!(ran.stdout, "");
        all_ten_are_told(&ran.stderr);
    }
    assert!(!rsm.home().exists(), "a daemon was started, or its home made");
}

#[test]
fn invalid_file_keeps_running_apps() {
    let rsm = Rsm::new().file("ecosystem.toml", TEN_MISTAKES);
    rsm.ok(&["start", "sleep 1000", "--name", "api"]);
    let before = rsm.pids("api");
    // What stands before the file is not started either.
    rsm.write("app.sh", "#!/bin/sh\nexec sleep 1000\n");
    all_ten_are_told(&rsm.run(&["start", "./app.sh", "ecosystem.toml"]).code(1).stderr);
    all_ten_are_told(&rsm.run(&["restart", "api", "ecosystem.toml"]).code(1).stderr);
    assert_eq!((rsm.pids("api"), rsm.list().len()), (before, 1));
}

#[test]
fn reports_syntax_errors_with_position() {
    let rsm = Rsm::new().file("ecosystem.toml", "[[apps]]\nname = \"api\nscript = \"x\"\n");
    rsm.run(&["start"]).code(1).says("error: ecosystem.toml:2:");
    rsm.write("ecosystem.toml", "");
    rsm.run(&["start"]).code(1).says("ecosystem.toml").says("help:");
    std::fs::remove_file(rsm.dir().join("ecosystem.toml")).unwrap();
    std::fs::create_dir(rsm.dir().join("ecosystem.toml")).unwrap();
    rsm.run(&["start", "ecosystem.toml"]).code(1).says("ecosystem.toml");
    rsm.run(&["start", "gone.toml"]).code(1).says("gone.toml: no such file");
    std::fs::write(rsm.dir().join("bytes.toml"), b"[[apps]]\nname = \"\xff\"\n").unwrap();
    rsm.run(&["start", "bytes.toml"]).code(1).says("bytes.toml").says("UTF-8");
    assert!(!rsm.home().exists());
}

#[test]
fn flags_are_validated_like_keys() {
    let rsm = Rsm::new();
    let ran =
        rsm.run(&["start", "sleep 1", "--kill-timeout", "soon", "--max-memory-restart", "lots", "-i", "x"]);
    let ran = ran.code(1).says("--kill-timeout: ").says("--max-memory-restart: ").says("--instances: ");
    assert_eq!(ran.stderr.matches("error: ").count(), 3, "{}", ran.stderr);
    assert!(!rsm.home().exists());
}
