//! What each command refreshes, cell by cell of the table in docs/from-pm2.md: the variables of the
//! shell, those of the file, and the app's settings.

use std::collections::BTreeMap;
use std::fs;

use crate::harness::{Rsm, alive, cmdline, environ, wait_until};

const BEFORE: &str = "[[apps]]\nname = 'api'\nscript = 'sleep'\nargs = '1001'\nkill_timeout = 1001\n[apps.env]\nGIVEN = 'before'\nREMOVED = 'x'\n";
const AFTER: &str = "[[apps]]\nname = 'api'\nscript = 'sleep'\nargs = '1002'\nkill_timeout = 1002\n[apps.env]\nGIVEN = 'after'\n";

/// An app that runs, and a file and a shell that have changed since.
fn changed() -> Rsm {
    let rsm = Rsm::new().file("ecosystem.toml", BEFORE);
    let started = rsm.command(&["start"]).env("SHELL_VAR", "before").env("SHELL_GONE", "x").output().unwrap();
    assert!(started.status.success(), "{started:?}");
    rsm.write("ecosystem.toml", AFTER);
    rsm.var("SHELL_VAR", "after")
}

/// What the app has now: shell variable, file variable, argument.
fn now(rsm: &Rsm) -> [String; 3] {
    let pid = rsm.pids("api")[0];
    let env: BTreeMap<String, String> = environ(pid);
    let text = |name: &str| env.get(name).cloned().unwrap_or_default();
    let argument = wait_until("it runs", || cmdline(pid).get(1).cloned());
    let removed = |name: &str| if env.contains_key(name) { "" } else { " and without" };
    [text("SHELL_VAR") + removed("SHELL_GONE"), text("GIVEN") + removed("REMOVED"), argument]
}

#[test]
fn crash_keeps_settings() {
    let rsm = changed();
    let pid = rsm.pids("api")[0];
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    rsm.wait_until("another runs", |rsm| {
        (rsm.pids("api").first().is_some_and(|new| *new != pid && alive(*new))).then_some(())
    });
    assert_eq!(now(&rsm), ["before", "before", "1001"]);
}

#[test]
fn restart_and_start_by_name_keep_settings() {
    for command in ["restart", "start", "reload"] {
        let rsm = changed();
        rsm.ok(&[command, "api"]);
        assert_eq!(now(&rsm), ["before", "before", "1001"], "{command}");
    }
}

#[test]
fn update_env_refreshes_environment_of_shell() {
    for command in ["restart", "reload", "start"] {
        let rsm = changed();
        rsm.ok(&[command, "api", "--update-env"]);
        assert_eq!(now(&rsm), ["after and without", "before", "1001"], "{command}");
    }
}

#[test]
fn file_refreshes_all_settings() {
    for command in ["start", "restart", "startOrRestart", "reload", "startOrReload", "apply"] {
        let rsm = changed();
        rsm.ok(&[command, "ecosystem.toml"]);
        assert_eq!(now(&rsm), ["after and without", "after and without", "1002"], "{command}");
    }
}

#[test]
fn resurrect_restores_saved_settings() {
    let rsm = changed();
    rsm.ok(&["save"]);
    rsm.ok(&["kill"]);
    rsm.ok(&["resurrect"]);
    assert_eq!(now(&rsm), ["before", "before", "1001"]);
}

#[test]
fn next_file_drops_selected_env_block() {
    let file = "[[apps]]\nname = 'api'\nscript = 'sleep 1000'\n[apps.env]\nA = '1'\n[apps.env_production]\nB = '2'\n";
    let rsm = Rsm::new().file("ecosystem.toml", file);
    rsm.ok(&["start", "--env", "production"]);
    assert!(environ(rsm.pids("api")[0]).contains_key("B"));
    rsm.ok(&["start"]);
    assert!(!environ(rsm.pids("api")[0]).contains_key("B"));
}

#[test]
fn env_variables_do_not_change_settings() {
    let rsm =
        Rsm::new().var("name", "evil").var("kill_timeout", "1").var("watch", "true").var("instances", "9");
    rsm.ok(&["start", "sleep 1000", "--name", "api"]);
    assert_eq!(rsm.pids("api").len(), 1);
    let described = rsm.json(&["describe", "api", "--json"]);
    let spec = described[0]["spec"].clone();
    assert!(spec.is_null() || spec["watch"].is_null(), "{spec}");
}

#[test]
fn file_changes_script_cwd_logs_and_mode() {
    let rsm = Rsm::new().file("one/x", "").file("two/x", "");
    rsm.write("a.sh", "#!/bin/sh\necho from a\nexec sleep 1000\n");
    rsm.write("b.sh", "#!/bin/sh\necho from b\nexec sleep 1000\n");
    let file = |script: &str, cwd: &str, more: &str| {
        format!("[[apps]]\nname = 'api'\nscript = '../{script}'\ncwd = '{cwd}'\n{more}\n")
    };
    rsm.write("ecosystem.toml", &file("a.sh", "one", "instances = 1"));
    rsm.ok(&["start"]);
    rsm.write(
        "ecosystem.toml",
        &file(
            "b.sh",
            "two",
            "instances = 3\nexec_mode = 'cluster'\nout_file = './api.log'\nmerge_logs = true",
        ),
    );
    rsm.ok(&["start"]);
    let pids = rsm.pids("api");
    assert_eq!(pids.len(), 3, "instances");
    let cwd = fs::read_link(format!("/proc/{}/cwd", pids[0])).unwrap();
    assert_eq!(cwd, rsm.dir().join("two").canonicalize().unwrap(), "cwd");
    let log = rsm.dir().join("two/api.log");
    wait_until("script and log path", || {
        (fs::read_to_string(&log).unwrap_or_default().matches("from b").count() == 3).then_some(())
    });
    let jlist = rsm.json(&["jlist"]);
    assert_eq!(jlist[0]["pm2_env"]["exec_mode"], "cluster_mode");
    rsm.write("ecosystem.toml", &file("b.sh", "two", "instances = 1"));
    rsm.ok(&["start"]);
    assert_eq!(rsm.pids("api").len(), 1, "fewer");
}
