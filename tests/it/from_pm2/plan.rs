//! `plan` tells what differs, `apply` does just that.

use std::fs;

use crate::harness::load_client::{Client, Pace};
use crate::harness::{DEADLINE, Rsm, alive, cmdline, environ, free_port};

const FILE: &str = "
[[apps]]
name = 'same'
script = 'sleep 1000'
env = { TOKEN = 'hunter2' }

[[apps]]
name = 'more'
script = 'sleep 1000'
instances = 2
exec_mode = 'fork'

[[apps]]
name = 'other'
script = 'sleep 1000'
env = { TOKEN = 'hunter2', GONE = 'hunter2' }

[[apps]]
name = 'gone'
script = 'sleep 1000'
";

const CHANGED: &str = "
[[apps]]
name = 'same'
script = 'sleep 1000'
env = { TOKEN = 'hunter2' }

[[apps]]
name = 'more'
script = 'sleep 1000'
instances = 3
exec_mode = 'fork'

[[apps]]
name = 'other'
script = 'sleep 1000'
kill_timeout = 2000
env = { TOKEN = 'hunter3' }

[[apps]]
name = 'new'
script = 'sleep 1000'
";

#[test]
fn plan_shows_every_difference_without_secrets() {
    let rsm = Rsm::new().file("e.toml", FILE);
    rsm.ok(&["plan", "e.toml"]).shows("+ start  same   1 new instance").shows("4 changes");
    assert!(!rsm.home().exists(), "a plan starts nothing");
    rsm.ok(&["start", "e.toml"]);
    rsm.ok(&["plan", "e.toml"]).shows("no changes");
    rsm.write("e.toml", CHANGED);
    let plan = rsm.ok(&["plan", "e.toml", "--prune"]).stdout;
    let want = "  unchanged  same
~ scale      more   2 → 3 instances
~ restart    other  kill_timeout: 10s → 2s; env.GONE removed; env.TOKEN changed
+ start      new    1 new instance
- delete     gone   no longer in the file
4 changes
";
    assert_eq!(plan, want);
}

#[test]
fn plan_shows_added_changed_and_removed_probes() {
    let file = |settings: &str| format!("[[apps]]\nname = 'nap'\nscript = 'sleep 1000'\n{settings}");
    let rsm = Rsm::new().file("e.toml", &file(""));
    rsm.ok(&["start", "e.toml"]);
    let probes = |action: &str| format!("health = {{ {action} }}\nready = {{ {action} }}\n");
    rsm.write("e.toml", &file(&probes("exec = 'true'")));
    rsm.ok(&["plan", "e.toml"]).shows("health: none → {").shows("ready: none → {");
    rsm.ok(&["apply", "e.toml"]);
    rsm.write("e.toml", &file(&probes("tcp = 1")));
    rsm.ok(&["plan", "e.toml"])
        .shows("health: {\"exec\":\"true\"} → {\"tcp\":\"1\"}")
        .shows("ready: {\"action\":{\"exec\":\"true\"}");
    rsm.write("e.toml", &file(""));
    rsm.ok(&["plan", "e.toml"]).shows("health: {").shows(" → none; ready: {");
}

#[test]
fn apply_changes_only_differences() {
    let rsm = Rsm::new().file("e.toml", FILE);
    rsm.ok(&["apply", "e.toml"]);
    rsm.ok(&["start", "sleep 1000", "--name", "not-of-the-file"]);
    let pid = |name: &str| rsm.pids(name)[0];
    let before = ["same", "more", "gone", "not-of-the-file"].map(pid);
    let other = pid("other");
    rsm.write("e.toml", CHANGED);
    rsm.ok(&["apply", "e.toml"]).says("use --prune to delete");
    assert_eq!(["same", "more", "gone", "not-of-the-file"].map(pid), before, "untouched");
    assert_eq!((rsm.pids("more").len(), rsm.pids("new").len()), (3, 1));
    assert!(!alive(other) && environ(pid("other"))["TOKEN"] == "hunter3");
    rsm.ok(&["apply", "e.toml", "--prune"]).says("- delete");
    assert!(rsm.pids("gone").is_empty() && !alive(before[2]));
    assert_eq!(["same", "more"].map(pid), before[..2]);
    rsm.ok(&["stop", "same"]);
    rsm.ok(&["apply", "e.toml"]).says("not running");
    rsm.wait_status("same", "online");
    rsm.ok(&["apply", "e.toml"]).says("no changes");
}

#[test]
fn apply_rejects_invalid_file() {
    let rsm = Rsm::new().file("e.toml", FILE);
    rsm.ok(&["apply", "e.toml"]);
    rsm.write("e.toml", "[[apps]]\nname = 'x'\n");
    rsm.run(&["apply", "e.toml", "--prune"]).code(1).says("missing `script`");
    assert_eq!(rsm.list().len(), 5);
}

