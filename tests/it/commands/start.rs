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
    rsm.run(&["start", "sleep", "--env", "production"]).code(2).says("--env");
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
