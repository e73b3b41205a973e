//! Which apps a command means: id, name, namespace, pattern, `all`, a file; and what it means
//! to mean none.

use super::{SLEEPER, all_of, three_apps};
use crate::harness::{Rsm, read, wait_until};

fn stopped(rsm: &Rsm) -> Vec<u64> {
    let list = rsm.json(&["list", "--json"]);
    let mut ids: Vec<u64> = list
        .as_array()
        .unwrap()
        .iter()
        .filter(|view| view["status"] == "stopped")
        .map(|view| view["id"].as_u64().unwrap())
        .collect();
    ids.sort_unstable();
    ids
}

#[test]
fn selectors_accept_every_form() {
    let rsm = three_apps();
    let ways: [(&[&str], &[u64]); 8] = [
        (&["0"], &[0]),
        (&["api"], &[0, 1]),
        (&["front"], &[2]),
        (&["default"], &[0, 1, 3]),
        (&["/^(api|job)$/"], &[0, 1, 3]),
        (&["/E/"], &[]),
        (&["all"], &[0, 1, 2, 3]),
        (&["job", "1", "job"], &[1, 3]),
    ];
    for (select, ids) in ways {
        let code = i32::from(ids.is_empty());
        rsm.run(&[&["stop"], select].concat()).code(code);
        assert_eq!(stopped(&rsm), ids, "{select:?}");
        rsm.ok(&["start", "all"]);
        assert!(stopped(&rsm).is_empty());
    }
    rsm.ok(&["stop", "web"]);
    rsm.ok(&["restart", "/b$/"]);
    assert!(stopped(&rsm).is_empty());
    rsm.ok(&["delete", "/^[aw]/"]);
    assert_eq!(all_of(&rsm).len(), 1);
}

#[test]
fn number_selects_app_name_before_id() {
    let rsm = Rsm::new();
    rsm.ok(&["start", "sleep 1000", "--name", "first"]);
    rsm.ok(&["start", "sleep 1000", "--name", "0"]);
    rsm.ok(&["stop", "0"]);
    assert_eq!((rsm.statuses("first"), rsm.statuses("0")), (vec!["online".into()], vec!["stopped".into()]));
}

#[test]
fn rejects_unknown_selector_without_acting() {
    let rsm = three_apps();
    let before = all_of(&rsm);
    let verbs: [&[&str]; 7] = [
        &["stop"],
        &["restart"],
        &["delete"],
        &["reset"],
        &["describe"],
        &["sendSignal", "SIGTERM"],
        &["flush"],
    ];
    for verb in verbs {
        let ran = rsm.run(&[verb, &["all", "jbo"]].concat()).code(1);
        let ran = ran.says("error: no app, namespace or id matches \"jbo\"").says("did you mean \"job\"?");
        assert_eq!(ran.stdout, "", "{verb:?}");
        let ran = rsm.run(&[verb, &["web", "99"]].concat()).code(1).says("\"99\"");
        assert!(!ran.stderr.contains("did you mean"), "{}", ran.stderr);
        rsm.run(&[verb, &["/(/"]].concat()).code(1).says("invalid regular expression");
    }
    rsm.run(&["scale", "jbo", "3"]).code(1).says("did you mean \"job\"?");
    rsm.run(&["logs", "jbo", "--nostream"]).code(1).says("did you mean \"job\"?");
    assert_eq!(all_of(&rsm), before);
}

#[test]
fn file_selects_its_apps() {
    let two =
        "[[apps]]\nname = \"api\"\nscript = \"sleep 1\"\n[[apps]]\nname = \"gone\"\nscript = \"sleep 1\"\n";
    let rsm = three_apps()
        .file("ecosystem.toml", two)
        .file("none.toml", "[[apps]]\nname = \"other\"\nscript = \"sleep 1\"\n");
    rsm.ok(&["stop", "ecosystem.toml"]).says("\"gone\" of ecosystem.toml is not in the list");
    assert_eq!(stopped(&rsm), [0, 1]);
    let before = all_of(&rsm);
    rsm.run(&["delete", "none.toml"]).code(1).says("no app of none.toml is in the list: other");
    rsm.run(&["stop", "ecosystem.toml", "--only", "gone"]).code(1).says("gone");
    rsm.run(&["stop", "missing.toml"]).code(1).says("missing.toml");
    assert_eq!(all_of(&rsm), before);
    rsm.ok(&["delete", "ecosystem.toml", "web"]);
    assert_eq!(all_of(&rsm).len(), 1);
}

#[test]
fn restart_of_file_starts_missing_apps() {
    let file =
        "[[apps]]\nname = \"a\"\nscript = \"sleep 1000\"\n[[apps]]\nname = \"b\"\nscript = \"sleep 1000\"\n";
    let rsm = Rsm::new().file("ecosystem.toml", file);
    rsm.ok(&["restart", "ecosystem.toml", "--only", "a"]);
    let first = rsm.pids("a");
    rsm.ok(&["restart", "ecosystem.toml"]);
    assert_eq!((rsm.pids("a").len(), rsm.pids("b").len()), (1, 1));
    assert_ne!(rsm.pids("a"), first);
}