#[test]
fn drift_is_marked_until_applied() {
    let file = |port: u16| {
        format!(
            "[[apps]]\nname = \"nap\"\nscript = \"sleep\"\nargs = \"1000\"\n\n[apps.env]\nPORT = {port}\n"
        )
    };
    let rsm = Rsm::new().file("ecosystem.toml", &file(1));
    rsm.ok(&["start", "ecosystem.toml"]);
    let drift = |rsm: &Rsm| rsm.list()[0]["drift"].as_str().unwrap_or_default().to_owned();
    assert_eq!(drift(&rsm), "");
    rsm.write("ecosystem.toml", &file(10));
    assert!(drift(&rsm).ends_with("ecosystem.toml was modified"), "{}", drift(&rsm));
    rsm.ok(&["list"]).shows("nap *").shows("* nap: ");
    rsm.ok(&["apply", "ecosystem.toml"]);
    assert_eq!(drift(&rsm), "");
    rsm.ok(&["scale", "nap", "2"]);
    assert!(drift(&rsm).starts_with("2 instances running, 1 in "), "{}", drift(&rsm));
    rsm.ok(&["scale", "nap", "1"]);
    assert_eq!(drift(&rsm), "", "taken back");
    rsm.ok(&["restart", "nap", "--kill-timeout", "7s", "--update-env"]);
    assert!(drift(&rsm).starts_with("settings were changed by a command"), "{}", drift(&rsm));
    rsm.ok(&["list"]).shows("nap *").shows("See `rsm plan ");
    rsm.ok(&["apply", "ecosystem.toml"]).says("kill_timeout: 7s → 10s");
    assert_eq!(drift(&rsm), "");
    // The same by another client.
    let patch = r#"{"select": ["nap"], "changes": {"max_memory_restart": 300000000}}"#;
    let length = patch.len();
    let changed = rsm.http(
        format!("POST /v1/instances/restart HTTP/1.1\r\nHost: rsm\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{patch}")
            .as_bytes(),
    );
    assert!(
        changed.contains("200 OK") && drift(&rsm).starts_with("settings were changed by a command"),
        "{changed}"
    );
    assert!(rsm.ok(&["describe", "nap"]).stdout.contains("settings were changed by a command"));
    rsm.ok(&["apply", "ecosystem.toml"]);
    let pid = rsm.pids("nap");
    // Written again and the same: no difference. One in nothing that matters is one until it was looked at.
    rsm.write("ecosystem.toml", &file(10));
    assert_eq!(drift(&rsm), "");
    rsm.write("ecosystem.toml", &format!("# a word\n{}", file(10)));
    assert!(!drift(&rsm).is_empty());
    rsm.ok(&["apply", "ecosystem.toml"]).says("no changes");
    assert_eq!((drift(&rsm), rsm.pids("nap")), (String::new(), pid), "and not touched");
    rsm.ok(&["save"]);
    rsm.ok(&["kill"]);
    rsm.ok(&["resurrect"]);
    assert_eq!(drift(&rsm), "", "known from one daemon to the next");
    fs::remove_file(rsm.dir().join("ecosystem.toml")).unwrap();
    assert!(drift(&rsm).ends_with("was deleted"));
}

#[test]
fn apply_reloads_shared_ports_and_keeps_stopped() {
    let port = free_port();
    let file = |word: &str| {
        format!(
            "[[apps]]\nname = 'web'\nscript = 'app.js'\ninstances = 2\nenv = {{ WORD = '{word}' }}\n\
             [[apps]]\nname = 'job'\nscript = 'sleep'\nargs = '100{word}'\nautostart = false\n"
        )
    };
    let server = format!(
        "require('http').createServer((_, answer) => answer.end('all is well')).listen({port}, '127.0.0.1')\n\
         process.on('SIGINT', () => process.exit(0))\n"
    );
    let rsm = Rsm::new().file("app.js", &server).file("e.toml", &file("1"));
    rsm.ok(&["apply", "e.toml"]);
    let before = rsm.pids("web");
    let load = Client::local(port).timeout(DEADLINE).expect("all is well").load(3, Pace::Unlimited);
    rsm.write("e.toml", &file("2"));
    let plan = rsm.json(&["plan", "e.toml", "--json"]);
    let told = |at: usize| {
        let step = &plan["steps"][at];
        format!("{} {} {}", step["action"], step["app"], step["changes"][0]["setting"]).replace('"', "")
    };
    assert_eq!((told(0), told(1)), ("reload web env.WORD".into(), "update job args".into()));
    assert_eq!(plan["pending"], 2);
    rsm.ok(&["apply", "e.toml"]).says("~ reload  web  env.WORD changed");
    load.finish().assert_clean();
    let after = rsm.pids("web");
    assert!(
        after.len() == 2 && after.iter().all(|pid| !before.contains(pid) && environ(*pid)["WORD"] == "2")
    );
    assert!(rsm.pids("job").is_empty(), "not started only to be told its arguments");
    rsm.ok(&["plan", "e.toml"]).shows("no changes");
    rsm.ok(&["start", "job"]);
    assert_eq!(cmdline(rsm.pids("job")[0])[1], "1002");
    rsm.write("app.js", "process.exit(3)");
    rsm.write("e.toml", &file("3"));
    rsm.run(&["apply", "e.toml"]).code(1).says("the replacement exited");
    assert_eq!(rsm.pids("web"), after, "a version that fails leaves the old one in place");
}
