//! `start`: everything it takes for an app, and its flags.

use super::{SLEEPER, all_of};
use crate::harness::{Rsm, cmdline, environ, read, wait_until};

#[test]
fn starts_script_program_and_shell_line() {
    let rsm = Rsm::new().file("app.sh", SLEEPER).file("two words.sh", SLEEPER);
    rsm.ok(&["start", "./app.sh"]).says("app (0): started, online");
    rsm.ok(&["start", "sleep", "--", "1001"]);
    rsm.ok(&["start", "while :; do echo tick; sleep 1; done", "--name", "line"]);
    rsm.ok(&["start", "./two words.sh"]);
    let names: Vec<_> = rsm.json(&["list", "--json", "--sort", "id"]).as_array().unwrap().to_vec();
    let names: Vec<&str> = names.iter().map(|view| view["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["app", "sleep", "line", "two words"]);
    assert_eq!(cmdline(rsm.pids("sleep")[0]), ["sleep", "1001"]);
    wait_until("the shell line speaks", || {
        read(rsm.home().join("logs/line-out.log")).contains("tick").then_some(())
    });
}

#[test]
fn starts_several_scripts_at_once() {
    let rsm = Rsm::new().file("one.sh", SLEEPER).file("two.sh", SLEEPER);
    rsm.ok(&["start", "./one.sh", "./two.sh"]);
    assert_eq!((rsm.pids("one").len(), rsm.pids("two").len()), (1, 1));
    rsm.run(&["start", "./one.sh", "./two.sh", "--name", "both"]).code(2).says("--name");
}

#[test]
fn missing_script_starts_none_of_several() {
    let rsm = Rsm::new().file("one.sh", SLEEPER);
    rsm.run(&["start", "./one.sh", "./missing.sh"]).code(1).says("missing.sh").says("help:");
    rsm.run(&["start", "./one.sh", "7"]).code(1);
    rsm.run(&["start", "no-such-program-here"]).code(1).says("no-such-program-here");
    assert!(!rsm.home().join("rsm.sock").exists(), "a daemon was started for nothing");
}

#[test]
fn rejects_one_name_for_several_scripts() {
    let rsm = Rsm::new().file("one.sh", SLEEPER).file("two.sh", SLEEPER);
    rsm.run(&["start", "one.sh", "two.sh", "-i", "2", "--name", "x"]).code(2).says("separately");
    assert!(!rsm.home().join("rsm.sock").exists(), "nothing was started");
    rsm.ok(&["start", "one.sh", "two.sh", "-i", "2"]);
    assert_eq!((rsm.pids("one").len(), rsm.pids("two").len()), (2, 2));
}

#[test]
fn starts_stopped_app_by_name_or_id() {
    let rsm = Rsm::new();
    rsm.ok(&["start", "sleep 1000", "--name", "nap", "-i", "2"]);
    rsm.ok(&["stop", "nap"]);
    rsm.ok(&["start", "nap"]);
    assert_eq!(rsm.statuses("nap"), ["online", "online"]);
    rsm.ok(&["stop", "nap"]);
    rsm.ok(&["start", "1"]);
    assert_eq!(rsm.statuses("nap"), ["stopped", "online"]);
    rsm.ok(&["start", "all"]);
    assert_eq!(rsm.statuses("nap"), ["online", "online"]);
    rsm.run(&["start", "7"]).code(1).says("no app, namespace or id matches \"7\"");
}

#[test]
fn rejects_running_name_unless_forced() {
    let rsm = Rsm::new().file("app.sh", SLEEPER);
    rsm.ok(&["start", "./app.sh"]);
    let before = all_of(&rsm);
    rsm.run(&["start", "./app.sh"]).code(1).says("is already running").says("--force");
    assert_eq!(all_of(&rsm), before);
    rsm.ok(&["start", "./app.sh", "--force"]);
    assert_eq!(rsm.pids("app").len(), 2);
    let numbers: Vec<_> = rsm.list().iter().map(|view| view["number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [0, 1], "the other one has a number of its own");
}

#[test]
fn start_of_stopped_script_applies_new_flags() {
    let rsm = Rsm::new().file("app.sh", "#!/bin/sh\nexec sleep \"$1\"\n");
    rsm.ok(&["start", "./app.sh", "--", "1001"]);
    rsm.ok(&["stop", "app"]);
    rsm.ok(&["start", "./app.sh", "--", "1002"]);
    let pids = rsm.pids("app");
    assert_eq!(pids.len(), 1, "it is not added a second time");
    wait_until("it sleeps as long as it was told now", || {
        (cmdline(pids[0]) == ["sleep", "1002"]).then_some(())
    });
}

#[test]
fn flags_reach_the_app() {
    let rsm = Rsm::new().file("show.js", "setInterval(() => {}, 1000)").file("below/x", "");
    rsm.ok(&[
        "start",
        "show.js",
        "--name",
        "shown",
        "-i",
        "3",
        "-x",
        "--cwd",
        "below",
        "--namespace",
        "group",
        "--node-args",
        "--no-warnings --stack-size=900",
        "--port",
        "4100",
        "--",
        "--port",
        "1",
        "-i",
        "two words",
    ]);
    let pids = rsm.pids("shown");
    assert_eq!(pids.len(), 3);
    let line = cmdline(pids[0]);
    let script = rsm.dir().join("show.js");
    let args =
        ["--no-warnings", "--stack-size=900", script.to_str().unwrap(), "--port", "1", "-i", "two words"];
    assert_eq!(line[1..], args, "{line:?}");
    let cwd = std::fs::read_link(format!("/proc/{}/cwd", pids[0])).unwrap();
    assert_eq!(cwd, rsm.dir().join("below").canonicalize().unwrap());
    let env = environ(pids[2]);
    assert_eq!((&*env["PORT"], &*env["NODE_APP_INSTANCE"]), ("4100", "2"));
    assert_eq!(rsm.list()[0]["namespace"], "group");
}

#[test]
fn interpreter_flag_selects_interpreter() {
    let rsm = Rsm::new().file("app.sh", "import time\ntime.sleep(1000)\n").file("direct.sh", SLEEPER);
    rsm.ok(&["start", "app.sh", "--interpreter", "python3"]);
    let pid = rsm.pids("app")[0];
    let python = || cmdline(pid).iter().any(|word| word.contains("python3")); // or what stands for it
    wait_until("python3 runs it", || python().then_some(()));
    rsm.ok(&["start", "./direct.sh", "--interpreter", "none"]);
    rsm.run(&["start", "app.sh", "--name", "other", "--interpreter", "pythoon"]).code(1).says("pythoon");
}

const TWO_APPS: &str = r#"
[[apps]]
name = "api"
script = "sleep 1000"
env = { MODE = "plain", KEPT = "yes" }
env_production = { MODE = "production" }

[[apps]]
name = "worker"
script = "sleep 1000"
"#;

#[test]
fn starts_ecosystem_file_of_current_directory() {
    let rsm = Rsm::new();
    rsm.run(&["start"]).code(1).says("no ecosystem.toml in").says("help:");
    rsm.write("ecosystem.toml", TWO_APPS);
    rsm.ok(&["start"]);
    assert_eq!((rsm.pids("api").len(), rsm.pids("worker").len()), (1, 1));
}

#[test]
fn only_and_env_select_from_file() {
    let rsm = Rsm::new().file("ecosystem.toml", TWO_APPS);
    rsm.ok(&["start", "ecosystem.toml", "--only", "api", "--env", "production"]);
    assert!(rsm.statuses("worker").is_empty());
    let env = environ(rsm.pids("api")[0]);
    assert_eq!((&*env["MODE"], &*env["KEPT"]), ("production", "yes"));
    rsm.run(&["start", "ecosystem.toml", "--only", "apj"]).code(1).says("apj").says("available: api, worker");
    rsm.ok(&["start", "ecosystem.toml", "--env", "staging", "--only", "worker"]).says("no `env_staging`");
    rsm.ok(&["start", "sleep", "--env", "production", "--", "1000"])
        .says("warning: --env: app \"sleep\" has no `env_production`");
    rsm.ok(&["restart", "sleep", "--env", "production"])
        .says("warning: --env has no effect without an ecosystem file");
}

#[test]
fn starting_file_again_applies_its_settings() {
    let rsm = Rsm::new().file("ecosystem.toml", TWO_APPS);
    rsm.ok(&["start", "ecosystem.toml"]);
    let before = rsm.pids("api");
    rsm.write(
        "ecosystem.toml",
        &TWO_APPS.replace("plain", "changed").replace("1000\"\n", "1000\"\ninstances = 2\n"),
    );
    rsm.ok(&["start", "ecosystem.toml"]);
    let after = rsm.pids("api");
    assert!(after.len() == 2 && !after.contains(&before[0]), "{before:?} {after:?}");
    assert!(after.iter().all(|pid| environ(*pid)["MODE"] == "changed"));
}

#[test]
fn update_env_applies_environment_of_shell() {
    let rsm = Rsm::new();
    rsm.ok(&["start", "sleep 1000", "--name", "nap"]);
    let marked = |args: &[&str]| {
        let ran = rsm.command(args).env("FROM_THE_SHELL", "now").output().unwrap();
        assert!(ran.status.success(), "{ran:?}");
        environ(rsm.pids("nap")[0]).get("FROM_THE_SHELL").cloned()
    };
    assert_eq!(marked(&["restart", "nap"]), None, "as it was started");
    assert_eq!(marked(&["start", "nap", "--update-env"]).as_deref(), Some("now"));
    rsm.ok(&["restart", "nap"]);
    assert_eq!(environ(rsm.pids("nap")[0])["FROM_THE_SHELL"], "now", "it stays so");
    rsm.ok(&["restart", "nap", "-a"]);
    assert!(!environ(rsm.pids("nap")[0]).contains_key("FROM_THE_SHELL"));
}

#[test]
fn unknown_name_is_a_new_app() {
    let rsm = Rsm::new();
    rsm.ok(&["start", "sleep", "--namespace", "sleep", "--", "1000"]);
    rsm.ok(&["start", "sleep", "--name", "nap", "--", "1001"]);
    assert_eq!((rsm.pids("sleep").len(), rsm.pids("nap").len()), (1, 1));
    assert_eq!(cmdline(rsm.pids("nap")[0]), ["sleep", "1001"]);
    rsm.run(&["start", "sleep", "--name", "nap"]).code(1).says("already running");
}

#[test]
fn starts_listed_app_with_the_name_of_a_domain() {
    let rsm = Rsm::new();
    rsm.ok(&["start", "sleep", "--name", "example.com", "--", "1000"]);
    rsm.ok(&["stop", "example.com"]);
    rsm.ok(&["start", "example.com"]);
    assert_eq!(rsm.statuses("example.com"), ["online"]);
}

#[test]
fn directory_runs_as_node_runs_it() {
    let rsm = Rsm::new().file("index.js", "setInterval(() => {}, 1000)");
    rsm.write("site/package.json", r#"{ "main": "lib/main", "version": "1.2.3" }"#);
    rsm.write("site/lib/main.js", "console.log('main'); setInterval(() => {}, 1000)");
    rsm.write("empty/package.json", r#"{ "scripts": { "start": "true" } }"#);
    rsm.ok(&["start", "."]);
    rsm.ok(&["start", "./site"]);
    let names: Vec<_> = rsm.list().iter().map(|view| view["name"].as_str().unwrap().to_owned()).collect();
    assert_eq!(names, ["app", "site"], "the name of the directory");
    wait_until("main runs", || read(rsm.home().join("logs/site-out.log")).contains("main").then_some(()));
    rsm.run(&["start", "empty"]).code(1).says("neither a package.json with `main`").says("-- start");
    rsm.ok(&["stop", "."]);
    assert_eq!((rsm.statuses("app"), rsm.statuses("site")), (vec!["stopped".into()], vec!["online".into()]));
}

#[test]
fn typescript_needs_a_program_that_runs_it() {
    let node = "#!/bin/sh\n[ \"$1\" = --version ] && echo v20.1.0\n";
    let rsm = Rsm::new().file("app.ts", "const a: number = 1").file("bin/node", node);
    let path = format!("{}:/bin", rsm.dir().join("bin").display());
    let start = |args: &[&str]| {
        let output = rsm.command(args).env("PATH", &path).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for args in [&["start", "app.ts"][..], &["start", "app.ts", "--interpreter", "node"]] {
        let (code, text) = start(args);
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains("Node.js v20.1.0 cannot run TypeScript") && text.contains("tsx"), "{text}");
    }
    rsm.write("node_modules/.bin/tsx", SLEEPER);
    assert_eq!(start(&["start", "app.ts"]).0, Some(0), "the tsx of the project is used");
}

#[test]
fn source_maps_are_enabled_where_there_is_one() {
    let script = "console.log(process.execArgv.join()); setInterval(() => {}, 1000)";
    let rsm = Rsm::new().file("app.js", script).file("mapped.js", script).file("mapped.js.map", "{}");
    rsm.ok(&["start", "app.js"]);
    rsm.ok(&["start", "app.js", "--name", "asked", "--source-map-support"]);
    rsm.ok(&["start", "mapped.js"]);
    rsm.ok(&["start", "mapped.js", "--name", "off", "--disable-source-map-support"]);
    for (name, expected) in [
        ("app", "\n"),
        ("asked", "--enable-source-maps\n"),
        ("mapped", "--enable-source-maps\n"),
        ("off", "\n"),
    ] {
        let log = rsm.home().join(format!("logs/{name}-out.log"));
        wait_until("the app prints", || (!read(&log).is_empty()).then_some(()));
        assert_eq!(read(&log), expected, "{name}");
    }
}

#[test]
fn program_that_moved_is_found_where_a_login_has_it() {
    let tool = "#!/usr/bin/env node\n";
    let rsm = Rsm::new().file("v18/bin/tool", tool).file("v18/bin/node", "#!/bin/sh\nexec sleep 1000\n");
    let bin = |version: &str| rsm.dir().join(version).join("bin").display().to_string();
    // The daemon has the `PATH` of a login that has the new version.
    let login = format!("{}:/usr/bin:/bin", bin("v20"));
    assert!(rsm.command(&["start", "sleep", "--", "1000"]).env("PATH", &login).status().unwrap().success());
    let own = format!("{}:/usr/bin:/bin", bin("v18"));
    for args in [&["start", "tool", "--", "start"][..], &["start", "tool start", "--name", "line"]] {
        assert!(rsm.command(args).env("PATH", &own).status().unwrap().success());
    }
    std::fs::rename(rsm.dir().join("v18"), rsm.dir().join("v20")).unwrap();
    rsm.ok(&["restart", "tool", "line"]);
    for name in ["tool", "line"] {
        let path = environ(rsm.pids(name)[0])["PATH"].clone();
        assert!(path.starts_with(&login), "{name}: {path}");
    }
}
