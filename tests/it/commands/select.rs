//! Which apps a command means: id, name, namespace, pattern, `all`, a file; and what it means
//! to mean none.

use super::{all_of, three_apps};
use crate::harness::Rsm;

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