#[test]
fn selecting_apps_does_not_start_daemon() {
    let rsm = Rsm::new();
    let verbs: [&[&str]; 8] = [
        &["stop", "api"],
        &["restart", "api"],
        &["delete", "all"],
        &["reset", "api"],
        &["scale", "api", "2"],
        &["sendSignal", "SIGHUP", "api"],
        &["describe", "api"],
        &["env", "0"],
    ];
    for verb in verbs {
        rsm.run(verb).code(1).says("the daemon is not running").says("help:");
    }
    for verb in [&["ping"], &["info"], &["logs"], &["save"]] {
        rsm.run(verb).code(3).says("the daemon is not running");
    }
    rsm.ok(&["kill"]).says("the daemon is not running");
    assert!(!rsm.home().join("rsm.sock").exists());
}

/// Apps of these scripts: `web` and `admin` of `app.sh`, `child` of `lib/child.sh`, and one called `named.sh`.
fn apps_of_scripts() -> Rsm {
    let rsm = Rsm::new().file("app.sh", SLEEPER).file("lib/child.sh", SLEEPER).file("named.sh", SLEEPER);
    rsm.ok(&["start", "app.sh", "--name", "web"]);
    rsm.ok(&["start", "./app.sh", "--name", "admin", "-i", "2"]);
    rsm.ok(&["start", "lib/child.sh"]);
    rsm.ok(&["start", "sleep", "--name", "named.sh", "--", "1000"]);
    rsm
}

#[test]
fn paths_of_scripts_select_all_apps_that_run_them() {
    let rsm = apps_of_scripts();
    let absolute = rsm.dir().join("app.sh");
    for path in ["app.sh", "./app.sh", "lib/../app.sh", absolute.to_str().unwrap()] {
        rsm.ok(&["stop", path]);
        assert_eq!(stopped(&rsm), [0, 1, 2], "{path}");
        rsm.ok(&["restart", path]);
        assert!(stopped(&rsm).is_empty(), "{path}");
    }
    rsm.ok(&["stop", "named.sh"]);
    assert_eq!(stopped(&rsm), [4], "names come before paths");
    rsm.ok(&["reload", "lib/child.sh"]);
    rsm.ok(&["restart", "lib/child.sh", "--max-memory-restart", "300M"]);
    rsm.run(&["describe", "child.sh"]).code(1);
}

#[test]
fn every_command_on_apps_takes_paths() {
    let rsm = apps_of_scripts();
    let details = rsm.json(&["describe", "lib/child.sh", "--json"]);
    assert_eq!(details[0]["name"], "child");
    rsm.ok(&["sendSignal", "SIGCONT", "app.sh"]);
    rsm.ok(&["logs", "app.sh", "--nostream"]);
    let flushed = rsm.ok(&["flush", "app.sh"]).says("web-out.log").says("admin-out-1.log");
    assert!(!flushed.stderr.contains("child"), "{}", flushed.stderr);
    rsm.ok(&["env", "lib/child.sh"]);
    rsm.run(&["send", "app.sh", "hello"]).code(1).says("0, 1, 2");
    rsm.ok(&["reset", "app.sh"]);
    rsm.ok(&["restart", "app.sh", "--watch"]);
    rsm.ok(&["delete", "app.sh", "lib/child.sh"]);
    assert_eq!(rsm.list().len(), 1);
    rsm.run(&["stop", "app.sh"]).code(1).says("no app, namespace or id matches \"app.sh\"");
    rsm.run(&["stop", "/app/"]).code(1).says("/app/");
}

#[test]
fn links_are_followed_at_each_start() {
    let script = |text: &str| format!("#!/bin/sh\necho {text}\nexec sleep 1000\n");
    let rsm = Rsm::new().file("v1/app.sh", &script("one")).file("v2/app.sh", &script("two"));
    let config = "[[apps]]\nname = 'filed'\nscript = './app.sh'\nwatch = true\ncwd = '.'\n";
    rsm.write("v1/ecosystem.toml", config);
    rsm.write("v2/ecosystem.toml", config);
    let link = rsm.dir().join("current");
    std::os::unix::fs::symlink("v1", &link).unwrap();
    let typed = |args: &[&str]| {
        let mut command = rsm.command(args);
        let output = command.current_dir(&link).env("PWD", &link).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    typed(&["start", "app.sh"]);
    typed(&["start", "app.sh", "--name", "here", "--cwd", "."]);
    typed(&["start", "ecosystem.toml"]);
    let link_text = link.to_str().unwrap();
    for detail in rsm.json(&["describe", "all", "--json"]).as_array().unwrap() {
        assert_eq!(detail["spec"]["cwd"], link_text, "{detail}");
        assert_eq!(detail["script"], format!("{link_text}/app.sh"));
    }
    assert_eq!(rsm.json(&["describe", "filed", "--json"])[0]["spec"]["watch"]["paths"][0], link_text);
    std::fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink("v2", &link).unwrap();
    typed(&["restart", "app.sh"]);
    for name in ["app", "here", "filed"] {
        let log = rsm.home().join(format!("logs/{name}-out.log"));
        wait_until("the new version runs", || read(&log).contains("two").then_some(()));
    }
    // A `PWD` of another directory, as after `cd` in a program, does not count.
    let mut command = rsm.command(&["start", "v1/app.sh", "--name", "other"]);
    command.env("PWD", "/").output().unwrap();
    assert_eq!(rsm.json(&["describe", "other", "--json"])[0]["spec"]["cwd"], rsm.dir().to_str().unwrap());
}
