//! What PM2's users type.

use std::os::unix::fs::symlink;
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::SLEEPER;
use crate::harness::{Rsm, alive, wait_until};

#[test]
fn pm2_only_commands_suggest_replacement() {
    let rsm = Rsm::new();
    for word in ["deploy", "install", "link", "pull", "slist", "logrotate", "profile:cpu", "multiset"] {
        let ran = rsm.run(&[word, "x"]).code(2).says(&format!("unknown command {word:?}")).says("help:");
        assert_eq!(ran.stdout, "");
    }
}

#[test]
fn pm2_link_uses_pm2_home_silently() {
    let rsm = Rsm::new();
    let pm2 = rsm.dir().join("pm2");
    symlink(env!("CARGO_BIN_EXE_rsm"), &pm2).unwrap();
    let run = |home: &str, args: &[&str]| {
        let mut command = rsm.command_of(pm2.to_str().unwrap(), args);
        command.env_remove("RSM_HOME").env("PM2_HOME", rsm.dir().join(home)).output().unwrap()
    };
    let started = run("one", &["start", "sleep 1000", "--name", "api"]);
    assert!(started.status.success(), "{started:?}");
    assert!(rsm.dir().join("one/rsm.sock").exists());
    let listed = String::from_utf8(run("one", &["jlist"]).stdout).unwrap();
    assert!(listed.contains("\"name\":\"api\""), "{listed}");
    assert_eq!(run("two", &["jlist"]).stdout, b"[]\n");
    assert!(run("one", &["kill"]).status.success());
    // By its own name PM2's home is not its business, and ours wins where both are given.
    rsm.command(&["start", "sleep 1000"]).env("PM2_HOME", rsm.dir().join("one")).output().unwrap();
    assert!(rsm.home().join("rsm.sock").exists() && !rsm.dir().join("one/rsm.sock").exists());
    let quiet = rsm
        .command_of(pm2.to_str().unwrap(), &["restart", "all"])
        .env("PM2_SILENT", "true")
        .output()
        .unwrap();
    assert!(quiet.status.success() && quiet.stdout.is_empty() && quiet.stderr.is_empty(), "{quiet:?}");
}

#[test]
fn set_keeps_only_known_settings() {
    let rsm = Rsm::new();
    rsm.ok(&["get"]).shows("logs.lines = 15");
    rsm.ok(&["set", "list.sort", "id:desc"]);
    assert_eq!(rsm.ok(&["get", "list:sort"]).stdout, "id:desc\n");
    for name in ["a", "b", "c"] {
        rsm.ok(&["start", "sleep 1000", "--name", name]);
    }
    let order = |args: &[&str]| -> String {
        let table = rsm.ok(args).stdout;
        table
            .lines()
            .filter_map(|line| line.split('│').nth(2))
            .map(str::trim)
            .filter(|name| name.len() == 1)
            .collect()
    };
    assert_eq!(order(&["list"]), "cba");
    assert_eq!(order(&["list", "--sort", "name"]), "abc", "what is said now wins");
    assert_eq!(order(&["restart", "a", "--sort", "name:asc"]), "abc");
    rsm.ok(&["unset", "list.sort"]);
    assert_eq!(order(&["list"]), "abc");
    rsm.run(&["set", "list.sort", "size"]).code(2).says("list.sort");
    rsm.run(&["set", "logs.lnes", "3"]).code(2).says("did you mean logs.lines?");
    let all = "the settings are autosave, list.sort, log.level, logs.budget, logs.lines";
    rsm.run(&["conf", "colours", "3"]).code(2).says(all);
    rsm.run(&["set", "pm2-logrotate:max_size", "10M"]).code(2).says("docs/logs.md");
    rsm.ok(&["unset", "all"]);
    rsm.ok(&["set", "logs.budget", "500M"]);
    rsm.ok(&["conf"]).shows("logs.budget = 524288000 ").shows("logs.lines = 15 ").shows("[default: 10G]");
    rsm.ok(&["unset", "logs.budget"]);
    assert_eq!(rsm.ok(&["get", "logs.budget"]).stdout, "10737418240\n");
    std::fs::write(rsm.home().join("settings.json"), "broken").unwrap();
    rsm.run(&["get", "list.sort"]).code(1).says("settings.json: is not valid");
}

#[test]
fn prettylist_prints_indented_json() {
    let rsm = Rsm::new();
    assert_eq!(rsm.ok(&["prettylist"]).stdout, "[]\n");
    rsm.ok(&["start", "sleep 1000", "--name", "api"]);
    let pretty = rsm.json(&["prettylist"]);
    assert_eq!(pretty[0]["name"], "api");
    assert_eq!(pretty[0]["pm2_env"]["status"], "online");
}

#[test]
fn report_contains_no_secrets() {
    let rsm = Rsm::new();
    rsm.ok(&["report"]).shows("the daemon is not running");
    rsm.write("e.toml", "[[apps]]\nname = 'api'\nscript = 'sleep 1000'\nenv = { TOKEN = 'hunter2' }\n");
    rsm.ok(&["start", "e.toml"]);
    let report = rsm.ok(&["report"]).shows("version").shows("api").shows("rsm.log").stdout;
    assert!(
        report.starts_with("```\n") && report.ends_with("```\n") && !report.contains("hunter2"),
        "{report}"
    );
}

#[test]
fn obsolete_flags_are_accepted() {
    let rsm = Rsm::new().file("app.sh", SLEEPER);
    rsm.ok(&["start", "app.sh", "--no-vizion", "--no-pmx", "--no-automation", "--v8", "--parallel", "4"])
        .says("warning: --v8 is ignored");
    rsm.ok(&["restart", "app", "--no-vizion", "--trace"]).says("--trace is ignored");
    rsm.ok(&["startOrRestart", "app.sh", "-f", "-w"]).says("the file is never rewritten");
    assert_eq!(rsm.pids("app").len(), 2);
}

#[test]
fn no_daemon_ends_apps_with_command() {
    let rsm = Rsm::new().file("app.sh", "#!/bin/sh\necho hello\nexec sleep 1000\n");
    let mut command = rsm.command(&["start", "app.sh", "--no-daemon"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("the app runs", || rsm.home().join("rsm.sock").exists().then_some(()));
    rsm.wait_status("app", "online");
    let pids = rsm.pids("app");
    let (daemon, keeper) = rsm.managers();
    // The command listens for the signal before it follows the logs; it is sent until it has heard.
    let pid = Pid::from_raw(child.id() as i32);
    wait_until("all is gone", || {
        let _ = kill(pid, Signal::SIGTERM);
        (![pids[0], daemon, keeper].into_iter().any(alive)).then_some(())
    });
    drop(child.wait_with_output().unwrap());
}
