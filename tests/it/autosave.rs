//! Autosave, on in new homes: the list is saved after each change.

use std::collections::BTreeSet;

use crate::harness::{Rsm, read, wait_until};
use serde_json::Value;

/// The names of the apps in the saved list.
fn saved_names(rsm: &Rsm) -> BTreeSet<String> {
    let dump: Value = serde_json::from_str(&read(rsm.home().join("dump.json"))).unwrap_or_default();
    let specs = dump["specs"].as_array().cloned().unwrap_or_default();
    specs.iter().map(|spec| spec["name"].as_str().unwrap().to_owned()).collect()
}

fn wait_saved(rsm: &Rsm, names: &[&str]) {
    let names: BTreeSet<String> = names.iter().map(ToString::to_string).collect();
    wait_until(&format!("{names:?} are saved"), || (saved_names(rsm) == names).then_some(()));
}

#[test]
fn saves_each_change_but_not_shutdown() {
    let rsm = Rsm::new();
    rsm.ok(&["start", "sleep 1000", "--name", "one"]);
    wait_saved(&rsm, &["one"]);
    rsm.ok(&["start", "sleep 1000", "--name", "two"]);
    wait_saved(&rsm, &["one", "two"]);
    rsm.ok(&["delete", "one"]);
    wait_saved(&rsm, &["two"]);
    // A change right before the shutdown is saved, with the app as running.
    rsm.ok(&["start", "sleep 1000", "--name", "three"]);
    rsm.ok(&["kill"]);
    wait_saved(&rsm, &["three", "two"]);
    rsm.ok(&["resurrect"]);
    assert_eq!((rsm.statuses("two"), rsm.statuses("three")), (vec!["online".into()], vec!["online".into()]));
}

#[test]
fn stopped_apps_stay_stopped_after_resurrect() {
    let rsm = Rsm::new();
    rsm.ok(&["conf", "autosave", "true"]);
    rsm.ok(&["start", "sleep 1000", "--name", "one"]);
    rsm.ok(&["start", "sleep 1000", "--name", "two"]);
    rsm.ok(&["stop", "one"]);
    rsm.ok(&["kill"]);
    rsm.ok(&["resurrect"]);
    assert_eq!((rsm.statuses("one"), rsm.statuses("two")), (vec!["stopped".into()], vec!["online".into()]));
}

#[test]
fn empty_daemon_keeps_saved_list() {
    let rsm = Rsm::new();
    rsm.ok(&["conf", "autosave", "true"]);
    rsm.ok(&["start", "sleep 1000", "--name", "one"]);
    rsm.ok(&["kill"]);
    rsm.ok(&["cleardump"]); // starts a daemon
    rsm.ok(&["resurrect"]);
    assert!(rsm.list().is_empty());
    rsm.ok(&["kill"]);
    assert!(saved_names(&rsm).is_empty());
    rsm.run(&["conf", "autosave", "maybe"]).code(2).says("true or false");
}

#[test]
fn unset_turns_autosave_off() {
    let rsm = Rsm::new();
    rsm.ok(&["conf", "autosave", "true"]);
    rsm.ok(&["start", "sleep 1000", "--name", "one"]);
    wait_saved(&rsm, &["one"]);
    rsm.ok(&["unset", "autosave"]).says("autosave = false");
    assert_eq!(rsm.ok(&["get", "autosave"]).stdout, "false\n");
    rsm.ok(&["start", "sleep 1000", "--name", "two"]);
    rsm.ok(&["kill"]);
    assert_eq!(saved_names(&rsm), BTreeSet::from(["one".to_owned()]));
}

#[test]
fn home_that_was_used_before_is_not_changed() {
    let rsm = Rsm::new();
    std::fs::create_dir(rsm.home()).unwrap();
    std::fs::write(rsm.home().join("rsm.log"), "").unwrap();
    rsm.ok(&["start", "sleep 1000", "--name", "one"]);
    assert_eq!(rsm.ok(&["get", "autosave"]).stdout, "false\n");
    rsm.ok(&["list"]).shows("the list is not saved (to start it at boot, also rsm startup): rsm save");
    rsm.ok(&["conf", "autosave", "true"]);
    wait_saved(&rsm, &["one"]);
}

#[test]
fn saved_apps_are_not_lost_to_the_list_of_a_new_daemon() {
    let rsm = Rsm::new();
    rsm.ok(&["list"]).says("rsm is not running, and no apps are saved. To start an app: rsm start app.js");
    rsm.ok(&["start", "sleep 1000", "--name", "one"]);
    rsm.ok(&["start", "sleep 1000", "--name", "two"]);
    rsm.ok(&["kill"]);
    rsm.ok(&["list"]).says("rsm is not running; 2 apps are saved. To start them: rsm resurrect");
    rsm.ok(&["start", "sleep 1000", "--name", "three"]);
    rsm.ok(&["kill"]);
    assert_eq!(saved_names(&rsm), ["one", "two"].map(str::to_owned).into());
    rsm.ok(&["start", "sleep 1000", "--name", "three"]);
    rsm.ok(&["resurrect"]);
    wait_saved(&rsm, &["one", "two", "three"]);
}
