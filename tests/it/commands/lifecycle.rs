//! `stop`, `restart`, `delete`, `reset`, `sendSignal`: what they do to an app.

use super::{all_of, three_apps};
use crate::harness::{Rsm, alive, cmdline, read, wait_until};

#[test]
fn stop_keeps_app_listed_and_delete_removes() {
    let rsm = three_apps();
    let pids = rsm.pids("api");
    rsm.ok(&["stop", "api"]).says("api (0, 1): stopped");
    assert_eq!(rsm.statuses("api"), ["stopped", "stopped"]);
    assert!(!pids.iter().any(|pid| alive(*pid)));
    rsm.ok(&["stop", "api"]); // once more is no mistake
    let job = rsm.pids("job")[0];
    rsm.ok(&["delete", "job"]).says("job (3): deleted");
    assert!(!alive(job) && rsm.statuses("job").is_empty());
    rsm.run(&["stop", "job"]).code(1).says("no app, namespace or id matches \"job\"");
    rsm.ok(&["del", "api"]);
    assert_eq!(all_of(&rsm).len(), 1);
}

#[test]
fn restart_counts_and_starts_stopped_apps() {
    let rsm = three_apps();
    let before = rsm.pids("api");
    rsm.ok(&["restart", "api"]).says("api (0, 1): restarted, online");
    assert!(rsm.pids("api").iter().all(|pid| !before.contains(pid) && alive(*pid)));
    let restarts = |rsm: &Rsm| rsm.json(&["describe", "0", "--json"])[0]["restarts"].clone();
    assert_eq!(restarts(&rsm), 1);
    rsm.ok(&["stop", "api"]);
    rsm.ok(&["restart", "api"]);
    assert_eq!(rsm.statuses("api"), ["online", "online"]);
    let pids = rsm.pids("api");
    rsm.ok(&["reset", "api"]);
    assert_eq!((restarts(&rsm), rsm.pids("api")), (0.into(), pids), "counted anew, not restarted");
}

#[test]
fn restart_applies_new_settings_and_arguments() {
    let rsm = Rsm::new().file("app.sh", "#!/bin/sh\nexec sleep \"$1\"\n");
    rsm.ok(&["start", "./app.sh", "--", "1001"]);
    rsm.ok(&["restart", "app", "--max-memory-restart", "200M", "--", "1002"]);
    let pid = rsm.pids("app")[0];
    wait_until("its new argument", || (cmdline(pid) == ["sleep", "1002"]).then_some(()));
    assert_eq!(rsm.json(&["describe", "app", "--json"])[0]["spec"]["max_memory_restart"], 200 << 20);
    let before = all_of(&rsm);
    rsm.run(&["restart", "app", "--max-memory-restart", "200 apples"]).code(1).says("apples");
    rsm.run(&["restart", "app", "--kill-signal", "SIGNONE"]).code(1).says("SIGNONE");
    assert_eq!(all_of(&rsm), before, "a mistake restarts nothing");
}

#[test]
fn signal_is_sent_unchanged() {
    let script = "#!/bin/sh\ntrap 'echo one >> got' USR1\ntrap 'echo two >> got' USR2\n: > ready\n\
                  while :; do sleep 0.05; done\n";
    let rsm = Rsm::new().file("app.sh", script);
    rsm.ok(&["start", "./app.sh"]);
    wait_until("it listens", || rsm.dir().join("ready").exists().then_some(()));
    let pid = rsm.pids("app")[0];
    let sent = rsm.ok(&["sendSignal", "SIGUSR2", "app"]);
    assert_eq!((&*sent.stdout, sent.stderr.trim_end()), ("", "sent SIGUSR2 to app"));
    wait_until("it came", || (read(rsm.dir().join("got")) == "two\n").then_some(()));
    rsm.ok(&["sendSignal", "usr1", "0"]);
    wait_until("it came", || (read(rsm.dir().join("got")) == "two\none\n").then_some(()));
    assert_eq!(rsm.pids("app"), [pid]);
    rsm.run(&["sendSignal", "SIGNONE", "app"]).code(1).says("SIGNONE").says("help:");
    rsm.ok(&["stop", "app"]);
    rsm.run(&["sendSignal", "SIGUSR2", "app"]).code(1).says("no selected instance is running");
}

#[test]
fn fatal_signal_counts_as_crash() {
    let rsm = Rsm::new();
    rsm.ok(&["start", "sleep 1000", "--name", "nap"]);
    let pid = rsm.pids("nap")[0];
    rsm.ok(&["sendSignal", "SIGTERM", "nap"]);
    rsm.wait_until("a new process", |rsm| rsm.pids("nap").first().filter(|new| **new != pid).copied());
    let nap = &rsm.json(&["describe", "nap", "--json"])[0];
    assert_eq!(
        (&nap["exits"][0]["exit"]["signal"]["number"], &nap["exits"][0]["requested"]),
        (&15.into(), &false.into())
    );
}
