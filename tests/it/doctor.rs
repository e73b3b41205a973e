//! `rsm doctor`: what would not start at boot, and why.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::harness::{Ran, Rsm, need_root};
use serde_json::Value;

/// The verdict and text about an app.
fn about(rsm: &Rsm, name: &str) -> (String, String) {
    let ran = rsm.run(&["doctor", "--boot", "systemd", "--json"]);
    let findings: Value =
        serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
    let found =
        findings.as_array().unwrap().iter().find(|finding| finding["subject"] == name).cloned().unwrap();
    (found["status"].as_str().unwrap().to_owned(), found["message"].as_str().unwrap().to_owned())
}

fn failed(rsm: &Rsm, name: &str, why: &str) {
    let (verdict, text) = about(rsm, name);
    assert!(verdict == "failed" && text.contains(why), "{name}: {verdict}: {text}");
}

#[test]
fn reports_apps_that_would_not_start() {
    let rsm = Rsm::new();
    let run = "#!/bin/sh\nexec sleep 1000\n";
    for name in ["fine.sh", "goes.sh", "closed.sh", "odd.sh", "moved/tool"] {
        rsm.write(name, run);
    }
    let nested = rsm.write("nested/app.sh", run);
    let dir = nested.parent().unwrap().display().to_string();
    for name in ["fine", "goes", "closed", "odd"] {
        rsm.ok(&["start", &format!("{name}.sh"), "--name", name, "--interpreter", "none"]);
    }
    rsm.ok(&["start", "fine.sh", "--name", "nowhere", "--cwd", &dir]);
    let path = format!("{}:/usr/bin:/bin", rsm.dir().join("moved").display());
    let output = rsm.command(&["start", "tool", "--name", "lost"]).env("PATH", path).output().unwrap();
    Ran::new(&["start tool"], &output).code(0);
    rsm.ok(&["start", "fine.sh", "--name", "resting"]);
    rsm.ok(&["stop", "resting"]);
    rsm.ok(&["save"]);
    rsm.ok(&["doctor", "--boot", "systemd"]).shows("fine");

    fs::remove_file(rsm.dir().join("goes.sh")).unwrap();
    fs::set_permissions(rsm.dir().join("closed.sh"), fs::Permissions::from_mode(0o644)).unwrap();
    rsm.write("odd.sh", "#!/no/such/interpreter\n");
    fs::remove_dir_all(rsm.dir().join("nested")).unwrap();
    fs::remove_dir_all(rsm.dir().join("moved")).unwrap();
    failed(&rsm, "goes", "goes.sh");
    failed(&rsm, "closed", "chmod +x");
    failed(&rsm, "odd", "/no/such/interpreter");
    failed(&rsm, "nowhere", "directory");
    failed(&rsm, "lost", "PATH");
    assert_eq!(about(&rsm, "fine").0, "ok");
    assert_eq!(about(&rsm, "resting").0, "ok");
    rsm.run(&["doctor", "--boot", "systemd"]).code(1).says("would not start at boot");
    rsm.ok(&["conf", "autosave", "false"]);
    rsm.ok(&["start", "fine.sh", "--name", "newer"]);
    assert!(about(&rsm, "saved list").1.contains("newer"));
}

#[test]
fn reports_port_in_use() {
    let rsm = Rsm::new().file("app.sh", "#!/bin/sh\nexec sleep 1000\n");
    let taken = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    rsm.ok(&["start", "app.sh", "--port", &port]);
    rsm.ok(&["save"]);
    rsm.ok(&["kill"]);
    failed(&rsm, "app", &port);
}

#[test]
fn checks_as_user_of_unit() {
    need_root();
    let rsm = Rsm::new().file("app.sh", "#!/bin/sh\nexec sleep 1000\n");
    rsm.ok(&["start", "app.sh"]);
    rsm.ok(&["save"]);
    rsm.open_to_all();
    let home = rsm.home().display().to_string();
    // The list is root's, and private.
    let args = ["doctor", "--boot", "systemd", "--user", "nobody", "--home", &home];
    rsm.run(&args).code(1).shows("denied");
}

#[test]
fn checks_machine_and_rsm() {
    let rsm = Rsm::new();
    let ran = rsm.ok(&["doctor"]);
    for part in ["home", "disk", "kernel", "open files", "daemon"] {
        assert!(ran.stdout.contains(part), "{part}: {}", ran.stdout);
    }
    rsm.ok(&["start", "sleep 1000", "--name", "app"]);
    rsm.ok(&["doctor"]).shows("0 instances saved");
    fs::write(rsm.home().join("conf.json"), "{").unwrap();
    rsm.run(&["doctor"]).code(1).shows("conf.json");
    fs::remove_file(rsm.home().join("conf.json")).unwrap();
}

#[test]
fn flags_of_the_service_need_boot() {
    let rsm = Rsm::new();
    for flags in [&["systemd"][..], &["--user", "root"], &["--home", "/x"], &["--service-name", "x"]] {
        rsm.run(&[&["doctor"], flags].concat()).code(2).says("rsm doctor --boot");
    }
}
