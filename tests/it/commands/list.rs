//! `list`, `jlist`, `describe`, `info`, `env`, `pid`, `id`: what is shown of the list.

use serde_json::Value;

use super::three_apps;
use crate::harness::Rsm;

#[test]
fn list_has_every_output_format() {
    let rsm = three_apps();
    rsm.ok(&["stop", "job"]);
    let table = rsm.ok(&["list"]).shows("front").shows("stopped");
    assert_eq!(table.stderr, "");
    assert!(!table.stdout.contains('\u{1b}'), "colours into a pipe");
    for alias in ["ls", "l", "ps", "status"] {
        rsm.ok(&[alias]).shows("web");
    }
    rsm.ok(&["list", "-m"]).shows("+--- web\nnamespace : front\n").shows("status : stopped");
    let ids = |sort: &str| -> Vec<u64> {
        let blocks = rsm.ok(&["list", "-m", "--sort", sort]).stdout;
        let id = |line: &str| line.strip_prefix("pm2 id : ").and_then(|id| id.parse().ok());
        blocks.lines().filter_map(id).collect()
    };
    assert_eq!(ids("id"), [0, 1, 2, 3]);
    assert_eq!(ids("id:desc"), [3, 2, 1, 0]);
    assert_eq!(ids("name"), [0, 1, 3, 2]);
    assert_eq!(ids("status:desc"), [3, 0, 1, 2]);
    rsm.run(&["list", "--sort", "colour"]).code(2).says("expected one of name");
    rsm.run(&["list", "--json", "-m"]).code(2);
}

#[test]
fn list_json_has_all_fields() {
    let rsm = three_apps();
    for view in rsm.list() {
        for number in
            ["id", "number", "pid", "started_at", "uptime", "restarts", "unstable_restarts", "memory"]
        {
            assert!(view[number].is_u64(), "{number}: {view}");
        }
        for text in ["name", "namespace", "mode", "status", "user"] {
            assert!(view[text].is_string(), "{text}: {view}");
        }
        assert!(view["cpu"].is_number() && view["watching"].is_boolean(), "{view}");
    }
}

#[test]
fn jlist_matches_pm2_format() {
    let rsm = three_apps();
    rsm.ok(&["stop", "job"]);
    let jlist = rsm.ok(&["jlist"]);
    let list: Vec<Value> = serde_json::from_str(&jlist.stdout).unwrap();
    assert_eq!((list.len(), jlist.stdout.lines().count(), &*jlist.stderr), (4, 1, ""));
    for app in &list {
        let env = &app["pm2_env"];
        assert!(app["monit"]["memory"].is_u64() && app["monit"]["cpu"].is_number(), "{app}");
        assert_eq!((&app["name"], &app["pm_id"]), (&env["name"], &env["pm_id"]));
        for text in [
            "status",
            "namespace",
            "pm_exec_path",
            "pm_cwd",
            "exec_mode",
            "pm_out_log_path",
            "pm_err_log_path",
        ] {
            assert!(env[text].is_string(), "{text}: {env}");
        }
        for number in ["restart_time", "unstable_restarts", "created_at", "instances", "NODE_APP_INSTANCE"] {
            assert!(env[number].is_u64(), "{number}: {env}");
        }
        let down = app["name"] == "job";
        assert_eq!(app["pid"] == 0, down, "{app}");
        assert_eq!(env["status"], if down { "stopped" } else { "online" });
        assert!(env["pm_uptime"].as_u64() >= env["created_at"].as_u64(), "also of what does not run: {env}");
    }
}

#[test]
fn describe_prints_text_and_json() {
    let rsm = three_apps();
    let page = rsm.ok(&["describe", "api"]);
    assert_eq!(page.stdout.matches("api (id ").count(), 2, "a page for each instance");
    let details = rsm.json(&["describe", "0", "--json"]);
    let [api] = &details.as_array().unwrap()[..] else { panic!("not one: {details}") };
    assert_eq!(api["processes"][0], api["pid"]);
    assert_eq!(api["spec"]["cwd"], rsm.dir().canonicalize().unwrap().to_str().unwrap());
    assert!(api["command"].as_array().unwrap().iter().any(|word| word == "sleep 1000"), "{api}");
    assert_eq!(api["out_file"], rsm.home().join("logs/api-out-0.log").to_str().unwrap());
    for same in [&["show", "web"], &["desc", "web"], &["info", "web"]] {
        rsm.ok(same).shows("namespace      front");
    }
    assert_eq!(rsm.json(&["info", "all", "--json"]).as_array().unwrap().len(), 4);
}

#[test]
fn info_shows_daemon_and_keeper() {
    let rsm = three_apps();
    rsm.ok(&["stop", "job"]);
    let info = rsm.json(&["info", "--json"]);
    assert_eq!(info["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!((&info["instances"]["online"], &info["instances"]["stopped"]), (&3.into(), &1.into()));
    assert_eq!(info["paths"]["socket"], rsm.home().join("rsm.sock").to_str().unwrap());
    assert!(info["daemon"]["memory"].as_u64().unwrap() > 0 && info["keeper"]["memory"].as_u64().unwrap() > 0);
    rsm.ok(&["info"]).shows("apps     3 online, 1 stopped").shows("rsm.sock");
}

#[test]
fn env_shows_environment_of_instance() {
    let file =
        "[[apps]]\nname = \"one\"\nscript = \"sleep 1000\"\nenv = { PLAIN = \"a b\", LINES = \"x\\ny\" }\n";
    let rsm = three_apps().file("ecosystem.toml", file);
    rsm.ok(&["start", "ecosystem.toml"]);
    assert_eq!(rsm.ok(&["env", "one"]).shows("PLAIN: a b\n").stdout.lines().count(), 2, "a line a variable");
    assert_eq!(rsm.json(&["env", "4", "--json"]), serde_json::json!({ "PLAIN": "a b", "LINES": "x\ny" }));
    rsm.run(&["env", "api"]).code(1).says("2 instances").says("0, 1");
    rsm.run(&["env", "none"]).code(1).says("\"none\" does not match any app or id");
}

#[test]
fn pid_and_id_print_for_scripts() {
    let rsm = three_apps();
    let mut pids: Vec<i32> = rsm.pids("api");
    pids.sort_unstable();
    let said = |args: &[&str]| -> Vec<i32> {
        let mut numbers: Vec<i32> = rsm.ok(args).stdout.lines().map(|line| line.parse().unwrap()).collect();
        numbers.sort_unstable();
        numbers
    };
    assert_eq!(said(&["pid", "api"]), pids);
    assert_eq!(said(&["pid"]).len(), 4);
    rsm.ok(&["stop", "job"]);
    assert_eq!(said(&["pid", "job"]), [0]);
    rsm.run(&["pid", "none"]).code(1).says("none");
    assert_eq!(rsm.ok(&["id", "api"]).stdout, "[ 0, 1 ]\n");
    assert_eq!(rsm.ok(&["id", "none"]).stdout, "[]\n");
}

#[test]
fn actions_report_on_stderr_and_list_on_stdout() {
    let rsm = Rsm::new();
    let ran = rsm
        .ok(&["start", "sleep 1000", "--name", "nap"])
        .says("started the daemon")
        .says("nap (0): started, online");
    assert!(ran.stdout.contains("│ nap") && !ran.stdout.contains("started"), "{}", ran.stdout);
    let ran = rsm.ok(&["restart", "nap", "-s"]);
    assert_eq!((&*ran.stdout, &*ran.stderr), ("", ""), "silent");
    let ran = rsm.run(&["--silent", "restart", "nope"]).code(1).says("nope");
    assert_eq!(ran.stdout, "");
}
